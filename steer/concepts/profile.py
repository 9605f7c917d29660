"""Profiles of texts over many concepts: how much likelier each concept makes a text.

A reading is the log-likelihood ratio of the text under the conditions of the concept's two poles,
in nats per token: above 0, the text is likelier under the positive pole. The model's own texts are
read in the same way; the share of them with a reading at least as high is the false-positive rate.

The vectors are not used: a vector is fitted to answers that are read after their conditions, which
suits steering, but the projection of a text without a condition carries little information (on
SmolLM2-135M, a concept's own answers had rank 134 of 286 among all concepts, where chance is 143).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import InputError, ModelError
from steer.base.progress import Progress, silent
from steer.concepts import baseline as baselines
from steer.concepts.answers import Query
from steer.concepts.baseline import Baseline, Ratios
from steer.concepts.index import BuiltPack
from steer.concepts.likelihood import Likelihoods
from steer.contrasts.passages import Message, answers_of
from steer.models.model import Model

Array = NDArray[np.float64]
Ids = tuple[int, ...]

#: What the user says before a bare text, in a chat.
QUESTION = "Go on."
#: The number of the model's own texts to compare with: one reading as high is a rate below 5 %.
N_BASELINE = 40
#: Roles of a message that a condition is joined to.
_SYSTEM = ("system", "developer")


@dataclass(frozen=True)
class Profile:
    """The readings of one text on all concepts.

    pieces: the text of each token. ratios: the log-probability of each token under the positive
    condition of each concept minus that under the negative one, nats, float32 [token, concept].
    """

    names: tuple[str, ...]
    pieces: tuple[str, ...]
    ratios: Ratios
    baseline: Baseline

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def n_tokens(self) -> int:
        return len(self.ratios)

    @cached_property
    def readings(self) -> Array:
        """Nats per token, float64 [concept]."""
        return np.asarray(self.ratios.mean(0, np.float64))

    @cached_property
    def false_positives(self) -> Array:
        """The share of the model's own texts with a reading at least as high, [concept]."""
        return self.baseline.false_positives(self.readings, self.n_tokens)

    def top(self, n: int = 10) -> list[tuple[str, float, float]]:
        """The concepts with the highest readings: name, reading, false-positive rate."""
        order = np.argsort(-self.readings, kind="stable")[:n]
        return [
            (self.names[i], float(self.readings[i]), float(self.false_positives[i])) for i in order
        ]

    def running(self, every: int) -> Iterator[Profile]:
        """The profiles of the first `every` tokens, of twice as many, and so on to the end."""
        for stop in [*range(every, self.n_tokens, every), self.n_tokens]:
            yield replace(self, pieces=self.pieces[:stop], ratios=self.ratios[:stop])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "text": self.text,
            "tokens": self.n_tokens,
            "concepts": [
                {"name": name, "reading": float(reading), "false_positives": float(rate)}
                for name, reading, rate in zip(
                    self.names, self.readings, self.false_positives, strict=True
                )
            ],
        }


