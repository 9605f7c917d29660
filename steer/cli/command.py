"""How commands are registered, loaded and explained.

To add a command `steer NAME`: write `cli/NAME.py` with `register(app)`, and add one row to
`COMMANDS`, with the first line of the command's docstring. Nothing else lists commands, and only
the command that runs is imported.

Every command has the option `--offline`, unless `LOCAL` lists it.

To add an option: write its help in one short sentence, if possible one line at 80 columns. `GROUPS`
assigns options to the groups of the help by name; options that it does not list go into the group
`How`, and `rich_help_panel=` of an option overrides both. `VALUES` in `cli/complete.py` says what
the shell completes.

The docstring of a command is one line, then at most two paragraphs about what the command does,
then blocks that begin with `\\b`. A block in which a line begins with `steer ` holds examples; the
help shows examples first. The help of a command has at most 84 lines, a screen and a half.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from steer.base.errors import UsageError
from steer.base.hub import go_offline
from steer.cli.complete import VALUES

#: Sections of `steer --help`: the commands of each, with the first line of their help.
COMMANDS: dict[str, dict[str, str]] = {
    "Begin here": {
        "demo": "Extract a vector, steer with it, and measure what it did.",
        "doctor": "Check the installation, and steering on a model.",
    },
    "Make vectors": {
        "contrasts": "Check, split and write contrast sets.",
        "make": "Make a vector, choose its strength, and show what it does.",
        "extract": "Make a vector from two words, or from contrasting texts.",
        "pack": "Make vectors of many concepts at once, from a TOML file.",
        "fit": "Fit another vector to kept activations, without the model.",
        "distill": "Train an edit, or a token, to have the effect of a prompt.",
        "compile": "Compile a system prompt to a short text and an edit or a token.",
        "combine": "Make one vector of several: sum, mean, difference, multiple.",
        "convert": "Convert vector files from and to the formats of other tools.",
    },
    "Steer": {
        "apply": "Generate text while steering.",
        "chat": "Talk with a model, and steer it as you go.",
        "recipe": "Show a recipe of vectors and settings with all that it includes.",
        "ui": "Open a page on which you steer by hand.",
        "serve": "Serve a model with OpenAI's API; requests say how to steer.",
        "drive": "Steer a running engine with the steering that it has of its own.",
        "check-server": "Test whether a running server steers as the vectors say.",
        "bake": "Write steering into the weights, for any engine.",
    },
    "Read and measure": {
        "monitor": "Show the projection of each token of a text on vectors.",
        "sweep": "Find the layer and coefficient with the most effect in a budget.",
        "eval": "Measure vectors: effect and cost, beside baselines.",
        "suite": "Compare methods on conditions with known effects.",
        "show": "Print the metadata of a vector file.",
        "compare": "Compare vectors layer by layer; can they be combined?",
        "describe": "Find the concepts of a pack that are nearest to a vector.",
        "discover": "Find the directions in which a model's activations vary most.",
    },
    "Share": {
        "list": "List vector files, one per line.",
        "push": "Push vectors, each with a card, and update the index.",
        "pull": "Pull vectors, check them, and record where they came from.",
        "verify": "Check that vector files are intact and fit a model.",
        "sign": "Sign vector files.",
    },
}

#: Commands that read nothing from the hub, and have no option `--offline`.
LOCAL = frozenset({"demo", "fit", "pack check", "pack report", "push", "recipe"})

#: Modules of commands whose names cannot be names of modules, or are builtins of Python.
_MODULES = {"check-server": "check_server", "eval": "evaluate", "list": "list_vectors"}

#: Former names of commands, which still work and are not listed.
FORMER = {"probe": "check-server"}

_WORKS_ON, _HOW, _OUTPUT, _MODEL, _RUNNING = (
    "What it works on", "How", "Output", "Model", "Running",
)  # fmt: skip

#: The groups of a command's help, in order, with the names of their options. Arguments belong to
#: the first group, options that no group names to `How`.
GROUPS: dict[str, tuple[str, ...]] = {
    _WORKS_ON: (
        "vector", "vectors", "recipe", "when", "condition", "contrasts", "prompt", "prompts",
        "texts", "positive", "negative", "positive_file", "negative_file", "paired",
        "unrelated", "tags", "served", "map", "positive_label", "negative_label", "lists", "split",
        "against", "phrase", "questions", "raises", "lowers", "only",
    ),
    _HOW: (),
    _OUTPUT: (
        "out", "name", "description", "license", "keep", "save", "compare", "table", "plot",
        "html", "page", "report", "list_formats", "force", "json",
    ),
    _MODEL: (
        "model", "revision", "adapter", "device", "dtype", "device_map", "tensor_parallel",
        "trust_remote_code", "allow_other_model", "chat", "system", "template",
        "template_arg", "date",
    ),
    _RUNNING: (
        "host", "port", "api_key", "allow_origin", "log_requests", "no_browser", "batch_size",
        "jobs", "engine", "engine_option", "ray", "workers", "allow_idle", "offline",
    ),
}  # fmt: skip

#: Placeholders of values in the help, by typer's name of the type.
_VALUES = {
    "<str>": "TEXT", "<list[str]>": "TEXT", "<int>": "N", "<int range>": "N", "<float>": "X",
    "<list[float]>": "X", "<path>": "FILE", "<list[path]>": "FILE", "<list[Path]>": "FILE",
    "TEXT": "TEXT",
    "INTEGER": "N", "INTEGER RANGE": "N", "FLOAT": "X", "PATH": "FILE",
}  # fmt: skip

#: The widest column of option names. The help of a longer name begins on the next line.
_NAMES = 24

#: Surrogates, with which Python represents bytes of the command line that are not UTF-8.
_NOT_TEXT = re.compile("[\ud800-\udfff]")


class SteerCommand(TyperCommand):
    """A command whose help shows examples first and options in groups, with shell completion.

    It refuses arguments that are not UTF-8, before they fail deep in the library.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for parameter in self.params:
            own = VALUES.get(f"{self.name} {parameter.name}")
            if complete := own or VALUES.get(str(parameter.name)):
                # Typer expects this where an option is declared; here one table serves all.
                parameter._custom_shell_complete = _complete_with(complete)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for parameter in self.params:
            _check_text(parameter.opts[-1], ctx.params.get(str(parameter.name)))
        return super().invoke(ctx)

    @property
    def explanation(self) -> str:
        """The help text above the options. Commands that list a registry there override this."""
        return self.help or ""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the first line, the examples, and then the rest of the explanation."""
        summary, *blocks = self.explanation.split("\n\n")
        examples = list(filter(_is_example, blocks))
        ordered = [summary, *examples, *(block for block in blocks if block not in examples)]
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text("\n\n".join(ordered))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, group by group."""
        shown = [parameter for parameter in self.params if not getattr(parameter, "hidden", False)]
        rows = {parameter.name: _row(parameter, ctx) for parameter in shown}
        width = max((len(names) for names, _ in rows.values() if len(names) <= _NAMES), default=0)
        for group, order in GROUPS.items():
            members = [parameter for parameter in shown if group_of(parameter) == group]
            members.sort(key=lambda parameter: _rank(parameter, order))
            if members:
                with formatter.section(group):
                    for parameter in members:
                        _write(formatter, *rows[parameter.name], width)


