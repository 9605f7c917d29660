"""One run of Hugging Face's `generate`, steered, watched and guarded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from steer.base.errors import GuardError
from steer.base.text import cut
from steer.generate.decoding import Draw, NanDetector, StopOnTrip, Stops, Streamer, nothing_else
from steer.generate.guidance import GuidedScores, guide_activations
from steer.hooks.acting import acted, reached
from steer.hooks.clock import TokenClock
from steer.hooks.gates import prompt_values
from steer.hooks.hooks import placed
from steer.hooks.inject import injected
from steer.hooks.tokens import embedded, substitute_tokens
from steer.hooks.watch import Watch
from steer.models.model import Model
from steer.steering.generation import Finish, GateReading, Generation, Row, Sampling, Trip
from steer.steering.projection import Guard, Projection
from steer.steering.steers import Steer
from steer.steering.tokens import separate
from steer.vectors.sites import Site


class Listener(Protocol):
    """Is called at each step of all rows. Tensors are not copied and must not be changed.

    scores: gets the logits [row, vocabulary] before a token is chosen. receive: gets the ids
    with the new tokens at the end; returns which rows stop, bool [row].
    """

    def scores(self, ids: Tensor, scores: Tensor) -> Tensor: ...

    def receive(self, ids: Tensor, scores: Tensor, **keywords: object) -> Tensor: ...


class TextProgress:
    """A listener that reports the progress of a batch in texts; each new token is a part of one."""

    def __init__(self, n_texts: int, max_tokens: int, on_done: Callable[[float], None]) -> None:
        self._n_texts, self._left = n_texts, float(n_texts)
        self._step, self._on_done = n_texts / max_tokens, on_done

    def scores(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Report another token of each text."""
        self._report(min(self._left, self._step))
        return scores

    def receive(self, ids: Tensor, scores: Tensor, **keywords: object) -> Tensor:
        """Stop nothing."""
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    def finish(self) -> None:
        """Report the remaining parts of texts that ended early."""
        self._report(self._left)

    def take_back(self) -> None:
        """Take all reports back after a failure."""
        self._report(self._left - self._n_texts)

    def _report(self, n_texts: float) -> None:
        self._left -= n_texts
        self._on_done(n_texts)


