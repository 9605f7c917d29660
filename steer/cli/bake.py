"""`steer bake`: write steering into the weights of a checkpoint, or into a LoRA adapter."""

from __future__ import annotations

import shlex
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
    from steer.baking.lora import LoraReport


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
        typer.Option("--approximate", help="Bake the nearest edit if none is exact."),
    ] = False,
    lora: Annotated[
        bool,
        typer.Option("--lora", help="Write a LoRA adapter in PEFT's format, not a checkpoint."),
    ] = False,
    max_shard_size: Annotated[str, typer.Option(help="The most bytes of one weight file.")] = "5GB",
    texts: Annotated[
        Path | None,
        typer.Option(help="A file of texts for the comparison. Default: steer's own."),
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

    An added vector becomes a bias, if the architecture has a place for one. ablate=writes is
    projected out of every matrix that writes to the residual stream. A learned token becomes a word
    of the tokenizer, which the model never generates. If weights cannot express a steer, the error
    names the nearest one that they can. The folder is then loaded and compared with the hooks; exit
    status 1 if they differ.

    The computation is in float32. --dtype is the type that is written, by default the model's own.

    \b
    steer bake -v joyful:2@2 -o joyful-pocket
    steer bake -m MODEL -v refusal:ablate=writes@14 -o open-model --dtype bfloat16
    steer bake -m MODEL --recipe captain.toml -o captain-model
    steer bake -m MODEL -v pirate -o pirate-model
    steer bake -m MODEL -v refusal:ablate=writes@14 --lora -o adapter
    """
    from steer.baking.bakeable import check_bakeable
    from steer.baking.target import check_folder
    from steer.steering.named import resolved

    named, _ = settings(context, recipe, {}, vector or [])
    steers = resolved(named, options.find)
    # Checked here too, so that errors come before torch is imported.
    check_bakeable(steers)
    check_folder(out, force=force)
    read = None if texts is None else read_prompts(texts, names, field="text")
    from steer.baking.export import export
    from steer.baking.lora import LoraReport

    report = export(
        source,
        steers,
        out,
        approximate=approximate,
        lora=lora,
        max_shard_size=max_shard_size,
        texts=read,
        allow_other_model=allow_other_model,
        force=force,
        load=options.load_model,
        warn=output.warning,
        progress=output.progress,
    )
    if isinstance(report, LoraReport):
        _report_lora(report, out, json=json)
    else:
        _report(report, out, json=json)


def _report_lora(report: LoraReport, out: Path, *, json: bool) -> None:
    """Report an adapter.

    Raises:
        typer.Exit: the adapter differs from the hooks.
    """
    from steer.models.adapter import INSTALL

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
        output.warning(f"the adapter was not compared with the hooks: peft is missing; {INSTALL}")
    elif not report.difference.passed:
        output.error(f"{out} does not do what the hooks do", hint="the folder is kept")
        raise typer.Exit(1)
    if report.bias:
        output.note(
            "it has constants (lora_bias): PEFT runs them beside the weights and merges them only"
            " into layers with a bias; other engines may refuse them"
        )


def _report(report: Report, out: Path, *, json: bool) -> None:
    """Report a baked folder.

    Raises:
        typer.Exit: the folder differs from the hooks.
    """
    if json:
        output.as_json({"path": str(out), **report.to_json()})
    else:
        counts = f"writes with constants: {report.constants}, matrices projected: {report.matrices}"
        untied = ", LM head untied" if report.untied else ""
        output.line(f"{out}: {report.architecture}, {report.dtype}; {counts}{untied}")
        output.line(str(report.difference))
    for token in report.tokens if not json else ():
        output.line(f"write {token['text']} in a prompt, or as the system message")
    for text in report.approximations:
        output.warning(f"approximate: {text}")
    if report.difference.is_inconclusive:
        output.warning("these steers change almost nothing, so the comparison means little")
    if not report.difference.passed:
        output.error(
            f"{out} does not do what the hooks do",
            hint="the folder is kept; `steer doctor` checks the hooks, --texts compares on others",
        )
        raise typer.Exit(1)
    output.note(f'wrote {out}; try: steer apply "One day" -m {shlex.quote(str(out))} -t 0')
