"""persona-vectors 0.8 (the package): `ID.safetensors` with `activations` [layers, d_model].

They are mean activations, not a difference: those of a baseline have to be subtracted.
"""

from __future__ import annotations

import numpy as np

from steer.base.errors import UsageError, VectorError
from steer.formats.imported import Imported, checked_directions
from steer.formats.registry import Format
from steer.formats.source import Options, Source
from steer.vectors.vector import Directions

_NAME = "activations"


def _detect(source: Source) -> bool:
    arrays = source.tensors().arrays
    return set(arrays) == {_NAME} and arrays[_NAME].ndim == 2


def _read(source: Source, options: Options) -> Imported:
    subject = str(source)
    if options.minus is None:
        raise UsageError(
            f"{subject} holds mean activations, not a difference from a baseline",
            hint="--minus BASELINE.safetensors subtracts the baseline's",
        )
    baseline = source.other(options.minus)
    ours, theirs = (_activations(each) for each in (source, baseline))
    if ours.keys() != theirs.keys() or len(ours[0]) != len(theirs[0]):
        raise VectorError(f"{subject} and {baseline} have activations of different shapes")
    differences = [
        (number, row.astype(np.float64) - theirs[number].astype(np.float64))
        for number, row in ours.items()
    ]
    return Imported(
        checked_directions(differences, subject),
        convention="row N is the output of block N",
        notes=(f"the baseline, {baseline.name}, was subtracted from every row",),
    )


def _activations(source: Source) -> dict[int, Directions]:
    array = source.tensors().arrays.get(_NAME)
    if array is None or array.ndim != 2:
        raise VectorError(f"{source} has no {_NAME} [layers, d_model]")
    return checked_directions(enumerate(array), str(source))


FORMAT = Format(
    name="persona-activations",
    title="persona-vectors (package)",
    help="mean activations of a persona; --minus names those of the baseline",
    suffixes=(".safetensors",),
    read=_read,
    detect=_detect,
    options=("minus",),
)
