"""Find the directions along which a model's activations on texts vary most, without labels.

The mean activation of each text is recorded at one layer; the directions are the principal
components. Each is described by the texts and tokens at its two ends, and by texts generated while
steering with it. The sign of a component is arbitrary; the end with the longer tail is positive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steer.base.errors import InputError
from steer.base.progress import Progress, silent
from steer.concepts import answers as answering
from steer.concepts.answers import Query
from steer.concepts.questions import everyday
from steer.contrasts.passages import Passage
from steer.contrasts.reading import Reading
from steer.fitting.fitting import rounded, spread
from steer.hooks.record import record
from steer.models.model import Model
from steer.monitoring.lens import lens
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation
from steer.vectors.provenance import ContrastSummary, Method, Read
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

#: The default layer, as a share of the depth.
DEPTH = 0.6
#: The fewest texts.
FEWEST = 8


@dataclass(frozen=True, slots=True)
class Direction:
    """A direction along which texts vary. share: of the total variance. high, low: the texts at its
    two ends; raised, lowered: the tokens that it makes likelier and less likely. samples: the
    model's answers, unsteered and steered towards each end."""

    vector: SteeringVector
    share: float
    high: tuple[str, ...]
    low: tuple[str, ...]
    raised: tuple[str, ...]
    lowered: tuple[str, ...]
    samples: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.vector.name,
            "share": self.share,
            "high": list(self.high),
            "low": list(self.low),
            "raised": list(self.raised),
            "lowered": list(self.lowered),
            "samples": self.samples,
        }


def discover(
    model: Model,
    texts: Sequence[str],
    k: int,
    *,
    layer: int | None = None,
    chat: bool | None = None,
    ends: int = 3,
    samples: bool = True,
    max_tokens: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Direction]:
    """The `k` directions along which the model's activations on the texts vary most.

    chat: whether texts are read as user messages; by default if there is a chat template.

    Raises:
        InputError: too few texts, or a text without tokens.
        SiteError: the model has no such layer.
    """
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < FEWEST:
        raise InputError(
            f"there are {len(distinct)} different texts, and {FEWEST} are the fewest",
            hint="directions are found from differences of texts",
        )
    in_chat = model.template.exists if chat is None else chat
    chosen = round(DEPTH * model.n_layers) if layer is None else layer
    site = Site(chosen, "resid_post")
    model.hooks.place(site)
    means, lengths = _activations(model, distinct, site, in_chat, progress)
    centred = means - means.mean(0)
    _, sizes, components = np.linalg.svd(centred, full_matrices=False)
    variance = sizes**2
    n = min(k, len(distinct) - 1, int((variance > 1e-9 * variance[0]).sum()))
    directions = []
    for index in range(n):
        axis = components[index]
        scores = centred @ axis
        if (scores**3).sum() < 0:
            axis, scores = -axis, -scores
        name = f"direction-{index + 1:02d}"
        vector = _vector(model, name, site, distinct, means @ axis, axis, scores, lengths, in_chat)
        order = np.argsort(-scores)
        [reading] = lens(model, vector)
        directions.append(
            Direction(
                vector,
                float(variance[index] / variance.sum()),
                tuple(distinct[i] for i in order[:ends]),
                tuple(distinct[i] for i in order[::-1][:ends]),
                tuple(token.text for token in reading.raised),
                tuple(token.text for token in reading.lowered),
            )
        )
    return (
        _with_samples(model, directions, in_chat, max_tokens, seed, progress)
        if samples
        else directions
    )


def _activations(
    model: Model, texts: Sequence[str], site: Site, chat: bool, progress: Progress
) -> tuple[np.ndarray, float]:
    """Mean activations [text, d_model], and the mean length of a token's."""
    passages = [Passage("", text, role="user" if chat else None) for text in texts]
    readings = []
    for number, tokens in enumerate(model.encode_passages(passages), 1):
        if tokens.text_stop <= tokens.text_start:
            raise InputError(f"text {number} has no tokens of its own")
        if model.context is not None and len(tokens.ids) > model.context:
            raise InputError(
                f"text {number} has {len(tokens.ids):,} tokens, more than the {model.context:,}"
                f" that {model.identity.id} takes",
                hint="divide it",
            )
        readings.append(Reading(tokens.ids, ((tokens.text_start, tokens.text_stop),)))
    means = np.zeros((len(texts), model.identity.d_model))
    lengths = np.zeros(len(texts))
    with progress("reading", len(texts)) as advance:
        for batch in record(model, readings, [site]):
            means[batch.indices] = batch.activations[:, 0]
            lengths[batch.indices] = batch.norms[:, 0]
            advance(len(batch.indices))
    return means, float(lengths.mean())


def _vector(
    model: Model,
    name: str,
    site: Site,
    texts: Sequence[str],
    projections: np.ndarray,
    axis: np.ndarray,
    scores: np.ndarray,
    resid_norm: float,
    chat: bool,
) -> SteeringVector:
    """The direction, with the length between the means of the texts' two halves."""
    high = scores > 0
    way = float(projections[high].mean() - projections[~high].mean())
    statistics = LayerStatistics(
        layer=site.layer,
        norm=rounded(way),
        resid_norm=rounded(resid_norm),
        positive=spread(projections[high]),
        negative=spread(projections[~high]),
    )
    digest = hashlib.sha256(json.dumps(list(texts)).encode("utf-8", "surrogatepass"))
    metadata = Metadata(
        name=name,
        model=model.identity,
        site=site.name,
        layers=(site.layer,),
        method=Method(name="pca"),
        read=Read(positions="mean", **({"chat": True, **model.template.recorded} if chat else {})),
        contrast=ContrastSummary(
            kind="unpaired",
            n=int(high.sum()),
            n_negative=int((~high).sum()),
            sha256=digest.hexdigest(),
        ),
        statistics=(statistics,),
        recommended=Recommendation(
            layers=(site.layer,), coefficient=1.0, evidence="discovered; no sweep was run"
        ),
        description="a direction along which texts vary; no labels were given",
    )
    return SteeringVector(metadata, (way * axis)[None].astype(np.float32))


def _with_samples(
    model: Model,
    directions: Sequence[Direction],
    chat: bool,
    max_tokens: int,
    seed: int,
    progress: Progress,
) -> list[Direction]:
    """Add the model's answers to one question, unsteered and steered towards both ends."""
    question = everyday(chat=chat).held_out[0]
    queries = [Query("", question, chat)] * (1 + 2 * len(directions))
    both = [
        (Steer(direction.vector, Coefficient(value), direction.vector.metadata.layers),)
        for direction in directions
        for value in (2.0, -2.0)
    ]
    steerings: list[tuple[Steer, ...]] = [(), *both]
    written = answering.write(
        model,
        queries,
        steerings=steerings,
        max_tokens=max_tokens,
        seed=seed,
        activity="steering to both ends",
        progress=progress,
    )
    texts = [answer.text for answer in written]
    return [
        Direction(
            direction.vector,
            direction.share,
            direction.high,
            direction.low,
            direction.raised,
            direction.lowered,
            {
                "question": question,
                "unsteered": texts[0],
                "high": texts[1 + 2 * index],
                "low": texts[2 + 2 * index],
            },
        )
        for index, direction in enumerate(directions)
    ]  # fmt: skip
