"""steerability's `.spipe` bundles: a zip archive or folder of controls and their tensors.

`spipe.json` lists controls, whose `resolved.artifacts` name folders `artifacts/sha256-HEX`, where
HEX is the hash of `artifact.safetensors`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from steer.base.errors import VectorError
from steer.base.strict_json import load_strict_json
from steer.formats import tensors
from steer.formats.choosing import choose
from steer.formats.imported import Imported, checked_directions, layer_number, shortened
from steer.formats.registry import Format
from steer.formats.source import FOLDER, Options, Source

_MANIFEST, _TENSORS, _SIDECAR = "spipe.json", "artifact.safetensors", "artifact.json"
_ID = re.compile(r"sha256:([0-9a-f]{64})")
_LAYER = re.compile(r"(?:layers?[._]?)?([0-9]{1,5})")
_SHIFTS = {"layer_output": 0, "layer_input": -1}


def _detect(source: Source) -> bool:
    return not source.is_folder or source.has(_MANIFEST)


def _read(source: Source, options: Options) -> Imported:
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
    records = _vectors(manifest, subject)
    record = records[choose(sorted(records), options, subject, "vectors")]
    match = _ID.fullmatch(str(record.get("id")))
    if match is None:
        raise VectorError(f"{subject} names an artifact {shortened(record.get('id'))!r}")
    folder = f"artifacts/sha256-{match[1]}"
    data = content(f"{folder}/{_TENSORS}")
    if hashlib.sha256(data).hexdigest() != match[1]:
        raise VectorError(
            f"{subject} was altered: an artifact does not match its hash",
            hint="get the file again from where it came",
        )
    sidecar = _json(content(f"{folder}/{_SIDECAR}"), f"{subject}, {_SIDECAR}")
    if sidecar.get("type") != record.get("type"):
        raise VectorError(f"{subject} was altered: its manifest and an artifact differ in type")
    meta = sidecar.get("type_meta")
    location = meta.get("location", "layer_output") if isinstance(meta, dict) else "layer_output"
    if location not in _SHIFTS:
        raise VectorError(f"{subject} was measured at {shortened(location)!r}: no site is known")
    rows = []
    for name, array in tensors.parse(data, subject).arrays.items():
        numbered = _LAYER.fullmatch(name)
        if numbered is None:
            raise VectorError(f"{subject} has a tensor {shortened(name)!r}, which names no layer")
        if array.ndim == 2 and len(array) != 1:
            raise VectorError(
                f"{subject} has {len(array)} rows at layer {numbered[1]}, not one",
                hint="several rows are positions, the two sides of an angle, or heads",
            )
        rows.append((layer_number(numbered[1], subject), array[0] if array.ndim == 2 else array))
    return Imported(
        checked_directions(rows, subject),
        convention=f"tensors are named by their layer, measured at {location}",
        shift=_SHIFTS[location],
        notes=("the settings of its control (strength, layers, positions) are ignored",),
    )


def _vectors(manifest: Mapping[str, Any], subject: str) -> dict[str, Mapping[str, Any]]:
    """The steering vectors of all controls, by `CONTROL/ARTIFACT`."""
    vectors: dict[str, Mapping[str, Any]] = {}
    others = set()
    controls = manifest.get("controls")
    for number, control in enumerate(controls if isinstance(controls, list) else []):
        resolved = control.get("resolved") if isinstance(control, dict) else None
        artifacts = resolved.get("artifacts") if isinstance(resolved, dict) else None
        for name, record in (artifacts if isinstance(artifacts, dict) else {}).items():
            if isinstance(record, dict) and record.get("type") == "SteeringVector":
                vectors[f"{number}/{name}"] = record
            else:
                others.add(shortened(record.get("type") if isinstance(record, dict) else record))
    if not vectors:
        kinds = f", but {', '.join(sorted(others)[:5])}" if others else ""
        raise VectorError(f"{subject} has no SteeringVector{kinds}")
    return vectors


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
