"""Sample the model's answers under the poles of a concept: the texts that vectors are fitted to.

The answers are on-policy: the model itself samples them under each condition, since steering acts
on the model's own texts. They have the default temperature of `steer apply`: at 1, a small model's
answers are incoherent under any condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from steer.base.errors import InputError
from steer.base.progress import Progress, silent
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.frame import joinable
from steer.contrasts.passages import Message, Passage
from steer.generate.mixed import continue_mixed
from steer.models.model import Model
from steer.models.templates import ChatTemplate
from steer.steering.generation import Sampling
from steer.steering.steers import Steer

#: The sampling temperature of answers, the default of `steer apply`.
TEMPERATURE = 0.7
#: Texts that are generated together.
TOGETHER = 128


#: Token ids of queries, by the model's chat template.
_known: WeakKeyDictionary[ChatTemplate, dict[Query, tuple[int, ...]]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Query:
    """A question under a condition ("" for none)."""

    condition: str
    question: str
    chat: bool

    def ids(self, model: Model) -> tuple[int, ...]:
        """The token ids before the answer.

        Raises:
            ModelError: the chat template refuses the messages.
        """
        # Rendering a template takes longer than a short forward.
        known = _known.setdefault(model.template, {})
        if self not in known:
            if self.chat:
                text = model.chat(self.question, self.condition or None)
                known[self] = tuple(model.encode(text, special=False))
            else:
                known[self] = tuple(model.encode(joinable(self.condition) + self.question))
        return known[self]

    def passage(self, answer: str) -> Passage:
        """The answer as a passage after the question."""
        if not self.chat:
            return Passage(joinable(self.condition) + self.question, answer)
        turns = (Message("system", self.condition),) if self.condition else ()
        return Passage("", answer, "", "assistant", (*turns, Message("user", self.question)))


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated answer. ids: its tokens, without the end token."""

    query: Query
    ids: tuple[int, ...]
    text: str


def write(
    model: Model,
    queries: Sequence[Query],
    *,
    steerings: Sequence[Sequence[Steer]] | None = None,
    samples: Sequence[int] | None = None,
    max_tokens: int,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    activity: str = "sampling answers",
    progress: Progress = silent,
) -> list[Answer]:
    """Sample one answer to each query. steerings: the steers of each answer.

    Raises:
        InputError: a question leaves no room for an answer.
        ModelError: the chat template refuses the messages.
    """
    beginnings = [query.ids(model) for query in queries]
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
    numbers = samples if samples is not None else [0] * len(queries)
    sampling = Sampling(max_tokens=room, temperature=temperature, seed=seed, batch_size=TOGETHER)
    with progress(activity, len(queries)) as advance:
        written = continue_mixed(
            model,
            list(zip(beginnings, numbers, strict=True)),
            [none] * len(queries) if steerings is None else steerings,
            sampling,
            advance,
        )
    return [_answer(model, query, ids) for query, ids in zip(queries, written, strict=True)]


def _answer(model: Model, query: Query, ids: Sequence[int]) -> Answer:
    own = tuple(ids[:-1] if ids and ids[-1] in model.end_ids else ids)
    return Answer(query, own, model.decode(own))


def contrasts(
    positive: Sequence[Answer], negative: Sequence[Answer], *, keep_condition: bool
) -> Contrasts:
    """A contrast set of pairs of answers to the same question; pairs with an empty answer are
    skipped.

    keep_condition: whether the answers are recorded after their condition and the question, or
    after the question only.

    Raises:
        InputError: no pair is left, or both sides are equal.
    """
    sides: tuple[list[Passage], list[Passage]] = ([], [])
    for pair in zip(positive, negative, strict=True):
        if not all(_readable(answer.text) for answer in pair):
            continue
        for side, answer in zip(sides, pair, strict=True):
            condition = answer.query.condition if keep_condition else ""
            query = Query(condition, answer.query.question, answer.query.chat)
            side.append(query.passage(answer.text))
    if not sides[0]:
        raise InputError(
            "the model generates no text under these conditions",
            hint="use other words, or your own --questions",
        )
    return Contrasts("pairs", *sides)


def _readable(text: str) -> bool:
    return bool(text.strip()) and not text.endswith("\ufffd")
