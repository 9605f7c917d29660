"""Steer whatever is run inside a `with` block: bare forwards, and Hugging Face's own `generate`.

`steer.generate` knows its prompts before it begins. Here they are known only when they arrive: a
forward that continues no cache begins a new text, and its tokens are the prompt. Inside `generate`
that holds for the first forward alone, so that a model without a cache, which is given the whole
text again at each step, keeps its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steer.base.errors import HookError, UsageError
from steer.hooks.clock import TokenClock, continues
from steer.hooks.hooks import SiteFunction, before_input, placed
from steer.hooks.inject import site_functions
from steer.models.model import Model
from steer.steering.steers import Steer
from steer.vectors.sites import Site


@contextmanager
def steered(model: Model, steers: Sequence[Steer]) -> Iterator[None]:
    """Steer every forward of the block, whoever calls the model.

    Raises:
        UsageError: a gate reads a prompt deeper than a steer acts, which takes a run of its own.
        SiteError: the model has no such layer or site.
        HookError: the block ended well, yet a steer was never applied.
    """
    _check_gates(steers)
    if not steers:
        yield
        return
    texts = _Texts(model, steers)
    remove: list[Callable[[], None]] = []
    with placed(model, texts.functions()):
        try:
            remove.append(before_input(model.network, texts.forward))
            remove.append(_around(model.network, "generate", texts.generate))
            yield
        finally:
            for undo in reversed(remove):
                undo()


class _Texts:
    """The text that passes now: its clock, and what is done at each site by that clock."""

    def __init__(self, model: Model, steers: Sequence[Steer]) -> None:
        self._model, self._steers = model, steers
        self._clock: TokenClock | None = None
        self._current: dict[Site, SiteFunction] = {}
        self._generating = False

    def functions(self) -> dict[Site, SiteFunction]:
        """One function for each site, which does what the current text's clock says."""
        nothing = torch.zeros(1, dtype=torch.int64)
        sites = site_functions(self._model, self._steers, TokenClock(1, nothing))
        return {site: self._dispatch(site) for site in sites}

    def _dispatch(self, site: Site) -> SiteFunction:
        return lambda resid: self._current[site](resid)

    def forward(self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Before each forward of the whole model: begin a text, or go on with the last one."""
        goes_on = continues(args, keywords) or self._generating
        if self._clock is None or not goes_on:
            self._begin(args, keywords)
        assert self._clock is not None
        self._clock.tick(module, args, keywords)

    def generate(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """`generate` of the model, with one text for each call."""

        def generate(*args: Any, **keywords: Any) -> Any:
            self._clock, self._generating = None, True
            try:
                return own(*args, **keywords)
            finally:
                self._clock, self._generating = None, False

        return generate

    def _begin(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        tokens = keywords.get("input_ids", keywords.get("inputs_embeds"))
        tokens = tokens if tokens is not None else next(iter(args), None)
        if not isinstance(tokens, Tensor) or tokens.ndim < 2:
            raise HookError("this call gives the model neither token ids nor embeddings")
        rows, width = tokens.shape[:2]
        mask = keywords.get("attention_mask")
        known = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == width
        counts = mask.sum(1).cpu() if known else torch.full((rows,), width)  # type: ignore[union-attr]
        on_right = known and bool((mask[:, -1] == 0).any())  # type: ignore[index]
        if on_right and self._generating:
            raise UsageError(
                "the prompts are padded on the right, so a model cannot go on with them",
                hint='set tokenizer.padding_side = "left"',
            )
        if on_right:
            self._clock = TokenClock(
                width, torch.zeros(rows, dtype=torch.int64), starts=counts.tolist()
            )
            self._clock.counted = mask.bool()  # type: ignore[union-attr]
        else:
            self._clock = TokenClock(width, width - counts)
        self._current = site_functions(self._model, self._steers, self._clock)


def _check_gates(steers: Sequence[Steer]) -> None:
    first = min((steer.first_site.depth for steer in steers), default=(0, 0))
    for steer in steers:
        gate = steer.gate
        if gate is not None and gate.pooling != "token" and gate.site.depth > first:
            raise UsageError(
                f"the gate {gate} reads the prompt at {gate.site}, which a steer changes before",
                hint="use model.generate, which reads prompts first, or a gate at an earlier layer",
            )


def _around(
    network: nn.Module, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[[], None]:
    """Replace a method of a module; returns what puts its own back."""
    before = vars(network).get(name)
    vars(network)[name] = make(getattr(network, name))

    def remove() -> None:
        if before is None:
            vars(network).pop(name, None)
        else:
            vars(network)[name] = before

    return remove