def _complete_with(complete: Callable[[str], list[str]]) -> Callable[..., Any]:
    return lambda _ctx, _parameter, incomplete: complete(incomplete)


def group_of(parameter: Any) -> str:
    """The group of the help to which an option or argument belongs."""
    if parameter.param_type_name == "argument":
        return _WORKS_ON
    named = getattr(parameter, "rich_help_panel", None)
    return named or next((g for g, order in GROUPS.items() if parameter.name in order), _HOW)


def _rank(parameter: Any, order: Sequence[str]) -> int:
    """The sort key: arguments first, then options in the order of the group, then all others."""
    if parameter.param_type_name == "argument":
        return -1
    return order.index(parameter.name) if parameter.name in order else len(order)


def _write(formatter: Any, names: str, text: str, width: int) -> None:
    """Write a row of the help; a name that is too long for its column gets its own line."""
    indent = " " * (formatter.current_indent + width + 2)
    lines = textwrap.wrap(text, formatter.width - len(indent), break_on_hyphens=False) or [""]
    head = f"{'':{formatter.current_indent}}{names}"
    if len(head) + 2 > len(indent):
        formatter.write(f"{head}\n")
        head = ""
    formatter.write(f"{head:{len(indent)}}{lines[0]}".rstrip() + "\n")
    for line in lines[1:]:
        formatter.write(f"{indent}{line}\n")


