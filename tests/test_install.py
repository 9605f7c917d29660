"""What a user installs: a name that is ours, and libraries in versions that were tested."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Their insides are what steering leans on: how a cache is passed, which module is called when.
LEANED_ON = ["torch", "transformers", "transformer-lens"]


def sources() -> list[Path]:
    files = [path for room in ("steer", "docs", "examples") for path in (ROOT / room).rglob("*")]
    return [path for path in [*files, ROOT / "README.md"] if path.suffix in (".py", ".md", ".sh")]


def test_every_hint_to_install_steer_names_our_distribution() -> None:
    """The name `steer` on the package index belongs to another project."""
    hints = 0
    for path in sources():
        text = path.read_text(encoding="utf-8")
        for names in re.findall(r"pip install (?:--\w+ )*['\"]?([a-z-]+)(?=[\[\]'\"`\s)]|$)", text):
            if names.startswith("steer"):
                assert names == PROJECT["name"], f"{path.name}: pip install {names}"
                hints += 1
    assert hints


def test_every_extra_that_a_hint_names_exists() -> None:
    for path in sources():
        text = path.read_text(encoding="utf-8")
        for extra in re.findall(rf"{PROJECT['name']}\[([\w,-]+)\]", text):
            assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"]), path.name


@pytest.mark.parametrize("name", LEANED_ON)
def test_only_versions_up_to_the_tested_one_install(name: str) -> None:
    """The next minor release is not installed before the tests have run with it."""
    needed = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == name)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    tested = max(Version(str(pin.specifier)[2:]) for pin in pins if pin.name == name)
    assert needed.specifier.contains(tested)
    bound = next(
        Version(specifier.version) for specifier in needed.specifier if specifier.operator == "<"
    )
    assert bound <= Version(f"{tested.major}.{tested.minor + 1}")
