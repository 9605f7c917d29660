"""`steer discover`: the directions in which a model's activations on unlabelled texts vary most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options, output
from steer.cli.texts import given_texts, with_map
from steer.contrasts.schema import Names
from steer.models.source import ModelSource


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("discover")(discover)


@options.with_model(default="pocket", chat=False, fast=True)
@with_map("texts")
def discover(
    *,
    texts: Annotated[
        Path, typer.Argument(metavar="TEXTS", help="A file of texts, of any kind; - for stdin.")
    ],
    names: Names,
    k: Annotated[int, typer.Option("-k", min=1, max=500, help="How many directions.")] = 10,
    layer: Annotated[
        int | None, typer.Option(min=0, help="The layer to read. Default: at 0.6 of the depth.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A folder for the vectors.")
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Read texts as messages. Default: if it can."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the samples.")] = 0,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Find the directions in which a model's activations vary most.

    They are the principal components of the texts' mean activations at one layer. For each, steer
    prints the texts at both ends, the tokens that it makes more likely, and steered samples.

    \b
    steer discover texts.jsonl -m MODEL -k 20 -o found/
    steer describe found/direction-01.safetensors --pack vectors/
    """
    from steer.base.errors import SteerError
    from steer.base.files import reported
    from steer.vectors import store

    read = given_texts(None, texts, names, "text", "steer discover texts.jsonl")
    if out is not None:
        with reported(out):
            out.mkdir(parents=True, exist_ok=True)
        if not force and any(out.glob(f"direction-*{store.SUFFIX}")):
            raise SteerError(f"{out} has directions already", hint="pass --force to replace them")
    model = options.load_model(source)
    from steer.concepts.discovery import discover as run

    directions = run(model, read, k, layer=layer, chat=chat, seed=seed, progress=output.progress)
    if out is not None:
        for direction in directions:
            store.write(
                out / f"{direction.vector.name}{store.SUFFIX}", direction.vector, force=force
            )
    if json:
        output.as_json(
            {"model": model.identity.id, "directions": [o.to_dict() for o in directions]}
        )
        return
    for direction in directions:
        output.heading(f"{direction.vector.name} · {direction.share:.0%} of the variance")
        for title, ends, tokens in (
            ("high", direction.high, direction.raised),
            ("low", direction.low, direction.lowered),
        ):
            output.line(f"  {title:<5}tokens  {' '.join(map(repr, tokens))}")
            for text in ends:
                shown = " ".join(text.split())
                output.line(f"       {shown[:90]}{'…' if len(shown) > 90 else ''}")
        for title in ("unsteered", "high", "low"):
            output.line(f"  {title:<10} {' '.join(direction.samples[title].split())}")
        output.line()
    (at,) = directions[0].vector.metadata.layers
    where = "" if out is None else f"; wrote {len(directions)} vectors into {out}"
    output.note(f"{model.describe()} · {len(read)} texts, at layer {at}{where}")
