"""Texts under steers of their own, written together: each forward gives all of them a token.

Texts come and go between forwards, and each is written as it is alone: its steers, gates, watches
and guards see its own positions only, counted as if nothing else ran, and its random numbers belong
to its seed. The rows of a forward are padded on the left, and the cache is taken apart and put
together as texts come and go. What has no cache of keys and values (a recurrent state, say) is
written row by row.
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
from steer.hooks.hooks import SiteFunction, placed
from steer.hooks.inject import site_functions, staged
from steer.models import caches
from steer.models.memory import token_budget
from steer.models.model import Model
from steer.models.numbers import not_numbers
from steer.steering.generation import Generation, Row, Sampling
from steer.steering.projection import Guard, Projection
from steer.steering.steers import Steer
from steer.vectors.sites import Site

#: Names under which models return, and take, what the next forward needs.
_CACHES = ("cache", "past_key_values", "cache_params", "state")


class Continuation:
    """One text that is being written.

    on_token: hears each new token that belongs to the text, and the logits float32 [vocabulary]
    that it was chosen from: the steered model's own, before temperature.
    """

    def __init__(
        self,
        model: Model,
        row: Row,
        steers: Sequence[Steer],
        sampling: Sampling,
        watched: Sequence[Projection] = (),
        guards: Sequence[Guard] = (),
        on_token: Callable[[int, Tensor], None] = lambda token, logits: None,
    ) -> None:
        self.prompt, self.sampling, self.steers = row.ids, sampling, steers
        self.new: list[int] = []
        self.error: Exception | None = None
        self.is_over = False
        self.parked: _Cohort | None = None
        self._model, self._on_token = model, on_token
        self._batch = Batch(model, [row], steers, sampling, watched, guards)
        self._stream = random_stream(row, sampling)
        self._stops = Stops(model, sampling.stop, 0)

    @cached_property
    def functions(self) -> dict[Site, SiteFunction]:
        """What becomes of its own activations [1, position, d_model] at each site."""
        self._batch.look_at([self.prompt], torch.zeros(1, dtype=torch.int64))
        edits = site_functions(self._model, self.steers, self._batch.clock)
        return staged([edits, self._batch.watch.functions])

    @property
    def length(self) -> int:
        """Tokens that it has, prompt and all."""
        return len(self.prompt) + len(self.new)

    def turn_to(self, start: int, ids: Tensor) -> None:
        """A forward of its tokens begins at position `start`."""
        self._batch.clock.turn_to(start, ids)

    def uniform(self) -> float:
        """The random number of the next token."""
        return float(self._stream.random())

    def write(self, token: int, logits: Tensor) -> None:
        """Go on with a token."""
        self.new.append(token)
        ended = token in self._model.end_ids
        stopped = ended or self._stops.written(self.new)
        tripped = not stopped and self._trips(len(self.new) - 1)
        if not (ended or tripped):
            self._on_token(token, logits)
        self.is_over = stopped or tripped or len(self.new) >= self.sampling.max_tokens

    def _trips(self, step: int) -> bool:
        watch = self._batch.watch
        for guard in watch.guards:
            if guard.on_trip != "ablate" and watch.tripped(guard, step):
                self._batch.tripped[0] = guard, step
                return True
        return False

    def newest(self) -> list[float]:
        """The projections of its newest token, of all that is watched, in the files' units."""
        watch = self._batch.watch
        return [watch.value_at(one, 0, len(self.new) - 1) for one in self._batch.watched]

    def generation(self) -> Generation:
        """The finished text.

        Raises:
            GuardError: a guard tripped, and was to be an error.
        """
        made = self._batch.generation(0, self.new)
        if self._batch.tripped and self._batch.tripped[0][0].on_trip == "error":
            raise GuardError(str(made.trips[-1]))
        return made


@dataclass(eq=False)
class _Cohort:
    """Texts that share a cache. width: its columns. name: that the model has for it."""

    rows: list[Continuation]
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
        """Some of its texts; padding that all of them have is dropped."""
        pads = self.pads()
        dropped = min(pads[index] for index in indices)
        cache = caches.select(self.cache, indices, dropped)
        rows = [self.rows[index] for index in indices]
        return _Cohort(rows, self.width - dropped, self.name, cache)

    def joined(self, other: _Cohort) -> _Cohort:
        cache = caches.join(self.cache, other.cache)
        rows = [*self.rows, *other.rows]
        return _Cohort(rows, max(self.width, other.width), self.name, cache)


