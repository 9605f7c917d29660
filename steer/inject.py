"""The writing half of the hook layer: steers become hooks that edit activations as they pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from steer import ops
from steer.hooks import SiteFunction, placed
from steer.model import Model
from steer.sites import Site
from steer.spec import Scope
from steer.steers import Edit, Steer, total_edits


@dataclass
class TokenClock:
    """Knows the absolute position of every activation that passes.

    prompt_length: tokens of the longest prompt, which is where the response begins for all, since
    prompts are padded on the left. padding: int64 [prompt], pad tokens before each. The rest is
    counted, from the cache that the model is given, so that a forward of one token, of a chunk or
    of everything again without a cache all know where they stand.
    """

    prompt_length: int
    padding: Tensor
    start: int = field(default=0, init=False)

    def tick(self, _module: nn.Module, _args: object, keywords: dict[str, Any]) -> None:
        """Forward pre-hook of the model's body."""
        cache = keywords.get("past_key_values")
        self.start = int(cache.get_seq_length()) if cache is not None else 0

    def mask(self, scope: Scope, resid: Tensor) -> Tensor | None:
        """Where `scope` is, bool [row, position, 1] for resid [row, position, d_model].

        None stands for everywhere.
        """
        if scope.kind == "all":
            return None
        column = torch.arange(self.start, self.start + resid.shape[1], device=resid.device)
        last_of_prompt = self.prompt_length - 1
        if scope.kind == "response":
            return (column >= last_of_prompt)[None, :, None]
        if scope.kind == "prompt":
            return (column < last_of_prompt)[None, :, None]
        padding = self.padding.to(resid.device)
        # Several samples of one prompt stand next to each other.
        padding = padding.repeat_interleave(resid.shape[0] // len(padding))
        position = column[None, :] - padding[:, None]
        inside = position >= scope.start
        if scope.stop is not None:
            inside &= position <= scope.stop
        return inside[:, :, None]


@contextmanager
def injected(model: Model, steers: Sequence[Steer], clock: TokenClock) -> Iterator[None]:
    """Steer every forward of the block. All `steers` act; where they meet, they add up.

    Raises:
        SiteError: the model has no such layer or site.
        HookError: the block ended well, yet a steer was never applied.
    """
    functions = site_functions(steers, clock)
    handle = model.body.register_forward_pre_hook(clock.tick, with_kwargs=True)
    try:
        with placed(model, functions):
            yield
    finally:
        handle.remove()


def site_functions(steers: Sequence[Steer], clock: TokenClock) -> dict[Site, SiteFunction]:
    """What each site's activations become, by the positions that `clock` knows."""
    return {site: _edit(edits, clock) for site, edits in total_edits(steers).items()}


def _edit(edits: dict[Scope, Edit], clock: TokenClock) -> SiteFunction:
    tensors = {scope: _tensors(edit) for scope, edit in edits.items()}

    def edit(resid: Tensor) -> Tensor:
        edited = resid
        for scope, parts in tensors.items():
            if parts[0].device != resid.device:
                # Once: which device a layer is on is known only when its output arrives.
                parts = tensors[scope] = [part.to(resid.device) for part in parts]
            delta, *factors = parts
            if factors:
                # All act on what came in, so that their order does not show.
                delta = delta + ops.low_rank(resid, *factors)
            edited = ops.add(edited, delta, clock.mask(scope, resid))
        return edited

    return edit


def _tensors(edit: Edit) -> list[Tensor]:
    parts = (edit.delta, edit.down, edit.up)
    return [torch.from_numpy(part) for part in parts if part is not None]
