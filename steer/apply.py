"""Generate text while steering. Hugging Face's `generate` runs; hooks steer it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from steer.errors import SteerError
from steer.generation import Generation, Sampling
from steer.inject import TokenClock, injected
from steer.model import Model
from steer.steers import Steer
from steer.text import TextDeltas, cut

__all__ = ["Generation", "Sampling", "continue_ids", "generate"]


@dataclass(frozen=True, slots=True)
class _Row:
    prompt: str
    sample: int
    ids: list[int]


def generate(
    model: Model,
    prompts: Sequence[str],
    steers: Sequence[Steer],
    sampling: Sampling,
    *,
    special: bool = True,
    on_text: Callable[[str], None] | None = None,
    on_done: Callable[[Generation], None] = lambda generation: None,
) -> list[Generation]:
    """Continue each prompt `sampling.samples` times, in the order of the prompts.

    Random numbers belong to (seed, prompt, sample), so a prompt gets what it gets alone, whatever
    else is in its batch, and steered and unsteered runs draw the same numbers. `special` is off for
    prompts that a chat template has already given their first token. `on_text` gets text as it
    comes, and needs a single prompt and sample; `on_done` gets each generation when it is whole.

    Raises:
        SteerError: a prompt that is empty or leaves no room.
        HookError: a steer was never applied.
    """
    rows = _rows(model, prompts, sampling, special=special)
    if on_text is not None and len(rows) != 1:
        raise ValueError("text can be streamed for one prompt and one sample only")
    done: list[Generation] = []
    for start in range(0, len(rows), sampling.batch_size):
        batch = rows[start : start + sampling.batch_size]
        for generation in _batch(model, batch, steers, sampling, on_text):
            done.append(generation)
            on_done(generation)
    return done


def continue_ids(
    model: Model,
    beginnings: Sequence[tuple[Sequence[int], int]],
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
    rows = [_Row("", sample, list(ids)) for ids, sample in beginnings]
    made: list[list[int]] = []
    size = sampling.batch_size
    while len(made) < len(rows):
        try:
            batch = _continued(model, rows[len(made) : len(made) + size], steers, sampling)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            continue
        made += [_up_to_end(model, ids) for ids in batch]
        on_done(len(batch))
    return made


def _up_to_end(model: Model, ids: list[int]) -> list[int]:
    stop = next((index for index, token in enumerate(ids, 1) if token in model.end_ids), len(ids))
    return ids[:stop]


def _rows(model: Model, prompts: Sequence[str], sampling: Sampling, *, special: bool) -> list[_Row]:
    rows = []
    for number, prompt in enumerate(prompts, 1):
        ids = model.encode(prompt, special=special)
        if not ids:
            raise SteerError(
                f"prompt {number} is empty, and {model.identity.id} has no first token"
            )
        if model.context is not None and len(ids) + sampling.max_tokens > model.context:
            room = model.context - len(ids)
            raise SteerError(
                f"prompt {number} has {len(ids):,} tokens; with {sampling.max_tokens:,} new ones"
                f" that is more than the {model.context:,} that {model.identity.id} takes",
                hint=f"pass --max-tokens {room}" if room > 0 else "shorten the prompt",
            )
        rows += [_Row(prompt, sample, ids) for sample in range(sampling.samples)]
    return rows


def _batch(
    model: Model,
    rows: Sequence[_Row],
    steers: Sequence[Steer],
    sampling: Sampling,
    on_text: Callable[[str], None] | None,
) -> list[Generation]:
    streamer = None if on_text is None else _Streamer(model, sampling.stop, on_text)
    new = _continued(model, rows, steers, sampling, streamer)
    return [_generation(model, row, ids, sampling) for row, ids in zip(rows, new, strict=True)]


def _continued(
    model: Model,
    rows: Sequence[_Row],
    steers: Sequence[Steer],
    sampling: Sampling,
    streamer: _Streamer | None = None,
) -> list[list[int]]:
    """New token ids of each row, as many as the longest has."""
    ids, mask = model.padded([row.ids for row in rows], left=True)
    width = ids.shape[1]
    clock = TokenClock(prompt_length=width, padding=width - mask.sum(1))
    processors = []
    if sampling.temperature > 0:
        processors = model.warpers(sampling.temperature, sampling.top_k, sampling.top_p)
        processors.append(_Draw(rows, sampling, model.device))
    with torch.no_grad(), injected(model, steers, clock):
        output = model.network.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=sampling.max_tokens,
            do_sample=False,  # `_Draw` has drawn already: the most probable token is its choice
            num_beams=1,
            pad_token_id=model.pad_id,
            logits_processor=processors,
            streamer=streamer,
            stopping_criteria=[_Stops(model, sampling.stop, width)] if sampling.stop else [],
        )
    return list(output[:, width:].tolist())


def _generation(model: Model, row: _Row, ids: list[int], sampling: Sampling) -> Generation:
    ends = model.end_ids
    length = next((index for index, token in enumerate(ids) if token in ends), len(ids))
    ended = length < len(ids)
    whole = model.decode(ids[:length])
    text = cut(whole, sampling.stop)
    finish: Literal["end", "stop", "length"] = "end" if ended else "length"
    if text != whole:
        finish = "stop"
        length = _tokens_to(model, ids[:length], len(text))
    return Generation(row.prompt, row.sample, text, length, finish)


def _tokens_to(model: Model, ids: list[int], n_characters: int) -> int:
    """How many tokens it takes to write the first `n_characters`."""
    return next(
        (count for count in range(len(ids)) if len(model.decode(ids[:count])) >= n_characters),
        len(ids),
    )


class _Draw:
    """Logits processor that draws a token for each row and leaves it alone possible.

    Inverse transform sampling: the token at which the summed probability passes a uniform number
    from the row's own stream.
    """

    def __init__(self, rows: Sequence[_Row], sampling: Sampling, device: torch.device) -> None:
        draws = [_uniform(row, sampling) for row in rows]
        # Metal has no float64; elsewhere a vocabulary of 200,000 deserves it.
        self._precision = torch.float32 if device.type == "mps" else torch.float64
        self._draws = torch.from_numpy(np.stack(draws)).to(self._precision).to(device)
        self._step = 0

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        summed = scores.softmax(-1, dtype=self._precision).cumsum(-1)
        draw = self._draws[:, self._step, None] * summed[:, -1:]
        self._step += 1
        token = torch.searchsorted(summed, draw, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -math.inf).scatter(1, token, 0.0)


class _Stops:
    """Stopping criterion: which rows have written a stop string since column `start`.

    Hugging Face's own reads each token of the vocabulary by itself, which fails for tokenizers that
    do not write their tokens in a row, and takes seconds for a large one.
    """

    def __init__(self, model: Model, stop: Sequence[str], start: int) -> None:
        self._model, self._stop, self._start = model, stop, start

    def __call__(self, ids: Tensor, _scores: Tensor, **_: object) -> Tensor:
        texts = map(self._model.decode, ids[:, self._start :].tolist())
        done = [any(word in text for word in self._stop) for text in texts]
        return torch.tensor(done, device=ids.device)


def _uniform(row: _Row, sampling: Sampling) -> np.ndarray:
    stream = np.random.default_rng([sampling.seed, row.sample, *row.ids])
    return stream.random(sampling.max_tokens)


class _Streamer:
    """What `generate` tells each token to: first the prompt, then one at a time."""

    def __init__(self, model: Model, stop: Sequence[str], on_text: Callable[[str], None]) -> None:
        self._deltas = TextDeltas(model.decode, stop)
        self._on_text = on_text
        self._prompt_seen = False

    def put(self, tokens: Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for token in tokens.flatten().tolist():
            self._on_text(self._deltas.push(token))

    def end(self) -> None:
        self._on_text(self._deltas.finish())
