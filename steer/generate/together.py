"""Continuous batching: texts with different steers share forwards.

A forward adds one token to each text. Texts enter and leave between forwards, and each gets the
same tokens as on its own: its steers, gates, watches and guards only see its positions, and its
random numbers depend on its seed. Rows are padded on the left; the cache is split and joined as
texts enter and leave. Models without a key-value cache (with a recurrent state, say) run row by
row.

A text has one run of the model, or several that continue with the same tokens: its own, one for
each condition that guides it (`steer.generate.guidance`), and one without steering, which gives the
unsteered model's logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from steer.base.errors import GuardError
from steer.generate.batch import Batch, random_stream
from steer.generate.decoding import Stops, drawn
from steer.generate.guidance import guided
from steer.hooks.hooks import SiteFunction, placed
from steer.hooks.inject import composed, site_functions
from steer.hooks.tokens import embedded
from steer.models import caches
from steer.models.memory import token_budget
from steer.models.model import Model
from steer.models.numbers import not_numbers
from steer.steering.generation import Generation, Row, Sampling
from steer.steering.projection import Guard, Projection
from steer.steering.steers import Steer
from steer.steering.tokens import FIRST_ID
from steer.vectors.sites import Site


class Run:
    """One row of the model's forwards: a prompt and the new tokens of its text, under steers.

    logits: float32 [vocabulary] for the next token, kept until all runs of the text have theirs.
    on_prompt: called with the logits after each token of the prompt, [prompt token, vocabulary].
    """

    def __init__(
        self, text: Continuation, batch: Batch, on_prompt: Callable[[Tensor], None] | None = None
    ) -> None:
        self.text, self._batch, self.on_prompt = text, batch, on_prompt
        self.prompt, self.tokens = batch.prompts[0], batch.tokens
        self.logits: Tensor | None = None

    @cached_property
    def functions(self) -> dict[Site, SiteFunction]:
        """The site functions for its own activations [1, position, d_model]."""
        batch = self._batch
        batch.set_prompts([self.prompt], torch.zeros(1, dtype=torch.int64))
        edits = site_functions(batch.model, batch.steers, batch.clock)
        return composed([edits, batch.watch.functions])

    @property
    def length(self) -> int:
        """The number of tokens, including the prompt."""
        return len(self.prompt) + len(self.text.new)

    def turn_to(self, start: int, ids: Tensor) -> None:
        """Set its clock for a forward of its tokens from position `start` on."""
        self._batch.clock.turn_to(start, ids)


class Continuation:
    """One text in generation.

    strengths: of the conditions that guide it, whose prompts are the row's `conditioned`. prefill:
    token ids that the new tokens begin with, as if they had been sampled. plain: whether to run the
    unsteered model too. on_token: called with each new token of the text, the logits float32
    [vocabulary] that it was chosen from (the steered model's, before temperature), and those of the
    unsteered run, if any. on_prompt: called with the logits after each token of the prompt,
    [prompt token, vocabulary]; with it, on_token is also called with the token that ends the text.
    """

    def __init__(
        self,
        model: Model,
        row: Row,
        steers: Sequence[Steer],
        sampling: Sampling,
        watched: Sequence[Projection] = (),
        guards: Sequence[Guard] = (),
        on_token: Callable[[int, Tensor, Tensor | None], None] = lambda token, logits, plain: None,
        *,
        strengths: Sequence[float] = (),
        prefill: Sequence[int] = (),
        plain: bool = False,
        on_prompt: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.sampling = sampling
        self.new: list[int] = []
        self.error: Exception | None = None
        self.is_over = False
        self.parked: list[_Cohort] = []
        self._model, self._on_token = model, on_token
        self._batch = Batch(model, [row], steers, sampling, watched, guards)
        self.prompt, self.steers = self._batch.prompts[0], steers
        self._strengths, self._prefill = strengths, prefill
        self._stream = random_stream(row, sampling)
        self._stops = Stops(model, sampling.stop, 0)
        others = [Batch(model, [Row("", 0, ids)], steers, sampling) for ids in row.conditioned]
        # Learned tokens in the prompt are part of the steering.
        bare = [token for token in row.ids if token < FIRST_ID]
        others += [Batch(model, [Row("", 0, bare)], (), sampling)] if plain else []
        self.runs = [Run(self, self._batch, on_prompt), *(Run(self, batch) for batch in others)]
        self._with_end = on_prompt is not None

    @property
    def length(self) -> int:
        """The number of tokens in all its runs, including the prompts."""
        return sum(run.length for run in self.runs)

    @property
    def is_ready(self) -> bool:
        """Whether all runs have the logits of the next token."""
        return all(run.logits is not None for run in self.runs)

    def take_logits(self) -> tuple[Tensor, Tensor | None]:
        """The guided logits of the next token, [vocabulary], and those of the unsteered run."""
        logits = [run.logits for run in self.runs if run.logits is not None]
        for run in self.runs:
            run.logits = None
        n = 1 + len(self._strengths)
        plain = logits[n] if len(logits) > n else None
        if n == 1:
            return logits[0], plain
        return guided(torch.stack(logits[:n]).log_softmax(-1), self._strengths), plain

    def uniform(self) -> float:
        """The random number of the next token."""
        return float(self._stream.random())

    def write(self, token: int, logits: Tensor, plain: Tensor | None = None) -> None:
        """Append a token, or the next one of the prefill."""
        if len(self.new) < len(self._prefill):
            token = self._prefill[len(self.new)]
        self.new.append(token)
        ended = token in self._model.end_ids
        stopped = ended or self._stops.contains_stop(self.new)
        tripped = not stopped and self._trips(len(self.new) - 1)
        if not tripped and (self._with_end or not ended):
            self._on_token(token, logits, plain)
        self.is_over = stopped or tripped or len(self.new) >= self.sampling.max_tokens

    def _trips(self, step: int) -> bool:
        watch = self._batch.watch
        for guard in watch.guards:
            if guard.on_trip != "ablate" and watch.tripped(guard, step):
                self._batch.tripped[0] = guard, step
                return True
        return False

    def newest_projections(self) -> list[float]:
        """The watched projections of its newest token, in the units of their files."""
        watch = self._batch.watch
        return [watch.value_at(each, 0, len(self.new) - 1) for each in self._batch.watched]

    def generation(self) -> Generation:
        """The finished text.

        Raises:
            GuardError: a guard with `on_trip` error tripped.
        """
        generation = self._batch.generation(0, self.new)
        if self._batch.tripped and self._batch.tripped[0][0].on_trip == "error":
            raise GuardError(str(generation.trips[-1]))
        return generation


@dataclass(eq=False)
class _Cohort:
    """Runs that share a cache. width: its columns. name: its argument name in the model."""

    rows: list[Run]
    width: int = 0
    name: str = ""
    cache: Any = None

    @property
    def can_join(self) -> bool:
        return caches.can_join(self.cache)

    def pads(self) -> list[int]:
        """Columns of padding before each text; its newest token is not in the cache yet."""
        return [self.width - row.length + 1 for row in self.rows]

    def select(self, indices: list[int]) -> _Cohort:
        """A cohort of some of its runs, without the padding that they all share."""
        pads = self.pads()
        dropped = min(pads[index] for index in indices)
        cache = caches.select(self.cache, indices, dropped)
        rows = [self.rows[index] for index in indices]
        return _Cohort(rows, self.width - dropped, self.name, cache)

    def joined(self, other: _Cohort) -> _Cohort:
        cache = caches.join(self.cache, other.cache)
        rows = [*self.rows, *other.rows]
        return _Cohort(rows, max(self.width, other.width), self.name, cache)


class RunningTexts:
    """The texts that a model is generating."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._cohorts: list[_Cohort] = []
        self._accepted = set(inspect.signature(model.network.forward).parameters)

    @property
    def rows(self) -> list[Continuation]:
        return list(dict.fromkeys(run.text for cohort in self._cohorts for run in cohort.rows))

    def add(self, rows: Sequence[Continuation]) -> None:
        """Start texts, or resume parked ones. A new text gets its first token."""
        for row in rows:
            for cohort in row.parked:
                self._join(cohort)
            row.parked = []
        new = [run for row in rows if not row.new and row.error is None for run in row.runs]
        budget = token_budget(self._model)
        while new:
            count = 1
            # The logits of all positions of a prompt take memory, so such runs start one at a time.
            while (
                count < len(new)
                and new[0].on_prompt is new[count].on_prompt is None
                and (count + 1) * _longest(new[: count + 1]) <= budget
            ):
                count += 1
            self._begin(new[:count])
            new = new[count:]
        self._write()

    def step(self) -> None:
        """Generate one more token of each text."""
        for cohort in list(self._cohorts):
            ids = torch.tensor([[run.text.new[-1]] for run in cohort.rows])
            self._try(cohort, ids, cohort.pads())
        self._write()

    def park(self, row: Continuation) -> None:
        """Pause a text until it is added again."""
        for cohort in list(self._cohorts):
            own = [run for run in cohort.rows if run.text is row]
            if own and (waiting := self._without(cohort, own)) is not None:
                row.parked.append(waiting)

    def remove(self, row: Continuation) -> None:
        """Remove a text, whether it is parked or not."""
        row.is_over, row.parked = True, []
        self._drop_finished()

    def clear(self) -> list[Continuation]:
        """Remove and return all texts that are not parked."""
        rows = self.rows
        self._cohorts.clear()
        return rows

    def _begin(self, runs: Sequence[Run]) -> None:
        ready = [run for run in runs if _is_ready(run)]
        if not ready:
            return
        together = len(ready) == 1 or self._can_pad
        for part in [ready] if together else [[run] for run in ready]:
            ids, _ = self._model.padded([run.prompt for run in part], left=True)
            cohort = _Cohort(list(part))
            self._cohorts.append(cohort)
            self._try(cohort, ids, [ids.shape[1] - len(run.prompt) for run in part])
            if cohort in self._cohorts and cohort.can_join:
                self._cohorts.remove(cohort)
                self._join(cohort)

    @cached_property
    def _can_pad(self) -> bool:
        """Whether texts can be padded on the left, which a key-value cache allows."""
        ids = torch.zeros(1, 1, dtype=torch.int64, device=self._model.device)
        with torch.no_grad():
            output = self._model.network(input_ids=ids, use_cache=True)
        return caches.can_join(caches.state_of(output)[1])

    def _join(self, cohort: _Cohort) -> None:
        """Join a cohort with another if their caches allow it."""
        for index, other in enumerate(self._cohorts):
            if cohort.can_join and other.can_join:
                self._cohorts[index] = other.joined(cohort)
                return
        self._cohorts.append(cohort)

    def _drop_finished(self) -> None:
        for cohort in list(self._cohorts):
            over = [run for run in cohort.rows if _is_over(run.text)]
            if over:
                self._without(cohort, over)

    def _without(self, cohort: _Cohort, runs: Sequence[Run]) -> _Cohort | None:
        """Take runs out of a cohort. Returns a cohort of those runs, unless all of them are
        over."""
        out = [index for index, run in enumerate(cohort.rows) if run in runs]
        kept = [index for index in range(len(cohort.rows)) if index not in out]
        place = self._cohorts.index(cohort)
        if not kept:
            del self._cohorts[place]
            return cohort
        taken = None
        if not all(_is_over(run.text) for run in runs):
            taken = cohort.select(out)
        self._cohorts[place] = cohort.select(kept)
        return taken

    def _try(self, cohort: _Cohort, ids: Tensor, pads: list[int]) -> None:
        """`_forward`; if it fails, for example for lack of memory, only this cohort's texts end."""
        try:
            self._forward(cohort, ids, pads)
        except Exception as error:
            self._cohorts.remove(cohort)
            for run in cohort.rows:
                run.text.error = error

    def _forward(self, cohort: _Cohort, ids: Tensor, pads: list[int]) -> None:
        """One forward of a cohort, with `pads` columns of padding before each of its runs. Each
        gets the logits of its next token."""
        model, width = self._model, ids.shape[1]
        ids = ids.to(model.device)
        start, stop = cohort.width, cohort.width + width
        for run, own, pad in zip(cohort.rows, ids, pads, strict=True):
            run.turn_to(max(start - pad, 0), own[None, max(pad - start, 0) :])
        columns = torch.arange(stop)
        mask = (columns >= torch.tensor(pads)[:, None]).long().to(model.device)
        inputs = model.network.prepare_inputs_for_generation(
            ids,
            is_first_iteration=not start,
            attention_mask=mask,
            use_cache=True,
            **self._options(mask, width, all_positions=not start and _needs_prompt(cohort.rows)),
            **({} if cohort.cache is None else {cohort.name: cohort.cache}),
        )
        skipped = [max(pad - start, 0) for pad in pads]
        functions = _by_site(cohort.rows, skipped)
        tokens = list({token.ids: token for row in cohort.rows for token in row.tokens}.values())
        hooked = placed(model, functions)
        with torch.no_grad(), embedded(model, tokens), hooked, model.contiguous_head():
            output = model.network(**inputs)
        cohort.width = stop
        cohort.name, cohort.cache = caches.state_of(output)
        for run, logits in zip(cohort.rows, output.logits, strict=True):
            if run.on_prompt is not None and not start:
                run.on_prompt(logits[-len(run.prompt) :].float())
            run.logits = logits[-1].float()

    def _options(self, mask: Tensor, width: int, *, all_positions: bool) -> dict[str, Any]:
        """More arguments of the model's forward. all_positions: return logits of all positions."""
        arguments: dict[str, Any] = {}
        if "logits_to_keep" in self._accepted and not all_positions:
            arguments["logits_to_keep"] = 1
        if "position_ids" in self._accepted:
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -width:]
        return arguments

    def _write(self) -> None:
        """Choose the next token of each text. All of its runs must have logits."""
        rows = [row for row in self.rows if row.error is None and row.is_ready]
        self._choose(rows, [row.take_logits() for row in rows])
        self._drop_finished()

    def _choose(
        self, rows: Sequence[Continuation], both: Sequence[tuple[Tensor, Tensor | None]]
    ) -> None:
        """Choose a token for each text from its steered and unsteered logits."""
        if not rows:
            return
        logits = torch.stack([own for own, _ in both])
        tokens = logits.argmax(-1)
        drawing: dict[tuple[float, int, float], list[int]] = {}
        for index, row in enumerate(rows):
            settings = row.sampling
            if settings.temperature > 0:
                key = settings.temperature, settings.top_k, settings.top_p
                drawing.setdefault(key, []).append(index)
        for key, indices in drawing.items():
            scores = logits[indices]
            for warp in self._model.warpers(*key):
                scores = warp(None, scores)
            uniform = torch.tensor([rows[index].uniform() for index in indices])
            tokens[indices] = drawn(scores, uniform.double().to(scores.device))
        broken = logits[:, 0].isnan().tolist()
        for index, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            if broken[index]:
                row.error = not_numbers(self._model)
                continue
            row.write(token, logits[index], both[index][1])