@dataclass(frozen=True)
class ConversationProfile:
    """The profile of each answer of a conversation, and of all answers together."""

    turns: tuple[Profile, ...]

    @cached_property
    def overall(self) -> Profile:
        """All answers as one text, with blank lines between: each token counts once."""
        first, *others = self.turns
        later = [
            f"\n\n{piece}" if not index else piece
            for turn in others
            for index, piece in enumerate(turn.pieces)
        ]
        return replace(
            first,
            pieces=(*first.pieces, *later),
            ratios=np.concatenate([turn.ratios for turn in self.turns]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"turns": [turn.to_dict() for turn in self.turns], "overall": self.overall.to_dict()}


class Profiler:
    """Computes profiles with the conditions of a built pack's concepts.

    Concepts whose vectors do not work are read too, but not those whose conditions could not be
    tested. chat: read texts as answers in the chat template, by default if there is one.
    n_baseline: the number of the model's own texts to compare with. allow_other_model: accept a
    pack of another model, and call `warn`.

    Raises:
        InputError: the pack has no conditions.
        ModelError: the pack was built on another model.
    """

    def __init__(
        self,
        model: Model,
        pack: BuiltPack,
        *,
        chat: bool | None = None,
        n_baseline: int = N_BASELINE,
        allow_other_model: bool = False,
        warn: Callable[[str], None] = lambda text: None,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        for warning in pack.check_model(model.identity, allow_other_model=allow_other_model):
            warn(warning)
        self.model, self.chat = model, model.template.exists if chat is None else chat
        self._n_baseline, self._seed, self._progress = n_baseline, seed, progress
        self._poles = [
            (row.name, *map(str, conditions))
            for row in pack.rows
            if isinstance(conditions := row.values.get("conditions"), list)
            and len(conditions) == 2
            and row.number("heeded") is not None
        ]
        if not self._poles:
            raise InputError(
                f"{pack.folder} has no concepts to read with", hint="build the pack again"
            )
        self.names = tuple(name for name, _, _ in self._poles)
        self._conditions = list(dict.fromkeys(c for _, *pair in self._poles for c in pair))
        place = {condition: index for index, condition in enumerate(self._conditions)}
        self._positive = [place[positive] for _, positive, _ in self._poles]
        self._negative = [place[negative] for _, _, negative in self._poles]
        self._likelihoods = Likelihoods(model, len(self._conditions))
        self._bare: list[Ids] | None = None
        self._baselines: dict[bool, Baseline] = {}

    def baseline(self, *, after_question: bool = False) -> Baseline:
        """The model's own texts, read as bare texts or after the questions that they answer."""
        if after_question not in self._baselines:

            def read(query: Query, ids: Ids) -> Ratios:
                turns = (Message("user", query.question),)
                return self._ratios(
                    self._beginnings(turns) if after_question else self._before_bare(), ids
                )

            self._baselines[after_question] = baselines.of_model(
                self.model,
                read,
                self._n_baseline,
                chat=self.chat,
                key=[QUESTION, after_question, self._poles],
                seed=self._seed,
                progress=self._progress,
            )
        return self._baselines[after_question]

    def read(self, text: str, subject: str = "the text") -> Profile:
        """The profile of a text; in a chat it is read as the answer to `QUESTION`. subject: what
        error messages call the text.

        Raises:
            InputError: the text has no tokens, or more than the model takes.
        """
        return self._profile(text, self._before_bare(), self.baseline(), subject, continues=False)

    def read_turns(
        self, messages: Sequence[Message], subject: str = "the conversation"
    ) -> Iterator[Profile]:
        """Yield the profile of each answer of a conversation, given all messages before it.
        subject: what error messages call the conversation.

        The condition of a concept is the system message, or is put before the existing one.

        Raises:
            InputError: there is no answer, or it has no tokens, or more than the model takes.
            ModelError: the model has no chat template, or it refuses the messages.
        """
        if not self.chat:
            raise ModelError(
                f"{self.model.identity.id} is read without a chat template, so no conversations",
                hint="pass texts, or use a chat model",
            )
        answers = answers_of(messages, subject)
        for index in answers:
            yield self._profile(
                messages[index].content,
                self._beginnings(messages[:index]),
                self.baseline(after_question=True),
                f"{subject}: message {index + 1}",
                continues=index != answers[-1],
            )

    def _profile(
        self,
        text: str,
        beginnings: Sequence[Ids],
        baseline: Baseline,
        subject: str,
        *,
        continues: bool,
    ) -> Profile:
        # In plain text a condition stands before the space that the text begins with.
        plain = text if self.chat else f" {text.lstrip()}"
        ids = tuple(self.model.encode(plain, special=False))
        self._check(ids, beginnings, subject)
        ratios = self._ratios(beginnings, ids, continues=continues, progress=self._progress)
        return Profile(self.names, self._pieces(text, ids, len(ratios)), ratios, baseline)

    def _ratios(
        self,
        beginnings: Sequence[Ids],
        ids: Ids,
        *,
        continues: bool = False,
        progress: Progress = silent,
    ) -> Ratios:
        n = len(ids) - _n_unscored(beginnings)
        if n < 1:
            return np.zeros((0, len(self.names)), np.float32)
        rows = [(*beginning, *ids) for beginning in beginnings]
        with progress("reading", len(rows)) as advance:
            scores = self._likelihoods(rows, n, continues=continues, on_rows=advance)
        return np.ascontiguousarray((scores[self._positive] - scores[self._negative]).T)

    def _pieces(self, text: str, ids: Ids, n: int) -> tuple[str, ...]:
        """The text in n pieces, one per token; tokens without a probability join the first one."""
        first = len(ids) - n
        ends = [len(self.model.decode(ids[: first + index + 1])) for index in range(n)]
        shift = len(text) - ends[-1]  # decoding may add or drop blanks at the beginning
        stops = [0, *(max(0, end + shift) for end in ends[:-1]), len(text)]
        return tuple(text[a:b] for a, b in pairwise(stops))

    def _before_bare(self) -> list[Ids]:
        """The tokens before a bare text, under each condition."""
        if self._bare is None:
            if self.chat:
                self._bare = self._beginnings((Message("user", QUESTION),))
            else:
                self._bare = [tuple(self.model.encode(c.rstrip())) for c in self._conditions]
        return self._bare

    def _beginnings(self, turns: Sequence[Message]) -> list[Ids]:
        """The tokens before an answer to these messages, under each condition."""
        template = self.model.template
        return [
            tuple(self.model.encode(template.render(_under(condition, turns)), special=False))
            for condition in self._conditions
        ]

    def _check(self, ids: Ids, beginnings: Sequence[Ids], subject: str) -> None:
        if len(ids) <= _n_unscored(beginnings):
            raise InputError(f"{subject} has no tokens of its own")
        longest, context = max(map(len, beginnings)), self.model.context
        if context is not None and longest + len(ids) > context:
            raise InputError(
                f"{subject} has {len(ids):,} tokens, and with the condition of a concept"
                f" {longest + len(ids):,}; {self.model.identity.id} takes {context:,}",
                hint="divide it",
            )


def _n_unscored(beginnings: Sequence[Ids]) -> int:
    """Tokens of a text that have no probability: the first, if nothing stands before it."""
    return 0 if all(beginnings) else 1


def _under(condition: str, turns: Sequence[Message]) -> list[Message]:
    """Messages with a condition as the system message, or before the existing one."""
    if not condition:
        return list(turns)
    if turns and turns[0].role in _SYSTEM:
        own = replace(turns[0], content=f"{condition}\n\n{turns[0].content}")
        return [own, *turns[1:]]
    return [Message("system", condition), *turns]
