"""Encode held-out data for scoring, and generate texts for judging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steer.base.errors import InputError
from steer.base.journal import Journal
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.frame import joinable
from steer.contrasts.passages import Message, Passage
from steer.contrasts.reading import Tokens, shared_prefix
from steer.distillation.lessons import MIN_TOKENS, Conditions, Lesson, beginnings, write_lessons
from steer.evaluation.batches import Text
from steer.generate.apply import TOGETHER, Sampling, continue_ids, runs, up_to_end
from steer.generate.batch import Batch
from steer.generate.mixed import continue_mixed
from steer.models.model import Model
from steer.steering.generation import Row
from steer.steering.steers import Steer

#: The number of the first sample in an evaluation, and in a sweep. Neither reuses the other's
#: samples or those for training a distilled edit, so nothing is measured on texts that it was
#: trained or chosen on.
FRESH, FOR_CHOICE = 1_000_000, 2_000_000

#: Continues beginnings (token ids, and the number of the sample), each under its own steers.
Continue = Callable[
    [Sequence[tuple[Sequence[int], int]], Sequence[Sequence[Steer]], Sampling], list[list[int]]
]


@dataclass(frozen=True, slots=True)
class TextSettings:
    """The settings of generated texts: their prompts, plain or in the chat template, after a
    baseline or a condition. first: the number of each prompt's first sample, which seeds its
    random numbers.
    """

    prompts: tuple[str, ...]
    conditions: Conditions | None = None
    chat: bool = False
    samples: int = 48
    max_tokens: int = 64
    seed: int = 0
    first: int = FRESH


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A generated text. ids: the tokens of its prompt, then n generated ones."""

    ids: tuple[int, ...]
    n: int

    @property
    def own(self) -> tuple[int, ...]:
        return self.ids[len(self.ids) - self.n :]

    @property
    def scored(self) -> Text:
        """The text with its generated tokens to score."""
        start = len(self.ids) - self.n
        return Text(self.ids, tuple(range(max(start, 1), len(self.ids))), start)


def write(
    model: Model,
    writing: TextSettings,
    steers: Sequence[Steer],
    on_done: Callable[[float], None] = lambda n_texts: None,
    engine: Continue | None = None,
) -> list[GeneratedText]:
    """Generate all texts under the same steers (`write_cells`)."""
    return write_cells(model, writing, [(steers, range(writing.samples))], on_done, engine)[0]


