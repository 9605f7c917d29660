"""Generate text while steering: Hugging Face's `generate` runs, and hooks steer it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, takewhile

from steer.base.errors import SteerError, UsageError
from steer.generate.batch import Batch, TextProgress
from steer.hooks.idle import check_acted, check_can_act
from steer.hooks.tokens import substitute_tokens
from steer.models.memory import ran_out
from steer.models.model import Model
from steer.steering.generation import Generation, Guidance, Row, Sampling, check_gates
from steer.steering.projection import Guard, Projection
from steer.steering.steers import Steer
from steer.steering.tokens import LearnedToken, separate
from steer.workers import LocalWorker, Workers, workers_of

__all__ = [
    "Generation",
    "Sampling",
    "continue_each",
    "continue_ids",
    "generate",
    "rows_of",
]

#: How many beginnings `continue_each` gives to a worker at once.
TOGETHER = 128
#: Token ids, and the number of the sample.
Beginning = tuple[Sequence[int], int]
_Item = tuple[Sequence[Steer], Sequence[Beginning]]


def generate(
    model: Model,
    prompts: Sequence[str],
    steers: Sequence[Steer],
    sampling: Sampling,
    *,
    special: bool = True,
    watched: Sequence[Projection] = (),
    guards: Sequence[Guard] = (),
    on_text: Callable[[str], None] | None = None,
    allow_idle: bool = False,
    guidance: Guidance | None = None,
) -> Iterator[Generation]:
    """Continue each prompt `sampling.samples` times, in the order of the prompts, batch by batch.

    Random numbers depend on (seed, prompt, sample), so a prompt gets the same text in any batch,
    and steered and unsteered runs draw the same numbers.

    special: off for prompts in a chat template, which already have their special tokens. on_text:
    called with each piece of text; needs a single prompt and sample. watched: projections to read
    at each new token. guards: checked at each new token (`steer.hooks.watch`). Neither works with
    beams, which are discarded, nor does a token gate. guidance (`steer.generate.guidance`): sample
    from the guided distribution; steers act in the runs of all its prompts. It excludes gates,
    watches, guards and beams. allow_idle: do not raise for steers that act nowhere;
    `Generation.idle` names them.

    Raises:
        IdleError: a steer cannot act in any of the texts, or did not.
        UsageError: beams or guidance with an option that they exclude.
        SteerError: a prompt is empty or too long.
        HookError: a steer was never applied.
        GuardError: a guard with `on_trip` error tripped.
    """
    if sampling.beams > 1 and (watched or guards or on_text):
        raise UsageError(
            "beams cannot be watched, guarded or streamed, since most of them are discarded",
            hint="leave --beams out",
        )
    check_gates(sampling, steers)
    tokens, editing = separate(steers)
    gated = any(steer.gate is not None for steer in steers)
    if guidance is not None and (sampling.beams > 1 or watched or guards or gated):
        raise UsageError(
            "guidance runs several prompts for one text, so it excludes gates, watches, guards and"
            " beams",
            hint="put the condition into the prompt, or leave the others out",
        )
    rows = rows_of(
        model.with_learned_tokens(tokens),
        prompts,
        sampling,
        special=special,
        guidance=guidance,
        tokens=tokens,
    )
    if not allow_idle:
        check_can_act(model, editing, [row.ids for row in rows], sampling.max_tokens)
    if on_text is not None and len(rows) != 1:
        raise ValueError("text can be streamed for one prompt and one sample only")
    size = sampling.batch_size
    if sampling.beams > 1:  # all samples of a prompt come from one search
        size = max(1, size // sampling.beams) * sampling.samples
    strengths = guidance.strengths if guidance is not None else ()
    size = max(1, size // (1 + len(strengths)))
    idle: list[list[str]] = []
    for part in runs(model, rows, size):
        batch = Batch(
            model,
            part,
            steers,
            sampling,
            watched,
            guards,
            on_text,
            strengths=strengths,
            live_layer=guidance.layer if guidance is not None else None,
        )
        for generation in batch.generations():
            # In a text that a guard cut off, the steer might have acted later.
            idle += [generation.idle] if generation.finish != "guard" else []
            yield generation
    if not allow_idle:
        check_acted(idle)


def continue_ids(
    model: Model,
    beginnings: Sequence[Beginning],
    steers: Sequence[Steer],
    sampling: Sampling,
    on_done: Callable[[float], None] = lambda n_texts: None,
) -> list[list[int]]:
    """New token ids after each beginning (its token ids, and the number of the sample).

    The result includes the end token, if the model generated one. Stop strings are ignored. As in
    `generate`, random numbers depend on (seed, beginning, sample). A batch that does not fit in
    memory is halved and run again. on_done: called with the number of texts (also parts of a text)
    that were done since the last call.

    Raises:
        HookError: a steer was never applied.
    """
    size = sampling.batch_size
    items = [
        (steers, beginnings[start : start + size]) for start in range(0, len(beginnings), size)
    ]
    return _continue_all(workers_of(model), items, sampling, on_done)


def continue_each(
    workers: Workers,
    beginnings: Sequence[Beginning],
    steerings: Sequence[Sequence[Steer]],
    sampling: Sampling,
) -> list[list[int]]:
    """`continue_ids` with different steers for each beginning. Consecutive beginnings with the same
    steers run together, on any of the workers.

    Raises:
        HookError: a steer was never applied.
    """
    pairs = zip(steerings, beginnings, strict=True)
    items = [
        (same[0][0], [beginning for _, beginning in same[start : start + TOGETHER]])
        for same in (list(group) for _, group in groupby(pairs, key=lambda pair: id(pair[0])))
        for start in range(0, len(same), TOGETHER)
    ]
    return _continue_all(workers, items, sampling)


def _continue_all(
    workers: Workers,
    items: Sequence[_Item],
    sampling: Sampling,
    on_done: Callable[[float], None] = lambda n_texts: None,
) -> list[list[int]]:
    """The continuations of all beginnings, in order."""
    by_item: dict[int, list[list[int]]] = {}
    # Another process only reports complete texts.
    is_here = isinstance(workers, LocalWorker)
    writer = partial(_Writer, sampling=sampling, on_done=on_done if is_here else None)
    for number, continuations in workers.map(writer, items):
        by_item[number] = continuations
        if not is_here:
            on_done(len(continuations))
    return [ids for number in range(len(items)) for ids in by_item[number]]


@dataclass
class _Writer:
    """Continues the beginnings of an item together, or fewer at a time if memory runs out."""

    model: Model
    sampling: Sampling
    on_done: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        self._most = sys.maxsize

    def __call__(self, item: _Item) -> list[list[int]]:
        steers, beginnings = item
        rows = [Row("", sample, list(ids)) for ids, sample in beginnings]
        continuations: list[list[int]] = []
        while len(continuations) < len(rows):
            part = runs(self.model, rows[len(continuations) :], min(self._most, len(rows)))[0]
            report = self.on_done or (lambda n_texts: None)
            done = TextProgress(len(part), self.sampling.max_tokens, report)
            try:
                batch = Batch(self.model, part, steers, self.sampling, listener=done).run()
            except RuntimeError as error:
                if len(part) == 1 or not ran_out(error):
                    raise
                self._most = len(part) // 2
                done.take_back()
                continue
            done.finish()
            continuations += [up_to_end(self.model, ids) for ids in batch]
        return continuations


def runs(model: Model, rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Divide rows into batches of at most `size` consecutive rows that do not change each other's
    text (`Model.batching`)."""
    parts: list[Sequence[Row]] = []
    start = 0
    while start < len(rows):
        part = rows[start : start + size]
        if len(part) > 1 and model.batching == "equal":
            part = list(takewhile(lambda row: len(row.ids) == len(part[0].ids), part))  # noqa: B023
        elif len(part) > 1 and model.batching == "one":
            part = part[:1]
        parts.append(part)
        start += len(part)
    return parts


