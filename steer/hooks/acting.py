"""Which rows a steer has changed: counted in bits of activations, at positions that matter.

A position matters if what it computes can reach a token that is asked for: padding does not, nor
does a token behind a text's end, nor, behind the last attention, a position that writes nothing.
Rows are looked at only until each of them is known to have been changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from steer.steering.reach import meets
from steer.steering.steers import Steer
from steer.vectors.sites import Site

#: A step that no text comes to.
NEVER = 1 << 40


class Record:
    """When a steer first changed each row of a clock.

    first: the step at which it did, of each row that is known to have been changed; -1 is in a text
    that is scored and writes nothing. all_acted: nothing is left to be found out.
    """

    def __init__(self, n_rows: int) -> None:
        self.first = [NEVER] * n_rows
        self.all_acted = False
        #: int64 [row] of each look that has not been waited for.
        self._looks: list[Tensor] = []
        self._leader: object = None

    def look(self, first: Tensor, by: object) -> None:
        """Note at which step a row was changed, int64 [row]. by: who looked; the first who does
        gathers, at its next look, what all have seen, so that a device is waited for once a
        forward."""
        if self._leader is None:
            self._leader = by
        elif self._leader is by:
            self.settle()
        self._looks.append(first)

    def settle(self) -> None:
        """Gather all looks."""
        if not self._looks:
            return
        device = self._looks[0].device
        seen = torch.stack([one.to(device) for one in self._looks]).amin(0).tolist()
        self._looks.clear()
        self.first = [min(pair) for pair in zip(self.first, seen, strict=True)]
        self.all_acted = max(self.first) < NEVER


class Clock(Protocol):
    """What is asked of a `steer.hooks.clock.TokenClock`."""

    def record(self, steer: Steer) -> Record: ...

    def first_steps(self, found: Tensor, *, only_writing: bool, n_before: int) -> Tensor: ...


class Lookout:
    """Compares what one part of an edit at a site got with what it gave.

    only_writing: the site lies behind the last attention.
    """

    def __init__(self, clock: Clock, steers: Sequence[Steer], *, only_writing: bool) -> None:
        self._clock, self._only_writing = clock, only_writing
        self._records = [clock.record(steer) for steer in steers]
        self._n_looks = 0
        self.is_needed = bool(self._records)

    def compare(self, before: Tensor, after: Tensor, dtype: torch.dtype) -> None:
        """Look at activations [row, position, d_model] before and after, as `dtype` holds them."""
        self.look(changed(before, after, dtype))

    def look(self, found: Tensor) -> None:
        """Note changes, bool [row, position]."""
        first = self._clock.first_steps(
            found, only_writing=self._only_writing, n_before=self._n_looks
        )
        self._n_looks += 1
        for record in self._records:
            record.look(first, self)
        self.is_needed = not all(record.all_acted for record in self._records)


def changed(before: Tensor, after: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether a bit of each position's activation differs, bool [row, position]."""
    return (before.to(dtype) != after.to(dtype)).any(-1)


def acted(clock: Clock, steer: Steer, row: int, n_steps: int | None = None) -> bool:
    """Whether a steer changed a row by the time that it had written `n_steps` tokens."""
    record = clock.record(steer)
    record.settle()
    return record.first[row] < (NEVER if n_steps is None else n_steps)


def reached(steer: Steer, prompt: Sequence[bool], n_new: int, n_layers: int) -> bool:
    """Whether scope and schedule meet a text. prompt: of each of its tokens, whether it is special.
    n_new: how many tokens are written."""
    return meets(
        steer.scope,
        steer.schedule,
        len(prompt),
        n_new,
        prompt,
        only_writing=acts_behind_attention(steer, n_layers),
    )


def acts_behind_attention(steer: Steer, n_layers: int) -> bool:
    """Whether all that a steer edits lies behind the last attention of a model."""
    return not steer.op.writes and all(
        is_behind_attention(site, n_layers) for site in steer.sites()
    )


def is_behind_attention(site: Site, n_layers: int) -> bool:
    """Whether a site lies behind the last attention, so that no later position looks at it."""
    return site.layer == n_layers - 1 and site.name != "resid_pre"
