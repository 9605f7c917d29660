"""The notebook in examples/ runs, and its results show themselves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient, of the extra dev")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra dev")
pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra dev")
pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("notebook")
    shutil.copytree(EXAMPLES / "contrasts", folder / "contrasts")
    notebook = nbformat.read(EXAMPLES / "steering.ipynb", as_version=4)
    root = str(EXAMPLES.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute(env=os.environ | {"PYTHONPATH": paths, "MPLBACKEND": "agg"})
    assert (folder / "warm.safetensors").is_file()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(cells: list[Any]) -> None:
    assert all(cell.outputs for cell in cells[:-1])


@pytest.mark.filterwarnings("ignore")
def test_results_show_themselves(cells: list[Any]) -> None:
    shown = [{kind for output in cell.outputs for kind in output.get("data", {})} for cell in cells]
    vector, plot, table = shown[1], shown[3], shown[4]
    assert "text/html" in vector and "text/html" in table
    assert "image/png" in plot
