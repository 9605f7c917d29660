"""Skip parts of a forward: the blocks below a steer, and unused positions of the last MLP.

Steering at layer L does not change anything below it. A trunk holds the output of block L for the
unsteered texts. While it is `replayed`, the blocks up to L are skipped, block L returns the stored
output (its hooks run as usual), and only the layers above are computed. In the last block, after
attention, positions do not depend on each other, so its MLP only has to run where something is
scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steer.hooks.hooks import after_output, replaced
from steer.hooks.record import COARSE_TOLERANCE, TOLERANCE
from steer.models.model import Model
from steer.vectors.sites import Site

#: For each network: the tests by name, and whether skipping changed nothing.
_tried: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Trunk:
    """The output of block `layer`: the activations [row, position, d_model], or a tuple or list
    that begins with them."""

    layer: int
    output: Any


class _SeenError(Exception):
    """Raised inside a forward when the block has run."""


@torch.no_grad()
def trunk_at(
    model: Model,
    ids: Tensor,
    layer: int,
    lower: Trunk | None,
    arguments: Mapping[str, Any] | None = None,
) -> Trunk:
    """The trunk of unsteered texts at `layer`, computed from one of a lower layer if given.

    arguments: of the body's forward, for packed rows; by default every token attends to all before.
    """
    inputs = arguments or {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kept: list[Any] = []

    def keep(_module: nn.Module, _args: object, output: Any) -> None:
        kept.append(output)
        raise _SeenError

    handle = _block(model, layer).register_forward_hook(keep)
    try:
        with replayed(model, lower), suppress(_SeenError):
            model.body(**{**inputs, "use_cache": False})
    finally:
        handle.remove()
    return Trunk(layer, kept[0])


@contextmanager
def recorded_trunks(model: Model) -> Iterator[dict[int, Trunk]]:
    """Collects the trunk of every layer from a forward of unsteered texts in the block."""
    trunks: dict[int, Trunk] = {}

    def keep(layer: int, output: Any) -> Any:
        trunks[layer] = Trunk(layer, output)
        return output

    with ExitStack() as stack:
        for layer in range(model.n_layers):
            stack.callback(after_output(_block(model, layer), partial(keep, layer)))
        yield trunks


@contextmanager
def replayed(model: Model, trunk: Trunk | None, times: int = 1) -> Iterator[None]:
    """Within the block, forwards start from the trunk, with all its rows repeated `times` times."""
    if trunk is None:
        yield
        return
    output = _repeated(trunk.output, times)
    with ExitStack() as stack:
        for layer in range(trunk.layer + 1):
            stack.callback(replaced(_block(model, layer), lambda *_args, **_keywords: output))
        yield


@contextmanager
def last_mlp_at(model: Model, where: Tensor) -> Iterator[None]:
    """Within the block, the last layer's MLP runs at some positions only, and gives 0 elsewhere.
    where: int64 [n], indices of positions in the concatenated rows of the forward."""
    last = model.n_layers - 1
    place = model.hooks.places.get(Site(last, "mlp_out"))
    # A router inside would only see some positions, but steers count all.
    has_router = Site(last, "router") in model.hooks.places
    if place is None or place.side != "output" or has_router:
        yield
        return
    module = model.network.get_submodule(place.module)
    own = module.forward

    def spared(hidden: Tensor, *args: Any, **keywords: Any) -> Tensor:
        rows, width = hidden.shape[:2]
        output: Tensor = own(hidden.flatten(0, 1)[where.to(hidden.device)][None], *args, **keywords)
        full = output.new_zeros((rows * width, output.shape[-1]))
        full[where.to(output.device)] = output[0]
        return full.view(rows, width, -1)

    restore = replaced(module, spared)
    try:
        yield
    finally:
        restore()


def takes_trunks(model: Model) -> bool:
    """Whether this model gives the same logits from a trunk; tested once."""
    return passes(model, _same_from_trunks)


def can_restrict_last_mlp(model: Model) -> bool:
    """Whether this model gives the same logits with `last_mlp_at`; tested once."""
    return passes(model, _same_at_positions)


def passes(model: Model, same: Callable[[Model], bool]) -> bool:
    """Whether a test of a model is passed; it runs once for each network."""
    tried = _tried.setdefault(model.network, {})
    if same.__name__ not in tried:
        try:
            tried[same.__name__] = same(model)
        # A model whose blocks pass on more than activations may fail in any way.
        except Exception:
            tried[same.__name__] = False
    return tried[same.__name__]


@torch.no_grad()
def _same_from_trunks(model: Model) -> bool:
    sides = {model.hooks.place(Site(layer)).side for layer in range(model.n_layers)}
    if sides != {"output"}:
        return False
    with recorded_trunks(model) as trunks:
        ids, expected = _trial(model)
    trunk = None
    for layer in sorted({0, model.n_layers // 2, model.n_layers - 1}):
        trunk = trunk_at(model, ids, layer, trunk)
        for candidate in (trunk, trunks[layer]):
            with replayed(model, candidate, 2):
                logits = _logits(model, ids.repeat(2, 1))
            if not all(are_alike(model, half, expected) for half in logits.chunk(2)):
                return False
    return True


@torch.no_grad()
def _same_at_positions(model: Model) -> bool:
    ids, expected = _trial(model)
    where = torch.tensor([1, 4, 8], device=ids.device)
    with last_mlp_at(model, where):
        logits = _logits(model, ids)
    at = where.to(logits.device)
    return are_alike(model, logits.flatten(0, 1)[at], expected.flatten(0, 1)[at])


def _trial(model: Model) -> tuple[Tensor, Tensor]:
    """Random token ids, and their logits."""
    generator = torch.Generator().manual_seed(0)
    size = int(model.network.config.get_text_config().vocab_size)
    ids = torch.randint(size, (2, 6), generator=generator).to(model.device)
    return ids, _logits(model, ids)


def _logits(model: Model, ids: Tensor) -> Tensor:
    mask = torch.ones_like(ids)
    output = model.network(input_ids=ids, attention_mask=mask, use_cache=False)
    return torch.as_tensor(output.logits).float()


def are_alike(model: Model, logits: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal within the rounding of the model's type."""
    tolerance = TOLERANCE.get(model.network.dtype, COARSE_TOLERANCE)
    return bool((logits - expected).norm() <= tolerance * expected.norm())


def _block(model: Model, layer: int) -> nn.Module:
    module: nn.Module = model.network.get_submodule(model.hooks.place(Site(layer)).module)
    return module


def _repeated(output: Any, times: int) -> Any:
    if isinstance(output, Tensor):
        return output.repeat(times, 1, 1)
    return type(output)((output[0].repeat(times, 1, 1), *output[1:]))
