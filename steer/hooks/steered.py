"""Steer anything that runs inside a `with` block: bare forwards, and Hugging Face's own `generate`.

`steer.generate` knows its prompts in advance. Here a prompt is only known once its forward runs: a
forward that continues no cache begins a new text, and its tokens are the prompt. Inside `generate`
only the first forward does so, since a model without a cache gets the whole text at each step.

All outputs of a bare forward count as used; in `generate`, those that predict tokens. A steer that
changes no used output of any text in the block is an error at the end of the block.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steer.base.errors import HookError, UsageError
from steer.hooks.acting import acted, acts_behind_attention
from steer.hooks.clock import TokenClock, continues, tokens_of
from steer.hooks.hooks import SiteFunction, before_input, placed
from steer.hooks.idle import check_acted
from steer.hooks.inject import site_functions
from steer.models.model import Model
from steer.steering.reach import meets
from steer.steering.steers import Steer
from steer.steering.tokens import refuse
from steer.vectors.sites import Site


@contextmanager
def steered(model: Model, steers: Sequence[Steer], *, allow_idle: bool = False) -> Iterator[None]:
    """Steer every forward of the model in the block, whoever calls it.

    allow_idle: whether a steer may change nothing.

    Raises:
        UsageError: a learned token; or a prompt gate reads deeper than a steer acts, which needs a
            forward of its own.
        SiteError: the model has no such layer or site.
        HookError: the block ended without an exception, but a steer was never applied.
        IdleError: the block ended without an exception, but a steer changed no bit of any text.
    """
    refuse(steers, "model.steered, which does not know the prompts beforehand,")
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
            if not texts.ran and sys.exc_info()[0] is None:
                raise HookError(
                    "no forward of the model ran in this block, so nothing was steered",
                    hint="call model.hf(...) or model.hf.generate(...) inside the block",
                )
    if not allow_idle:
        texts.check_acted()


class _Texts:
    """The current text of a block: its clock, and its site functions."""

    def __init__(self, model: Model, steers: Sequence[Steer]) -> None:
        self._model, self._steers = model, steers
        self._clock: TokenClock | None = None
        self._current: dict[Site, SiteFunction] = {}
        self._generating = False
        self.ran = False
        #: Steers with a coefficient that have changed nothing so far.
        self._idle = {steer for steer in steers if steer.coefficient.value}
        self._n_texts = 0

    def functions(self) -> dict[Site, SiteFunction]:
        """One function for each site, which calls the current text's function."""
        nothing = torch.zeros(1, dtype=torch.int64)
        sites = site_functions(self._model, self._steers, TokenClock(1, nothing))
        return {site: self._dispatch(site) for site in sites}

    def _dispatch(self, site: Site) -> SiteFunction:
        return lambda resid: self._current[site](resid)

    def forward(self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Before each forward of the whole model: begin a text, or continue the current one."""
        self.ran = True
        self._note_closed_gates()
        goes_on = continues(args, keywords) or self._generating
        if self._clock is None or not goes_on:
            self._begin(args, keywords)
        clock = self._clock
        assert clock is not None
        clock.tick(module, args, keywords)
        if clock.starts and clock.ticks > 1:  # a forward that continues one has no padding
            total = clock.start + clock.width
            clock.counted = torch.ones(len(clock.pads), total, dtype=torch.bool)

    def generate(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """`generate` of the model, with one text for each call."""

        def generate(*args: Any, **keywords: Any) -> Any:
            self._end_text()
            self._generating = True
            try:
                return own(*args, **keywords)
            finally:
                self._end_text()
                self._generating = False

        return generate

    def check_acted(self) -> None:
        """Raise if a steer changed nothing in any text so far.

        Raises:
            IdleError: naming the steer.
        """
        self._end_text()
        check_acted([[str(steer) for steer in self._steers if steer in self._idle]] * self._n_texts)

    def _end_text(self) -> None:
        """End the current text, and update which steers have acted."""
        self._note_closed_gates()
        if self._clock is not None:
            self._idle = {steer for steer in self._idle if not self._acted(self._clock, steer)}
        self._clock = None

    def _note_closed_gates(self) -> None:
        """A steer is not idle if its token gate was closed throughout a forward."""
        for steer in list(self._idle):
            if self._clock is None or steer.gate is None or steer.gate.pooling != "token":
                continue
            opened = self._clock.latch(steer.gate).tokens
            if opened is not None and not bool((opened > 0).any()):
                self._idle.discard(steer)

    def _acted(self, clock: TokenClock, steer: Steer) -> bool:
        """Whether a steer changed a text, or had reason not to: its prompt gate was closed, or its
        bound was not reached."""
        if any(acted(clock, steer, row) for row in range(len(clock.pads))):
            return True
        gate = steer.gate
        if gate is not None and gate.pooling != "token":
            values = clock.values.get(gate, [])
            if not any(map(gate.threshold.passes, values)):
                return True
        if not steer.op.op.bounded:
            return False
        only_writing = self._generating and acts_behind_attention(steer, self._model.n_layers)
        zeros = clock.zeros * (len(clock.pads) if len(clock.zeros) == 1 else 1)
        stop = clock.start + clock.width
        return any(
            meets(
                steer.scope,
                steer.schedule,
                zero + 1 - pad,
                max(stop - zero, 1),
                [False] * (zero + 1 - pad),
                only_writing=only_writing,
            )
            for zero, pad in zip(zeros, clock.pads, strict=True)
        )

    def _begin(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        tokens = tokens_of(args, keywords)
        if tokens is None:
            raise HookError("the model was called with neither token ids nor embeddings")
        rows, width = tokens.shape[:2]
        mask = keywords.get("attention_mask")
        known = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == width
        counts = mask.sum(1).cpu() if known else torch.full((rows,), width)  # type: ignore[union-attr]
        on_right = known and bool((mask[:, -1] == 0).any())  # type: ignore[index]
        self._end_text()
        self._n_texts += rows
        if on_right and self._generating:
            raise UsageError(
                "the prompts are padded on the right, so the model cannot continue them",
                hint='set tokenizer.padding_side = "left"',
            )
        padding = torch.zeros_like(counts) if on_right else width - counts
        starts = [] if self._generating else (padding + counts).tolist()
        self._clock = TokenClock(width, padding, starts=starts)
        if starts:  # the caller may use the output of any position
            everywhere = torch.ones(rows, width, dtype=torch.bool)
            self._clock.counted = mask.bool() if known else everywhere  # type: ignore[union-attr]
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
    """Replace a method of a module; returns the function that restores it."""
    before = vars(network).get(name)
    vars(network)[name] = make(getattr(network, name))

    def remove() -> None:
        if before is None:
            vars(network).pop(name, None)
        else:
            vars(network)[name] = before

    return remove
