"""`steer distill`: train an edit or a learned token to have the effect of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from steer.cli import measuring, options, output
from steer.cli.methods import DistillCommand
from steer.cli.texts import read_prompts, with_names
from steer.contrasts.schema import Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.contrasts.contrasts import Contrasts
    from steer.distillation.lessons import Conditions
    from steer.distillation.settings import DistillSettings
    from steer.models.model import Model
    from steer.steering.steers import Steer
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
        typer.Option(help="The text before prompts: a tag, a persona."),
    ] = None,
    conditions: Annotated[
        Path | None,
        typer.Option(help="A file of conditions: records with name and condition; -o is a folder."),
    ] = None,
    contrasts: Annotated[
        str | None, typer.Option(help="Pairs instead; two fifths are held out.")
    ] = None,
    names: Names,
    baseline: Annotated[
        str, typer.Option(help="The condition to compare with. Default: nothing.")
    ] = "",
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
    form: Annotated[
        str,
        typer.Option(
            "--as",
            help="edit: of activations; token: embeddings for <|NAME|>.",
        ),
    ] = "edit",
    tokens: Annotated[int | None, typer.Option(help="Embeddings of a token. Default: 1.")] = None,
    scalar: Annotated[
        bool,
        typer.Option(
            "--scalar",
            help="A token for coefficients from -1 to 2.",
        ),
    ] = False,
    vector: Annotated[
        list[str] | None,
        typer.Option("-v", "--vector", help="A learned token in the condition, as <|NAME|>."),
    ] = None,
    ceiling: Annotated[
        bool, typer.Option("--ceiling", help="Also print what any edit could recover, by layer.")
    ] = False,
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
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the descent. Default: 300; a token: 120."),
    ] = None,
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
    budget: measuring.BudgetOption = None,
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    license: Annotated[str, typer.Option(help="Such as CC0-1.0.")] = "",
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Train an edit, or a token, to have the effect of a prompt.

    The model generates texts under the condition; the edit learns to give the same probabilities
    without it. Recovery is the share of the condition's effect that the edit has: 1 is all of it,
    0 is the unsteered model. With --as token, one embedding or a few take the condition's place.

    \b
    steer distill --condition "[mood: joyful]" -o vectors/joy.safetensors
    steer distill --condition "Everyone was sad." -m MODEL --rank 16 \\
        --layers all -o x.safetensors
    steer distill --condition "You are a pirate." --chat -m MODEL \\
        -o pirate.safetensors
    steer distill --condition "You are a pirate." --chat -m MODEL \\
        --as token -o pirate.safetensors
    steer distill --contrasts pairs.jsonl -m MODEL -o x.safetensors
    """
    from steer.base.durations import seconds_of
    from steer.base.errors import UsageError
    from steer.base.files import check_writable
    from steer.cli.contrast_options import read_contrasts
    from steer.contrasts import prompts as prompts_library
    from steer.contrasts.contrasts import ContrastSource
    from steer.contrasts.frame import Frame
    from steer.distillation.settings import DistillSettings, Form, sizes
    from steer.methods.registry import distill_methods, parse_method, usual_distill_method
    from steer.steering.named import NamedSteer, resolved
    from steer.vectors import store
    from steer.vectors.sites import parse_layers

    if form not in get_args(Form):
        raise UsageError(f"--as {form!r} is unknown", hint="use --as edit or --as token")
    as_token = form == "token"
    if as_token:
        _check_token(contrasts, method, rank, layers, scope)
        method, scope = "descent", "all"
    elif tokens is not None or scalar or vector:
        raise UsageError("--tokens, --scalar and -v need --as token")
    if ceiling and (as_token or contrasts is not None or conditions is not None):
        raise UsageError("--ceiling needs one --condition and an edit", hint="leave it out")
    imitates_chat = chat and contrasts is None
    chosen_method, method_options = parse_method(
        method or usual_distill_method(chat=imitates_chat), distill_methods()
    )
    if scope is None:
        scope = "response" if imitates_chat or chosen_method.response_only else "all"
    if scope not in ("all", "response"):
        raise UsageError(f"{scope!r} is not a scope to distil into", hint="use all or response")
    if conditions is not None:
        if condition is not None or contrasts is not None or name is not None:
            raise UsageError("--conditions excludes --condition, --contrasts and --name")
        several = _named_conditions(conditions, names)
        _check_folder(out)
    elif (condition is None) == (contrasts is None):
        raise UsageError(
            "name either a condition or pairs", hint="--condition TEXT or --contrasts FILE"
        )
    if contrasts is not None and (baseline or prompts):
        raise UsageError("--baseline and --prompts need --condition")
    if contrasts is not None:
        chosen_method.of_pairs()
    chosen = None if layers is None else () if layers == "all" else parse_layers(layers)
    if conditions is None:
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
        seed=seed,
        description=description,
        license=license,
        scalar=scalar,
        form=form,  # type: ignore[arg-type]  # checked above
        **sizes(
            form,
            chat=chat,
            steps=steps,
            samples=samples,
            held_out=held_out,
            max_tokens=max_tokens,
            tokens=tokens,
        ),
    )
    seconds = None if budget is None else seconds_of(budget)
    if seconds is not None and (pairs is not None or as_token or conditions is not None):
        raise UsageError("--budget needs one --condition and an edit", hint="use fewer --steps")
    inside = resolved([NamedSteer(text) for text in vector or []], options.find)
    from steer.distillation.lessons import Conditions

    imitated = [] if condition is None else [Conditions(condition, baseline, chat)]
    model = options.load_model(source)
    used = [steer.vector for steer in inside]
    options.check_fit(used, model.identity, allow_other_model=False)
    if seconds is not None:
        from steer.distillation.within import within

        settings = within(seconds, model, settings, output.note)
    if conditions is not None:
        _run_several(
            model, several, out, baseline, chat=chat, prompts=texts, settings=settings,
            inside=inside, force=force, json=json,
        )  # fmt: skip
        return
    if as_token:
        edit = _run_token(model, imitated[0], texts, settings, inside)
    elif pairs is None:
        edit = _run(model, imitated[0], texts, settings)
        if ceiling:
            _ceiling(model, imitated[0], texts, settings, json=json)
    else:
        edit = _run_pairs(model, pairs, settings)
    sealed = store.write(out, edit, force=force)
    report_distilled(model, out, sealed.metadata, source.name, json=json)


