"""Profiles of texts over many concepts, relative to the model's own texts.

A reading is the projection of a text's mean activation on a concept's vector, at the vector's
layer, in standard deviations from the mean over unsteered texts of the model. The share of held-out
unsteered texts with a reading as high is the false-positive rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import InputError, VectorError
from steer.base.progress import Progress, silent
from steer.concepts import answers as answering
from steer.concepts.answers import Query
from steer.concepts.questions import everyday
from steer.contrasts.passages import Passage
from steer.contrasts.reading import Reading
from steer.hooks.record import record
from steer.models.model import Model
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

Array = NDArray[np.float64]

#: Standard deviations above which a reading is shown as unusual.
UNUSUAL = 2.0
#: Tokens that a text needs to be read.
_LEAST_TOKENS = 1


@dataclass(frozen=True, slots=True)
class Baseline:
    """Projections of the model's own texts: mean and standard deviation of one half, and the values
    of the other half in those units; float64 [concept], [concept], [text, concept]."""

    mean: Array
    std: Array
    held_out: Array

    def standardised(self, values: Array) -> Array:
        return np.asarray((values - self.mean) / self.std)

    def false_positives(self, standardised: Array) -> Array:
        """For each reading [text, concept], the share of the model's own texts that are as high."""
        n = len(self.held_out)
        above = (self.held_out[None] >= standardised[:, None]).sum(1)
        # The text itself counts too, so that the rate is never 0.
        return np.asarray((above + 1) / (n + 1))


@dataclass(frozen=True, slots=True)
class Profile:
    """One text: readings in standard deviations and false-positive rates, float64 [concept]."""

    text: str
    names: tuple[str, ...]
    readings: Array
    false_positives: Array

    def top(self, n: int = 10) -> list[tuple[str, float, float]]:
        """The concepts with the highest readings: name, reading, false-positive rate."""
        order = np.argsort(-self.readings)[:n]
        return [
            (self.names[i], float(self.readings[i]), float(self.false_positives[i])) for i in order
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "text": self.text,
            "concepts": [
                {"name": name, "reading": float(value), "false_positives": float(rate)}
                for name, value, rate in zip(
                    self.names, self.readings, self.false_positives, strict=True
                )
            ],
        }


class Profiler:
    """Computes profiles with the vectors of a pack.

    Raises:
        VectorError: there are no vectors.
    """

    def __init__(
        self,
        model: Model,
        vectors: Sequence[SteeringVector],
        *,
        chat: bool | None = None,
        n_baseline: int = 64,
        max_tokens: int = 32,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        if not vectors:
            raise VectorError("there are no vectors to read with", hint="build a pack first")
        self.model = model
        self.names = tuple(vector.name for vector in vectors)
        self.chat = model.template.exists if chat is None else chat
        self._sites = [_site(vector) for vector in vectors]
        self._units = np.stack(
            [
                vector.direction(site.layer).astype(np.float64)
                for vector, site in zip(vectors, self._sites, strict=True)
            ]
        )
        lengths = np.linalg.norm(self._units, axis=1, keepdims=True)
        self._units /= np.where(lengths > 0, lengths, 1)
        self._every = sorted(set(self._sites))
        self.baseline = self._baseline(n_baseline, max_tokens, seed, progress)

    def read(self, texts: Sequence[str], progress: Progress = silent) -> list[Profile]:
        """The profile of each text, which for a chat model is read as its answer.

        Raises:
            InputError: a text has no tokens, or more than the model takes.
        """
        passages = [self._passage(text) for text in texts]
        with progress("reading", len(texts)):
            values = self._values(passages)
        standardised = self.baseline.standardised(values)
        rates = self.baseline.false_positives(standardised)
        return [
            Profile(text, self.names, standardised[i], rates[i]) for i, text in enumerate(texts)
        ]

    def _passage(self, text: str) -> Passage:
        if not self.chat:
            return Passage("", text)
        return Query("", "Go on.", True).passage(text)

    def _baseline(self, n: int, max_tokens: int, seed: int, progress: Progress) -> Baseline:
        every = everyday(chat=self.chat)
        questions = [*every.held_out, *every.train, *every.choice]
        queries = [Query("", questions[i % len(questions)], self.chat) for i in range(n)]
        samples = [i // len(questions) for i in range(n)]
        written = answering.write(
            self.model,
            queries,
            samples=samples,
            max_tokens=max_tokens,
            seed=seed,
            activity="writing the baseline",
            progress=progress,
        )
        texts = [answer for answer in written if answer.text.strip()]
        values = self._values([self._passage(answer.text) for answer in texts])
        fitted, held_out = values[::2], values[1::2]
        std = fitted.std(0, ddof=1) if len(fitted) > 1 else np.ones(values.shape[1])
        std = np.where(std > 0, std, 1.0)
        mean = fitted.mean(0)
        return Baseline(mean, std, (held_out - mean) / std)

    def _values(self, passages: Sequence[Passage]) -> Array:
        """Projections of each passage's mean activation, [text, concept]."""
        readings = []
        for number, tokens in enumerate(self.model.encode_passages(passages), 1):
            if tokens.text_stop - tokens.text_start < _LEAST_TOKENS:
                raise InputError(f"text {number} has no tokens of its own")
            if self.model.context is not None and len(tokens.ids) > self.model.context:
                raise InputError(
                    f"text {number} has {len(tokens.ids):,} tokens, more than the"
                    f" {self.model.context:,} that {self.model.identity.id} takes",
                    hint="divide it",
                )
            readings.append(Reading(tokens.ids, ((tokens.text_start, tokens.text_stop),)))
        columns = [self._every.index(site) for site in self._sites]
        values = np.zeros((len(passages), len(self.names)))
        for batch in record(self.model, readings, self._every):
            rows = batch.activations[:, columns].astype(np.float64)
            values[batch.indices] = np.einsum("ncd,cd->nc", rows, self._units)
        return values


def _site(vector: SteeringVector) -> Site:
    """The site of the reading: the recommended layer that separates the sides best."""
    metadata = vector.metadata
    rows = [metadata.at(layer) for layer in metadata.recommended.layers]
    best = max(rows, key=lambda row: row.separability or 0.0)
    return Site(best.layer, metadata.activation_site)
