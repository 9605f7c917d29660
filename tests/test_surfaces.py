"""What a command can do the library can, and the other way round, option by option.

Both sides are read from where they are defined: the commands from the command line, the functions
and their parameters from the public names of `steer`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import reduce
from typing import Any

import pytest
from typer.main import get_command

import steer
from steer.cli.command import COMMANDS, FORMER, group_of
from steer.cli.main import app

#: Each command, and what does the same in Python.
SURFACE: dict[str, tuple[str, ...]] = {
    "apply": ("Model.generate", "Model.generate_batch"),
    "bake": ("bake",),
    "chat": ("Model.chat", "Conversation.say"),
    "combine": ("combine", "read_recipe"),
    "compare": ("compare", "geometry"),
    "compile": ("compile",),
    "contrasts check": ("check_contrasts",),
    "contrasts split": ("split",),
    "contrasts write": ("write_contrasts",),
    "convert": ("convert", "export"),
    "describe": ("describe",),
    "discover": ("discover",),
    "distill": ("distill",),
    "doctor": ("doctor",),
    "drive": ("drive",),
    "eval": ("evaluate",),
    "extract": ("extract",),
    "fit": ("fit",),
    "list": ("list_vectors",),
    "make": ("make",),
    "monitor": ("monitor", "profile"),
    "pack build": ("build_pack",),
    "pack check": ("read_pack",),
    "check-server": ("check_server",),
    "pull": ("pull",),
    "push": ("push",),
    "recipe show": ("read_recipe",),
    "serve": ("serve",),
    "show": ("Model.lens",),
    "sign": ("sign", "new_key"),
    "suite": ("suite",),
    "sweep": ("sweep",),
    "verify": ("verify",),
}
#: Commands without a function, and why.
COMMAND_ONLY = {
    "demo": "a tour of the other commands",
    "pack report": "the index that `build_pack` returns",
    "ui": "a page, as of serve",
}
#: Public functions without a command, and why.
PYTHON_ONLY = {
    "contrast_set": "commands read contrasts as part of what they do",
    "load": "the option -m of every command",
    "parse": "the option -v of every command",
    "read": "the option -v of every command",
    "record": "extract --keep",
    "wrap": "a model in memory",
}
#: Options that another name has in Python, for one command or for all.
RENAMED = {
    "file": "contrasts",
    "guard": "guards",
    "layer": "layers",
    "layer_offset": "offset",
    "map": "mapping",
    "prompt": "prompts",
    "template_arg": "template_arguments",
    "vector": "steer",
    "when": "steer",
    "recipe": "steer",
    "folders": "places",
    "task": "lm_eval",
    "task_limit": "lm_eval_limit",
    ("apply", "prompt"): "prompt",
    ("compile", "prompt"): "prompt",
    ("bake", "vector"): "steers",
    ("bake", "recipe"): "steers",
    ("chat", "vector"): "steer",
    ("combine", "recipe"): "path",
    ("compare", "layer"): "layer",
    ("contrasts split", "file"): "data",
    ("convert", "reference"): "path",
    ("convert", "out"): "steer",
    ("describe", "top"): "n",
    ("describe", "vector"): "vector",
    ("discover", "layer"): "layer",
    ("distill", "vector"): "inside",
    ("drive", "vector"): "steers",
    ("drive", "recipe"): "steers",
    ("eval", "vector"): "steers",
    ("eval", "when"): "steers",
    ("monitor", "text"): "texts",
    ("monitor", "vector"): "vectors",
    ("check-server", "vector"): "steers",
    ("check-server", "recipe"): "steers",
    ("pack build", "out"): "folder",
    ("pack check", "pack"): "reference",
    ("pull", "vectors"): "address",
    ("recipe show", "recipe"): "path",
    ("serve", "recipe"): "recipes",
    ("show", "vector"): "vector",
    ("sign", "vectors"): "reference",
    ("sign", "new_key"): "path",
    ("suite", "condition"): "conditions",
    ("suite", "vector"): "rivals",
    ("sweep", "vector"): "vectors",
    ("verify", "vectors"): "reference",
}
#: Options of commands that Python has in another way.
INSTEAD = {
    "ceiling": "a report for people",
    "compare": "generate with and without a steer",
    "conditions": "a loop",
    "force": "`save` has it",
    "html": "`Readings.to_html`",
    "json": "results have `to_dict`",
    "lens": "`Model.lens`",
    "list_formats": "`steer.formats.registry.registry`",
    "no_calibrate": "calibrate=False",
    "offline": "`steer.load(offline=True)`, or HF_HUB_OFFLINE for all else",
    "negative_file": "data of two lists: {'positive': [...], 'negative': [...]}",
    "out": "`save`, or values in memory",
    "paired": "data of pairs",
    "plot": "`SweepResult.plot`",
    "positive_file": "data of two lists",
    "judge_model": "another server writes",
    "judge_url": "another server writes",
    "report": "`SweepResult.report`",
    "save": "`SweepResult.save`",
    "table": "`Readings.to_pandas`",
    "top": "a profile has all concepts",
    "every": "`Profile.running`",
    "engine": "vLLM is a process that a command starts",
    "engine_option": "vLLM is a process that a command starts",
    "ray": "workers are processes that a command starts",
    "workers": "workers are processes that a command starts",
}
#: Parameters that only Python needs: values in memory, and functions that are called back.
PARAMETERS = {
    "find", "message", "model", "names", "on_check", "on_made", "on_profile", "on_text", "on_up",
    "progress", "self", "warn",
}  # fmt: skip
#: Parameters that a command has as a part of another option.
WITHIN = {
    ("compile", "name"): "the name of --out",
    ("monitor", "layers"): "-v NAME@LAYERS",
    ("extract", "calibrate"): "--no-calibrate",
    ("make", "options"): "--method NAME:OPTION=VALUE",
    ("make", "prompts"): "questions that are always asked",
    ("extract", "options"): "--method NAME:OPTION=VALUE",
    ("fit", "options"): "--method NAME:OPTION=VALUE",
    ("discover", "samples"): "texts that are always written",
    ("distill", "options"): "--method NAME:OPTION=VALUE",
}


def commands() -> Iterator[tuple[str, Any]]:
    left: list[tuple[str, Any]] = list(get_command(app).commands.items())  # type: ignore[attr-defined]
    while left:
        name, command = left.pop()
        within = getattr(command, "commands", {})
        left += [(f"{name} {part}", item) for part, item in within.items()]
        if not within:
            yield name, command


EVERY = dict(commands())


def public(name: str) -> Any:
    return reduce(getattr, name.split("."), steer)


def parameters(command: str) -> set[str]:
    return {
        parameter
        for name in SURFACE[command]
        for parameter in inspect.signature(public(name)).parameters
    }


def in_python(command: str, option: str) -> str:
    return RENAMED.get((command, option), RENAMED.get(option, option))


LOADING = set(inspect.signature(steer.load).parameters) | {"model"}


def test_every_command_has_its_functions_and_every_function_its_command() -> None:
    assert set(SURFACE) | set(COMMAND_ONLY) == set(EVERY)
    listed = {name for section in COMMANDS.values() for name in section}
    assert {name.split()[0] for name in EVERY} == listed
    functions = {name for name in steer.__all__ if inspect.isfunction(getattr(steer, name))}
    shown = {name for names in SURFACE.values() for name in names}
    assert functions - shown - set(PYTHON_ONLY) == set()
    assert set(PYTHON_ONLY) <= functions


def test_former_names_of_commands_work_and_are_not_listed() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for former, present in FORMER.items():
        assert commands[former] is commands[present]
        assert former not in set(commands)


@pytest.mark.parametrize("command", SURFACE)
def test_what_a_command_takes_the_library_takes(command: str) -> None:
    for option in EVERY[command].params:
        name = in_python(command, option.name)
        loads = group_of(option) == "Model" and name in LOADING
        assert loads or name in parameters(command) or option.name in INSTEAD, option.name


@pytest.mark.parametrize("command", SURFACE)
def test_what_the_library_takes_a_command_takes(command: str) -> None:
    options = {in_python(command, option.name) for option in EVERY[command].params}
    options |= {parameter for name, parameter in WITHIN if name == command}
    assert parameters(command) - options - PARAMETERS == set()


def test_the_tables_name_what_exists() -> None:
    options = {option.name for command in EVERY.values() for option in command.params}
    assert set(INSTEAD) <= options
    for key in RENAMED:
        command, option = key if isinstance(key, tuple) else (None, key)
        within = EVERY[command].params if command else [p for c in EVERY.values() for p in c.params]
        assert option in {parameter.name for parameter in within}, key