def _is_example(block: str) -> bool:
    return block.startswith("\b") and re.search(r"^steer ", block, re.MULTILINE) is not None


def _row(parameter: Any, ctx: Any) -> tuple[str, str]:
    """The two columns for a parameter: its names and placeholder; its help and default."""
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
        return f"{name}{' ...' if parameter.nargs != 1 else ''}", parameter.help or ""
    names, text = ", ".join(parameter.opts), parameter.help or ""
    if not parameter.is_flag:
        typed = parameter.get_help_record(ctx)[0].rpartition(parameter.opts[-1])[2].strip(" ,/")
        names += f" {parameter.metavar or _VALUES.get(typed, typed)}"
    shown = [f"${parameter.envvar}"] if isinstance(parameter.envvar, str) else []
    if parameter.required:
        shown.append("required")
    elif not parameter.is_flag and parameter.default not in (None, "", [], ()):
        shown.append(str(parameter.default))
    return names, f"{text} [{', '.join(shown)}]" if shown else text


class Commands(Mapping[str, Any]):
    """All commands by name; each is imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        name = FORMER.get(name, name)
        if not any(name in section for section in COMMANDS.values()):
            raise KeyError(name)
        return load(name)

    def __iter__(self) -> Iterator[str]:
        return (name for section in COMMANDS.values() for name in section)

    def __len__(self) -> int:
        return sum(map(len, COMMANDS.values()))


@cache
def load(name: str) -> Any:
    """Import the module of a command, and return the command or group of commands."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    import_module(f"steer.cli.{_MODULES.get(name, name)}").register(app)
    app.callback()(lambda: None)  # makes typer build a group, from which we take the command
    groups = [group.typer_instance for group in app.registered_groups]
    for each in (app, *filter(None, groups)):
        for info in each.registered_commands:
            if info.cls is None or not issubclass(info.cls, SteerCommand):
                info.cls = SteerCommand
            path = name if each is app else f"{name} {info.name}"
            if info.callback is not None and not {name, path} & LOCAL:
                info.callback = _with_offline(info.callback)
    group: Any = typer.main.get_command(app)
    return group.commands[name]


def _with_offline(command: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command, with the option `--offline`."""

    @functools.wraps(command)
    def wrapper(*, offline: bool, **values: Any) -> Any:
        return command(**values)

    def act(is_set: bool) -> None:  # before other options, which may ask whether it is set
        if is_set:
            go_offline()

    option = typer.Option(
        "--offline",
        is_eager=True,
        callback=act,
        help="Ask the hub nothing; use what its cache has.",
    )
    added = inspect.Parameter(
        "offline", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[bool, option], default=False
    )
    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [*(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own), added]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
    del wrapper.__wrapped__  # otherwise typer inspects the undecorated command
    return wrapper


def leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command that is no group, or those below a group, each with the words that name it."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, each in below.items():
        yield from leaves(f"{path} {name}", each)


class LazyGroup(TyperGroup):
    """The group `steer`, which lists its commands in sections without importing them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = Commands()  # type: ignore[assignment]  # nobody adds to it

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, section by section."""
        width = max(map(len, self.commands))
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])


def _check_text(name: str, value: Any) -> None:
    """Refuse a text with bytes that are not UTF-8, and a name of a new file, which some libraries
    cannot write. The name of an existing file may have them.

    Raises:
        UsageError: the text is not UTF-8; the message names the option or argument.
    """
    for text in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(text, (str, Path)):
            continue
        if _NOT_TEXT.search(str(text)) and not Path(text).exists():
            subject = name if name.startswith("-") else f"the argument {name.upper()}"
            raise UsageError(
                f"{subject} is not UTF-8: {str(text)[:40]!r}",
                hint="write it in UTF-8, or put it into a file and save that as UTF-8",
            )
