"""Different steers for the requests of one batch: a table with a row, or slot, for each.

Engines run the tokens of all requests in one flat batch, through graphs that are compiled once. So
everything that differs between requests is in tensors of fixed size and address: `rows` gives the
slot of each token in the batch, and at each layer slot s computes

    h + delta[s] + up (share[s] * (down h)) + the ops of s along directions, one after another

Slot 0 does nothing. Terms that no slot needs are left out, so that they cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from steer.steering.plan import ProjectionEdit, plan
from steer.steering.scope import EVERYWHERE
from steer.steering.steers import ALWAYS, Steer
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of the tables, which has to be known before the engine compiles its graphs.

    layers: all that a slot may edit. n_slots: including slot 0. n_along: the most ops other than
    add at one layer of a slot.
    """

    layers: tuple[int, ...]
    n_slots: int
    n_along: int


class LayerSlots(nn.Module):
    """The edits of every slot to resid_post of one layer.

    rows: int64 [most tokens of a batch], shared by all layers. low_rank: down [k, d_model] and up
    [d_model, k] of each low-rank vector at this layer.
    """

    delta: Tensor
    direction: Tensor
    along: Tensor
    down: Tensor
    up: Tensor
    share: Tensor

    def __init__(
        self,
        layer: int,
        shape: Shape,
        d_model: int,
        rows: Tensor,
        low_rank: Sequence[tuple[SteeringVector, Tensor, Tensor]],
    ) -> None:
        super().__init__()
        self.layer, self.rows = layer, rows
        self.n_along = shape.n_along
        self.columns: dict[SteeringVector, slice] = {}
        for vector, down, _ in low_rank:
            start = sum(part.stop - part.start for part in self.columns.values())
            self.columns[vector] = slice(start, start + down.shape[0])
        rank = sum(down.shape[0] for _, down, _ in low_rank)
        self.rank = rank
        zeros = {
            "delta": (shape.n_slots, d_model),
            "direction": (shape.n_slots, shape.n_along, d_model),
            "along": (shape.n_slots, shape.n_along, 4),
            "share": (shape.n_slots, rank),
        }
        for name, size in zeros.items():
            table = torch.zeros(size, dtype=torch.float32, device=rows.device)
            self.register_buffer(name, table, persistent=False)
        parts = [(down, up) for _, down, up in low_rank]
        down = torch.cat([down for down, _ in parts]) if parts else torch.zeros(0, d_model)
        up = torch.cat([up for _, up in parts], dim=1) if parts else torch.zeros(d_model, 0)
        self.register_buffer("down", down.float().to(rows.device), persistent=False)
        self.register_buffer("up", up.float().to(rows.device), persistent=False)

    def forward(self, branch: Tensor, skip: Tensor | None) -> Tensor:
        """The `branch` with the edit added, in its own dtype; `branch + skip` is resid_post.

        Both are [token, d_model]. With skip None, the branch is resid_post.
        """
        rows = self.rows[: branch.shape[0]]
        change = self.delta[rows]
        if self.rank or self.n_along:
            h = branch.float() if skip is None else branch.float() + skip.float()
            if self.rank:
                change = change + ((h @ self.down.T) * self.share[rows]) @ self.up.T
            for index in range(self.n_along):
                u = self.direction[rows, index]
                coefficient, level, least, most = self.along[rows, index, :, None].unbind(1)
                way = level - ((h + change) * u).sum(-1, keepdim=True)
                change = change + coefficient * torch.clamp(way, least, most) * u
        return (branch.float() + change).to(branch.dtype)

    def write(self, slot: int, steers: Sequence[Steer]) -> None:
        """Fill a slot with the edits of `steers` at this layer."""
        for table in (self.delta, self.direction, self.along, self.share):
            table[slot].zero_()
        acting = [steer for steer in steers if self.layer in {s.layer for s in steer.sites()}]
        for site, site_plan in plan(acting, _no_write_sites).items():
            if site.layer != self.layer:
                continue
            if (addition := site_plan.adds.get(ALWAYS)) is not None:
                self.delta[slot] = torch.from_numpy(addition.delta.copy())
            for index, along in enumerate(site_plan.others):
                self.direction[slot, index] = torch.from_numpy(along.direction.copy())
                self.along[slot, index] = torch.tensor(_bounds(along))
        for steer in acting:
            if steer.vector in self.columns:
                self.share[slot, self.columns[steer.vector]] += steer.coefficient.value


