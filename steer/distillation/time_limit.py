"""Reduce a distillation to fit into a time limit, by an estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from steer.distillation.settings import DistillSettings
from steer.generate.pace import Size, announce, largest_size, left_out, pace, sizes
from steer.methods.registry import distill_methods
from steer.models.model import Model

#: The approximate number of rows sampled together.
_ROWS = 64
#: Passes of the closed form over all texts: two for recording, one to fit, and about two for what
#: it tries on some of them.
_READS = 5
#: The cost of a step of the descent, in forwards of its batch.
_STEP = 4
#: Tokens of a question with its template.
_BEFORE = 40


def fit_to_time(
    seconds: float, model: Model, settings: DistillSettings, note: Callable[[str], None]
) -> DistillSettings:
    """The settings with as many texts, tokens and steps as fit into a time. note: called with a
    line about the estimate and the reductions."""
    speed = pace(model, rows=_ROWS)
    full = Size(settings.held_out, settings.samples, settings.max_tokens)
    descends = distill_methods().named(settings.method).descends

    def texts(size: Size) -> float:
        n = size.samples + size.items
        read = _READS * n * (size.max_tokens + _BEFORE)
        return n * size.max_tokens / speed.written + read / speed.read

    def step(size: Size) -> float:
        return _STEP * settings.batch_size * (size.max_tokens + _BEFORE) / speed.read

    def predicted(size: Size) -> float:
        return texts(size) + (settings.steps * step(size) if descends else 0.0)

    # A descent gets half of the time.
    size, needed = largest_size(
        sizes(full), texts if descends else predicted, seconds / (1 + descends)
    )
    steps = settings.steps
    if descends:
        steps = max(1, min(steps, int((seconds - needed) / step(size))))
        needed += steps * step(size)
    missing = left_out(full, size)
    if steps < settings.steps:
        missing += f"{', ' if missing else ''}{steps} of {settings.steps} steps"
    note(announce(seconds, needed, missing, predicted(full)))
    return replace(
        settings, held_out=size.items, samples=size.samples, max_tokens=size.max_tokens, steps=steps
    )
