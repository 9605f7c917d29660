"""RhizoNymph's vLLM: JSON of vectors and clamps by hook point and layer, in three tiers.

    {"vectors": {"post_block": {"15": [...]}}}      or {"vector": [...], "scale": 2.0} in its place

`vectors` act on all tokens, `prefill_vectors` on the prompt and `decode_vectors` on the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from steer.base.errors import VectorError
from steer.formats.imported import (
    ImportedVector,
    checked_directions,
    checked_row,
    coefficient_of,
    layer_number,
    norm,
    shortened,
)
from steer.formats.registry import FileContents, Format, Writer
from steer.formats.source import Options, Source
from steer.steering.operation import plain
from steer.vectors.sites import SiteName, listed

_TIERS = {"vectors": "", "prefill_vectors": "the prompt", "decode_vectors": "new tokens"}
_CLAMPS = ("clamps", "prefill_clamps", "decode_clamps")
_SITES: dict[str, SiteName] = {"post_block": "resid_post", "pre_attn": "resid_pre"}
_OTHER_HOOKS = ("post_attn", "post_mlp", "mlp_in", "mlp_out")
_HOOKS = {site: hook for hook, site in _SITES.items()}
#: Keys of a request that have no effect on the vectors.
_ASIDE = ("name", "replace", "kind")


def _tiers(source: Source) -> dict[str, Any]:
    """The entries of the JSON. Keys of a request, such as `steering_vectors`, lose their prefix."""
    raw = source.json()
    if not isinstance(raw, dict):
        return {}
    return {key.replace("steering_", "", 1): value for key, value in raw.items()}


def _detect(source: Source) -> bool:
    raw = _tiers(source)
    hooks = {*_SITES, *_OTHER_HOOKS}
    tiers = [raw.get(tier) for tier in (*_TIERS, *_CLAMPS)]
    return any(isinstance(tier, dict) and bool(tier) and set(tier) <= hooks for tier in tiers)


def _read(source: Source, options: Options) -> ImportedVector:
    raw, subject = _tiers(source), str(source)
    known = {*_TIERS, *_CLAMPS, *_ASIDE}
    if unknown := [shortened(key) for key in raw if key not in known]:
        raise VectorError(f"{subject} has {listed(unknown[:5])}, which is not known")
    tiers = [key for key in (*_TIERS, *_CLAMPS) if raw.get(key)]
    if len(tiers) != 1:
        raise VectorError(
            f"{subject} has {listed(tiers) if tiers else 'no vectors'}: a vector file has one tier",
            hint="split it, a tier in each file",
        )
    tier = tiers[0]
    hook, layers = _one_hook(raw[tier], subject)
    rows, scales, ops = [], set(), set()
    for text, entry in layers.items():
        layer = layer_number(text, subject)
        row, scale, op = _entry(entry, f"{subject}, layer {layer}", clamp=tier in _CLAMPS)
        rows.append((layer, row))
        scales.add(scale)
        ops.add(op)
    if len(ops) > 1 or (len(scales) > 1 and ops != {"add"}):
        raise VectorError(f"{subject} has different ops at its layers; a vector has one op")
    scale = scales.pop() if len(scales) == 1 else 1.0
    directions = checked_directions(rows, subject)
    if scales:  # additions of different strengths: scale the directions themselves
        scaled = {n: _entry(layers[str(n)], subject, clamp=False)[1] for n in directions}
        directions = checked_directions(
            [(n, row.astype(float) * scaled[n]) for n, row in directions.items()], subject
        )
        scale = 1.0
    part = "the prompt" if tier.startswith("prefill") else "new tokens"
    return ImportedVector(
        directions,
        convention=f"layer N is {hook} of block N",
        site=_SITES[hook],
        op=ops.pop(),
        coefficient=scale,
        notes=()
        if tier in ("vectors", "clamps")
        else (
            f"it acts only on {part}, which a vector file does not record: write"
            f" -v NAME:recommended/{'prompt' if part == 'the prompt' else 'response'}",
        ),
    )


def _one_hook(tier: Any, subject: str) -> tuple[str, Mapping[str, Any]]:
    hooks = [hook for hook, layers in tier.items() if layers] if isinstance(tier, dict) else []
    if len(hooks) != 1:
        raise VectorError(f"{subject} has {listed(map(shortened, hooks)) if hooks else 'no'} hooks")
    hook = hooks[0]
    if hook not in _SITES:
        raise VectorError(
            f"{subject} acts at {shortened(hook)}, which steer does not have as a site",
            hint=f"{listed(_SITES)} are read",
        )
    if not isinstance(tier[hook], dict):
        raise VectorError(f"{subject} has no layers at {hook}")
    return hook, tier[hook]


def _entry(entry: Any, subject: str, *, clamp: bool) -> tuple[Any, float, str]:
    """The direction, its strength, and its op. A clamp acts along the direction of length 1."""
    if clamp and isinstance(entry, list) and len(entry) == 1:
        entry = entry[0]
    if not isinstance(entry, dict):
        if clamp:
            raise VectorError(f"{subject} has several clamps, or something that is not a clamp")
        return checked_row(entry, subject), 1.0, "add"
    allowed = {"vector", *(("min", "max", "value", "strength") if clamp else ("scale",))}
    if unknown := set(entry) - allowed:
        raise VectorError(f"{subject}: {shortened(min(unknown))!r} is not known")
    row = checked_row(entry.get("vector"), subject)
    stated = {
        key: coefficient_of(value, subject, key)
        for key, value in entry.items()
        if key != "vector" and value is not None
    }
    if not clamp:
        return row, stated.get("scale", 1.0), "add"
    if not norm(row):
        raise VectorError(f"{subject} is zero: it has no direction")
    match sorted(key for key in stated if key != "strength"):
        case ["value"]:
            return row, stated.get("strength", 1.0), f"clamp={plain(stated['value'])}"
        case ["max"]:
            return row, stated.get("strength", 1.0), f"cap={plain(stated['max'])}"
        case ["min"]:
            return row, stated.get("strength", 1.0), f"floor={plain(stated['min'])}"
        case bounds:
            raise VectorError(
                f"{subject} is clamped by {listed(bounds) if bounds else 'nothing'}: one bound, or"
                " one value, can be carried"
            )


def _write(outgoing: FileContents) -> bytes:
    hook = _HOOKS[outgoing.site]
    rows = sorted(outgoing.directions.items())
    if outgoing.op.name == "add":
        return _encoded({"vectors": {hook: {str(layer): row.tolist() for layer, row in rows}}})
    if not isinstance(outgoing.op.value, (int, float)):
        raise VectorError(
            f"{outgoing.name}: {outgoing.op} refers to statistics in the vector's file",
            hint="write a number instead",
        )
    key = {"clamp": "value", "cap": "max", "floor": "min"}[outgoing.op.name]
    entries = {}
    for layer, row in rows:
        entry: dict[str, Any] = {"vector": row.tolist(), key: float(outgoing.op.value)}
        if outgoing.coefficient != 1:
            entry["strength"] = float(outgoing.coefficient)
        entries[str(layer)] = [entry]
    return _encoded({"clamps": {hook: entries}})


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


FORMAT = Format(
    name="rhizonymph",
    title="RhizoNymph's vLLM",
    help="JSON of vectors or clamps by hook point and layer",
    suffixes=(".json",),
    read=_read,
    detect=_detect,
    writer=Writer(
        _write,
        ops=("add", "clamp", "cap", "floor"),
        sites=("resid_post", "resid_pre"),
        default=False,
        use="send OUT to /v1/steering/set, or as `steering_vectors` of a request",
    ),
)
