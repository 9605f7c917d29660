"""Logits that are not numbers: an error wherever a model runs, and never part of a result."""

from __future__ import annotations

from torch import Tensor

from steer.base.errors import HookError
from steer.models.model import Model


def check_numbers(model: Model, logits: Tensor) -> Tensor:
    """The logits [..., vocabulary], or their log-probabilities. What is too large for a model's
    precision becomes infinite somewhere, and NaN behind the next norm, in every logit of its row:
    one is looked at.

    Raises:
        HookError: some are NaN.
    """
    if bool(logits[..., 0].isnan().any()):
        raise not_numbers(model)
    return logits


def not_numbers(model: Model) -> HookError:
    """The error for logits that are NaN."""
    precision = str(model.network.dtype).removeprefix("torch.")
    return HookError(
        f"what {model.identity.id} computes is too large for {precision}: its logits are not"
        " numbers",
        hint="steer by less, or pass --dtype=float32; or the weights are broken",
    )
