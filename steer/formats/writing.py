"""Steering vectors to other tools' files: what is added, as their readers add it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from steer.base.errors import UsageError, VectorError
from steer.formats import arrays, controlvector, svec
from steer.steering.operation import ADD
from steer.steering.scope import CONSTANT, EVERYWHERE
from steer.steering.steers import Steer, usual_scope
from steer.vectors.sites import SiteName, listed
from steer.vectors.vector import Directions

#: What each kind of file is for, in the words of its reader.
WRITTEN = {
    ".gguf": "llama.cpp, repeng",
    ".svec": "IBM activation-steering, AISteer360",
    ".json": "a vllm-lens request",
    ".npz": "numpy",
}


def check_path(path: Path) -> None:
    """Refuse an output of no known kind.

    Raises:
        UsageError: a suffix that says nothing.
    """
    if path.suffix not in WRITTEN:
        raise UsageError(
            f"{path}: the end of the name says what to write, and {path.suffix or 'this'} is none",
            hint=f"use one of {listed(['.safetensors', *WRITTEN])}",
        )


def write(steer: Steer, path: Path, *, offset: int = 0) -> tuple[bytes, dict[int, Directions]]:
    """The bytes for `path`, and what they hold: what the steer adds, by the file's layer numbers.

    offset: a layer here, less its number in the file.

    Raises:
        VectorError: a steer that is more, or less, than an addition of constants at every
            position to the output of a block.
        UsageError: an offset that leads below 0.
    """
    site, rows = _added(steer, path.suffix)
    if offset:
        rows = {layer - offset: row for layer, row in rows.items()}
        if min(rows) < 0:
            raise UsageError(f"with an offset of {offset} a layer would be numbered {min(rows)}")
    model = _model_type(steer)
    if path.suffix == ".gguf":
        return controlvector.write(rows, model=model, name=steer.vector.name), rows
    if path.suffix == ".svec":
        return svec.write(rows, model=model), rows
    if path.suffix == ".json":
        return _vllm_lens(rows), rows
    return arrays.write_npz(rows, site=site), rows


def _added(steer: Steer, suffix: str) -> tuple[SiteName, dict[int, Directions]]:
    """float32 [d_model] for each layer."""
    name, readers = steer.vector.name, WRITTEN[suffix]
    if steer.op != ADD:
        raise VectorError(
            f"{name} is to {steer.op} here, and {readers} would add it instead",
            hint="`steer bake` writes ablations into a model's weights",
        )
    # Other tools add to every token, which is what `/all` says; and what was distilled for the
    # response is so by its file, without the user's word.
    usual = (EVERYWHERE, usual_scope(steer.vector.metadata))
    if steer.scope not in usual or steer.schedule != CONSTANT:
        raise VectorError(f"{name} has positions here, which a vector file does not")
    if steer.vector.metadata.rank:
        raise VectorError(
            f"{name} is a low-rank edit: {readers} would add its constant part alone",
            hint="steer distill --rank 0 makes a plain vector of the same condition",
        )
    placed = {site: steer.delta(layer) for site, layer in steer.sites().items()}
    names = {site.name for site in placed}
    only = names.pop()
    if names or (only != "resid_post" and suffix != ".npz"):
        raise VectorError(
            f"{name} acts on {only}, and {readers} would add it to the output of a block",
            hint="a .npz says its site; extract with --site resid_post for other tools",
        )
    return only, {site.layer: row for site, row in sorted(placed.items())}


def _model_type(steer: Steer) -> str:
    """`llama` of LlamaForCausalLM: Hugging Face's model_type, for most families."""
    metadata = steer.vector.metadata
    if not metadata.model.bound:
        source = metadata.method.source
        return source.model if source is not None else ""
    architecture = metadata.model.architecture
    for ending in ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"):
        architecture = architecture.removesuffix(ending)
    return architecture.lower()


def _vllm_lens(rows: Mapping[int, Directions]) -> bytes:
    """The field of a request to vllm-lens that adds the rows to the outputs of blocks.

    To be merged into the body of a completion request. The field's value is JSON as text.
    """
    stacked = np.stack(list(rows.values())).astype("<f4")
    vector = {
        "activations": {
            "data": base64.b64encode(stacked.tobytes()).decode(),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(stacked.shape),
        },
        "layer_indices": list(rows),
        "scale": 1.0,
        "norm_match": False,
        "position_indices": None,
    }
    body = {"vllm_xargs": {"apply_steering_vectors": json.dumps([vector])}}
    return json.dumps(body).encode() + b"\n"
