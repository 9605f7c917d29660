"""What a batch of texts is at one block, so that the blocks up to it need not run again.

Steering at layer L leaves everything below it as it is. A trunk holds what block L returned for the
unsteered texts; while it is `replayed`, the blocks up to L do nothing, block L returns it once more
(hooks on it fire as ever), and only what lies above is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steer.hooks.record import COARSE_TOLERANCE, TOLERANCE
from steer.models.model import Model
from steer.sites import Site

#: Of each network: whether what is replayed was found to be what is computed.
_tried: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Trunk:
    """What block `layer` returned: the activations [row, position, d_model], or a tuple or list
    that begins with them."""

    layer: int
    output: Any


class _SeenError(Exception):
    """Raised inside a forward when the block has run."""


@torch.no_grad()
def grown(model: Model, ids: Tensor, mask: Tensor, layer: int, lower: Trunk | None) -> Trunk:
    """The trunk of unsteered texts at `layer`, from one of a lower layer where there is one."""
    kept: list[Any] = []

    def keep(_module: nn.Module, _args: object, output: Any) -> None:
        kept.append(output)
        raise _SeenError

    handle = _block(model, layer).register_forward_hook(keep)
    try:
        with replayed(model, lower), suppress(_SeenError):
            model.body(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        handle.remove()
    return Trunk(layer, kept[0])


@contextmanager
def replayed(model: Model, trunk: Trunk | None, times: int = 1) -> Iterator[None]:
    """Forwards of the block take the trunk's rows, all of them `times` over, from its layer on."""
    if trunk is None:
        yield
        return
    output = _repeated(trunk.output, times)
    blocks = [_block(model, layer) for layer in range(trunk.layer + 1)]
    # Some libraries have put a `forward` of their own on the instance: it comes back.
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.__dict__["forward"] = lambda *_args, **_keywords: output
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                block.__dict__.pop("forward", None)
            else:
                block.__dict__["forward"] = own


def takes_trunks(model: Model) -> bool:
    """Whether this model gives, from a trunk, what it gives without; found by trying."""
    if model.network not in _tried:
        try:
            _tried[model.network] = _same(model)
        # A model that passes more than activations from block to block may fail in any way.
        except Exception:
            _tried[model.network] = False
    return _tried[model.network]


@torch.no_grad()
def _same(model: Model) -> bool:
    sides = {model.hooks.place(Site(layer)).side for layer in range(model.n_layers)}
    if sides != {"output"}:
        return False
    generator = torch.Generator().manual_seed(0)
    size = int(model.network.config.get_text_config().vocab_size)
    ids = torch.randint(size, (2, 6), generator=generator).to(model.device)
    mask = torch.ones_like(ids)
    expected = model.network(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    tolerance = TOLERANCE.get(model.network.dtype, COARSE_TOLERANCE)
    trunk = None
    for layer in sorted({0, model.n_layers // 2, model.n_layers - 1}):
        trunk = grown(model, ids, mask, layer, trunk)
        with replayed(model, trunk, 2):
            logits = model.network(
                input_ids=ids.repeat(2, 1), attention_mask=mask.repeat(2, 1), use_cache=False
            ).logits.float()
        for half in logits.chunk(2):
            if (half - expected).norm() > tolerance * expected.norm():
                return False
    return True


def _block(model: Model, layer: int) -> nn.Module:
    module: nn.Module = model.network.get_submodule(model.hooks.place(Site(layer)).module)
    return module


def _repeated(output: Any, times: int) -> Any:
    if isinstance(output, Tensor):
        return output.repeat(times, 1, 1)
    return type(output)((output[0].repeat(times, 1, 1), *output[1:]))
