"""Generate text while steering. Hugging Face's `generate` runs; hooks steer it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, takewhile

from steer.base.errors import SteerError, UsageError
from steer.generate.batch import Batch
from steer.hooks.meeting import check_acted, check_can_act
from steer.hooks.tokens import standing
from steer.models.memory import ran_out
from steer.models.model import Model
from steer.steering.generation import Generation, Guidance, Row, Sampling, check_gates
from steer.steering.projection import Guard, Projection
from steer.steering.steers import Steer
from steer.steering.tokens import LearnedToken, separate
from steer.workers import Workers, workers_of

__all__ = [
    "Generation",
    "Sampling",
    "continue_each",
    "continue_ids",
    "generate",
    "rows_of",
]

#: Beginnings that `continue_each` has a worker write at once.
TOGETHER = 128
#: Token ids, and which sample of them this is.
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

    Random numbers belong to (seed, prompt, sample), so a prompt gets what it gets alone, whatever
    else is in its batch, and steered and unsteered runs draw the same numbers. `special` is off for
    prompts that a chat template has already given their first token. `on_text` gets text as it
    comes, and needs a single prompt and sample. What is `watched` is read of each new token, and
    `guards` look at each (`steer.hooks.watch`); neither goes with beams, which are tried and
    dropped, nor does a gate at each token. With `guidance` (`steer.generate.guidance`) the guided
    distribution is continued from; it goes with steers, which act in the runs of all its prompts,
    and not with gates, watches, guards or beams. `allow_idle` lets steers pass that act nowhere,
    and leaves it to `Generation.idle` to tell.

    Raises:
        IdleError: a steer that cannot act in any of the texts, or did not.
        UsageError: beams or guidance, with what does not go with them.
        SteerError: a prompt that is empty or leaves no room.
        HookError: a steer was never applied.
        GuardError: a guard tripped, and was to be an error.
    """
    if sampling.beams > 1 and (watched or guards or on_text):
        raise UsageError(
            "beams are tried and dropped: what they say cannot be watched, guarded or streamed",
            hint="leave --beams out",
        )
    check_gates(sampling, steers)
    tokens, editing = separate(steers)
    gated = any(steer.gate is not None for steer in steers)
    if guidance is not None and (sampling.beams > 1 or watched or guards or gated):
        raise UsageError(
            "a guided text is written by several runs at once: it cannot be gated, watched,"
            " guarded or searched with beams",
            hint="put the condition into the prompt, or leave the others out",
        )
    rows = rows_of(
        model.knowing(tokens), prompts, sampling, special=special, guidance=guidance, tokens=tokens
    )
    if not allow_idle:
        check_can_act(model, editing, [row.ids for row in rows], sampling.max_tokens)
    if on_text is not None and len(rows) != 1:
        raise ValueError("text can be streamed for one prompt and one sample only")
    size = sampling.batch_size
    if sampling.beams > 1:  # whole prompts
        size = max(1, size // sampling.beams) * sampling.samples
    strengths = guidance.strengths if guidance is not None else ()
    size = max(1, size // (1 + len(strengths)))
    idle: list[list[str]] = []
    for part in runs(model, rows, size):
        batch = Batch(model, part, steers, sampling, watched, guards, on_text, strengths=strengths)
        for made in batch.generations():
            # What a guard cut off might have been steered further on.
            idle += [made.idle] if made.finish != "guard" else []
            yield made
    if not allow_idle:
        check_acted(idle)


def continue_ids(
    model: Model,
    beginnings: Sequence[Beginning],
    steers: Sequence[Steer],
    sampling: Sampling,
    on_done: Callable[[int], None] = lambda n_texts: None,
) -> list[list[int]]:
    """New token ids after each beginning, (token ids, which sample of it this is).

    The end is among them where the model wrote one. Stop strings are not looked at. As in
    `generate`, random numbers belong to (seed, beginning, sample). A batch that does not fit in
    memory is halved and run again.

    Raises:
        HookError: a steer was never applied.
    """
    size = sampling.batch_size
    items = [
        (steers, beginnings[start : start + size]) for start in range(0, len(beginnings), size)
    ]
    return _continued(workers_of(model), items, sampling, on_done)


def continue_each(
    workers: Workers,
    beginnings: Sequence[Beginning],
    steerings: Sequence[Sequence[Steer]],
    sampling: Sampling,
) -> list[list[int]]:
    """`continue_ids`, each beginning under steers of its own: neighbours under the same steers are
    written together, by any of the workers.

    Raises:
        HookError: a steer was never applied.
    """
    pairs = zip(steerings, beginnings, strict=True)
    items = [
        (same[0][0], [beginning for _, beginning in same[start : start + TOGETHER]])
        for same in (list(group) for _, group in groupby(pairs, key=lambda pair: id(pair[0])))
        for start in range(0, len(same), TOGETHER)
    ]
    return _continued(workers, items, sampling)


def _continued(
    workers: Workers,
    items: Sequence[_Item],
    sampling: Sampling,
    on_done: Callable[[int], None] = lambda n_texts: None,
) -> list[list[int]]:
    """What the beginnings of all items go on with, in their order."""
    made: dict[int, list[list[int]]] = {}
    for number, found in workers.map(partial(_Writer, sampling=sampling), items):
        made[number] = found
        on_done(len(found))
    return [ids for number in range(len(items)) for ids in made[number]]


@dataclass
class _Writer:
    """Goes on with beginnings that run together; with fewer at once where memory was too short."""

    model: Model
    sampling: Sampling

    def __post_init__(self) -> None:
        self._most = sys.maxsize

    def __call__(self, item: _Item) -> list[list[int]]:
        steers, beginnings = item
        rows = [Row("", sample, list(ids)) for ids, sample in beginnings]
        made: list[list[int]] = []
        while len(made) < len(rows):
            part = runs(self.model, rows[len(made) :], min(self._most, len(rows)))[0]
            try:
                batch = Batch(self.model, part, steers, self.sampling).run()
            except RuntimeError as error:
                if len(part) == 1 or not ran_out(error):
                    raise
                self._most = len(part) // 2
                continue
            made += [up_to_end(self.model, ids) for ids in batch]
        return made


def runs(model: Model, rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Neighbours that are written together, at most `size`, so that each text is what it is alone
    (`Model.batching`)."""
    found: list[Sequence[Row]] = []
    start = 0
    while start < len(rows):
        part = rows[start : start + size]
        if len(part) > 1 and model.batching == "equal":
            part = list(takewhile(lambda row: len(row.ids) == len(part[0].ids), part))  # noqa: B023
        elif len(part) > 1 and model.batching == "one":
            part = part[:1]
        found.append(part)
        start += len(part)
    return found


def up_to_end(model: Model, ids: list[int]) -> list[int]:
    """Token ids up to the end of the text, which is among them."""
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
    """The continuations that are to be made, prompt by prompt; see `generate`. tokens: learned
    tokens that will stand in the prompts.

    Raises:
        SteerError: a prompt that is empty or leaves no room.
    """
    rows = []
    for number, prompt in enumerate(prompts, 1):
        under = guidance.prompts[number - 1] if guidance is not None else ()
        every = [model.encode(text, special=special) for text in (prompt, *under)]
        if not all(every):
            raise SteerError(
                f"prompt {number} is empty, and {model.identity.id} has no first token"
            )
        longest = max(len(standing(model, tokens, ids)) for ids in every)
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
