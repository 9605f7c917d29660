"""Sparse autoencoders: the decoder's row of one feature is a direction.

SAELens (`sae_weights.safetensors`, `cfg.json`), Gemma Scope (`params.npz`), EleutherAI's sparsify
(`sae.safetensors`, `cfg.json`) and dictionary_learning (`ae.pt`, `config.json`) name the decoder
`W_dec` [features, d_model] or `decoder.weight` [d_model, features].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steer.base.errors import UsageError, VectorError
from steer.formats.imported import Imported, checked_directions, shortened
from steer.formats.keys import place
from steer.formats.registry import Format
from steer.formats.source import Options, Source
from steer.vectors.sites import SiteName

_CONFIGS = ("cfg.json", "config.json")
#: Where configurations name the hook point, and the model.
_HOOKS = ("hook_name", "hook_point", "hookpoint")
_MODELS = ("model_name", "lm_name", "model_id")


def _arrays(source: Source) -> Mapping[str, Any]:
    if source.suffix == ".npz":
        return source.npz()
    if source.suffix == ".safetensors":
        return source.tensors().arrays
    content = source.pickled()
    return content if isinstance(content, Mapping) else {}


def _decoder(arrays: Mapping[str, Any]) -> np.ndarray[Any, Any] | None:
    """[features, d_model], or None."""
    decoder = arrays.get("W_dec")
    if isinstance(decoder, np.ndarray) and decoder.ndim == 2:
        return decoder
    decoder, encoder = arrays.get("decoder.weight"), arrays.get("encoder.weight")
    if not isinstance(decoder, np.ndarray) or not isinstance(encoder, np.ndarray):
        return None
    if decoder.ndim == 2 and encoder.shape == decoder.shape[::-1]:
        return np.asarray(decoder.T)
    return None


def _detect(source: Source) -> bool:
    return _decoder(_arrays(source)) is not None


def _read(source: Source, options: Options) -> Imported:
    subject = str(source)
    decoder = _decoder(_arrays(source))
    if decoder is None:
        raise VectorError(f"{subject} has no decoder, such as W_dec [features, d_model]")
    if options.row is None:
        raise UsageError(
            f"{subject} is a sparse autoencoder of {len(decoder):,} features",
            hint=f"choose one, with --row 0-{len(decoder) - 1}",
        )
    if not 0 <= options.row < len(decoder):
        raise UsageError(f"{subject} has no row {options.row}", hint=f"0-{len(decoder) - 1}")
    layer, site, why, model = _place(source)
    if options.layers is not None:
        if len(options.layers) != 1:
            raise UsageError(f"{subject} belongs at one layer, not {len(options.layers)}")
        if layer is not None and options.layers != (layer,):
            raise UsageError(
                f"{subject} belongs at layer {layer}, as the file beside it says",
                hint="leave --layer out, or move it with --layer-offset",
            )
        layer = options.layers[0]
        why = why or "the output of the block that --layer names"
    if layer is None:
        raise UsageError(f"{subject} does not say at which layer it belongs", hint="say --layer N")
    return Imported(
        checked_directions([(layer, decoder[options.row])], subject),
        convention=f"row {options.row} of the decoder; {why}",
        site=site,
        model=model,
        notes=("a feature's strength is not in the file: find a coefficient, with sweep",),
    )


def _place(source: Source) -> tuple[int | None, SiteName, str, str]:
    """Layer, site, why, and model, as a configuration beside the file has them."""
    for name in _CONFIGS:
        if not source.has(name):
            continue
        stated = source.json(name)
        if not isinstance(stated, dict):
            continue
        flat = dict(stated)
        for inner in ("metadata", "trainer"):
            if isinstance(stated.get(inner), dict):
                flat = {**stated[inner], **flat}
        model = next((flat[key] for key in _MODELS if isinstance(flat.get(key), str)), "")
        for key in _HOOKS:
            if isinstance(flat.get(key), str):
                found = place(flat[key], source.subject(name))
                if found is None:
                    raise VectorError(
                        f"{source.subject(name)}: {shortened(flat[key])!r} is no site here"
                    )
                return found[0], found[1], f"{name} names {flat[key]}", shortened(model)
        submodule = flat.get("submodule_name")
        if submodule is not None and not str(submodule).startswith("resid_post"):
            raise VectorError(
                f"{source.subject(name)}: the submodule {shortened(submodule)!r} is no site here",
                hint="one on resid_post can be read",
            )
        if type(flat.get("layer")) is int and flat["layer"] >= 0:
            return flat["layer"], "resid_post", f"{name} has its layer", shortened(model)
    return None, "resid_post", "", ""


FORMAT = Format(
    name="sae",
    title="SAELens, Gemma Scope, sparsify, dictionary_learning",
    help="a sparse autoencoder: the decoder's row of a feature, with --row and --layer",
    suffixes=(".safetensors", ".npz", ".pt"),
    read=_read,
    detect=_detect,
    options=("layers", "row"),
)
