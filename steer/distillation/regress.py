"""The method ridge: choose layers, ridge and rank by the recovery on validation texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.base.progress import Progress
from steer.distillation.lessons import Lesson, first_edited
from steer.distillation.lowrank import Edits
from steer.distillation.sequence import SequentialRegression
from steer.distillation.settings import DistillSettings
from steer.distillation.task import Task

#: The ridges to try, as shares of the mean diagonal.
RIDGES = (1e-1, 1.0, 1e-2)
RANKS = (32, 128)
#: The depths of the first edited layer; all layers above it are edited too.
DEPTHS = (0.0, 0.3)
#: The texts that choices are tried on, if there are more than twice as many: the choice hardly
#: depends on their number, but each takes a forward of all of them.
CHOICE_TEXTS = 128


@dataclass(frozen=True, slots=True)
class Choice:
    """One regression to try."""

    layers: tuple[int, ...]
    rank: int
    ridge: float


def ladders(layers: Sequence[int]) -> list[tuple[int, ...]]:
    """Sets of layers to try; the first has all."""
    return list(dict.fromkeys(tuple(layers[int(depth * (len(layers) - 1)) :]) for depth in DEPTHS))


def regress(
    task: Task,
    settings: DistillSettings,
    progress: Progress,
    *,
    ranks: Sequence[int],
    ridges: Sequence[float] = RIDGES,
) -> tuple[Edits, float]:
    """The regression with the best recovery on the validation texts, and its ridge.

    Layers, ridge and rank are chosen one after another, each with the best of the previous ones, by
    regressions on some of the texts; the chosen one is fitted on all.

    ranks: those to try if the settings give none. ridges: those to try.
    """
    model, start = task.model, first_edited(task.lessons, settings.scope)
    width = model.identity.d_model
    every = tuple(model.hooks.layers("resid_post"))
    sets = ladders(every) if settings.layers is None else [settings.layers or every]
    ranks = [min(rank, width) for rank in ranks] if settings.rank is None else [settings.rank]
    # A mean difference has no ridge.
    ridges = ridges if any(ranks) else ridges[:1]
    used = sorted({layer for layers in sets for layer in layers})
    lessons = task.lessons
    choices = len(sets) + len(ridges) + len(dict.fromkeys(ranks)) - 2
    if choices > 1 and len(lessons) > 2 * CHOICE_TEXTS:
        lessons = lessons[:CHOICE_TEXTS]
    regressions = _read(task, lessons, used, start, progress)
    tried: dict[Choice, tuple[float, Edits]] = {}

    def best() -> Choice:
        return max(tried, key=lambda choice: tried[choice][0])

    first = Choice(sets[0], ranks[0], ridges[0])
    activity = "fitting" if len(lessons) == len(task.lessons) else "choosing layers, ridge and rank"
    with progress(activity, choices * max(map(len, sets))) as advance:

        def attempt(choice: Choice) -> None:
            if choice in tried:
                return
            affines = regressions.fit(choice.layers, choice.rank, choice.ridge, lambda: advance(1))
            edits = Edits.of(model, affines, start=start)
            tried[choice] = task.recovered(edits), edits
            advance(0, f"recovery {tried[best()][0]:.2f}")

        for layers in sets:
            attempt(Choice(layers, first.rank, first.ridge))
        for ridge in ridges:
            attempt(Choice(best().layers, first.rank, ridge))
        for rank in ranks:
            attempt(Choice(best().layers, rank, best().ridge))
    choice = best()
    if len(lessons) == len(task.lessons):
        return tried[choice][1], choice.ridge
    regressions = _read(task, task.lessons, choice.layers, start, progress)
    with progress("fitting", len(choice.layers)) as advance:
        affines = regressions.fit(choice.layers, choice.rank, choice.ridge, lambda: advance(1))
    return Edits.of(model, affines, start=start), choice.ridge


def _read(
    task: Task,
    lessons: Sequence[Lesson],
    layers: Sequence[int],
    start: int | None,
    progress: Progress,
) -> SequentialRegression:
    with progress("reading what the condition changes", len(lessons)) as advance:
        return SequentialRegression(task.model, lessons, layers, start, advance)
