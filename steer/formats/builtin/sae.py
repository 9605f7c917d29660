"""Sparse autoencoders: the decoder's row of one feature is a direction.

SAELens (`sae_weights.safetensors`, `cfg.json`), Gemma Scope (`params.npz`), EleutherAI's sparsify
(`sae.safetensors`, `cfg.json`) and dictionary_learning (`ae.pt`, `config.json`) name the decoder
`W_dec` [features, d_model] or `decoder.weight` [d_model, features]. The encoder's row of a feature
reads it: a vector whose unit is the feature's activation, for a gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steer.base.errors import UsageError, VectorError
from steer.formats.imported import ImportedVector, checked_directions, shortened
from steer.formats.keys import site_of
from steer.formats.registry import Format
from steer.formats.source import Options, Source
from steer.formats.tensors import Tensors
from steer.vectors.sites import SiteName

_CONFIGS = ("cfg.json", "config.json")
#: Where configurations name the hook point, and the model.
_HOOKS = ("hook_name", "hook_point", "hookpoint")
_MODELS = ("model_name", "lm_name", "model_id")


def _content(source: Source) -> Mapping[str, Any]:
    if source.suffix == ".npz":
        return source.npz()
    if source.suffix == ".safetensors":
        return source.tensors()
    content = source.pickled()
    return content if isinstance(content, Mapping) else {}


def _shape(content: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """The shape of an array, without reading it; () where there is none."""
    if name not in content:
        return ()
    if isinstance(content, Tensors):
        return content.shape(name)
    return tuple(getattr(content[name], "shape", ()))


def _decoder(content: Mapping[str, Any]) -> tuple[str, int] | None:
    """The name of the decoder, and the number of its features."""
    if len(shape := _shape(content, "W_dec")) == 2:
        return "W_dec", shape[0]
    decoder, encoder = (_shape(content, f"{part}.weight") for part in ("decoder", "encoder"))
    if len(decoder) == 2 and encoder == decoder[::-1]:
        return "decoder.weight", decoder[1]
    return None


def _direction(content: Mapping[str, Any], name: str, feature: int) -> Any:
    if name != "W_dec":
        return np.asarray(content[name])[:, feature]
    return content.row(name, feature) if isinstance(content, Tensors) else content[name][feature]


def _encoder(content: Mapping[str, Any], decoder: str, feature: int) -> Any:
    """The encoder's weights of a feature, [d_model].

    Raises:
        VectorError: there are none.
    """
    features, width = _shape(content, decoder)
    if decoder != "W_dec":
        features, width = width, features
    if _shape(content, "W_enc") == (width, features):
        return np.asarray(content["W_enc"])[:, feature]
    for name in ("encoder.weight", "W_enc"):
        if _shape(content, name) == (features, width):
            row = content.row(name, feature) if isinstance(content, Tensors) else None
            return content[name][feature] if row is None else row
    raise VectorError("there is no encoder, such as W_enc [d_model, features]")


def _bias(
    content: Mapping[str, Any], config: Mapping[str, Any], weights: Any, feature: int
) -> float:
    """The constant that the encoder adds to the product with its weights. Most encoders subtract
    the decoder's bias from the activations first."""
    bias = 0.0
    for name in ("b_enc", "encoder.bias"):
        if len(_shape(content, name)) == 1:
            bias = float(np.asarray(content[name])[feature])
            break
    centred = "encoder.weight" in content or bool(config.get("apply_b_dec_to_input"))
    for name in ("b_dec", "bias", "decoder.bias"):
        if centred and _shape(content, name) == np.shape(weights):
            bias -= float(np.asarray(content[name], np.float64) @ weights)
            break
    return bias


def _gate(
    source: Source, content: Mapping[str, Any], decoder: str, feature: int, layer: int
) -> tuple[Any, tuple[float, float], str]:
    """The encoder's direction, where the feature's activation is 0 and 1 along it, and a note.

    The activation is max(0, w . h + b): along w / |w| it is 0 at -b / |w| and 1 at (1 - b) / |w|.

    Raises:
        VectorError: there is no encoder, or it is zero.
    """
    weights = np.asarray(_encoder(content, decoder, feature), np.float64)
    length = float(np.linalg.norm(weights)) if weights.ndim == 1 else 0.0
    if not np.isfinite(length) or not length:
        raise VectorError(f"{source}: the encoder of feature {feature} is no direction")
    bias = _bias(content, _config(source), weights, feature)
    threshold = 0.0
    if len(_shape(content, "threshold")) == 1:
        threshold = float(np.asarray(content["threshold"])[feature])
    note = (
        "values are the feature's own activation, before its threshold: it is on above"
        f" {threshold:g}, as in --when 'NAME>{threshold:g}'"
    )
    return weights / length**2, (-bias / length, (1 - bias) / length), note


def _config(source: Source) -> dict[str, Any]:
    """The configuration beside the file; {} where there is none."""
    for name in _CONFIGS:
        if source.has(name) and isinstance(stated := source.json(name), dict):
            return stated
    return {}


def _detect(source: Source) -> bool:
    return _decoder(_content(source)) is not None


def _read(source: Source, options: Options) -> ImportedVector:
    subject = str(source)
    content = _content(source)
    decoder = _decoder(content)
    if decoder is None:
        raise VectorError(f"{subject} has no decoder, such as W_dec [features, d_model]")
    name, n_features = decoder
    if options.row is None:
        raise UsageError(
            f"{subject} is a sparse autoencoder of {n_features:,} features",
            hint=f"choose one, with --row 0-{n_features - 1}",
        )
    if not 0 <= options.row < n_features:
        raise UsageError(f"{subject} has no row {options.row}", hint=f"it has 0-{n_features - 1}")
    layer, site, assumption, model = _place(source)
    if options.layers is not None:
        if len(options.layers) != 1:
            raise UsageError(f"{subject} belongs at one layer, not {len(options.layers)}")
        if layer is not None and options.layers != (layer,):
            raise UsageError(
                f"{subject} belongs at layer {layer}, as the file beside it says",
                hint="leave --layer out, or move it with --layer-offset",
            )
        layer = options.layers[0]
        assumption = assumption or "the output of the block that --layer names"
    if layer is None:
        raise UsageError(f"{subject} does not say at which layer it belongs", hint="say --layer N")
    if options.encoder:
        direction, sides, note = _gate(source, content, name, options.row, layer)
        return ImportedVector(
            checked_directions([(layer, direction)], subject),
            convention=f"row {options.row} of the encoder; {assumption}",
            site=site,
            model=model,
            notes=(note,),
            sides={layer: sides},
        )
    return ImportedVector(
        checked_directions([(layer, _direction(content, name, options.row))], subject),
        convention=f"row {options.row} of the decoder; {assumption}",
        site=site,
        model=model,
        notes=("the file has no strength for a feature: find a coefficient with steer sweep",),
    )


def _place(source: Source) -> tuple[int | None, SiteName, str, str]:
    """Layer, site, their origin and model, from a configuration beside the file."""
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
                named_site = site_of(flat[key], source.subject(name))
                if named_site is None:
                    raise VectorError(
                        f"{source.subject(name)}: {shortened(flat[key])!r} is not a site of steer"
                    )
                layer, site, _ = named_site
                return layer, site, f"{name} names {flat[key]}", shortened(model)
        submodule = flat.get("submodule_name")
        if submodule is not None and not str(submodule).startswith("resid_post"):
            raise VectorError(
                f"{source.subject(name)}: {shortened(submodule)!r} is not a site of steer",
                hint="steer reads autoencoders of resid_post",
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
    options=("layers", "row", "encoder"),
)
