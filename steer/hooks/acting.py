"""Detect which rows a steer has changed, by any bit of an activation at a position that matters.

A position matters if its activation can influence an output token. Padding does not, nor do tokens
after the end of a text; above the last attention, only positions that predict a token do. Each row
is checked only until its first change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from steer.steering.reach import meets
from steer.steering.steers import Steer
from steer.vectors.sites import Site

#: A step that no text reaches.
NEVER = 1 << 40


class FirstChanges:
    """The step at which a steer first changed each row of a clock.

    first: the step for each row, `NEVER` for unchanged ones; -1 in texts that are only scored.
    all_acted: whether every row has been changed.
    """

    def __init__(self, n_rows: int) -> None:
        self.first = [NEVER] * n_rows
        self.all_acted = False
        #: Steps that are still on the device, int64 [row] each.
        self._pending: list[Tensor] = []
        self._leader: object = None

    def add(self, first: Tensor, by: object) -> None:
        """Add the steps at which rows were changed, int64 [row]. by: the caller. The first caller's
        next call gathers the results of all callers, to wait for the device once per forward."""
        if self._leader is None:
            self._leader = by
        elif self._leader is by:
            self.settle()
        self._pending.append(first)

    def settle(self) -> None:
        """Gather the results from the device."""
        if not self._pending:
            return
        device = self._pending[0].device
        seen = torch.stack([look.to(device) for look in self._pending]).amin(0).tolist()
        self._pending.clear()
        self.first = [min(pair) for pair in zip(self.first, seen, strict=True)]
        self.all_acted = max(self.first) < NEVER


class Clock(Protocol):
    """The part of `steer.hooks.clock.TokenClock` that is used here."""

    def record(self, steer: Steer) -> FirstChanges: ...

    def first_steps(self, changes: Tensor, *, only_writing: bool, n_before: int) -> Tensor: ...


class ChangeDetector:
    """Compares the input and the output of one part of an edit at a site.

    only_writing: the site is above the last attention.
    """

    def __init__(self, clock: Clock, steers: Sequence[Steer], *, only_writing: bool) -> None:
        self._clock, self._only_writing = clock, only_writing
        self._records = [clock.record(steer) for steer in steers]
        self._n_records = 0
        self.is_needed = bool(self._records)

    def compare(self, before: Tensor, after: Tensor, dtype: torch.dtype) -> None:
        """Compare activations [row, position, d_model] before and after, in `dtype`."""
        self.record(changed(before, after, dtype))

    def record(self, changes: Tensor) -> None:
        """Record changes, bool [row, position]."""
        first = self._clock.first_steps(
            changes, only_writing=self._only_writing, n_before=self._n_records
        )
        self._n_records += 1
        for record in self._records:
            record.add(first, self)
        self.is_needed = not all(record.all_acted for record in self._records)


def changed(before: Tensor, after: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether a bit of each position's activation differs, bool [row, position]."""
    return (before.to(dtype) != after.to(dtype)).any(-1)


def acted(clock: Clock, steer: Steer, row: int, n_steps: int | None = None) -> bool:
    """Whether a steer has changed a row within its first `n_steps` new tokens."""
    record = clock.record(steer)
    record.settle()
    return record.first[row] < (NEVER if n_steps is None else n_steps)


def reached(steer: Steer, prompt: Sequence[bool], n_new: int, n_layers: int) -> bool:
    """Whether a steer's scope and schedule cover any position of a text. prompt: for each token of
    the prompt, whether it is special. n_new: the number of new tokens."""
    return meets(
        steer.scope,
        steer.schedule,
        len(prompt),
        n_new,
        prompt,
        only_writing=acts_behind_attention(steer, n_layers),
    )


def acts_behind_attention(steer: Steer, n_layers: int) -> bool:
    """Whether all sites of a steer are above the last attention of a model."""
    return not steer.op.writes and all(
        is_behind_attention(site, n_layers) for site in steer.sites()
    )


def is_behind_attention(site: Site, n_layers: int) -> bool:
    """Whether a site is above the last attention, so that no later position depends on it."""
    return site.layer == n_layers - 1 and site.name != "resid_pre"
