"""`steer bake`: a checkpoint that is steered without hooks."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.cli.recipe import RecipeOption, settings
from steer.cli.texts import read_prompts, with_map
from steer.contrasts.schema import Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.baking.folder import Report
    from steer.models.model import Model
    from steer.steering.steers import Steer

_SIZE = re.compile(r"\d+(\.\d+)?[KMGT]I?B", re.IGNORECASE)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("bake")(bake)


@options.with_model(default="pocket")
@with_map("texts")
def bake(
    *,
    context: typer.Context,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")],
    vector: Annotated[
        list[str] | None,
        typer.Option("-v", "--vector", help="As for steer apply: joyful:2@2. Several add up."),
    ] = None,
    recipe: RecipeOption = None,
    approximate: Annotated[
        bool,
        typer.Option("--approximate", help="Where nothing is exact, bake what comes nearest."),
    ] = False,
    lora: Annotated[
        bool,
        typer.Option("--lora", help="Write a LoRA adapter in PEFT's format, not a checkpoint."),
    ] = False,
    max_shard_size: Annotated[str, typer.Option(help="Of one weight file, at most.")] = "5GB",
    texts: Annotated[
        Path | None,
        typer.Option(help="A file of texts to compare on, in place of the usual ones."),
    ] = None,
    names: Names,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Use a vector on a finetune of its model.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a folder that was baked before.")
    ] = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Write steering into the weights, for any engine.

    Adds become biases, where the architecture has a place for them; ablate=writes is taken out of
    every matrix that writes; a learned token becomes a word of the tokenizer, that the model never
    writes. What no weights can do is refused, with what comes nearest. Then the
    folder is loaded and held against the hooks; exit status 1 where they differ.

    It runs in float32; --dtype is what is written, by default what the model is stored in.

    \b
    steer bake -v joyful:2@2 -o joyful-pocket
    steer bake -m MODEL -v refusal:ablate=writes@14 -o open-model --dtype bfloat16
    steer bake -m MODEL --recipe captain.toml -o captain-model
    steer bake -m MODEL -v pirate -o pirate-model
    steer bake -m MODEL -v refusal:ablate=writes@14 --lora -o adapter
    """
    from steer.baking.bakeable import check_bakeable
    from steer.baking.target import check_folder
    from steer.base.errors import SteerError, UsageError
    from steer.models.source import DTYPES
    from steer.vectors.sites import listed

    if not _SIZE.fullmatch(max_shard_size):
        raise UsageError(f"{max_shard_size!r} is not a size", hint="write 5GB or 500MB")
    steers = _steers(context, recipe, vector or [])
    check_bakeable(steers)
    check_folder(out, force=force)
    chosen = {} if texts is None else {"texts": read_prompts(texts, names, field="text")}
    from steer.models.loading import stored_dtype

    if lora and (approximate or source.dtype):
        raise UsageError(
            "an adapter is exact and in float32: --lora goes with no --approximate or --dtype"
        )
    dtype = source.dtype or stored_dtype(source)
    if dtype not in DTYPES:
        raise SteerError(
            f"{source.name} is stored in {dtype}", hint=f"pass --dtype with one of {listed(DTYPES)}"
        )
    source = replace(source, dtype="float32")
    model = options.load_model(source)
    from steer.baking.folder import N_STAGES, export

    vectors = [steer.vector for steer in steers]
    options.check_fit(vectors, model.identity, allow_other_model=allow_other_model)
    if lora:
        _export_lora(model, steers, out, chosen, force=force, json=json)
        return
    with output.progress("baking", N_STAGES) as advance:
        report = export(
            model,
            steers,
            out,
            source,
            dtype=dtype,
            max_shard_size=max_shard_size,
            approximate=approximate,
            force=force,
            on_stage=lambda stage: advance(1, stage),
            **chosen,
        )
    _tell(report, out, json=json)


def _steers(context: typer.Context, recipe: Path | None, vectors: list[str]) -> list[Steer]:
    """The steers of the recipe and of the command line."""
    from steer.steering.named import resolved

    named, _ = settings(context, recipe, {}, vectors)
    return resolved(named, options.find)


def _export_lora(
    model: Model,
    steers: list[Steer],
    out: Path,
    chosen: dict[str, list[str]],
    *,
    force: bool,
    json: bool,
) -> None:
    """Write an adapter, and say what it is.

    Raises:
        typer.Exit: it is not what the hooks do.
    """
    from steer.baking.lora import export
    from steer.models.adapter import INSTALL

    with output.progress("baking", 4) as advance:
        report = export(
            model,
            steers,
            out,
            force=force,
            on_stage=lambda stage: advance(1, stage),
            **chosen,
        )
    if json:
        output.as_json({"path": str(out), **report.to_json()})
    else:
        constants = ", with constants" if report.bias else ""
        output.line(
            f"{out}: LoRA of rank {report.rank} on {len(report.modules)} modules{constants}"
        )
        if report.difference is not None:
            output.line(str(report.difference))
    if report.difference is None:
        output.warning(f"the adapter was not checked, for want of the package peft: {INSTALL}")
    elif not report.difference.passed:
        output.error(f"{out} does not do what the hooks do", hint="the folder is kept")
        raise typer.Exit(1)
    if report.bias:
        output.note(
            "it has constants (lora_bias): PEFT runs them beside the weights and merges them only"
            " into layers with a bias; other engines may refuse them"
        )


def _tell(report: Report, out: Path, *, json: bool) -> None:
    """What was done, and whether it is what the hooks do.

    Raises:
        typer.Exit: it is not.
    """
    if json:
        output.as_json({"path": str(out), **report.to_json()})
    else:
        counts = f"writes with constants: {report.constants}, matrices projected: {report.matrices}"
        untied = ", LM head untied" if report.untied else ""
        output.line(f"{out}: {report.architecture}, {report.dtype}; {counts}{untied}")
        output.line(str(report.difference))
    for one in report.tokens if not json else ():
        output.line(f"write {one['text']} in a prompt, or as the system message")
    for text in report.approximations:
        output.warning(f"approximate: {text}")
    if report.difference.says_nothing:
        output.warning("these steers change next to nothing, so the comparison says little")
    if not report.difference.passed:
        output.error(
            f"{out} does not do what the hooks do",
            hint="the folder is kept; `steer doctor` checks the hooks, --texts compares on others",
        )
        raise typer.Exit(1)
    output.note(f'wrote {out}; try: steer apply "One day" -m {shlex.quote(str(out))} -t 0')
