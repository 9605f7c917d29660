"""Profiles of texts over many concepts: how much likelier each concept makes a text.

A reading is the log-likelihood ratio of the text under the conditions of the concept's two poles,
in nats per token: above 0, the model would rather write the text under the positive pole. The
model's own texts are read alike, and the share of them with a reading as high is the false-positive
rate.

The vectors themselves do not enter: a vector is fitted to answers that are read after their
conditions, which suits steering, but the projection of a bare text on it says little (on
SmolLM2-135M, a concept's own answers had rank 134 of 286 among all concepts, where chance is 143).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steer.base.errors import InputError
from steer.base.progress import Progress, silent
from steer.concepts import answers as answering
from steer.concepts.answers import Query
from steer.concepts.effect import together
from steer.concepts.index import BuiltPack
from steer.concepts.questions import everyday
from steer.hooks.head import Ending
from steer.models.model import Model

Array = NDArray[np.float64]

#: What the user says before a text, in a chat.
QUESTION = "Go on."


@dataclass(frozen=True, slots=True)
class Profile:
    """One text: readings in nats per token and false-positive rates, float64 [concept]."""

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
    """Computes profiles with the conditions of a built pack's concepts.

    baseline: readings of the model's own texts, float64 [text, concept]. All concepts of the pack
    are read, also those whose vectors do not work, but not those that could not be tried.

    Raises:
        InputError: the pack has no conditions.
    """

    def __init__(
        self,
        model: Model,
        pack: BuiltPack,
        *,
        chat: bool | None = None,
        n_baseline: int = 12,
        max_tokens: int = 24,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        self.model = model
        self.chat = model.template.exists if chat is None else chat
        poles = [
            (row.name, *map(str, conditions))
            for row in pack.rows
            if isinstance(conditions := row.values.get("conditions"), list)
            and len(conditions) == 2
            and row.number("heeded") is not None
        ]
        if not poles:
            raise InputError(
                f"{pack.folder} has no concepts to read with", hint="build the pack again"
            )
        self.names = tuple(name for name, _, _ in poles)
        self._conditions = list(dict.fromkeys(c for _, *pair in poles for c in pair))
        place = {condition: index for index, condition in enumerate(self._conditions)}
        self._positive = [place[positive] for _, positive, _ in poles]
        self._negative = [place[negative] for _, _, negative in poles]
        own = self._own_texts(n_baseline, max_tokens, seed, progress)
        self.baseline = self._readings(own, "reading the model's own texts", progress)

    def read(self, texts: Sequence[str], progress: Progress = silent) -> list[Profile]:
        """The profile of each text, which for a chat model is read as its answer.

        Raises:
            InputError: a text has no tokens, or more than the model takes.
        """
        # In plain text a condition stands before the space that the text begins with.
        plain = texts if self.chat else [f" {text.lstrip()}" for text in texts]
        ids = [tuple(self.model.encode(text, special=False)) for text in plain]
        values = self._readings(ids, "reading the texts", progress)
        above = (self.baseline[None] >= values[:, None]).sum(1)
        # The text itself counts too, so that the rate is never 0.
        rates = (above + 1) / (len(self.baseline) + 1)
        return [Profile(text, self.names, values[i], rates[i]) for i, text in enumerate(texts)]

    def _own_texts(
        self, n: int, max_tokens: int, seed: int, progress: Progress
    ) -> list[tuple[int, ...]]:
        every = everyday(chat=self.chat)
        questions = [*every.held_out, *every.train, *every.choice]
        written = answering.write(
            self.model,
            [Query("", questions[i % len(questions)], self.chat) for i in range(n)],
            samples=[i // len(questions) for i in range(n)],
            max_tokens=max_tokens,
            seed=seed,
            activity="writing the baseline",
            progress=progress,
        )
        return [answer.ids for answer in written if answer.ids]

    @torch.no_grad()
    def _readings(
        self, texts: Sequence[tuple[int, ...]], activity: str, progress: Progress
    ) -> Array:
        """Nats per token by which the positive pole makes each text likelier, [text, concept]."""
        before = [self._before(condition) for condition in self._conditions]
        # Without a token before it, the first token of a text has no probability.
        n_skipped = 0 if all(before) else 1
        self._check(texts, before, n_skipped)
        scores = np.zeros((len(self._conditions), len(texts)))
        with progress(activity, len(before)) as advance:
            for index, prefix in enumerate(before):
                rows: list[Ending] = [((*prefix, *ids), len(ids) - n_skipped) for ids in texts]
                scores[index] = [
                    float(value) / n for value, (_, n) in zip(self._sums(rows), rows, strict=True)
                ]
                advance(1)
        return np.asarray((scores[self._positive] - scores[self._negative]).T)

    def _before(self, condition: str) -> tuple[int, ...]:
        if self.chat:
            return Query(condition, QUESTION, True).ids(self.model)
        return tuple(self.model.encode(condition.rstrip()))

    def _sums(self, rows: Sequence[Ending]) -> Iterator[float]:
        """The log-probability of the last n tokens of each row."""
        for part, log_probs in together(self.model, rows):
            targets = torch.tensor([token for ids, n in part for token in ids[-n:]])
            own = log_probs.gather(1, targets.to(log_probs.device)[:, None])[:, 0].double().cpu()
            for piece in torch.split(own, [n for _, n in part]):
                yield float(piece.sum())

    def _check(
        self,
        texts: Sequence[tuple[int, ...]],
        before: Sequence[tuple[int, ...]],
        n_skipped: int,
    ) -> None:
        longest = max(map(len, before))
        context = self.model.context
        for number, ids in enumerate(texts, 1):
            if len(ids) <= n_skipped:
                raise InputError(f"text {number} has no tokens of its own")
            if context is not None and longest + len(ids) > context:
                raise InputError(
                    f"text {number} has {len(ids):,} tokens, and with the condition of a concept"
                    f" {longest + len(ids):,}; {self.model.identity.id} takes {context:,}",
                    hint="divide it",
                )
