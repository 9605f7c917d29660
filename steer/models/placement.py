"""Where a model is to run, and by which attention."""

from __future__ import annotations

from typing import Any

import torch

from steer.models.source import ModelSource


def device(source: ModelSource) -> torch.device:
    """The one that is named, or the first accelerator."""
    if source.device is not None:
        return torch.device(source.device)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def attention(config: Any) -> str | None:
    """Which attention to run; None leaves it to Hugging Face.

    Its usual one (sdpa) leaves out the cap on attention's logits that Gemma 2 was trained with, and
    does not say so.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped else None
