"""Generate texts under different steers in one batch; each gets the same tokens as on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn

from steer.generate.apply import Beginning, runs
from steer.generate.batch import Batch, TextProgress
from steer.generate.decoding import nothing_else
from steer.hooks.clock import TokenClock
from steer.hooks.gates import prompt_values
from steer.hooks.hooks import SiteFunction, before_input, placed
from steer.hooks.inject import by_rows, site_functions
from steer.hooks.tokens import embedded, substitute_tokens
from steer.models.model import Model
from steer.steering.generation import Row, Sampling
from steer.steering.steers import Steer
from steer.steering.tokens import separate
from steer.vectors.sites import Site


def continue_mixed(
    model: Model,
    beginnings: Sequence[Beginning],
    steerings: Sequence[Sequence[Steer]],
    sampling: Sampling,
    on_done: Callable[[float], None] = lambda n_texts: None,
) -> list[list[int]]:
    """New token ids after each beginning, each under its own steers, `sampling.batch_size` rows at
    a time. As in `steer.generate.apply.continue_ids`, random numbers depend on (seed, beginning,
    sample). on_done: as in `continue_ids`.

    Raises:
        HookError: a steer was never applied.
    """
    rows = [Row("", sample, list(ids)) for ids, sample in beginnings]
    written: list[list[int]] = []
    for part in runs(model, rows, sampling.batch_size):
        own = steerings[len(written) : len(written) + len(part)]
        done = TextProgress(len(part), sampling.max_tokens, on_done)
        for ids in _MixedBatch(model, part, own, sampling, done).run():
            stop = next((n for n, token in enumerate(ids, 1) if token in model.end_ids), len(ids))
            written.append(ids[:stop])
        done.finish()
    return written


@dataclass
class _MixedBatch:
    model: Model
    rows: Sequence[Row]
    steerings: Sequence[Sequence[Steer]]
    sampling: Sampling
    done: TextProgress

    def run(self) -> list[list[int]]:
        """New token ids of each row, as many as the longest has."""
        model = self.model
        # Keyed by identity, as in `_steered`, which groups neighbours with the same steers.
        parted = {id(own): separate(own) for own in self.steerings}
        every = {token.ids: token for tokens, _ in parted.values() for token in tokens}
        prompts = [
            substitute_tokens(model, parted[id(own)][0], row.ids)
            for row, own in zip(self.rows, self.steerings, strict=True)
        ]
        ids, mask = model.padded(prompts, left=True)
        width = ids.shape[1]
        batch = Batch(model, self.rows, (), self.sampling, listener=self.done)
        steered = self._steered(width, width - mask.sum(1), prompts)
        known = embedded(model, list(every.values()))
        with torch.no_grad(), nothing_else(model), known, steered, model.contiguous_head():
            output = model.network.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=self.sampling.max_tokens,
                do_sample=False,  # `Draw` leaves only the token that it has drawn
                pad_token_id=model.pad_id,
                **batch.parts(width),
            )
        batch.nan_detector.check(model)
        return list(output[:, width:].tolist())

    @contextmanager
    def _steered(
        self, width: int, padding: torch.Tensor, prompts: Sequence[list[int]]
    ) -> Iterator[None]:
        """Steer neighbours with the same steers together, on a clock of their own positions."""
        model = self.model
        joint = TokenClock(width, padding)
        clocks: list[tuple[TokenClock, slice]] = []
        functions: list[dict[Site, SiteFunction]] = []
        start = 0
        for _, group in groupby(self.steerings, key=id):
            same = list(group)
            part = slice(start, start + len(same))
            _, steers = separate(same[0])
            values = prompt_values(model, steers, prompts[part])
            clock = TokenClock(width, padding[part], values)
            functions.append(site_functions(model, steers, clock))
            clocks.append((clock, part))
            start = part.stop

        def tick(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            joint.tick(module, args, keywords)
            for clock, part in clocks:
                clock.width = joint.width
                clock.turn_to(joint.start, None if joint.ids is None else joint.ids[part])

        merged = by_rows(functions, [part.stop - part.start for _, part in clocks])
        with placed(model, merged):
            remove = before_input(model.network, tick)
            try:
                yield
            finally:
                remove()
