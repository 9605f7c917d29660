"""The house rules that a reader relies on, read from the imports themselves."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import steer

ROOT = Path(steer.__file__).parent

#: From the ground up; a room imports only rooms that stand above it here.
LAYERS = [
    ["base", "pocket"],
    ["vectors"],
    ["fitting"],
    ["contrasts"],
    ["steering"],
    ["measures", "formats"],
    ["sharing"],
    ["models"],
    ["hooks", "workers"],
    ["resuming"],
    ["generate", "extraction", "monitoring", "doctor", "baking"],
    ["distillation", "demo"],
    ["evaluation"],
    ["engines"],
    ["serving"],
    ["library"],
    ["cli"],
    ["__main__"],
]
#: Nothing up to here may import torch, so that it loads at once.
LAST_WITHOUT_TORCH = "sharing"
HEAVY = {"torch", "transformers", "transformer_lens"}
#: Only `python -m steer.pocket.train` comes here.
TRAINING = {"pocket.train", "pocket.optimizer", "pocket.lessons"}
DOORS = {
    "transformers": {
        "models.model",
        "models.caches",
        "models.checkpoint",
        "models.loading",
        "models.tokenizers",
        "models.gguf",
        "evaluation.classifier",
        "pocket.train",
        "pocket.lessons",
    },
    "transformer_lens": {"models.adapters"},
}


def modules() -> dict[str, Path]:
    files = ROOT.rglob("*.py")
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}


def imported(file: Path, *, only_at_top: bool = False) -> set[str]:
    """Names of the modules that a file imports, `steer.` left in."""
    tree = ast.parse(file.read_text())
    found: set[str] = set()
    for node in tree.body if only_at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "steer":
                found |= {f"steer.{alias.name}" for alias in node.names}
            else:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(module: str) -> str:
    return module.removeprefix("steer.").split(".")[0]


RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}


def ours(module: str) -> set[str]:
    """The modules of this package that a module imports, without `steer.`."""
    found = imported(modules()[module])
    return {name.removeprefix("steer.") for name in found if name.startswith("steer.")}


@pytest.mark.parametrize("module", [name for name in modules() if name != "__init__"])
def test_imports_point_down(module: str) -> None:
    assert room(module) in RANK, f"say where {room(module)} belongs"
    for name in ours(module) - {"__version__"}:
        if room(name) != room(module):
            assert RANK[room(name)] < RANK[room(module)], f"{module} imports {name} from above"


def test_no_circles() -> None:
    every = modules()
    graph = {name: ours(name) & set(every) for name in every}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", modules())
def test_heavy_libraries_have_their_doors(module: str) -> None:
    tops = {name.split(".")[0] for name in imported(modules()[module])}
    for library, doors in DOORS.items():
        if library in tops:
            assert module in doors, f"{module} imports {library}"
    light = module != "__init__" and RANK[room(module)] <= RANK[LAST_WITHOUT_TORCH]
    if light and module not in TRAINING:
        assert not tops & HEAVY


def test_help_is_light() -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from steer.cli.main import app

assert CliRunner().invoke(app, ["apply", "--help"]).exit_code == 0
sys.exit(", ".join({HEAVY | {"numpy"}!r} & set(sys.modules)) or 0)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
