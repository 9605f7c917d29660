"""`steer make`: make a vector, choose its strength, and show samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steer.cli import contrast_options, from_words, options, output
from steer.contrasts.contrasts import ContrastSource
from steer.models.source import ModelSource


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("make")(make)


@contrast_options.with_contrasts
@options.with_model(default="pocket", chat=True, fast=True)
def make(
    *,
    contrasts: ContrastSource,
    against: Annotated[
        str | None, typer.Argument(metavar="AGAINST", help="The opposite word or words.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Default: vectors/NAME.safetensors."),
    ] = None,
    method: options.MethodOption = "mean_diff",
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    license: Annotated[str, typer.Option(help="Such as CC0-1.0.")] = "",
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Make a vector, choose its strength, and show what it does.

    The vector is extracted from the contrasts (see `steer extract`; answers to prompts are read in
    the chat template if the model has one). The model then answers a few questions at rising
    strengths; the file recommends the highest one at which texts are still fluent. Last come three
    texts at each of a few strengths, from the opposite to more than recommended.

    \b
    steer make pairs.jsonl -m MODEL -o warm
    steer make "patient" "impatient" -m MODEL -o patient
    steer make pairs.jsonl -o cheerful
    """
    from steer.base.files import check_writable
    from steer.cli.extract import default_path
    from steer.methods.registry import check_paired, fit_methods
    from steer.vectors import store

    path = out or default_path(name, contrasts.file)
    if not path.suffix:
        path = path.with_suffix(store.SUFFIX)
    store.check_path(path)
    check_writable(path, force=force)
    fitting = options.fit_method(method)
    words = from_words.is_words(contrasts, against)
    data: Any = contrasts.file
    if not words:
        data = contrast_options.read_contrasts(contrasts)
        check_paired(fit_methods().named(fitting["method"]), paired=data.paired)
    model = options.load_model(source)
    if not words:
        plain, data = data, data.for_template(has_template=model.identity.chat_template is not None)
        if data is not plain:
            output.note("answers to prompts, for a chat model: read in its chat template")
    from steer.cli.tables import written
    from steer.library.models import Model
    from steer.library.tasks import make as run

    result = run(
        Model(model),
        data,
        against,
        chat=words and contrasts.frame.chat,
        **fitting,
        name=name or path.stem,
        description=description,
        license=license,
        progress=output.progress,
    )
    sealed = store.write(path, result.vector, force=force)
    result = result.named(str(path))
    if json:
        output.as_json({"path": str(path), **result.to_dict()})
        return
    recommended = sealed.metadata.recommended
    output.note(f"{result.described} · {sealed.metadata.contrast} · {recommended.evidence}")
    for text in result.view():
        output.line(text)
    written(path, sealed.metadata, source.name)
