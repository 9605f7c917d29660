"""How far generated texts lie along a vector, as the unsteered model reads them.

This effect needs no judge and no list of words: the steering vector also reads. Texts that were
generated under the vector are read without it, so the difference is in the texts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from steer.contrasts.reading import Reading
from steer.evaluation.written import GeneratedText
from steer.hooks.record import record
from steer.models.model import Model
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector


def text_positions(
    model: Model,
    vector: SteeringVector,
    layers: Sequence[int],
    groups: Sequence[Sequence[GeneratedText]],
    on_done: Callable[[int], None] = lambda n_texts: None,
) -> list[float]:
    """The position of each group of texts along a vector: the mean over texts and layers of h . v /
    |v|^2, h being the mean activation over a text's own tokens. Only differences are meaningful: a
    difference of 1 is the distance between the two sides that the vector was made from.

    Raises:
        VectorError: a layer that is not stored.
    """
    owners = [group for group, texts in enumerate(groups) for text in texts if text.n]
    readings = [
        Reading(text.ids, ((len(text.ids) - text.n, len(text.ids)),))
        for texts in groups
        for text in texts
        if text.n
    ]
    sites = [Site(layer, vector.metadata.activation_site).canonical for layer in layers]
    totals = np.zeros((len(groups), len(sites), vector.metadata.width))
    for part in record(model, readings, sites):
        for row, index in enumerate(part.indices):
            totals[owners[index]] += part.activations[row]
        on_done(len(part.indices))
    counts = np.maximum(1, np.bincount(owners, minlength=len(groups)))[:, None]
    directions = np.stack([vector.direction(layer) for layer in layers], dtype=float)
    lengths = np.maximum((directions**2).sum(-1), np.finfo(float).tiny)
    along = (totals * directions).sum(-1) / lengths / counts
    return [float(value) for value in along.mean(-1)]