def write_cells(
    model: Model,
    writing: TextSettings,
    cells: Sequence[tuple[Sequence[Steer], range]],
    on_done: Callable[[float], None] = lambda n_texts: None,
    engine: Continue | None = None,
) -> list[list[GeneratedText]]:
    """Sample texts at temperature 1. cells: the steers and the text indices of each cell.

    Text i continues prompt i % len(prompts). Random numbers depend on the seed, the prompt and the
    sample's number, so texts of different cells differ only through steering. `engine` generates
    all texts in one batch, with its own random numbers.

    Raises:
        InputError: a prompt is empty for this model, or too long.
    """
    starts = [_beginning(model, writing, prompt) for prompt in writing.prompts]
    room = _room(model, max(map(len, starts)), writing.max_tokens)
    sampling = Sampling(max_tokens=room, temperature=1.0, seed=writing.seed)
    orders = [
        [(starts[i % len(starts)], writing.first + i // len(starts)) for i in numbers]
        for _, numbers in cells
    ]
    if engine is not None:
        every = [steers for (steers, _), order in zip(cells, orders, strict=True) for _ in order]
        beginnings = [beginning for order in orders for beginning in order]
        continuations = iter(engine(beginnings, every, sampling))
        on_done(len(every))
        return [[_generated(start, next(continuations)) for start, _ in order] for order in orders]
    written = []
    for (steers, _), order in zip(cells, orders, strict=True):
        at_once = replace(sampling, batch_size=min(TOGETHER, len(order)))
        new = continue_ids(model, order, steers, at_once, on_done)
        written.append([_generated(o[0], ids) for o, ids in zip(order, new, strict=True)])
    return written


def write_guided(
    model: Model,
    writing: TextSettings,
    strength: float,
    numbers: range,
    on_done: Callable[[float], None] = lambda n_texts: None,
) -> list[GeneratedText]:
    """Sample texts at temperature 1 from the guided distribution of the condition, otherwise as
    `write_cells` does.

    Raises:
        InputError: as in `write_cells`.
    """
    assert writing.conditions is not None
    plain = [_beginning(model, writing, prompt) for prompt in writing.prompts]
    under = [beginnings(model, writing.conditions, prompt)[0] for prompt in writing.prompts]
    room = _room(model, max(map(len, under)), writing.max_tokens)
    sampling = Sampling(max_tokens=room, temperature=1.0, seed=writing.seed)
    rows = [
        Row(
            "",
            writing.first + i // len(plain),
            list(plain[i % len(plain)]),
            (list(under[i % len(plain)]),),
        )
        for i in numbers
    ]
    written: list[GeneratedText] = []
    for part in runs(model, rows, TOGETHER // 2):
        new = Batch(model, part, (), sampling, strengths=(strength,)).run()
        written += [
            _generated(row.ids, up_to_end(model, ids)) for row, ids in zip(part, new, strict=True)
        ]
        on_done(len(part))
    return written


def write_together(
    model: Model,
    writing: TextSettings,
    cells: Sequence[Sequence[Steer]],
    on_done: Callable[[float], None] = lambda n_texts: None,
    *,
    temperature: float = 1.0,
) -> list[list[GeneratedText]]:
    """Generate the same texts under the steers of each cell, [cell][text]; cells share batches.

    on_done: called with the number of texts finished since the last call, which may be a fraction.

    Raises:
        InputError: a prompt that is empty for this model, or leaves no room.
        HookError: a steer was never applied.
    """
    starts = [_beginning(model, writing, prompt) for prompt in writing.prompts]
    room = _room(model, max(map(len, starts)), writing.max_tokens)
    order = [
        (starts[i % len(starts)], writing.first + i // len(starts)) for i in range(writing.samples)
    ]
    sampling = Sampling(
        max_tokens=room, temperature=temperature, seed=writing.seed, batch_size=TOGETHER
    )
    steerings = [steers for steers in cells for _ in order]
    new = iter(continue_mixed(model, order * len(cells), steerings, sampling, on_done))
    return [[_generated(start, next(new)) for start, _ in order] for _ in cells]


def _generated(start: Sequence[int], new: Sequence[int]) -> GeneratedText:
    return GeneratedText((*start, *new), len(new))


def write_conditioned(
    model: Model,
    writing: TextSettings,
    on_done: Callable[[float], None] = lambda n_texts: None,
    kept: Journal | None = None,
) -> list[Lesson]:
    """Generate texts under the condition, as lessons: after the condition and after the baseline.

    Texts in the journal `kept` are not generated again.

    Raises:
        InputError: the model generates nothing, or a prompt is too long.
    """
    assert writing.conditions is not None
    first = writing.first * len(writing.prompts)
    return write_lessons(
        model,
        writing.conditions,
        writing.prompts,
        range(first, first + writing.samples),
        max_tokens=writing.max_tokens,
        seed=writing.seed,
        on_done=on_done,
        kept=kept,
    )


def _beginning(model: Model, writing: TextSettings, prompt: str) -> tuple[int, ...]:
    before = writing.conditions.baseline if writing.conditions is not None else ""
    if writing.chat:
        return tuple(model.encode(model.chat(prompt, before or None), special=False))
    ids = tuple(model.encode(joinable(before) + prompt))
    if not ids:
        raise InputError(
            f"{model.identity.id} has no BOS token, so texts need a prompt",
            hint="pass --prompts",
        )
    return ids


def _room(model: Model, longest: int, wanted: int) -> int:
    room = wanted if model.context is None else min(wanted, model.context - longest)
    if room < MIN_TOKENS:
        raise InputError(
            f"a prompt has {longest:,} tokens, but {model.identity.id} takes {model.context:,}",
            hint="shorten it",
        )
    return room


def pair_texts(model: Model, pairs: Contrasts, condition: str | None) -> list[Text]:
    """All positive sides, then all negative ones, each scored from the token where the two differ.

    If the tokenizer encodes the first word differently after the condition, it is not scored.

    Raises:
        InputError: a text longer than the model takes.
    """
    sides = pairs.positive, pairs.negative
    positive, negative = (model.encode_passages(side) for side in sides)
    starts = [shared_prefix(p.ids, n.ids) for p, n in zip(positive, negative, strict=True)]
    conditioned: list[Tokens | None] = [None] * (2 * len(starts))
    if condition is not None:
        passages = [_after(condition, passage) for side in sides for passage in side]
        conditioned = list(model.encode_passages(passages))
    plain = [*positive, *negative]
    encoded = [
        _text(tokens, start, other)
        for tokens, start, other in zip(plain, starts * 2, conditioned, strict=True)
    ]
    _check_lengths(model, encoded)
    return encoded


def plain_texts(
    model: Model, texts: Sequence[Passage], conditions: Conditions | None
) -> list[Text]:
    """Texts after the baseline and, if there is one, also after the condition.

    Raises:
        InputError: a text longer than the model takes.
    """
    before = "" if conditions is None else conditions.baseline
    plain = model.encode_passages([_after(before, passage) for passage in texts])
    conditioned: list[Tokens | None] = [None] * len(texts)
    if conditions is not None:
        passages = [_after(conditions.condition, passage) for passage in texts]
        conditioned = list(model.encode_passages(passages))
    encoded = [
        _text(tokens, tokens.text_start, other)
        for tokens, other in zip(plain, conditioned, strict=True)
    ]
    _check_lengths(model, encoded)
    return encoded


def own_texts(model: Model, writing: TextSettings, written: Sequence[GeneratedText]) -> list[Text]:
    """Texts of the unsteered model for scoring, also after the condition, if there is one. Without
    a prompt, the first word of a text is its prompt.

    Raises:
        InputError: with the condition, a text is longer than the model takes.
    """
    conditions, prompts = writing.conditions, writing.prompts
    if conditions is None:
        return [text.scored for text in written if text.n]
    known = {prompt: beginnings(model, conditions, prompt) for prompt in prompts}
    texts: list[Text] = []
    for index, generated in enumerate(written):
        start, baseline = known[prompts[index % len(prompts)]]
        if baseline is None:
            text = model.decode(generated.own)
            texts += plain_texts(model, [Passage("", text)], conditions) if text.strip() else []
        elif generated.n:
            texts.append(replace(generated.scored, conditioned=(*start, *generated.own)))
    _check_lengths(model, texts)
    return texts


def lesson_text(lesson: Lesson) -> Text:
    """The text of a lesson, with its last n tokens to score."""
    start = len(lesson.baseline) - lesson.n
    return Text(
        lesson.baseline, tuple(range(start, len(lesson.baseline))), start, lesson.conditioned
    )


def _after(condition: str, passage: Passage) -> Passage:
    """A passage after a condition; in a chat, the condition is a system message."""
    if passage.role is None:
        return replace(passage, prompt=joinable(condition) + passage.prompt)
    if not condition:
        return passage
    if passage.turns and passage.turns[0].role == "system":
        raise InputError(
            "a held-out text has a system message already, and the condition would be another"
        )
    return replace(passage, turns=(Message("system", condition), *passage.turns))


def _text(plain: Tokens, start: int, conditioned_tokens: Tokens | None) -> Text:
    ids = tuple(plain.ids[: plain.text_stop])
    first = max(1, min(start, len(ids)))
    conditioned: tuple[int, ...] = ()
    if conditioned_tokens is not None:
        conditioned = tuple(conditioned_tokens.ids[: conditioned_tokens.text_stop])
        same = shared_prefix(ids[::-1], conditioned[::-1])
        first = max(first, len(ids) - same, len(ids) - len(conditioned) + 1)
    return Text(ids, tuple(range(first, len(ids))), plain.text_start, conditioned)


def _check_lengths(model: Model, texts: Sequence[Text]) -> None:
    lengths = [max(len(text.ids), len(text.conditioned)) for text in texts]
    if model.context is not None and max(lengths, default=0) > model.context:
        longest, n = int(np.argmax(lengths)), len(texts)
        raise InputError(
            f"held-out text {longest % n + 1} has {lengths[longest]:,} tokens, but"
            f" {model.identity.id} takes {model.context:,}",
            hint="shorten it, or leave it out",
        )
