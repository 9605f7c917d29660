"""As much of a distillation as fits into a time, by an estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from steer.distillation.settings import DistillSettings
from steer.generate.pace import Size, announce, fitting, left_out, pace, sizes
from steer.methods.registry import distill_methods
from steer.models.model import Model

#: Rows that texts are sampled by, nearly.
_ROWS = 64
#: Times that a closed form reads all texts: once each way, and again for every penalty it tries.
_READS = 8
#: What a step of the descent takes, in forwards of its batch.
_STEP = 4
#: Tokens of a question and of the template about it.
_BEFORE = 40


def within(
    seconds: float, model: Model, settings: DistillSettings, note: Callable[[str], None]
) -> DistillSettings:
    """Settings with as many texts, tokens and steps as fit into a time; what is left out is
    noted."""
    found = pace(model, rows=_ROWS)
    whole = Size(settings.held_out, settings.samples, settings.max_tokens)
    descends = distill_methods().named(settings.method).descends

    def texts(size: Size) -> float:
        n = size.samples + size.items
        read = _READS * n * (size.max_tokens + _BEFORE)
        return n * size.max_tokens / found.written + read / found.read

    def step(size: Size) -> float:
        return _STEP * settings.batch_size * (size.max_tokens + _BEFORE) / found.read

    def predicted(size: Size) -> float:
        return texts(size) + (settings.steps * step(size) if descends else 0.0)

    # A descent may take half of the time, and stops sooner for the rest.
    size, needed = fitting(sizes(whole), texts if descends else predicted, seconds / (1 + descends))
    steps = settings.steps
    if descends:
        steps = max(1, min(steps, int((seconds - needed) / step(size))))
        needed += steps * step(size)
    missing = left_out(whole, size)
    if steps < settings.steps:
        missing += f"{', ' if missing else ''}{steps} of {settings.steps} steps"
    note(announce(seconds, needed, missing, predicted(whole)))
    return replace(
        settings, held_out=size.items, samples=size.samples, max_tokens=size.max_tokens, steps=steps
    )
