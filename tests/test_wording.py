"""Messages name options to who types commands, and arguments to who calls Python."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_cli import steer

import steer as api
from steer.base.errors import IdleError
from steer.base.wording import COMMAND_ONLY, FLAGS, VALUES, for_commands, in_python

ROOT = Path(api.__file__).parent
#: What other programs are started with, or are said to take.
OTHERS = {"merge", "control-vector", "head", "middleware", "host", "upgrade", "force-reinstall"}
OTHERS |= {"enable-steer-vector", "steer-algorithms"}
#: Names of style sheets.
OTHERS |= {"ink", "line", "page", "soft"}


def messages() -> dict[str, str]:
    """The options that strings in the library name, and the file of one."""
    options_found: dict[str, str] = {}
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] in ("cli", "pocket"):
            continue
        tree = ast.parse(path.read_text())
        documented = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and node not in documented:
                names = re.findall(r"(?<![\w-])--([a-z][a-z-]*[a-z])", node.value)
                options_found |= dict.fromkeys(names, path.name)
    return options_found


def test_each_option_in_a_message_has_its_argument() -> None:
    known = FLAGS | VALUES.keys() | COMMAND_ONLY | OTHERS
    assert {name: file for name, file in messages().items() if name not in known} == {}


def test_arguments_are_there_as_messages_name_them() -> None:
    defaults: dict[str, list[Any]] = defaultdict(list)
    for name in api.__all__:
        public = getattr(api, name)
        functions = [public] if inspect.isfunction(public) else []
        if inspect.isclass(public):
            functions = [each for each in vars(public).values() if inspect.isfunction(each)]
        for function in functions:
            for argument in inspect.signature(function).parameters.values():
                defaults[argument.name].append(argument.default)
    for name in FLAGS:
        assert False in defaults[name.replace("-", "_")], name
    for name, argument in VALUES.items():
        assert argument in defaults, name
        assert not all(isinstance(default, bool) for default in defaults[argument]), name


@pytest.mark.parametrize(
    ("typed", "called"),
    [
        ("pass --allow-idle", "pass allow_idle=True"),
        ("leave --chat out, or", "leave chat=True out, or"),
        ("try --dtype=float32", 'try dtype="float32"'),
        ("say --layer N (--row 0)", "say layer=N (row=0)"),
        ("--map text=THEIRS", 'mapping={"text": "THEIRS"}'),
        ("run it with --model=org/x", 'run it with steer.load("org/x")'),
        ("--rank and --seed are 0 or more", "rank and seed are 0 or more"),
        ("leave --lens out", "leave --lens out"),
        ("`steer extract --keep FILE` writes it", "`steer extract --keep FILE` writes it"),
        ("steer pull x --force; or --force", "steer pull x --force; or force=True"),
        ("a text with -- and --", "a text with -- and --"),
    ],
)
def test_forms(typed: str, called: str) -> None:
    assert in_python(typed) == called


def test_an_error_is_read_by_one_or_the_other(tmp_path: Path) -> None:
    model = api.Model(tiny.model("llama"))
    with pytest.raises(IdleError) as caught:
        model.generate("w5", tiny.steer(model.inner, 1e-60), max_tokens=2)
    assert "allow_idle=True" in str(caught.value.hint)
    assert any("allow_idle=True" in note for note in caught.value.__notes__)
    with for_commands():
        assert "--allow-idle" in str(caught.value.hint)
    folder = tiny.save(tmp_path / "m")
    api.Vector(tiny.vector(model.inner)).save(tmp_path / "calm.safetensors")
    words = ["apply", "w5", "-m", folder, "-v", f"{tmp_path}/calm.safetensors:1e-60@1"]
    assert "--allow-idle" in steer(*words, "--allow-other-model").stderr
