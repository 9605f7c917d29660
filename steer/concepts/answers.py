"""What a model itself says under the poles of a concept: the texts that vectors are fitted to.

The answers are on-policy, sampled from the model under each condition at temperature 1, because
that is where steering will take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.base.errors import InputError
from steer.base.progress import Progress, silent
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.frame import joinable
from steer.contrasts.passages import Message, Passage
from steer.generate.mixed import continue_mixed
from steer.models.model import Model
from steer.steering.generation import Sampling
from steer.steering.steers import Steer

#: Texts that are written together.
TOGETHER = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """A question under a condition, "" where there is none."""

    condition: str
    question: str
    chat: bool

    def ids(self, model: Model) -> tuple[int, ...]:
        """Token ids up to where the answer begins.

        Raises:
            ModelError: the chat template refuses the messages.
        """
        if self.chat:
            text = model.chat(self.question, self.condition or None)
            return tuple(model.encode(text, special=False))
        return tuple(model.encode(joinable(self.condition) + self.question))

    def passage(self, answer: str) -> Passage:
        """The answer, to be read after the question."""
        if not self.chat:
            return Passage(joinable(self.condition) + self.question, answer)
        turns = (Message("system", self.condition),) if self.condition else ()
        return Passage("", answer, "", "assistant", (*turns, Message("user", self.question)))


@dataclass(frozen=True, slots=True)
class Answer:
    """A text that the model wrote. ids: its tokens, without the one that ends it."""

    asked: Asked
    ids: tuple[int, ...]
    text: str


def write(
    model: Model,
    asked: Sequence[Asked],
    *,
    steerings: Sequence[Sequence[Steer]] | None = None,
    samples: Sequence[int] | None = None,
    max_tokens: int,
    seed: int = 0,
    what: str = "sampling answers",
    progress: Progress = silent,
) -> list[Answer]:
    """Sample one answer to each, at temperature 1, each under steers of its own where given.

    Raises:
        InputError: a question leaves no room for an answer.
        ModelError: the chat template refuses the messages.
    """
    beginnings = [one.ids(model) for one in asked]
    room = max_tokens
    if model.context is not None and beginnings:
        room = min(room, model.context - max(map(len, beginnings)))
        if room < 1:
            raise InputError(
                f"a condition and a question have {max(map(len, beginnings)):,} tokens, and"
                f" {model.identity.id} takes {model.context:,}",
                hint="shorten them",
            )
    none: Sequence[Steer] = ()
    numbers = samples if samples is not None else [0] * len(asked)
    sampling = Sampling(max_tokens=room, temperature=1.0, seed=seed, batch_size=TOGETHER)
    with progress(what, len(asked)) as advance:
        written = continue_mixed(
            model,
            list(zip(beginnings, numbers, strict=True)),
            [none] * len(asked) if steerings is None else steerings,
            sampling,
            advance,
        )
    return [_answer(model, one, ids) for one, ids in zip(asked, written, strict=True)]


def _answer(model: Model, asked: Asked, ids: Sequence[int]) -> Answer:
    own = tuple(ids[:-1] if ids and ids[-1] in model.end_ids else ids)
    return Answer(asked, own, model.decode(own))


def contrasts(
    positive: Sequence[Answer], negative: Sequence[Answer], *, keep_condition: bool
) -> Contrasts:
    """The answers of both sides as pairs by question; pairs with an empty answer are left out.

    keep_condition: whether each is read after the condition that it was written under, or after the
    question alone.

    Raises:
        InputError: no pair is left, or both sides are the same.
    """
    sides: tuple[list[Passage], list[Passage]] = ([], [])
    for pair in zip(positive, negative, strict=True):
        if not all(_readable(one.text) for one in pair):
            continue
        for side, one in zip(sides, pair, strict=True):
            condition = one.asked.condition if keep_condition else ""
            asked = Asked(condition, one.asked.question, one.asked.chat)
            side.append(asked.passage(one.text))
    if not sides[0]:
        raise InputError(
            "the model writes nothing under these conditions",
            hint="say it in other words, or give --questions of your own",
        )
    return Contrasts("pairs", *sides)


def _readable(text: str) -> bool:
    return bool(text.strip()) and not text.endswith("\ufffd")
