"""`steer demo`: extract, apply and measure a vector on the embedded model."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import contrast_options, options, output

if TYPE_CHECKING:
    from steer.demo import DemoRow

PROMPT = "One day Mara woke up."
SPEC = "joyful:3@2"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("demo")(demo)


def demo(
    contrasts: Annotated[
        str | None,
        typer.Argument(help="Pairs of joyful and gloomy stories. Default: drawn by the grammar."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, max=1_000, help="Stories for each row of the table.")
    ] = 48,
    json: options.Json = False,
) -> None:
    """Extract a vector, steer with it, and measure what it did.

    \b
    steer demo
    steer demo pairs.jsonl
    """
    from steer.contrasts.contrast_files import read
    from steer.contrasts.contrasts import ContrastSource
    from steer.models.source import ModelSource
    from steer.pocket.pairs import AWAY_FROM, KIND, VALUE, story_pairs

    if contrasts is not None:
        contrast_set = contrast_options.read_contrasts(ContrastSource(contrasts))
    else:
        drawn = [("drawn", pair) for pair in story_pairs(KIND, VALUE, AWAY_FROM)]
        contrast_set = read(ContrastSource("drawn"), lambda name: drawn)
    model = options.load_model(ModelSource())
    from steer.cli.tables import layer_table
    from steer.demo import measure, n_generations
    from steer.extraction import ReadSettings, extract
    from steer.fitting.fitting import FitSettings
    from steer.generate.apply import Sampling, generate
    from steer.steering import spec
    from steer.steering.steers import resolve
    from steer.vectors import store
    from steer.workers import LocalWorker

    with TemporaryDirectory() as folder:  # through a file, as in the commands that it prints
        path = Path(folder) / "joyful.safetensors"
        extracted = extract(
            LocalWorker(model),
            contrast_set,
            ReadSettings(),
            FitSettings(name="joyful"),
            progress=output.progress,
        )
        store.write(path, extracted.best)
        vector = store.read(path)
    steer = resolve(spec.parse(SPEC), vector)
    if not json:
        output.command("steer extract joyful.jsonl -o joyful.safetensors")
        layer_table(vector.metadata)
        output.command(f'steer apply "{PROMPT}" -v {SPEC} --compare')
        settings = Sampling(temperature=1.0, max_tokens=60)
        texts = [next(generate(model, [PROMPT], s, settings)).text for s in ([], [steer])]
        output.beside(("unsteered", str(steer)), (PROMPT + texts[0], PROMPT + texts[1]))
    sampling = Sampling(temperature=1.0, max_tokens=60, samples=samples, batch_size=samples)
    with output.progress("measuring", n_generations(sampling)) as advance:
        rows = list(measure(model, steer, PROMPT, sampling, lambda generation: advance(1)))
    if json:
        output.as_json({"rows": [_as_json(row) for row in rows], "samples": samples})
        return
    output.line(
        f"Share of {VALUE} words among all {KIND} words, {samples} stories a row [95 % interval]:"
    )
    output.line()
    cells = [[row.label, str(row.words), f"{row.grammatical.value:.0%}"] for row in rows]
    output.table(["", f"{VALUE} words", "sentences that parse"], cells)


def _as_json(row: DemoRow) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(row)