class Slots:
    """The tables of all layers, and the slots of each set of steers.

    max_tokens: the most tokens in one batch.
    """

    def __init__(
        self,
        shape: Shape,
        vectors: Sequence[SteeringVector],
        d_model: int,
        max_tokens: int,
        device: torch.device,
    ) -> None:
        self.rows = torch.zeros(max_tokens, dtype=torch.int64, device=device)
        self.layers = {
            layer: LayerSlots(layer, shape, d_model, self.rows, _low_rank(vectors, layer))
            for layer in shape.layers
        }
        self._free = list(range(1, shape.n_slots))
        self._taken: dict[str, tuple[int, int]] = {"": (0, 0)}

    def __contains__(self, key: str) -> bool:
        """Whether a set of steers has its slots."""
        return key in self._taken

    def find(self, key: str, steers: Sequence[Steer], in_use: Mapping[str, object]) -> None:
        """Give the steers called `key` their slots, taking those of a set that is not `in_use` if
        necessary.

        Raises:
            RuntimeError: all slots are in use.
        """
        if key in self:
            return
        if len(self._free) < 2:
            for other in [name for name in self._taken if name and name not in in_use]:
                self._free += self._taken.pop(other)
        if len(self._free) < 2:
            raise RuntimeError("all slots are in use")
        prompt, response = self._free.pop(0), self._free.pop(0)
        for layer in self.layers.values():
            layer.write(prompt, _acting_steers(steers, "prompt"))
            layer.write(response, _acting_steers(steers, "response"))
        self._taken[key] = prompt, response

    def fill(self, keys: Sequence[str], starts: Sequence[int], firsts: Sequence[int]) -> None:
        """Set the slot of each token in the batch.

        keys: the steers of each request. starts: where its tokens begin in the batch, then the end
        of the batch. firsts: where its response begins, relative to its start; negative if it began
        in an earlier batch.
        """
        rows = np.empty(starts[-1], dtype=np.int64)  # tokens after these are padding
        for index, (key, first) in enumerate(zip(keys, firsts, strict=True)):
            start, stop = starts[index], starts[index + 1]
            begin = min(max(start + first, start), stop)
            rows[start:begin], rows[begin:stop] = self._taken[key]
        self.rows[: len(rows)].copy_(torch.from_numpy(rows))


def shape_of(steerings: Sequence[Sequence[Steer]], n_slots: int) -> Shape:
    """The size of the tables for these sets of steers."""
    plans = [plan(_everywhere(steers), _no_write_sites) for steers in steerings]
    layers = sorted({site.layer for sites in plans for site in sites})
    n_along = max((len(site.others) for sites in plans for site in sites.values()), default=0)
    return Shape(tuple(layers), n_slots, n_along)


def _acting_steers(steers: Sequence[Steer], part: str) -> list[Steer]:
    return _everywhere([steer for steer in steers if steer.scope.kind in ("all", part)])


def _everywhere(steers: Sequence[Steer]) -> list[Steer]:
    return [replace(steer, scope=EVERYWHERE) for steer in steers]


def _low_rank(
    vectors: Sequence[SteeringVector], layer: int
) -> list[tuple[SteeringVector, Tensor, Tensor]]:
    edits = []
    for vector in vectors:
        # A vector of resid_pre acts one layer lower (`Site.canonical`).
        own = layer + (vector.metadata.site == "resid_pre")
        if own in vector.metadata.layers and (pair := vector.low_rank(own)) is not None:
            down, up = (torch.from_numpy(part.copy()) for part in pair)
            edits.append((vector, down, up))
    return edits


def _bounds(along: ProjectionEdit) -> tuple[float, float, float, float]:
    """Coefficient, level, and the bounds within which a projection moves towards the level."""
    assert along.op.moves is not None  # `wire.check_engine_can` refuses others
    return along.coefficient, along.level, *along.op.moves


def _no_write_sites() -> Sequence[Site]:
    raise AssertionError("wire.check_engine_can refuses ablate=writes")