def _check_token(
    contrasts: str | None,
    method: str | None,
    rank: int | None,
    layers: str | None,
    scope: str | None,
) -> None:
    """Refuse options that do not apply to learned tokens.

    Raises:
        UsageError: an option applies only to edits; the message names it.
    """
    from steer.base.errors import UsageError

    if contrasts is not None:
        raise UsageError("a token replaces a condition, not pairs", hint="name a --condition")
    values = {"--method": method, "--rank": rank, "--layers": layers, "--scope": scope}
    for option, value in values.items():
        if value is not None:
            raise UsageError(
                f"{option} applies only to edits: a token is part of the prompt, at no layer",
                hint=f"leave {option} or --as token out",
            )


def _run(
    model: Model, conditions: Conditions, prompts: list[str], settings: DistillSettings
) -> SteeringVector:
    from steer.distillation.distill import distill as run
    from steer.distillation.texts import journal

    kept = journal(model, conditions, prompts, settings)
    if len(kept):
        output.note("texts of this condition were kept from an earlier run")
    return run(model, conditions, prompts, settings, output.progress, kept)


def _named_conditions(path: Path, names: Names) -> dict[str, str]:
    """Read conditions by name, in the order of the file.

    Raises:
        InputError: a record lacks a name or a condition, or a name occurs twice or cannot be the
            name of a file.
    """
    from steer.base.errors import InputError
    from steer.base.files import read_bytes, safe_name
    from steer.contrasts.records import MOST_BYTES, records, text_value

    names.check_files("conditions")
    conditions: dict[str, str] = {}
    data = read_bytes(path, limit=MOST_BYTES)
    for where, record in records(data, str(path), ("name", "condition")):
        if not isinstance(record, dict) or not {"name", "condition"} <= record.keys():
            raise InputError(
                f"{where}: no name and condition",
                hint='write {"name": "pirate", "condition": "You are a pirate."} a line',
            )
        name, text = (text_value(where, record[key], key) for key in ("name", "condition"))
        if not safe_name(name):
            raise InputError(f"{where}: {name!r} cannot be the name of a file")
        if name in conditions:
            raise InputError(f"{where}: the name {name!r} occurs twice")
        conditions[name] = text
    if not conditions:
        raise InputError(f"{path} has no conditions")
    return conditions


def _check_folder(folder: Path) -> None:
    """Check that the output folder exists.

    Raises:
        SteerError: it does not exist, or is not a folder.
    """
    from steer.base.errors import SteerError

    if not folder.is_dir():
        raise SteerError(
            f"there is no folder {folder} for the files", hint=f"mkdir {folder}, or name another"
        )


