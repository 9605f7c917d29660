"""`steer extract`: contrasting texts to a vector file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.errors import SteerError
from steer.source import ModelSource

if TYPE_CHECKING:
    from steer.activations import Activations
    from steer.contrasts import Contrasts
    from steer.extract import ReadSettings
    from steer.model import Model


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
    method: options.MethodOption = "mean_diff",
    keep: Annotated[
        Path | None, typer.Option(help="Keep the activations here, for `steer fit`.")
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
    from steer.fitting import FitSettings
    from steer.sites import parse_layers, site_name

    if positions not in (None, "last", "mean"):
        raise UsageError(f"{positions!r} is not a position", hint="use last or mean")
    if (contrasts is None) == (positive is None):
        raise UsageError("give a file of pairs, or --positive and --texts")
    chosen_site = site_name(site)
    chosen_layers = None if layers is None else parse_layers(layers)
    path = out or _default_path(name, contrasts)
    store.check_path(path)
    check_writable(path, force=force)
    if keep is not None:
        check_writable(keep, force=force)
    fit_settings = FitSettings(
        name=name or path.stem,
        method=options.method_name(method),
        description=description,
        license=license,
    )
    fields = (positive_field, negative_field, prompt_field)
    contrast_set = _contrasts(contrasts, (positive, negative), texts, fields)

    model = options.load_model(source)
    from steer.extract import ReadSettings

    read_settings = ReadSettings(chosen_site, chosen_layers, positions)  # type: ignore[arg-type]
    with _recorded(model, contrast_set, read_settings, path, keep) as found:
        vector = options.fitted(found, fit_settings)
    sealed = store.write(path, vector, force=force)
    options.report_vector(path, sealed, described=model.describe(), json=json)


@contextmanager
def _recorded(
    model: Model, contrasts: Contrasts, settings: ReadSettings, out: Path, keep: Path | None
) -> Iterator[Activations]:
    """The recording, in a file that goes when it has served, unless it is to be kept.

    A run that dies leaves it behind, and the same command goes on from it; one that the user
    interrupts leaves it only if it was to be kept.
    """
    from steer.activations import discard
    from steer.extract import record_contrasts

    target = keep or out
    part = target.with_name(f"{target.name}.part")
    try:
        with output.progress("reading", 2 * len(contrasts.pairs)) as advance:
            found = record_contrasts(model, contrasts, settings, part, advance)
        with found:
            yield found
    except (KeyboardInterrupt, SteerError):
        if keep is None:
            discard(part)
        raise
    if keep is None:
        discard(part)
    else:
        part.replace(keep)
        output.note(f"kept the activations in {keep}; try: steer fit {keep} --method lda")


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
