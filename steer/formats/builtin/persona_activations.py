"""persona-vectors 0.8 (the package): mean activations, and steering vectors.

`ID.safetensors` has `activations` [layers, d_model], row N of the output of block N. They are mean
activations, not a difference: those of a baseline have to be subtracted.
`steering_vector.safetensors` has such a difference at one layer, [1, 1, d_model], and
`metadata.json` beside it the layer and a strength. Checked against persona-vectors 0.8.10.
"""

from __future__ import annotations

import numpy as np

from steer.base.errors import UsageError, VectorError
from steer.formats.imported import ImportedVector, checked_directions, coefficient_of, shortened
from steer.formats.registry import Format
from steer.formats.source import Options, Source
from steer.vectors.vector import Directions

_NAME = "activations"
_VECTOR, _METADATA = "steering_vector", "metadata.json"


def _detect(source: Source) -> bool:
    arrays = source.tensors().arrays
    if set(arrays) == {_VECTOR}:
        return source.has(_METADATA) and arrays[_VECTOR].shape[:-1] == (1, 1)
    return set(arrays) == {_NAME} and arrays[_NAME].ndim == 2


def _read(source: Source, options: Options) -> ImportedVector:
    subject = str(source)
    if _VECTOR in source.tensors().arrays:
        return _steering_vector(source, options)
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
    return ImportedVector(
        checked_directions(differences, subject),
        convention="row N is the output of block N",
        notes=(f"the baseline, {baseline.name}, was subtracted from every row",),
    )


def _steering_vector(source: Source, options: Options) -> ImportedVector:
    """A vector at one layer, which the package adds there at every new token."""
    subject = str(source)
    if options.minus is not None:
        raise UsageError(
            f"{subject} is a difference already: nothing is subtracted", hint="leave --minus out"
        )
    array = source.tensors().arrays[_VECTOR]
    stated = source.json(_METADATA) if source.has(_METADATA) else None
    stated = stated if isinstance(stated, dict) else {}
    layer = stated.get("layer")
    if type(layer) is not int or array.shape[:-1] != (1, 1):
        raise VectorError(f"{subject} needs a {_METADATA} beside it that states its layer")
    alpha = stated.get("suggested_alpha", 1.0)
    model = stated.get("model_id")
    return ImportedVector(
        checked_directions([(layer, array[0, 0])], subject),
        convention="`layer` is a block, whose output was read",
        coefficient=coefficient_of(alpha, f"{subject}, {_METADATA}", "suggested_alpha"),
        model=shortened(model) if isinstance(model, str) else "",
    )


def _activations(source: Source) -> dict[int, Directions]:
    array = source.tensors().arrays.get(_NAME)
    if array is None or array.ndim != 2:
        raise VectorError(f"{source} has no {_NAME} [layers, d_model]")
    return checked_directions(enumerate(array), str(source))


FORMAT = Format(
    name="persona-activations",
    title="persona-vectors (package)",
    help="mean activations of a persona, of which --minus names the baseline's; or a vector",
    suffixes=(".safetensors",),
    read=_read,
    detect=_detect,
    options=("minus",),
)
