"""`steer distill`: a prompt condition to a vector file that does what the condition does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.cli.methods import DistillCommand
from steer.cli.texts import read_prompts, with_names
from steer.contrasts.schema import Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.contrasts.contrasts import Contrasts
    from steer.distillation.lessons import Conditions
    from steer.distillation.settings import DistillSettings
    from steer.models.model import Model
    from steer.vectors.metadata import Metadata
    from steer.vectors.vector import SteeringVector


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("distill", cls=DistillCommand)(distill)


@options.with_model(default="pocket", chat=True)
@with_names
def distill(
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    condition: Annotated[
        str | None,
        typer.Option(help="What stands before the text: a tag, a persona."),
    ] = None,
    contrasts: Annotated[
        str | None, typer.Option(help="Pairs in its place; two fifths are held out.")
    ] = None,
    names: Names,
    baseline: Annotated[str, typer.Option(help="What stands in its place. Default: nothing.")] = "",
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file of prompts. Default: with --chat, questions."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="The condition is a system message.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:OPTION=VALUE]", help="See below. Default: ridge with --chat, or descent."
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="Rank; 0 is a plain vector. Default: 8, or the best."),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Such as 3, 2,5, 4-7 or all. Default: the best.")
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="Tokens to act on: all or response."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the descent at most.")] = 300,
    samples: Annotated[
        int | None, typer.Option(help="Texts to learn from. Default: 1024; --chat: 256.")
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Texts to measure by. Default: 128; --chat: 64.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a text. Default: 128; --chat: 64.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for texts and descent.")] = 0,
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    license: Annotated[str, typer.Option(help="Such as CC0-1.0.")] = "",
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Make an edit that does what a prompt does, for no tokens.

    The model writes texts under the condition; the edit learns to give the same probabilities
    without it. Recovery says how much of the way it came: 1 is all, 0 is the unsteered model.

    \b
    steer distill --condition "[mood: joyful]" -o vectors/joyful.safetensors
    steer distill --condition "Everyone was sad." -m MODEL --rank 16 \\
        --layers all -o x.safetensors
    steer distill --condition "You are a pirate." --chat -m MODEL \\
        -o pirate.safetensors
    steer distill --contrasts pairs.jsonl -m MODEL -o x.safetensors
    """
    from steer.base.errors import UsageError
    from steer.base.files import check_writable
    from steer.cli.contrast_options import read_contrasts
    from steer.contrasts import prompts as prompts_library
    from steer.contrasts.contrasts import ContrastSource
    from steer.contrasts.frame import Frame
    from steer.distillation.settings import DistillSettings
    from steer.methods.registry import distill_methods, parse_method
    from steer.vectors import store
    from steer.vectors.sites import parse_layers

    imitates_chat = chat and contrasts is None
    chosen_method, method_options = parse_method(
        method or ("ridge" if imitates_chat else "descent"), distill_methods()
    )
    if scope is None:
        scope = "response" if imitates_chat or chosen_method.response_only else "all"
    if scope not in ("all", "response"):
        raise UsageError(f"{scope!r} is not a scope to distil into", hint="use all or response")
    if (condition is None) == (contrasts is None):
        raise UsageError("distil a condition or pairs", hint="--condition TEXT or --contrasts FILE")
    if contrasts is not None and (baseline or prompts):
        raise UsageError("--baseline and --prompts go with --condition")
    if contrasts is not None:
        chosen_method.of_pairs()
    chosen = None if layers is None else () if layers == "all" else parse_layers(layers)
    store.check_path(out)
    check_writable(out, force=force)
    pairs = None
    if contrasts is not None:
        frame = Frame(chat=chat)
        pairs = read_contrasts(ContrastSource(file=contrasts, names=names, frame=frame))
    texts = list(prompts_library.QUESTIONS if chat else prompts_library.OPENINGS)
    if prompts is not None:
        names.check_files("prompts")
        texts = prompts_library.different(read_prompts(prompts, names))
    settings = DistillSettings(
        name=name or out.stem,
        method=chosen_method.name,
        options=method_options,
        rank=rank,
        layers=chosen,
        scope=scope,  # type: ignore[arg-type]  # checked above
        steps=steps,
        samples=_default(samples, 256 if chat else 1024),
        held_out=_default(held_out, 64 if chat else 128),
        max_tokens=_default(max_tokens, 64 if chat else 128),
        seed=seed,
        description=description,
        license=license,
    )
    model = options.load_model(source)
    if pairs is None:
        from steer.distillation.lessons import Conditions

        assert condition is not None
        vector = _run(model, Conditions(condition, baseline, chat), texts, settings)
    else:
        vector = _run_pairs(model, pairs, settings)
    sealed = store.write(out, vector, force=force)
    _report(model, out, sealed.metadata, source.name, json=json)


def _default(number: int | None, default: int) -> int:
    return default if number is None else number


def _run(
    model: Model, conditions: Conditions, prompts: list[str], settings: DistillSettings
) -> SteeringVector:
    from steer.distillation.distill import distill as run
    from steer.distillation.texts import journal

    kept = journal(model, conditions, prompts, settings)
    if len(kept):
        output.note("texts of this condition were kept from an earlier run")
    return run(model, conditions, prompts, settings, output.progress, kept)


def _run_pairs(model: Model, contrasts: Contrasts, settings: DistillSettings) -> SteeringVector:
    from steer.distillation.distill import fit_pairs
    from steer.distillation.pairs import preference

    return fit_pairs(preference(model, contrasts, settings), settings, output.progress)


def _report(model: Model, path: Path, metadata: Metadata, name: str, *, json: bool) -> None:
    from steer.cli.tables import layer_table, written
    from steer.vectors.metadata import to_json

    distillation = metadata.method.distillation
    assert distillation is not None
    evidence = metadata.recommended.evidence
    output.note(f"{model.describe()} · {metadata.contrast.n} texts · {evidence}")
    if json:
        output.as_json({"path": str(path), **to_json(metadata)})
        return
    layer_table(metadata)
    output.line()
    output.line(evidence)
    of_pairs = distillation.objective == "pairs"
    others = "the positive completions" if of_pairs else "those of the condition"
    output.line(
        f"its texts have {distillation.extra_nats:+.2f} nats per token under the unsteered model;"
        f" {others} {distillation.condition_extra_nats:+.2f}"
    )
    written(path, metadata, name)