def _is_over(row: Continuation) -> bool:
    return row.is_over or row.error is not None


def _is_ready(run: Run) -> bool:
    """Whether its site functions can be built; if not, the error is stored in its text."""
    try:
        _ = run.functions
    except Exception as error:  # ends only this text
        run.text.error = error
    return run.text.error is None


def _by_site(rows: Sequence[Run], skipped: Sequence[int]) -> dict[Site, SiteFunction]:
    """The site functions for all runs together. skipped: columns of padding before each."""
    parts: dict[Site, list[tuple[Run, int, int, SiteFunction]]] = {}
    for index, (row, pad) in enumerate(zip(rows, skipped, strict=True)):
        for site, function in row.functions.items():
            parts.setdefault(site, []).append((row, index, pad, function))
    return {site: _by_run(own) for site, own in sorted(parts.items())}


def _by_run(parts: Sequence[tuple[Run, int, int, SiteFunction]]) -> SiteFunction:
    def run(resid: Tensor) -> Tensor | None:
        edited = None
        for row, index, pad, function in parts:
            if row.text.error is not None:
                continue
            try:
                own = function(resid[index : index + 1, pad:])
            except Exception as error:  # ends only this text
                row.text.error = error
                continue
            if own is not None:
                edited = resid.clone() if edited is None else edited
                edited[index : index + 1, pad:] = own
        return edited

    return run


def _needs_prompt(rows: Sequence[Run]) -> bool:
    return any(run.on_prompt is not None for run in rows)


def _longest(rows: Sequence[Run]) -> int:
    return max(len(row.prompt) for row in rows)
