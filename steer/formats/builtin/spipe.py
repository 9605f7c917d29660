"""steerability's `.spipe` bundles: a zip archive or folder of controls and their tensors.

`spipe.json` lists controls. A control that was fitted has `resolved`, one entry or several, each
with the `method` and `args` that act, and `artifacts`: records of tensors in folders
`artifacts/sha256-HEX`, where HEX is the hash of `artifact.safetensors`. The tensors of a
`SteeringVector` are named by layer, [rows, d_model]; where the layers are read and changed, at
their output or their input, is the control's. Checked against the source of steerability 0.5.2.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from steer.base.errors import VectorError
from steer.base.strict_json import load_strict_json
from steer.formats import tensors
from steer.formats.choosing import choose
from steer.formats.imported import (
    ImportedVector,
    checked_directions,
    coefficient_of,
    layer_number,
    norm,
    shortened,
    unit,
)
from steer.formats.registry import Format
from steer.formats.source import FOLDER, Options, Source
from steer.vectors.sites import SiteName
from steer.vectors.vector import Directions

_MANIFEST, _TENSORS, _SIDECAR = "spipe.json", "artifact.safetensors", "artifact.json"
_ID = re.compile(r"sha256:([0-9a-f]{64})")
_SITES: dict[str, SiteName] = {"layer_output": "resid_post", "layer_input": "resid_pre"}
#: The scopes of `-v` for steerability's token scopes.
_SCOPES = {"all": "all", "after_prompt": "response"}


def _detect(source: Source) -> bool:
    return not source.is_folder or source.has(_MANIFEST)


@dataclass(frozen=True, slots=True)
class _VectorUse:
    """What a control does with a steering vector.

    artifact: the id of its tensors. hook: `layer_output` or `layer_input`. op, strength: in the
    grammar of `-v`. layers: those that it steers, of all that the vector has.
    """

    artifact: str
    hook: str
    op: str
    strength: float
    layers: tuple[int, ...]
    scope: str
    notes: tuple[str, ...] = ()


def _read(source: Source, options: Options) -> ImportedVector:
    subject = str(source)

    def content(path: str) -> bytes:
        if source.is_folder:
            return source.inside(path)
        member = source.archive().get(path)
        if member is None:
            raise VectorError(f"{subject} has no {path}")
        return member

    manifest = _json(content(_MANIFEST), f"{subject}, {_MANIFEST}")
    if manifest.get("format") != "spipe/1":
        stated = shortened(manifest.get("format"))
        raise VectorError(f"{subject} has the format {stated}; spipe/1 is read")
    uses = _uses(manifest, subject)
    use = uses[choose(sorted(uses), options, subject, "vectors")]
    match = _ID.fullmatch(use.artifact)
    if match is None:
        raise VectorError(f"{subject} names an artifact {shortened(use.artifact)!r}")
    folder = f"artifacts/sha256-{match[1]}"
    data = content(f"{folder}/{_TENSORS}")
    if hashlib.sha256(data).hexdigest() != match[1]:
        raise VectorError(
            f"{subject} was altered: an artifact does not match its hash",
            hint="get the file again from where it came",
        )
    sidecar = _json(content(f"{folder}/{_SIDECAR}"), f"{subject}, {_SIDECAR}")
    if sidecar.get("type") != "SteeringVector":
        raise VectorError(f"{subject} was altered: its manifest and an artifact differ in type")
    _check_place(sidecar, use, subject)
    directions = _directions(data, subject)
    layers = tuple(sorted(set(use.layers) & directions.keys()))
    if use.layers and not layers:
        raise VectorError(f"{subject} steers layers {list(use.layers)[:20]}, and has none of them")
    if use.op == "ablate":
        directions = {n: unit(row, f"{subject}, layer {n}") for n, row in directions.items()}
    zero = [n for n, row in directions.items() if not norm(row)]
    if zero:
        raise VectorError(f"{subject}, layer {zero[0]} is zero: it has no direction")
    model = manifest.get("model")
    model_ref = model.get("ref") if isinstance(model, dict) else None
    scope = f"/{_SCOPES[use.scope]}" if use.scope in _SCOPES else "/ and a scope"
    return ImportedVector(
        directions,
        convention=f"layer N is used at its {use.hook.removeprefix('layer_')}",
        site=_SITES[use.hook],
        op=use.op,
        coefficient=use.strength,
        recommended=layers,
        model=shortened(model_ref) if isinstance(model_ref, str) else "",
        notes=(
            f"its control acts on the tokens {shortened(use.scope)!r}:"
            f" write -v NAME:recommended{scope}",
            *use.notes,
        ),
    )


def _check_place(sidecar: Mapping[str, Any], use: _VectorUse, subject: str) -> None:
    """Refuse a vector that was measured elsewhere than it is used, and one of attention heads."""
    meta = sidecar.get("type_meta")
    meta = meta if isinstance(meta, dict) else {}
    if meta.get("num_heads") is not None or meta.get("head_dim") is not None:
        raise VectorError(f"{subject} holds directions of attention heads, which are not read")
    provenance = meta.get("meta")
    measured = provenance.get("location") if isinstance(provenance, dict) else None
    if measured not in (None, use.hook):
        raise VectorError(
            f"{subject} was measured at {shortened(measured)!r} and is used at {use.hook!r}"
        )


def _directions(data: bytes, subject: str) -> dict[int, Directions]:
    """One direction per layer, by the names of its tensors."""
    rows = []
    for name, array in tensors.parse(data, subject).arrays.items():
        layer = layer_number(name, f"{subject}, a tensor's name")
        if array.ndim == 2 and len(array) != 1:
            raise VectorError(
                f"{subject} has {len(array)} rows at layer {layer}, not one",
                hint="several rows are positions, the two sides of an angle, or heads",
            )
        rows.append((layer, array[0] if array.ndim == 2 else array))
    return checked_directions(rows, subject)


def _uses(manifest: Mapping[str, Any], subject: str) -> dict[str, _VectorUse]:
    """The steering vectors that controls use, by `CONTROL/NAME`.

    Raises:
        VectorError: there is none, or none that steer's ops can represent.
    """
    uses: dict[str, _VectorUse] = {}
    others: list[str] = []
    for key, method, args, types in _entries(manifest):
        try:
            use = _use(method, args, f"{subject}, {key}")
        except VectorError as exc:
            others.append(str(exc))
            continue
        if types.get(use.artifact) != "SteeringVector":
            others.append(f"{subject}, {key} uses a {shortened(types.get(use.artifact))}")
            continue
        uses[key] = use
    if not uses:
        raise VectorError(
            others[0] if others else f"{subject} has no fitted control, only recipes",
            hint="steer reads fitted controls that add one direction or project it out",
        )
    return uses


def _entries(
    manifest: Mapping[str, Any],
) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, str]]]:
    """Key, method, arguments and the types of artifacts by id, of each entry that acts.

    Only the first entry of a control lists its artifacts.
    """
    controls = manifest.get("controls")
    for number, control in enumerate(controls if isinstance(controls, list) else []):
        if not isinstance(control, dict) or control.get("enabled") is False:
            continue
        resolved = control.get("resolved")
        entries = resolved if isinstance(resolved, list) else [resolved]
        types: dict[str, str] = {}
        for entry in entries:
            artifacts = entry.get("artifacts") if isinstance(entry, dict) else None
            for record in (artifacts if isinstance(artifacts, dict) else {}).values():
                if isinstance(record, dict):
                    types[str(record.get("id"))] = str(record.get("type"))
        for place, entry in enumerate(entries):
            if isinstance(entry, dict):
                args = entry.get("args")
                key = f"{number}" if len(entries) == 1 else f"{number}.{place}"
                yield (
                    key,
                    str(entry.get("method")),
                    args if isinstance(args, dict) else {},
                    types,
                )


def _use(method: str, args: Mapping[str, Any], subject: str) -> _VectorUse:
    """What an entry does with its vector.

    Raises:
        VectorError: it does something else than add one direction or project it out.
    """
    scope = str(args.get("token_scope", "after_prompt"))
    match method:
        case "state_control/caa":
            layer = args.get("layer_id")
            return _VectorUse(
                _artifact(args.get("steering_vector"), subject),
                "layer_output",
                "add",
                coefficient_of(args.get("multiplier", 1.0), subject, "multiplier"),
                _layers([] if layer is None else [layer], subject),
                scope,
                _KEEPS_NORM if args.get("use_norm_preservation") else (),
            )
        case "state_control/activation_adapter":
            hook = args.get("hook_point", "layer_output")
            if hook not in _SITES:
                raise VectorError(f"{subject} acts at {shortened(hook)!r}: no site is known")
            use = _transform(args.get("transform"), subject)
            notes = () if args.get("gate") is None else _GATED
            return replace(
                use,
                hook=hook,
                layers=_layers(args.get("layer_ids"), subject),
                scope=scope,
                notes=use.notes + notes,
            )
        case _:
            raise VectorError(f"{subject} is a {shortened(method)!r}, which steer cannot represent")


_KEEPS_NORM = (
    "its control scales activations back to their length where they grew, which is left out:"
    " norm=keep comes close",
)
_GATED = ("its control has a gate, which is left out: the vector acts on every text",)


def _transform(raw: object, subject: str) -> _VectorUse:
    """The op and strength of a transform, through a wrapper that keeps the norm."""
    component = raw if isinstance(raw, dict) else {}
    kind, params = component.get("$component"), component.get("params")
    params = params if isinstance(params, dict) else {}
    match kind:
        case "norm_preserving":
            inner = _transform(component.get("inner"), subject)
            return replace(inner, notes=inner.notes + _KEEPS_NORM)
        case "additive" if not params.get("positional"):
            strength = coefficient_of(params.get("strength", 1.0), subject, "strength")
            op = "add"
        case "additive":
            raise VectorError(f"{subject} adds rows at positions of the prompt, not one direction")
        case "projection":
            strength = coefficient_of(params.get("alpha", 1.0), subject, "alpha")
            op = "ablate"
        case _:
            raise VectorError(
                f"{subject} has a transform {shortened(kind)!r}, which steer cannot represent"
            )
    return _VectorUse(_artifact(component.get("artifact"), subject), "", op, strength, (), "")


def _artifact(reference: object, subject: str) -> str:
    """The id in `{"$artifact": id}`."""
    stated = reference.get("$artifact") if isinstance(reference, dict) else None
    if not isinstance(stated, str):
        raise VectorError(f"{subject} names no artifact")
    return stated


def _layers(raw: object, subject: str) -> tuple[int, ...]:
    if not isinstance(raw, list) or not all(type(each) is int and each >= 0 for each in raw):
        raise VectorError(f"{subject} has the layers {shortened(raw)}")
    return tuple(raw)


def _json(data: bytes, subject: str) -> dict[str, Any]:
    try:
        raw = load_strict_json(data.decode(), subject)
    except UnicodeDecodeError:
        raise VectorError(f"{subject} is not UTF-8 text") from None
    if not isinstance(raw, dict):
        raise VectorError(f"{subject} is not an object")
    return raw


FORMAT = Format(
    name="spipe",
    title="steerability",
    help="a .spipe bundle or its folder, with hashes; steering vectors only",
    suffixes=(".spipe", FOLDER),
    read=_read,
    detect=_detect,
    options=("pick",),
)