class Together:
    """The texts that a model writes now."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._cohorts: list[_Cohort] = []
        self._accepted = set(inspect.signature(model.network.forward).parameters)

    @property
    def rows(self) -> list[Continuation]:
        return [row for cohort in self._cohorts for row in cohort.rows]

    def add(self, rows: Sequence[Continuation]) -> None:
        """Begin texts, or go on with those that were parked. What begins gets its first token."""
        for row in rows:
            if row.parked is not None:
                self._take_in(row.parked)
                row.parked = None
        new = [row for row in rows if not row.new and row.error is None]
        budget = token_budget(self._model)
        while new:
            count = 1
            while count < len(new) and (count + 1) * _longest(new[: count + 1]) <= budget:
                count += 1
            self._begin(new[:count])
            new = new[count:]

    def step(self) -> None:
        """Write one more token of each text."""
        for cohort in list(self._cohorts):
            ids = torch.tensor([[row.new[-1]] for row in cohort.rows])
            self._try(cohort, ids, cohort.pads())
        self._drop_finished()

    def park(self, row: Continuation) -> None:
        """Have a text wait until it is added again."""
        for cohort in self._cohorts:
            if row in cohort.rows:
                row.parked = self._without(cohort, [row])
                return

    def remove(self, row: Continuation) -> None:
        """Let a text go, whether it is parked or not."""
        row.is_over, row.parked = True, None
        self._drop_finished()

    def clear(self) -> list[Continuation]:
        """Let all texts go that are not parked; they are returned."""
        rows = self.rows
        self._cohorts.clear()
        return rows

    def _begin(self, rows: Sequence[Continuation]) -> None:
        ready = [row for row in rows if _is_ready(row)]
        if not ready:
            return
        together = len(ready) == 1 or self._can_pad
        for part in [ready] if together else [[row] for row in ready]:
            ids, _ = self._model.padded([row.prompt for row in part], left=True)
            cohort = _Cohort(list(part))
            self._cohorts.append(cohort)
            self._try(cohort, ids, [ids.shape[1] - len(row.prompt) for row in part])
            self._drop_finished()
            if cohort in self._cohorts and cohort.can_join:
                self._cohorts.remove(cohort)
                self._take_in(cohort)

    @cached_property
    def _can_pad(self) -> bool:
        """Whether padding before a text changes nothing: where its cache is one of keys."""
        ids = torch.zeros(1, 1, dtype=torch.int64, device=self._model.device)
        with torch.no_grad():
            made = self._model.network(input_ids=ids, use_cache=True)
        return caches.can_join(_state(made)[1])

    def _take_in(self, cohort: _Cohort) -> None:
        """Beside others, where caches can be joined."""
        for index, other in enumerate(self._cohorts):
            if cohort.can_join and other.can_join:
                self._cohorts[index] = other.joined(cohort)
                return
        self._cohorts.append(cohort)

    def _drop_finished(self) -> None:
        for cohort in list(self._cohorts):
            over = [row for row in cohort.rows if row.is_over or row.error is not None]
            if over:
                self._without(cohort, over)

    def _without(self, cohort: _Cohort, rows: Sequence[Continuation]) -> _Cohort | None:
        """Take texts out of a cohort; returns them where they may come back."""
        out = [index for index, row in enumerate(cohort.rows) if row in rows]
        kept = [index for index in range(len(cohort.rows)) if index not in out]
        place = self._cohorts.index(cohort)
        if not kept:
            del self._cohorts[place]
            return cohort
        taken = None
        if not all(row.is_over or row.error is not None for row in rows):
            taken = cohort.select(out)
        self._cohorts[place] = cohort.select(kept)
        return taken

    def _try(self, cohort: _Cohort, ids: Tensor, pads: list[int]) -> None:
        """`_forward`; where it fails, as for want of memory, its texts end, and no others."""
        try:
            self._forward(cohort, ids, pads)
        except Exception as error:
            self._cohorts.remove(cohort)
            for row in cohort.rows:
                row.error = error

    def _forward(self, cohort: _Cohort, ids: Tensor, pads: list[int]) -> None:
        """One forward of a cohort, with `pads` columns of padding before each of its texts; each
        gets the token that follows."""
        model, width = self._model, ids.shape[1]
        ids = ids.to(model.device)
        start, stop = cohort.width, cohort.width + width
        for row, own, pad in zip(cohort.rows, ids, pads, strict=True):
            row.turn_to(max(start - pad, 0), own[None, max(pad - start, 0) :])
        columns = torch.arange(stop)
        mask = (columns >= torch.tensor(pads)[:, None]).long().to(model.device)
        inputs = model.network.prepare_inputs_for_generation(
            ids,
            is_first_iteration=not start,
            attention_mask=mask,
            use_cache=True,
            **self._positions(mask, width),
            **({} if cohort.cache is None else {cohort.name: cohort.cache}),
        )
        skipped = [max(pad - start, 0) for pad in pads]
        with torch.no_grad(), placed(model, _by_site(cohort.rows, skipped)):
            output = model.network(**inputs)
        cohort.width = stop
        cohort.name, cohort.cache = _state(output)
        self._write(cohort.rows, output.logits[:, -1].float())

    def _positions(self, mask: Tensor, width: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if "logits_to_keep" in self._accepted:
            made["logits_to_keep"] = 1
        if "position_ids" in self._accepted:
            made["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -width:]
        return made

    def _write(self, rows: Sequence[Continuation], logits: Tensor) -> None:
        """Choose a token for each text from logits [row, vocabulary]."""
        tokens = logits.argmax(-1)
        drawing: dict[tuple[float, int, float], list[int]] = {}
        for index, row in enumerate(rows):
            if (one := row.sampling).temperature > 0:
                drawing.setdefault((one.temperature, one.top_k, one.top_p), []).append(index)
        for settings, indices in drawing.items():
            scores = logits[indices]
            for warp in self._model.warpers(*settings):
                scores = warp(None, scores)
            uniform = torch.tensor([rows[index].uniform() for index in indices])
            tokens[indices] = drawn(scores, uniform.double().to(scores.device))
        broken = logits[:, 0].isnan().tolist()
        for index, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            if row.error is not None:
                continue
            if broken[index]:
                row.error = not_numbers(self._model)
                continue
            row.write(token, logits[index])


def _state(output: Any) -> tuple[str, Any]:
    """What the next forward needs, and its name."""
    found = ((name, output[name]) for name in _CACHES if name in output)
    return next((one for one in found if one[1] is not None), ("", None))


def _is_ready(row: Continuation) -> bool:
    """Whether its functions can be made; why not is kept with it."""
    try:
        _ = row.functions
    except Exception as error:  # of one text, which is no reason for the others to end
        row.error = error
    return row.error is None


def _by_site(rows: Sequence[Continuation], skipped: Sequence[int]) -> dict[Site, SiteFunction]:
    """What becomes of the activations of all texts at each site; skipped: columns of padding."""
    parts: dict[Site, list[tuple[Continuation, int, int, SiteFunction]]] = {}
    for index, (row, pad) in enumerate(zip(rows, skipped, strict=True)):
        for site, function in row.functions.items():
            parts.setdefault(site, []).append((row, index, pad, function))
    return {site: _each_its_own(own) for site, own in sorted(parts.items())}


def _each_its_own(parts: Sequence[tuple[Continuation, int, int, SiteFunction]]) -> SiteFunction:
    def run(resid: Tensor) -> Tensor | None:
        edited = None
        for row, index, pad, function in parts:
            if row.error is not None:
                continue
            try:
                made = function(resid[index : index + 1, pad:])
            except Exception as error:  # it ends this text, not its neighbours
                row.error = error
                continue
            if made is not None:
                edited = resid.clone() if edited is None else edited
                edited[index : index + 1, pad:] = made
        return edited

    return run


def _longest(rows: Sequence[Continuation]) -> int:
    return max(len(row.prompt) for row in rows)
