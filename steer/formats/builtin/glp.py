"""GLP, "GGUF Layer Projection": a control vector that is either added or projected out.

The tensors are llama.cpp's; the keys `glp.*` (in the first files `dspark.*`) say the op, the hook
point and the strength, and a reader that does not know one of their values must refuse the file.
With `glp.mode` = project a reader computes h - sum alpha dir_scale layer_scale (h . d) d with unit
d; with `add`, h + alpha d with d as it is. Specified in spec/GLP.md of msuiche/weightless.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from steer.base.errors import VectorError
from steer.formats import gguf
from steer.formats.builtin import llama_cpp
from steer.formats.gguf import Gguf
from steer.formats.imported import (
    UNIT_TOLERANCE,
    ImportedVector,
    checked_directions,
    coefficient_of,
    layer_number,
    norm,
    projection,
    rounded_coefficient,
    shortened,
    unit,
)
from steer.formats.registry import FileContents, Format, Writer
from steer.formats.source import Options, Source
from steer.vectors.sites import SiteName
from steer.vectors.vector import Directions

_PREFIXES = ("glp", "dspark")
_SITES: dict[str, SiteName] = {
    "residual_stream_post_layer": "resid_post",
    "ffn_out_pre_residual": "mlp_out",
    "attn_out_pre_residual": "attn_out",
}
_HOOK_POINTS = {site: hook for hook, site in _SITES.items()}
#: Keys of the specification. Those that are not read here describe the origin of the vector.
_KEYS = (
    *("mode", "spec_version", "alpha_default", "rank", "orthonormal", "dir_scales", "layer_scales"),
    *("hook_point", "derived_at", "derive_at", "content_sha256", "layer_ids_zero_based", "created"),
    *("method", "contrast", "structure", "validation", "base_model", "base_revision"),
)
_ORTHONORMAL = 1e-3


class _Keys:
    """The `glp.*` keys of a file. `missing` is the default for an absent key."""

    def __init__(self, file: Gguf, subject: str) -> None:
        self.subject = subject
        self.prefix = next(
            (each for each in _PREFIXES if any(key.startswith(f"{each}.") for key in file.values)),
            _PREFIXES[0],
        )
        self.values: dict[str, Any] = {}
        for key, value in file.values.items():
            word, _, name = key.partition(".")
            if word in _PREFIXES:
                if word != self.prefix or name not in _KEYS:
                    raise self.refused(key, value.value, "is not a key that is known")
                self.values[name] = value.value
            elif word != "general" and word not in ("controlvector", "steeringvector"):
                raise self.refused(key, value.value, "is a key of another format")

    def refused(self, key: str, value: object, reason: str) -> VectorError:
        return VectorError(
            f"{self.subject}: {shortened(key)} = {shortened(value)!r} {reason}",
            hint="the specification requires readers to refuse such a file; try a later steer",
        )

    def one_of(self, name: str, known: Mapping[str, Any], missing: str) -> Any:
        value = self.values.get(name, missing)
        if not isinstance(value, str) or value not in known:
            raise self.refused(f"{self.prefix}.{name}", value, f"is none of {', '.join(known)}")
        return known[value]

    def integer(self, name: str, low: int, high: int) -> int:
        """An integer, 1 if it is missing; some writers store it as text."""
        value = self.values.get(name, 1)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 6:
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise self.refused(f"{self.prefix}.{name}", value, f"is not between {low} and {high}")
        return value

    def number(self, name: str, text: object) -> float:
        try:
            value = float(str(text))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.refused(f"{self.prefix}.{name}", text, "has something that is no number")
        return value

    def list_of(self, name: str) -> list[str]:
        text = self.values.get(name)
        if text is None:
            return []
        if not isinstance(text, str) or not text.strip():
            raise self.refused(f"{self.prefix}.{name}", text, "is not a list")
        return [part.strip() for part in text.split(",")]


def _detect(source: Source) -> bool:
    return any(key.partition(".")[0] in _PREFIXES for key in source.gguf().values)


def _read(source: Source, options: Options) -> ImportedVector:
    file, subject = source.gguf(), str(source)
    keys = _Keys(file, subject)
    project = keys.one_of("mode", {"add": False, "project": True}, "add")
    site = keys.one_of("hook_point", _SITES, "residual_stream_post_layer")
    version, rank = keys.integer("spec_version", 1, 2), keys.integer("rank", 1, 1_000)
    scaled = [name for name in ("dir_scales", "layer_scales") if name in keys.values]
    if version == 1 and (rank > 1 or scaled):
        raise VectorError(f"{subject} has a rank or scales, which its spec_version 1 does not have")
    alpha = rounded_coefficient(keys.number("alpha_default", keys.values.get("alpha_default", 1.0)))
    coefficient_of(alpha, subject, "alpha_default")
    bases = _bases(file, rank, subject)
    _check_hash(keys, bases, subject)
    _check_layers(keys, bases, subject)
    model = llama_cpp.model_hint(file)
    notes = _notes(keys)
    convention = "direction.N is layer N, counted from 0"
    if not project:
        if rank > 1 or scaled:
            raise VectorError(f"{subject} adds, and has a rank or scales, which only project has")
        rows = {number: basis[0] for number, basis in bases.items()}
        return ImportedVector(
            checked_directions(rows.items(), subject),
            convention=convention,
            site=site,
            coefficient=alpha,
            model=model,
            notes=notes,
        )
    if any(abs(norm(row) - 1) > UNIT_TOLERANCE for basis in bases.values() for row in basis):
        notes += ("its directions do not have length 1; they are normalised",)
    bases = {
        number: np.stack([unit(row, f"{subject}, layer {number}") for row in basis])
        for number, basis in bases.items()
    }
    if rank > 1:
        _check_orthonormal(keys, bases, subject)
    strengths = _strengths(keys, bases, rank)
    out = projection(bases, strengths, alpha)
    return ImportedVector(
        out.directions,
        convention=convention,
        site=site,
        op=out.op,
        coefficient=out.coefficient,
        factors=out.factors,
        model=model,
        notes=notes,
    )


def _bases(file: Gguf, rank: int, subject: str) -> dict[int, Directions]:
    """float32 [rank, d_model] by layer, of `direction.N` and `direction.N.j`."""
    rows: dict[int, dict[int, object]] = {}
    for name, row in file.tensors.items():
        word, _, rest = name.partition(".")
        number, dot, index = rest.partition(".")
        if word != "direction":
            raise VectorError(f"{subject} has a tensor {shortened(name)!r}, which GLP has not")
        layer = layer_number(number, subject)
        j = layer_number(index, subject) if dot else 0
        if layer < 1 or (dot and j < 1):
            raise VectorError(f"{subject} has a tensor {shortened(name)!r}: GLP counts from 1")
        rows.setdefault(layer, {})[j] = row
    if not rows:
        raise VectorError(f"{subject} has no vectors")
    bases = {}
    for layer, each in sorted(rows.items()):
        if sorted(each) != list(range(rank)):
            raise VectorError(f"{subject} has {len(each)} directions at layer {layer}, not {rank}")
        checked = checked_directions(each.items(), f"{subject}, layer {layer}")
        bases[layer] = np.stack([checked[j] for j in range(rank)])
    if len({basis.shape[1] for basis in bases.values()}) > 1:
        raise VectorError(f"{subject} has vectors that differ in length")
    return bases


def _check_hash(keys: _Keys, bases: Mapping[int, Directions], subject: str) -> None:
    stated = keys.values.get("content_sha256")
    if stated is None:
        return
    digest = hashlib.sha256()
    for basis in bases.values():
        digest.update(np.ascontiguousarray(basis, "<f4").tobytes())
    if stated != digest.hexdigest():
        raise VectorError(
            f"{subject} was altered: its directions do not match its content_sha256",
            hint="get the file again from where it came",
        )


def _check_layers(keys: _Keys, bases: Mapping[int, Directions], subject: str) -> None:
    """Check the list of layers against the directions; some writers put a truth value there."""
    if not isinstance(keys.values.get("layer_ids_zero_based"), str):
        return
    listed = keys.list_of("layer_ids_zero_based")
    if sorted(listed) != sorted(map(str, bases)):
        raise VectorError(f"{subject} has other layers than its layer_ids_zero_based lists")


def _check_orthonormal(keys: _Keys, bases: Mapping[int, Directions], subject: str) -> None:
    if keys.values.get("orthonormal") not in (True, "true"):
        raise VectorError(f"{subject} has several directions a layer and does not say orthonormal")
    for number, basis in bases.items():
        wide = basis.astype(np.float64)
        if np.abs(wide @ wide.T - np.eye(len(basis))).max() > _ORTHONORMAL:
            raise VectorError(f"{subject}: the directions of layer {number} are not orthonormal")


def _strengths(
    keys: _Keys, bases: Mapping[int, Directions], rank: int
) -> dict[int, tuple[float, ...]]:
    by_direction = [keys.number("dir_scales", text) for text in keys.list_of("dir_scales")]
    if by_direction and len(by_direction) != rank:
        raise VectorError(f"{keys.subject} has {len(by_direction)} dir_scales, not {rank}")
    by_layer = {}
    for part in keys.list_of("layer_scales"):
        layer, _, scale = part.partition(":")
        number = layer_number(layer.strip(), keys.subject)
        if number not in bases or number in by_layer:
            raise VectorError(
                f"{keys.subject}: layer_scales has layer {number} twice, or without a direction"
            )
        by_layer[number] = keys.number("layer_scales", scale)
    each = by_direction or [1.0] * rank
    return {number: tuple(scale * by_layer.get(number, 1.0) for scale in each) for number in bases}


def _notes(keys: _Keys) -> tuple[str, ...]:
    derived = keys.values.get("derived_at", keys.values.get("derive_at"))
    hook = keys.values.get("hook_point", "residual_stream_post_layer")
    if derived is None or derived == hook:
        return ()
    return (f"measured at {shortened(derived)}, and meant to act at {shortened(hook)}",)


def _write(outgoing: FileContents) -> bytes:
    llama_cpp.check_first_block(outgoing)
    model = outgoing.metadata.model
    ablates = outgoing.op.name == "ablate"
    rows = {
        layer: unit(row, f"vector {outgoing.name!r}, layer {layer}") if ablates else row
        for layer, row in sorted(outgoing.directions.items())
    }
    digest = hashlib.sha256()
    for row in rows.values():
        digest.update(np.ascontiguousarray(row, "<f4").tobytes())
    values: dict[str, str | int | float | bool] = {
        "general.architecture": "controlvector",
        "general.type": "controlvector",
        "general.name": outgoing.name,
        "glp.mode": "project" if ablates else "add",
        "glp.spec_version": 1,
        "glp.alpha_default": float(outgoing.coefficient),
        "glp.rank": 1,
        "glp.orthonormal": True,
        "glp.hook_point": _HOOK_POINTS[outgoing.site],
        "glp.derived_at": _HOOK_POINTS[outgoing.site],
        "glp.layer_ids_zero_based": ",".join(map(str, rows)),
        "glp.content_sha256": digest.hexdigest(),
    }
    if model.bound:
        owner, _, name = model.id.rpartition("/")
        values |= {"general.base_model.count": 1, "general.base_model.0.name": name}
        if owner:
            values["general.base_model.0.organization"] = owner
        if model.revision:
            values["general.base_model.0.version"] = model.revision
    return gguf.build(values, {f"direction.{layer}": row for layer, row in rows.items()})


FORMAT = Format(
    name="glp",
    title="GLP (GGUF Layer Projection)",
    help="a control vector whose glp.* keys say op, hook point and strength",
    suffixes=(".gguf",),
    read=_read,
    detect=_detect,
    writer=Writer(
        _write,
        ops=("add", "ablate"),
        sites=("resid_post", "mlp_out", "attn_out"),
        default=False,
        use="only engines that read glp.mode apply OUT correctly; llama.cpp would add it",
    ),
)