@dataclass
class Batch:
    """One run of `generate`: its rows, and everything that observes it."""

    model: Model
    rows: Sequence[Row]
    steers: Sequence[Steer]
    sampling: Sampling
    watched: Sequence[Projection] = ()
    guards: Sequence[Guard] = ()
    on_text: Callable[[str], None] | None = None
    listener: Listener | None = None
    #: The strength of each condition that guides the rows.
    strengths: Sequence[float] = ()
    #: Where the conditions guide activations; None: they guide the next token's distribution.
    live_layer: int | None = None
    #: For each row that a guard has stopped: the guard, and the index of the new token.
    tripped: dict[int, tuple[Guard, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokens, self.steers = separate(self.steers)

    @cached_property
    def prompts(self) -> list[list[int]]:
        """The token ids of each row's prompt, with learned tokens in their places."""
        return [substitute_tokens(self.model, self.tokens, row.ids) for row in self.rows]

    def run(self) -> list[list[int]]:
        """New token ids of each row, as many as the longest has.

        Raises:
            HookError: a steer was never applied, or logits are not numbers.
        """
        model, sampling = self.model, self.sampling
        # A beam search has one row per prompt, and produces all its samples.
        rows = list(zip(self.prompts, self.rows, strict=True))
        rows = rows[:: sampling.samples] if sampling.beams > 1 else rows
        prompts = [
            ids
            for own, row in rows
            for ids in (
                own,
                *(
                    substitute_tokens(model, self.tokens, conditioned)
                    for conditioned in row.conditioned
                ),
            )
        ]
        ids, mask = model.padded(prompts, left=True)
        width = ids.shape[1]
        self.set_prompts(prompts, width - mask.sum(1))
        steered = injected(model, self.steers, self.clock, self.watch.functions)
        live = (
            {}
            if self.live_layer is None
            else {Site(self.live_layer): guide_activations(self.strengths)}
        )
        with (
            torch.no_grad(),
            nothing_else(model),
            embedded(model, self.tokens),
            steered,
            placed(model, live),
            model.contiguous_head(),
        ):
            output = model.network.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=sampling.max_tokens,
                do_sample=False,  # `Draw` leaves only the token that it has drawn
                num_beams=sampling.beams,
                num_return_sequences=sampling.samples if sampling.beams > 1 else 1,
                pad_token_id=model.pad_id,
                **self.parts(width),
            )
        self.nan_detector.check(model)
        # All rows of a prompt have the same new tokens.
        return list(output[:: 1 + len(self.strengths), width:].tolist())

    def set_prompts(self, prompts: Sequence[list[int]], padding: Tensor) -> None:
        """Set the clock and the watch, and read prompt gates that need a forward of their own.

        prompts: token ids. padding: int64 [prompt], pad tokens before each.
        """
        # Gates that read above an edit read the unsteered prompts first.
        first = min(self._edit_depths(), default=(self.model.n_layers, 0))
        values = prompt_values(self.model, self.steers, prompts, first)
        self.clock = TokenClock(max(map(len, prompts)), padding, values)
        self.watch = Watch(self.watched, self.guards, self.clock)

    def _edit_depths(self) -> list[tuple[int, int]]:
        """The depth of the first edit of each steer and guard."""
        ablating = [guard for guard in self.guards if guard.on_trip == "ablate"]
        sites = [steer.first_site for steer in self.steers]
        sites += [guard.threshold.projection.site for guard in ablating]
        return [site.depth for site in sites]

    def parts(self, start: int) -> dict[str, Any]:
        """Logits processors, stopping criteria and streamer, for new tokens from column `start`."""
        model, sampling = self.model, self.sampling
        self.nan_detector = NanDetector()
        processors: list[Any] = [self.nan_detector]
        processors += [] if self.listener is None else [self.listener.scores]
        if self.strengths:
            in_scores = self.live_layer is None
            # Where activations are guided, the plain run alone gives the next token.
            weights = self.strengths if in_scores else [0.0] * len(self.strengths)
            processors.append(GuidedScores(weights))
        if sampling.temperature > 0:
            processors += model.warpers(sampling.temperature, sampling.top_k, sampling.top_p)
            draws = [random_stream(row, sampling).random(sampling.max_tokens) for row in self.rows]
            draws = [draw for draw in draws for _ in range(1 + len(self.strengths))]
            processors.append(Draw(draws, model.device))
        stops = Stops(model, sampling.stop, start) if sampling.stop else None
        self.stopper = None
        if any(guard.on_trip != "ablate" for guard in self.guards):
            self.stopper = StopOnTrip(self.watch, model.end_ids, start, stops)
            self.tripped = self.stopper.tripped
        streamer = None
        if self.on_text is not None:
            streamer = Streamer(model, sampling.stop, self.on_text, self.stopper, self.nan_detector)
        criteria: list[Any] = [each for each in (stops, self.stopper) if each is not None]
        criteria += [] if self.listener is None else [self.listener.receive]
        return {
            "logits_processor": processors,
            "stopping_criteria": criteria,
            "streamer": streamer,
        }

    def generations(self) -> list[Generation]:
        """The rows' continuations.

        Raises:
            GuardError: a guard with `on_trip` error tripped.
        """
        new = self.run()
        generations = [self.generation(index, ids) for index, ids in enumerate(new)]
        for index, (guard, _) in sorted(self.tripped.items()):
            if guard.on_trip == "error":
                tripped = generations[index]
                raise GuardError(f"{tripped.trips[-1]}{_of_prompt(tripped)}")
        return generations

    def generation(self, index: int, ids: list[int]) -> Generation:
        """The continuation of a row with these new token ids."""
        model, row = self.model, self.rows[index]
        length = next((i for i, token in enumerate(ids) if token in model.end_ids), len(ids))
        finish: Finish = "end" if length < len(ids) else "length"
        tripped = self.tripped.get(index)
        if tripped is not None:
            length, finish = tripped[1], "guard"
        decoded = model.decode(ids[:length])
        text = cut(decoded, self.sampling.stop)
        if text != decoded:
            finish = "stop"
            length = _tokens_to(model, ids[:length], len(text))
        return Generation(
            row.prompt,
            row.sample,
            text,
            length,
            finish,
            [model.token(token) for token in ids[:length]] if self.watched else [],
            {str(each): self.watch.values(each, index, length) for each in self.watched},
            self._gates(index, length),
            self._trips(index, ids, length),
            *self._without_effect(index, ids, length, finish),
        )

    def _without_effect(
        self, index: int, ids: list[int], length: int, finish: Finish
    ) -> tuple[list[str], list[str]]:
        """Steers that changed nothing in a row's text: idle ones, and those whose bound was not
        reached. Steers with a closed gate are neither."""
        # The end token is steered too.
        n_steps = len(ids) if finish == "length" else min(len(ids), length + 1)
        each = 1 + len(self.strengths)  # runs of a guided text
        row = index // self.sampling.samples if self.sampling.beams > 1 else index * each
        closed = {gate.gate for gate in self._gates(index, length) if not gate.share}
        special = [token in self.model.special_ids for token in self.prompts[index]]
        idle, unreached = [], []
        for steer in dict.fromkeys(self.steers):
            runs = range(row, row + each)
            if not steer.coefficient.value or any(
                acted(self.clock, steer, run, n_steps) for run in runs
            ):
                continue
            if steer.gate is not None and str(steer.gate) in closed:
                continue
            bounded = steer.op.op.bounded
            if bounded and reached(steer, special, n_steps, self.model.n_layers):
                unreached.append(str(steer))
            else:
                idle.append(str(steer))
        return idle, unreached

    def _gates(self, index: int, length: int) -> list[GateReading]:
        if self.sampling.beams > 1:  # rows are prompts, and no gate looks at tokens
            index //= self.sampling.samples
            shares = {}
        else:
            shares = self.clock.shares(index, length)
        gates = dict.fromkeys(steer.gate for steer in self.steers if steer.gate is not None)
        read = {gate: self.clock.values[gate] for gate in gates if gate in self.clock.values}
        of_prompt = [
            GateReading(str(gate), float(gate.threshold.passes(row[index])), row[index])
            for gate, row in read.items()
        ]
        return of_prompt + [GateReading(str(gate), share) for gate, share in shares.items()]

    def _trips(self, index: int, ids: list[int], length: int) -> list[Trip]:
        trips = []
        if index in self.tripped:
            trips.append(self.tripped[index])
        for guard in self.guards:
            if guard.on_trip == "ablate":
                step = self.watch.first_trip(guard, index, length)
                trips += [] if step is None else [(guard, step)]
        return [self._trip(guard, index, ids, step) for guard, step in trips]

    def _trip(self, guard: Guard, index: int, ids: list[int], step: int) -> Trip:
        value = self.watch.value(guard, index, step)
        return Trip(str(guard), step, self.model.token(ids[step]), value)


def random_stream(row: Row, sampling: Sampling) -> np.random.Generator:
    """The random numbers of a row, one for each new token, independent of other rows."""
    return np.random.default_rng([sampling.seed, row.sample, *row.ids])


def _tokens_to(model: Model, ids: list[int], n_characters: int) -> int:
    """The number of tokens that the first `n_characters` take."""
    return next(
        (count for count in range(len(ids)) if len(model.decode(ids[:count])) >= n_characters),
        len(ids),
    )


def _of_prompt(generation: Generation) -> str:
    """The end of an error message that names the prompt."""
    prompt = generation.prompt
    return f" after {prompt if len(prompt) <= 60 else '...' + prompt[-57:]!r}"
