"""Generated texts: as records of JSON, and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from steer.cli import output
from steer.cli.watched import report_watched

if TYPE_CHECKING:
    from steer.steering.generation import Generation


def records(
    steered: Sequence[Generation], baselines: Sequence[Generation] | None
) -> list[dict[str, Any]]:
    """A record for each continuation, with the unsteered one where there are any."""
    made = [_record(generation) for generation in steered]
    for record, baseline in zip(made, baselines or (), strict=False):
        record["unsteered"] = baseline.text
        if baseline.watched:
            record["unsteered_tokens"] = baseline.tokens
            record["unsteered_watched"] = baseline.watched
    return made


def _record(generation: Generation) -> dict[str, Any]:
    """A continuation as JSON, without what nobody asked for."""
    optional = ("tokens", "watched", "gates", "trips", "idle")
    return {key: value for key, value in asdict(generation).items() if value or key not in optional}


def show(steered: Sequence[Generation], baselines: Sequence[Generation] | None, title: str) -> None:
    """The texts, under their prompts if these differ; under `title` beside the unsteered ones."""
    several_prompts = len({generation.prompt for generation in steered}) > 1
    for index, generation in enumerate(steered):
        if several_prompts and generation.sample == 0:
            output.heading(generation.prompt)
        if baselines is None:
            output.line(generation.text.strip() + "\n")
        else:
            output.beside(("unsteered", title), (baselines[index].text, generation.text))
        report_watched(generation)