def _run_several(
    model: Model,
    conditions: dict[str, str],
    folder: Path,
    baseline: str,
    *,
    chat: bool,
    prompts: list[str],
    settings: DistillSettings,
    inside: list[Steer],
    force: bool,
    json: bool,
) -> None:
    """Distil each condition that has no file yet. A condition may contain, as <|NAME|>, tokens that
    come earlier in the file of conditions."""
    from dataclasses import replace

    from steer.distillation.lessons import Conditions
    from steer.steering.spec import SteerSpec
    from steer.steering.steers import resolve
    from steer.steering.tokens import mark
    from steer.vectors import store
    from steer.vectors.metadata import to_json

    rows = []
    for number, (name, text) in enumerate(conditions.items(), 1):
        path = folder / f"{name}{store.SUFFIX}"
        if path.exists() and not force:
            output.note(f"{path} is there already")
            vector = store.read(path)
        else:
            output.note(f"{number} of {len(conditions)}: {name}")
            imitated, named = Conditions(text, baseline, chat), replace(settings, name=name)
            if settings.form == "token":
                used = [steer for steer in inside if mark(steer.vector.name) in text]
                vector = _run_token(model, imitated, prompts, named, used)
            else:
                vector = _run(model, imitated, prompts, named)
            vector = store.write(path, vector, force=force)
        output.note(f"{name}: {vector.metadata.recommended.evidence}")
        rows.append({"path": str(path), **to_json(vector.metadata)})
        if settings.form == "token":
            inside = [*inside, resolve(SteerSpec(name), vector)]
    if json:
        output.as_json(rows)
        return
    output.table(
        ["name", "evidence"],
        [[row["name"], row["recommended"]["evidence"]] for row in rows],
        left=2,
    )


def _run_token(
    model: Model,
    conditions: Conditions,
    prompts: list[str],
    settings: DistillSettings,
    inside: list[Steer],
) -> SteeringVector:
    from steer.distillation.texts import journal
    from steer.distillation.token import distill_token
    from steer.steering.tokens import separate

    kept = journal(model.knowing(separate(inside)[0]), conditions, prompts, settings)
    if len(kept):
        output.note("texts of this condition were kept from an earlier run")
    return distill_token(model, conditions, prompts, settings, output.progress, kept, inside)


def _ceiling(
    model: Model,
    conditions: Conditions,
    prompts: list[str],
    settings: DistillSettings,
    *,
    json: bool,
) -> None:
    """Print the recovery of the condition's own activations at each layer, on the same held-out
    texts."""
    from steer.distillation.ceiling import ceiling
    from steer.distillation.quick import quick
    from steer.distillation.task import Task
    from steer.distillation.texts import journal, write

    kept = journal(model, conditions, prompts, settings)
    model = quick(model)
    task = Task.of(model, write(model, conditions, prompts, settings, kept=kept))
    reached = ceiling(task, model.hooks.layers("resid_post"), output.progress)
    if json:  # stdout is one object
        for layer, interval in reached.items():
            output.note(f"layer {layer}: recovery at best {interval}")
        return
    rows = [[str(layer), str(interval)] for layer, interval in reached.items()]
    output.table(["layer", "recovery at best"], rows)
    output.line()


def _run_pairs(model: Model, contrasts: Contrasts, settings: DistillSettings) -> SteeringVector:
    from dataclasses import asdict

    from steer import resuming
    from steer.distillation.checkpoints import Checkpoints
    from steer.distillation.distill import fit_pairs
    from steer.distillation.pairs import preference

    run = resuming.journal(model, "descents", contrasts.sha256, asdict(settings))
    pairs = preference(model, contrasts, settings, Checkpoints.of(run))
    return fit_pairs(pairs, settings, output.progress)


def report_distilled(
    model: Model, path: Path, metadata: Metadata, name: str, *, json: bool
) -> None:
    """Print what was distilled, and how much of the condition's effect it has."""
    from steer.cli.tables import layer_table, written
    from steer.vectors.metadata import to_json

    distillation = metadata.method.distillation
    assert distillation is not None
    evidence = metadata.recommended.evidence
    output.note(f"{model.describe()} · {metadata.contrast.n} texts")
    if json:
        output.as_json({"path": str(path), **to_json(metadata)})
        return
    if not metadata.tokens:
        layer_table(metadata)
        output.line()
    output.line(evidence)
    for coefficient, value, low, high in distillation.by_coefficient:
        output.line(f"at {coefficient:g}: recovery {value:.2f} [{low:.2f}, {high:.2f}]")
    if distillation.plain_recovery is not None:
        value, low, high = distillation.plain_recovery
        output.line(f"on the model's own texts: recovery {value:.2f} [{low:.2f}, {high:.2f}]")
    of_pairs = distillation.objective == "pairs"
    others = "the positive completions" if of_pairs else "those of the condition"
    output.line(
        f"its texts have {distillation.extra_nats:+.2f} nats per token under the unsteered model;"
        f" {others} {distillation.condition_extra_nats:+.2f}"
    )
    written(path, metadata, name)
