"""Run the ends of rows after cached beginnings, where only the ends are edited.

An edit of a response does not change the tokens before it, so their keys and values are the same at
every step, and no gradient flows through them. The ends then run alone, after these keys and
values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steer.hooks.head import Ending, apply_head, ending_rows, has_head, last_hidden
from steer.hooks.trunk import are_alike, passes
from steer.models.caches import can_join, state_of
from steer.models.model import Model


@dataclass(frozen=True)
class Beginnings:
    """The keys and values of the beginnings of rows. name: of the cache, as an argument of the
    forward. mask: int64 [row, position], 0 at padding, which stands on the left."""

    name: str
    cache: Any
    mask: Tensor


@torch.no_grad()
def read_beginnings(model: Model, beginnings: Sequence[Sequence[int]]) -> Beginnings:
    """Run the beginnings of rows without edits. Call `takes_beginnings` before."""
    ids, mask = model.padded(beginnings, left=True)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model.body(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
    return Beginnings(*state_of(output), mask)


def last_hidden_after(model: Model, beginnings: Beginnings, rows: Sequence[Ending]) -> Tensor:
    """As `last_hidden` of the rows after their beginnings. Uses up the beginnings.

    rows: the token ids after each beginning, and how many tokens at their end are predicted, which
    are not all of them.
    """
    ids, _ = model.padded([row for row, _ in rows], left=False)
    # No token sees the padding on the right, so it needs no mask.
    mask = torch.cat([beginnings.mask, torch.ones_like(ids)], 1)
    positions = (mask.cumsum(-1) - 1)[:, -ids.shape[1] :]
    hidden: Tensor = model.body(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        **{beginnings.name: beginnings.cache},
    )[0]
    return ending_rows(hidden, rows)


def takes_beginnings(model: Model) -> bool:
    """Whether this model gives the same logits after cached beginnings; found by a test."""
    return passes(model, _same_after_beginnings)


@torch.no_grad()
def _same_after_beginnings(model: Model) -> bool:
    if not has_head(model):
        return False
    size = int(model.network.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(size, (n,), generator=generator).tolist() for n in (7, 9)]
    starts = (3, 6)
    expected = apply_head(model, last_hidden(model, [(row, 2) for row in rows]))
    beginnings = read_beginnings(
        model, [row[:start] for row, start in zip(rows, starts, strict=True)]
    )
    if not can_join(beginnings.cache):
        return False
    ends: list[Ending] = [(row[start:], 2) for row, start in zip(rows, starts, strict=True)]
    return are_alike(model, apply_head(model, last_hidden_after(model, beginnings, ends)), expected)
