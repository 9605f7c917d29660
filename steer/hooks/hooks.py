"""Place hooks on the Hugging Face modules that hold the sites, check that each site was reached,
and always remove them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from steer.base.errors import HookError
from steer.models.hookmap import HookPoint, block_of
from steer.models.model import Model
from steer.vectors.sites import Site, listed

#: Gets the activations of a site, [row, position, d_model]; its result, unless None, replaces them.
SiteFunction = Callable[[Tensor], Tensor | None]


class Constants:
    """Arrays that a hook needs, moved to the layer's device when its first output arrives."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._tensors = [torch.from_numpy(array.copy()) for array in arrays]
        self._device = torch.device("cpu")

    def beside(self, tensor: Tensor) -> list[Tensor]:
        """All of them on the device of `tensor`."""
        if tensor.device != self._device:
            self._device = tensor.device
            self._tensors = [each.to(tensor.device) for each in self._tensors]
        return self._tensors


@contextmanager
def placed(model: Model, functions: dict[Site, SiteFunction]) -> Iterator[None]:
    """Call each function with its site's activations while the block runs.

    The hooks are removed at the end of the block, also after an exception.

    Raises:
        SiteError: the model has no such site.
        HookError: the block ended without an exception, but a site was never reached.
    """
    waiting = set(functions)
    places = {site: model.hooks.place(site) for site in functions}
    removals: list[Callable[[], None]] = []
    try:
        for site, place in places.items():
            removals.append(_place(model, site, place, functions[site], waiting))
        yield
    finally:
        for remove in reversed(removals):
            remove()
    if waiting:
        raise HookError(
            f"{model.identity.id} never reached {listed(str(site) for site in sorted(waiting))}",
            hint="it would be unsteered, or nothing would be read: please report this model",
        )


def _place(
    model: Model, site: Site, place: HookPoint, function: SiteFunction, waiting: set[Site]
) -> Callable[[], None]:
    """Hook one module, and remove its site from `waiting` once it is reached. Returns the function
    that removes the hook."""
    module: nn.Module = model.network.get_submodule(place.module)
    width = model.hooks.width(site.name)

    def check_shape(resid: Tensor) -> None:
        if resid.ndim != 3 or resid.shape[-1] != width:
            raise _wrong_shape(model, site, resid)
        waiting.discard(site)

    if place.side == "linear":
        return _on_product(model, module, place, function, check_shape)

    # These run for every token, so as much as possible is decided in advance.
    def on_output(output: Any) -> object:
        # The tensor alone, or a tuple (in OpenAI GPT a list) that begins with it.
        resid = output if isinstance(output, Tensor) else output[0]
        if waiting:
            check_shape(resid)
        edited = function(resid)
        if edited is None:
            return output
        return edited if resid is output else type(output)((edited, *output[1:]))

    def on_input(
        _module: nn.Module, args: tuple[Tensor, ...], keywords: dict[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]] | None:
        resid = args[0] if args else keywords["hidden_states"]
        if waiting:
            check_shape(resid)
        edited = function(resid)
        if edited is None:
            return None
        if args:
            return (edited, *args[1:]), keywords
        return args, {**keywords, "hidden_states": edited}

    if place.side == "input":
        return before_input(module, on_input)
    return after_output(module, on_output)


def _on_product(
    model: Model,
    module: nn.Module,
    place: HookPoint,
    function: SiteFunction,
    check_shape: Callable[[Tensor], None],
) -> Callable[[], None]:
    """Hook the product of a module's input and its own weight, inside its forward.

    A router chooses experts by this product before it returns anything. The product may have rows
    and positions in one dimension, so their shape is taken from the block's input.
    """
    shape: tuple[int, ...] = ()
    weight_shape = module.get_parameter("weight").shape
    inner = module.forward

    def see(_module: nn.Module, args: Any, keywords: Any) -> None:
        nonlocal shape
        hidden: Tensor = args[0] if args else keywords["hidden_states"]
        shape = tuple(hidden.shape[:-1])

    def edit(product: Tensor) -> Tensor:
        rows = product.reshape(*shape, product.shape[-1])
        check_shape(rows)
        edited = function(rows)
        return product if edited is None else edited.reshape(product.shape)

    def forward(*args: Any, **keywords: Any) -> object:
        with _Product(weight_shape, edit):
            return inner(*args, **keywords)

    forget = before_input(model.network.get_submodule(block_of(place.module)), see)
    restore = replaced(module, forward)

    def remove() -> None:
        restore()
        forget()

    return remove


class _Product(TorchFunctionMode):
    """Applies `edit` to the result of the first product with a weight of this shape."""

    def __init__(self, weight_shape: torch.Size, edit: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._shape, self._edit, self._done = weight_shape, edit, False

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), keywords: Any = None
    ) -> Any:
        output = function(*args, **(keywords or {}))
        if self._done or function is not nn.functional.linear or args[1].shape != self._shape:
            return output
        self._done = True
        return self._edit(output)


def before_input(
    module: nn.Module, look: Callable[[nn.Module, Any, Any], tuple[Any, Any] | None]
) -> Callable[[], None]:
    """Call `look` with the module, its arguments and keywords, as a forward pre-hook would; its
    result replaces them. Returns the function that removes it."""
    if _is_hooked(module):
        return module.register_forward_pre_hook(look, with_kwargs=True).remove
    inner = module.forward

    def forward(*args: Any, **keywords: Any) -> object:
        edited = look(module, args, keywords)
        if edited is not None:
            args, keywords = edited
        return inner(*args, **keywords)

    return replaced(module, forward)


def after_output(module: nn.Module, look: Callable[[Any], object]) -> Callable[[], None]:
    """Replace the module's output by `look(output)`, as a forward hook would. Returns the function
    that removes it."""
    if _is_hooked(module):
        return module.register_forward_hook(lambda _module, _args, output: look(output)).remove
    inner = module.forward

    def forward(*args: Any, **keywords: Any) -> object:
        return look(inner(*args, **keywords))

    return replaced(module, forward)


def _is_hooked(module: nn.Module) -> bool:
    """Whether the module has other hooks (to gather a sharded tensor, say), which must run
    first."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def replaced(module: nn.Module, forward: Callable[..., object]) -> Callable[[], None]:
    """Replace a module's `forward`; returns the function that restores it.

    This is faster than torch's hooks, whose overhead exceeds the edit itself in a small model. A
    `forward` that another library has set on the instance is restored too.
    """
    before = vars(module).get("forward")
    vars(module)["forward"] = functools.wraps(module.forward)(forward)

    def remove() -> None:
        if before is None:
            vars(module).pop("forward", None)
        else:
            vars(module)["forward"] = before

    return remove


def _wrong_shape(model: Model, site: Site, resid: Tensor) -> HookError:
    return HookError(
        f"{site} of {model.identity.id} gave {list(resid.shape)},"
        f" not [rows, positions, {model.hooks.width(site.name)}]",
        hint="use another site, such as resid_post",
    )
