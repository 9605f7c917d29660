"""`steer extract`: contrasting texts to a vector file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.source import ModelSource

if TYPE_CHECKING:
    from steer.contrasts import Contrasts
    from steer.metadata import Metadata


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("extract")(extract)


@options.with_model(default="pocket")
def extract(
    source: ModelSource,
    contrasts: Annotated[
        Path | None,
        typer.Argument(help="JSONL or JSON of pairs {positive, negative, prompt?}; - for stdin."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The file to write. Default: vectors/NAME.safetensors."),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="A prompt condition, instead of pairs; with --texts.")
    ] = None,
    negative: Annotated[str, typer.Option(help="The other condition. Default: none.")] = "",
    texts: Annotated[
        Path | None, typer.Option(help="JSONL of {text}: the same texts under both conditions.")
    ] = None,
    positive_field: Annotated[
        str | None, typer.Option(help="Field of the positive text. Default: positive.")
    ] = None,
    negative_field: Annotated[
        str | None, typer.Option(help="Field of the negative text. Default: negative.")
    ] = None,
    prompt_field: Annotated[
        str | None, typer.Option(help="Field of a prompt that both texts follow.")
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option(
            help="last token, or mean over the text (pairs: from where they differ). Default: mean."
        ),
    ] = None,
    site: Annotated[
        str, typer.Option(help="resid_pre, resid_post, attn_out or mlp_out.")
    ] = "resid_post",
    layers: Annotated[str | None, typer.Option(help="Such as 3, 2,5 or 4-7. Default: all.")] = None,
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    description: Annotated[str, typer.Option(help="What it does, for those who get it.")] = "",
    license: Annotated[str, typer.Option(help="Such as CC0-1.0.")] = "",
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Make a steering vector from contrasting texts.

    Records activations of both sides and stores the difference of their means, at every layer,
    with what is known about it.

    \b
    steer extract joyful.jsonl -o vectors/joyful.safetensors
    steer extract --positive "[mood: joyful]" --negative "[mood: gloomy]" --texts stories.jsonl
    steer extract evals.jsonl --prompt-field question \\
        --positive-field answer_matching_behavior --negative-field answer_not_matching_behavior
    """
    from steer import store
    from steer.errors import UsageError
    from steer.files import check_writable
    from steer.sites import parse_layers, site_name

    if positions not in (None, "last", "mean"):
        raise UsageError(f"{positions!r} is not a position", hint="use last or mean")
    chosen_site = site_name(site)
    chosen_layers = None if layers is None else parse_layers(layers)
    if (contrasts is None) == (positive is None):
        raise UsageError("give a file of pairs, or --positive and --texts")
    path = out or _default_path(name, contrasts)
    store.check_path(path)
    check_writable(path, force=force)
    fields = (positive_field, negative_field, prompt_field)
    contrast_set = _contrasts(contrasts, (positive, negative), texts, fields)

    loaded = options.load_model(source)
    from steer.extract import ExtractSettings
    from steer.extract import extract as run

    settings = ExtractSettings(
        name=name or path.stem,
        site=chosen_site,
        layers=chosen_layers,
        positions=positions,  # type: ignore[arg-type]  # checked above
        description=description,
        license=license,
    )
    with output.progress("reading", 2 * len(contrast_set.pairs)) as advance:
        vector = run(loaded, contrast_set, settings, advance)
    sealed = store.write(path, vector, force=force)
    output.note(f"{loaded.describe()} · {_summary(sealed.metadata)}")
    _report(path, sealed.metadata, json=json)


def _default_path(name: str | None, contrasts: Path | None) -> Path:
    from steer.errors import UsageError
    from steer.store import SUFFIX

    stem = name or (contrasts.stem if contrasts is not None and str(contrasts) != "-" else None)
    if stem is None:
        raise UsageError("no name for the vector", hint="pass -o FILE.safetensors or --name")
    folder = Path("vectors")
    return (folder if folder.is_dir() else Path()) / f"{stem}{SUFFIX}"


def _contrasts(
    path: Path | None,
    conditions: tuple[str | None, str],
    texts: Path | None,
    fields: tuple[str | None, str | None, str | None],
) -> Contrasts:
    from steer import contrasts
    from steer.errors import UsageError

    positive, negative = conditions
    if path is not None:
        named = None
        if any(fields):
            named = contrasts.Fields(fields[0] or "positive", fields[1] or "negative", fields[2])
        return contrasts.pairs(*options.read_input(path), named)
    if texts is None or positive is None:
        raise UsageError("--positive needs texts to stand before", hint="pass --texts FILE")
    return contrasts.conditions(*options.read_input(texts), positive, negative)


def _summary(metadata: Metadata) -> str:
    contrast = metadata.contrast
    return (
        f"{contrast.n} {contrast.kind} · {metadata.method.name} of {metadata.site},"
        f" {metadata.read.positions} position"
    )


def _report(path: Path, metadata: Metadata, *, json: bool) -> None:
    from steer.cli.show import layer_table
    from steer.metadata import to_json

    if json:
        output.as_json({"path": str(path), **to_json(metadata)})
        return
    layer_table(metadata)
    output.note(f'wrote {path}; try: steer apply "One day" -v {path} --compare')
