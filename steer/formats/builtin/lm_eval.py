"""lm-eval's steering file: `torch.save` of a dictionary with a steer for each module.

{"layers.3": {"steering_vector": [1, d_model], "steering_coefficient": 2.0, "action": "add"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steer.base.errors import VectorError
from steer.formats.imported import (
    ImportedVector,
    checked_row,
    coefficient_of,
    norm,
    shortened,
)
from steer.formats.keys import by_name
from steer.formats.registry import Format
from steer.formats.source import Options, Source
from steer.steering.operation import plain

_KEYS = {"steering_vector", "steering_coefficient", "action", "bias", "head_index"}


def _entries(content: Any) -> Mapping[str, Mapping[str, Any]]:
    if isinstance(content, Mapping) and content:
        entries = content.values()
        if all(isinstance(each, Mapping) and "steering_vector" in each for each in entries):
            return content
    return {}


def _detect(source: Source) -> bool:
    return bool(_entries(source.pickled()))


def _read(source: Source, options: Options) -> ImportedVector:
    subject, entries = str(source), _entries(source.pickled())
    vectors, coefficients, ops = {}, set(), set()
    for name, entry in entries.items():
        where = f"{subject}, {shortened(name)}"
        if unknown := set(entry) - _KEYS:
            raise VectorError(f"{where} has {shortened(min(unknown))!r}, which is not known")
        if entry.get("head_index") is not None:
            raise VectorError(f"{where} acts on an attention head, which has no site here")
        row = checked_row(np.squeeze(np.asarray(entry["steering_vector"])), where)
        vectors[name] = row
        stated = coefficient_of(entry.get("steering_coefficient", 1.0), where, "coefficient")
        op, coefficient = _operation(entry, row, stated, where)
        ops.add(op)
        coefficients.add(coefficient)
    if not vectors:
        raise VectorError(f"{subject} has no steering_vector of lm-eval")
    if len(ops) > 1 or len(coefficients) > 1:
        raise VectorError(
            f"{subject} has different ops or coefficients at its layers; a vector has one",
            hint="convert one entry at a time",
        )
    read = by_name(vectors, subject)
    return ImportedVector(
        read.directions,
        convention=read.convention,
        site=read.site,
        op=ops.pop(),
        coefficient=coefficients.pop(),
    )


def _operation(
    entry: Mapping[str, Any], row: np.ndarray[Any, Any], coefficient: float, subject: str
) -> tuple[str, float]:
    """The op and its coefficient. lm-eval clamps h - bias to the coefficient along the vector."""
    bias = entry.get("bias")
    offset = None if bias is None else checked_row(np.squeeze(np.asarray(bias)), subject)
    if offset is not None and len(offset) != len(row):
        raise VectorError(f"{subject}: the bias is not as long as the vector")
    match entry.get("action", "add"):
        case "add":
            if offset is not None and offset.any():
                raise VectorError(f"{subject}: an addition with a bias cannot be carried")
            return "add", coefficient
        case "clamp":
            length = norm(row)
            if not length:
                raise VectorError(f"{subject} is zero: it has no direction")
            shift = 0.0 if offset is None else float(offset.astype(float) @ row / length)
            return f"clamp={plain(coefficient + shift)}", 1.0
        case action:
            raise VectorError(f"{subject}: the action {shortened(action)!r} is not add or clamp")


FORMAT = Format(
    name="lm-eval",
    title="lm-eval",
    help="a dictionary of steering_vector, steering_coefficient and action by module",
    suffixes=(".pt",),
    read=_read,
    detect=_detect,
)
