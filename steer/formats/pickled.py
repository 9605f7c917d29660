"""Tensors from torch's pickle files: which tool's, by the file's name, and at which layers.

`steer.models.torch_files` reads the numbers; nothing here unpickles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import UsageError, VectorError
from steer.base.files import read_bytes, reported
from steer.base.strict_json import load_strict_json
from steer.formats import bare
from steer.formats.foreign import Foreign, checked_rows

Array = NDArray[Any]
Loaded = Array | Mapping[str, Array]

SUFFIXES = (".pt", ".pth", ".bin")
#: What imported pickles hold, in the two lines that a user can run where the file came from.
EXPORT_HINT = """if you trust it, export it where it was made, with the library that made it:
  import torch, safetensors.torch; v = torch.load("{name}", weights_only=False)
  safetensors.torch.save_file({{f"layer.{{n}}": t.contiguous() for n, t in \
v.layer_activations.items()}}, "{stem}.safetensors")"""

_LAYER = re.compile(r"(?:.*_)?layer_([0-9]{1,5})\.pt")
_PERSONA = re.compile(r".*_(prompt_avg|response_avg|prompt_last)_diff\.pt")
_CAA = "layer N was measured at the output of block N, where CAA and EasyEdit add it"


def guess(path: Path) -> str:
    """The format of a torch file, by its name and what lies beside it."""
    if path.name == "direction.pt" and _metadata(path).is_file():
        return "refusal-direction"
    if _LAYER.fullmatch(path.name):
        return "caa"
    if _PERSONA.fullmatch(path.name):
        return "persona-vectors"
    return "axbench" if path.name.endswith("weight.pt") else "pt"


def read(
    loaded: Loaded,
    path: Path,
    *,
    format: str | None,
    layers: Sequence[int] | None,
    row: int | None,
) -> Foreign:
    """What was loaded from a torch file, by the format's conventions.

    Raises:
        VectorError: numbers that the format does not have.
        UsageError: it is not said at which layer they belong.
    """
    format, subject = format or guess(path), str(path)
    if not isinstance(loaded, np.ndarray):
        return bare.by_layer(loaded, subject, format="pt")
    if format == "refusal-direction":
        return _refusal_direction(loaded, path)
    if format == "persona-vectors":
        return _persona_vectors(loaded, subject)
    named = _LAYER.fullmatch(path.name)
    if format == "caa" and layers is None and named is not None:
        return _caa([(int(named[1]), loaded)], subject)
    return bare.table(loaded, subject, format=format, layers=layers, row=row)


def layer_files(folder: Path) -> dict[int, Path]:
    """A folder's files of one layer each, as CAA and EasyEdit write them, by layer.

    Raises:
        VectorError: none, or several of one layer.
    """
    found: dict[int, Path] = {}
    with reported(folder):
        paths = sorted(folder.iterdir())
    for path in paths:
        if (match := _LAYER.fullmatch(path.name)) is not None:
            if int(match[1]) in found:
                raise VectorError(f"{folder} has several files of layer {int(match[1])}")
            found[int(match[1])] = path
    if not found:
        raise VectorError(
            f"the folder {folder} has no vectors, such as layer_14.pt",
            hint="name the file itself",
        )
    return dict(sorted(found.items()))


def from_folder(loaded: Mapping[int, Loaded], folder: Path) -> Foreign:
    """One vector from each file of `layer_files`."""
    return _caa(list(loaded.items()), str(folder))


def _caa(rows: Sequence[tuple[int, Loaded]], subject: str) -> Foreign:
    squeezed = [
        (layer, np.squeeze(row) if isinstance(row, np.ndarray) else row) for layer, row in rows
    ]
    return Foreign("caa", checked_rows(squeezed, subject), 0, _CAA)


def _refusal_direction(loaded: Array, path: Path) -> Foreign:
    """Read where block `layer` of `direction_metadata.json` begins."""
    beside = _metadata(path)
    if not beside.is_file():
        raise UsageError(
            f"{path} needs direction_metadata.json beside it, which has its layer",
            hint="or say --format pt --layer N",
        )
    text = read_bytes(beside, limit=100_000).decode(errors="replace")
    said = load_strict_json(text, str(beside))
    layer = said.get("layer") if isinstance(said, dict) else None
    if type(layer) is not int:
        raise VectorError(f"{beside} has no layer")
    return Foreign(
        format="refusal-direction",
        rows=checked_rows([(layer, np.squeeze(loaded))], str(path)),
        # What block 0 is given is no block's output.
        shift=-1 if layer else 0,
        site="resid_post" if layer else "resid_pre",
        convention=f"layer {layer} was read at the input of block {layer}",
        notes=("refusal_direction removes it, which `-v NAME:ablate=writes` does",),
    )


def _metadata(path: Path) -> Path:
    return path.with_name("direction_metadata.json")


def _persona_vectors(loaded: Array, subject: str) -> Foreign:
    """A row for the embeddings and one for each block."""
    if loaded.ndim != 2 or len(loaded) < 2:
        raise VectorError(f"{subject} is not [layers + 1, d_model]")
    return Foreign(
        format="persona-vectors",
        rows=checked_rows([(index, loaded[index]) for index in range(1, len(loaded))], subject),
        shift=-1,
        convention="row N was measured at the output of block N-1, where persona_vectors adds it",
        notes=(
            "row 0, of the embeddings, is left out",
            f"row {len(loaded) - 1} was read behind the final norm, layer {len(loaded) - 2} is"
            " before it: prefer another layer",
        ),
    )