def up_to_end(model: Model, ids: list[int]) -> list[int]:
    """Token ids up to the end token, if there is one, and including it."""
    stop = next((index for index, token in enumerate(ids, 1) if token in model.end_ids), len(ids))
    return ids[:stop]


def rows_of(
    model: Model,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    special: bool,
    guidance: Guidance | None = None,
    tokens: Sequence[LearnedToken] = (),
) -> list[Row]:
    """A row for each continuation, prompt by prompt; see `generate`. tokens: learned tokens that
    will stand in the prompts.

    Raises:
        SteerError: a prompt is empty or too long.
    """
    rows = []
    for number, prompt in enumerate(prompts, 1):
        under = guidance.prompts[number - 1] if guidance is not None else ()
        every = [model.encode(text, special=special) for text in (prompt, *under)]
        if not all(every):
            raise SteerError(f"prompt {number} is empty, and {model.identity.id} has no BOS token")
        longest = max(len(substitute_tokens(model, tokens, ids)) for ids in every)
        if model.context is not None and longest + sampling.max_tokens > model.context:
            room = model.context - longest
            raise SteerError(
                f"prompt {number} has {longest:,} tokens; with {sampling.max_tokens:,} new ones"
                f" that is more than the {model.context:,} that {model.identity.id} takes",
                hint=f"pass --max-tokens {room}" if room > 0 else "shorten the prompt",
            )
        rows += [
            Row(prompt, sample, every[0], tuple(every[1:])) for sample in range(sampling.samples)
        ]
    return rows
