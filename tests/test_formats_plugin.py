"""A format of another package: the example of docs/extending.md, installed and used."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from steer.cli.main import app
from steer.formats import registry as registries
from steer.vectors import store

DOCS = Path(__file__).parents[1] / "docs"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def section() -> str:
    """`## A format` of the manual."""
    text = (DOCS / "extending.md").read_text()
    return re.split(r"^## ", text.partition("\n## A format\n")[2], maxsplit=1, flags=re.M)[0]


def block(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", section(), flags=re.S)
    assert match is not None
    return match[1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, of which the example's is one."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    registries.registry.cache_clear()
    yield site
    registries.registry.cache_clear()
    for name in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[name]


def install(site: Path, module: str, code: str, entry: str) -> None:
    """What pip leaves behind of a package."""
    (site / f"{module}.py").write_text(code)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[steer.formats]\n{entry}\n")


def test_the_manuals_example_is_read_and_written_from_the_command_line(installed: Path) -> None:
    code, entry = block("python"), block("toml")
    name, target = re.search(r'^(\S+) = "(\S+:\S+)"$', entry, flags=re.M).groups()  # type: ignore[union-attr]
    module, _, attribute = target.partition(":")
    install(installed, module, code, f"{name} = {module}:{attribute}")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 30
    row = [0.5, -1.0, 2.0]
    Path("x.csv").write_text("3," + ",".join(map(str, row)) + "\n")
    result = run("convert", "x.csv", "x.safetensors")
    assert result.exit_code == 0, result.output
    vector = store.read(Path("x.safetensors"))
    assert vector.metadata.layers == (3,) and np.array_equal(vector.directions[0], row)
    assert run("convert", "x.safetensors", "y.csv").exit_code == 0
    assert run("convert", "y.csv", "z.safetensors").exit_code == 0
    assert np.array_equal(store.read(Path("z.safetensors")).directions, vector.directions)
    assert name in run("convert", "--help").stdout
    assert name in run("convert", "--formats").stdout
    Path("bad.csv").write_text("three,1\n")
    assert run("convert", "bad.csv", "bad.safetensors").exit_code == 1


BROKEN = {
    "does not import": ("import nothing_like_this\nFORMAT = 1\n", "ModuleNotFoundError"),
    "fails": ("raise RuntimeError('no luck')\n", "no luck"),
    "is something else": ("FORMAT = 'x'\n", "not Format"),
    "takes a name": (
        "from steer.formats.registry import Format\n"
        "FORMAT = Format(name='caa', title='x', help='x', suffixes=('.x',))\n",
        "is taken",
    ),
    "has a suffix that no file has": (
        "from steer.formats.registry import Format\n"
        "FORMAT = Format(name='x', suffixes=('.vec.json',))\n",
        "'.vec.json' is not a file suffix",
    ),
}


@pytest.mark.parametrize(("code", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_package_is_named_and_stops_nothing(
    installed: Path, code: str, reason: str
) -> None:
    install(installed, "plugin_broken", code, "oops = plugin_broken:FORMAT")
    np.save("x.npy", np.ones(4, np.float32))
    result = run("convert", "x.npy", "x.safetensors", "--layer", 1)
    assert result.exit_code == 0, result.output
    assert "plugin_broken" in result.stderr and reason in result.stderr
    assert store.read(Path("x.safetensors")).metadata.layers == (1,)


def test_a_package_that_fails_to_look_at_a_file_is_named(installed: Path) -> None:
    code = (
        "from steer.formats.registry import Format\n"
        "def fail(*_): return 1 / 0\n"
        "FORMAT = Format(name='zero', title='x', help='x', suffixes=('.npy',), read=fail,"
        " detect=fail)\n"
    )
    install(installed, "plugin_zero", code, "zero = plugin_zero:FORMAT")
    np.save("x.npy", np.ones(4, np.float32))
    result = run("convert", "x.npy", "x.safetensors", "--layer", 1)
    assert result.exit_code == 1 and "plugin_zero" in result.stderr
    result = run("convert", "x.npy", "y.safetensors", "--layer", 1, "--format", "zero")
    assert result.exit_code == 1 and "plugin_zero" in result.stderr
    result = run("convert", "x.npy", "z.safetensors", "--layer", 1, "--format", "npy")
    assert result.exit_code == 0, result.output


def test_the_table_of_the_manual_is_that_of_the_registry() -> None:
    """Run `python tests/test_formats_plugin.py` to write it anew."""
    assert table() in (DOCS / "sharing.md").read_text()


def table() -> str:
    lines = ["| format | files | of | |", "|---|---|---|---|"]
    for each in registries.builtin():
        ways = [word for word, way in (("read", each.read), ("written", each.writer)) if way]
        lines.append(f"| {each.name} | {each.kinds} | {each.title} | {', '.join(ways)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    path = DOCS / "sharing.md"
    text = path.read_text()
    start = text.index("| format | files |")
    end = text.find("\n\n", start)
    path.write_text(text[:start] + table() + (text[end:] if end >= 0 else "\n"))
    sys.stdout.write(json.dumps({"wrote": str(path)}) + "\n")
