"""Watch a model while it generates: projections of each new token, and guards.

The value of a new token is the projection at the position that predicts it (the last prompt token,
for the first), after all edits at that site, like the positions of the `response` scope. So the
value of every new token is known before the token is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steer.hooks.clock import TokenClock
from steer.hooks.gates import Reader, passes
from steer.hooks.hooks import Constants, SiteFunction
from steer.ops import registry
from steer.steering.projection import Guard, Projection
from steer.vectors.sites import Site

_NEVER = 1 << 40


class Watch:
    """Reads projections in every forward that predicts a token, and checks guards.

    Values stay on their device until they are needed, so that no step waits for it.
    """

    def __init__(
        self, projections: Sequence[Projection], guards: Sequence[Guard], clock: TokenClock
    ) -> None:
        self.guards = list(guards)
        self._clock = clock
        read = [*projections, *(guard.threshold.projection for guard in guards)]
        self._columns: dict[Site, list[Projection]] = {}
        for projection in dict.fromkeys(read):
            self._columns.setdefault(projection.site, []).append(projection)
        #: For each step, float32 [row, 1, projection].
        self._steps: dict[Site, list[Tensor]] = {site: [] for site in self._columns}
        #: The same as lists [row][step][projection], converted when needed.
        self._lists: dict[Site, list[list[list[float]]]] = {}
        # By identity, which is faster to look up than by value.
        self._looks = {id(guard): self._look(guard) for guard in self.guards}

    @property
    def functions(self) -> dict[Site, SiteFunction]:
        """The function for each site, to run after all edits there."""
        return {site: self._function(site) for site in self._columns}

    def values(self, projection: Projection, row: int, n_tokens: int) -> list[float]:
        """The projection of each of a row's first `n_tokens` new tokens, in the file's units."""
        column = self._columns[projection.site].index(projection)
        steps = self._steps[projection.site]
        known = self._lists.get(projection.site)
        if known is None or len(known[0]) != len(steps):  # moved once, not number by number
            known = self._lists[projection.site] = torch.cat(steps, dim=1).tolist()
        return [step[column] for step in known[row][:n_tokens]]

    def value_at(self, projection: Projection, row: int, step: int) -> float:
        """The projection of one new token; faster than `values` for one token at a time."""
        column = self._columns[projection.site].index(projection)
        return float(self._steps[projection.site][step][row, 0, column])

    def value(self, guard: Guard, row: int, step: int) -> float:
        """The value that a guard reads for one new token."""
        return self.values(guard.threshold.projection, row, step + 1)[step]

    def first_trip(self, guard: Guard, row: int, n_tokens: int) -> int | None:
        """The index of the first of a row's `n_tokens` new tokens that trips a guard; None if none
        does."""
        values = self.values(guard.threshold.projection, row, n_tokens)
        met = (k for k, value in enumerate(values) if guard.threshold.passes(value))
        return next((k for k in met if guard.looks(k)), None)

    def tripped(self, guard: Guard, step: int) -> list[int]:
        """The rows in which new token number `step` trips a guard."""
        if not guard.looks(step):
            return []
        steps, column = self._looks[id(guard)]
        # As lists, which is faster than a tensor operation for a few rows.
        values = steps[step].tolist()
        return [row for row, (read,) in enumerate(values) if guard.threshold.passes(read[column])]

    def trips(self, guard: Guard, step: int) -> Tensor:
        """Whether the guard trips in each row, bool [row], on the device of the values."""
        steps, column = self._looks[id(guard)]
        met = passes(guard.threshold, steps[step][:, 0, column])
        return met if guard.looks(step) else torch.zeros_like(met)

    def _look(self, guard: Guard) -> tuple[list[Tensor], int]:
        """The values by step of a guard's site, and the column of its projection."""
        projection = guard.threshold.projection
        column = self._columns[projection.site].index(projection)
        return self._steps[projection.site], column

    def _function(self, site: Site) -> SiteFunction:
        read = Reader(self._columns[site])
        ablating = [
            _Ablation(guard, self)
            for guard in self.guards
            if guard.on_trip == "ablate" and guard.threshold.projection.site == site
        ]

        steps, clock = self._steps[site], self._clock

        def watch(resid: Tensor) -> Tensor | None:
            width = resid.shape[1]
            step = clock.step(width)
            if step < 0:
                return None  # a part of the prompt that predicts nothing yet
            steps.append(read(resid if width == 1 else resid[:, -1:]))
            edited = resid
            for ablate in ablating:
                edited = ablate(edited, step)
            return None if edited is resid else edited.to(resid.dtype)

        return watch


class _Ablation:
    """Ablates a guard's direction from the token at which it trips."""

    def __init__(self, guard: Guard, watch: Watch) -> None:
        self._guard, self._watch = guard, watch
        self._direction = Constants([guard.threshold.projection.direction])
        self._since: Tensor | None = None
        self._edit = registry.ops().named("ablate").edit

    def __call__(self, resid: Tensor, step: int) -> Tensor:
        rows, width = resid.shape[:2]
        if self._since is None:
            self._since = torch.full((rows,), _NEVER, device=resid.device)
        trips = self._watch.trips(self._guard, step) & (self._since > step)
        self._since = torch.where(trips, step, self._since)
        steps = torch.arange(step - width + 1, step + 1, device=resid.device)
        weight = (steps >= self._since[:, None])[..., None].float()
        (direction,) = self._direction.beside(resid)
        return self._edit(resid, direction, 0.0, weight)
