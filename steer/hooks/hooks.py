"""Hooks on the Hugging Face modules that hold the sites: placed, counted, and always removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steer.errors import HookError
from steer.models.hookmap import Place
from steer.models.model import Model
from steer.sites import Site, listed

#: Gets the activations of a site, [row, position, d_model]; what it returns replaces them.
SiteFunction = Callable[[Tensor], Tensor | None]


class Constants:
    """Numbers that a hook needs, moved once: a layer's device shows only when its output comes."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._tensors = [torch.from_numpy(array.copy()) for array in arrays]

    def beside(self, tensor: Tensor) -> list[Tensor]:
        """All of them on the device of `tensor`."""
        if self._tensors[0].device != tensor.device:
            self._tensors = [one.to(tensor.device) for one in self._tensors]
        return self._tensors


@contextmanager
def placed(model: Model, functions: dict[Site, SiteFunction]) -> Iterator[None]:
    """Call each function with its site's activations while the block runs.

    The hooks are gone when the block ends, however it ends.

    Raises:
        SiteError: the model has no such site.
        HookError: the block ended well, yet a site was never reached.
    """
    waiting = set(functions)
    width = model.identity.d_model

    def counted(site: Site) -> SiteFunction:
        inner = functions[site]

        # It runs for every token: nothing is looked up that can be known before.
        def function(resid: Tensor) -> Tensor | None:
            if resid.ndim != 3 or resid.shape[-1] != width:
                raise HookError(
                    f"{site} of {model.identity.id} gave {list(resid.shape)},"
                    f" not [rows, positions, {width}]",
                    hint="use another site, such as resid_post",
                )
            if waiting:
                waiting.discard(site)
            return inner(resid)

        return function

    places = {site: model.hooks.place(site) for site in functions}
    handles = [_place(model.network, place, counted(site)) for site, place in places.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if waiting:
        raise HookError(
            f"{model.identity.id} never reached {listed(str(site) for site in sorted(waiting))}",
            hint="the output would be unsteered, or nothing read: please report this model",
        )


def _place(
    network: nn.Module, place: Place, function: SiteFunction
) -> torch.utils.hooks.RemovableHandle:
    module = network.get_submodule(place.module)

    def on_output(_module: nn.Module, _args: object, output: Any) -> object:
        # The tensor alone, or a tuple (in OpenAI GPT a list) that begins with it.
        if isinstance(output, Tensor):
            return function(output)
        edited = function(output[0])
        return None if edited is None else type(output)((edited, *output[1:]))

    def on_input(
        _module: nn.Module, args: tuple[Tensor, ...], keywords: dict[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]] | None:
        edited = function(args[0] if args else keywords["hidden_states"])
        if edited is None:
            return None
        if args:
            return (edited, *args[1:]), keywords
        return args, {**keywords, "hidden_states": edited}

    if place.side == "input":
        return module.register_forward_pre_hook(on_input, with_kwargs=True)
    return module.register_forward_hook(on_output)
