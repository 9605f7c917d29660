"""`steer distill`: train an edit or a learned token to have the effect of a prompt."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import measuring, options, output
from steer.cli.methods import DistillCommand
from steer.cli.texts import read_prompts, with_names
from steer.contrasts.schema import Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.distillation.request import DistillRequest
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
        typer.Option(help="Tokens to act on: question (and all after it), response or all."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps. Default: 300; --chat: 100; a token: 120."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Texts to learn from. Default: 1024; --chat: 512.")
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Texts to measure by. Default: 128; --chat: 64.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a text. Default: 128; --chat: 48.")
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
    from steer.base.errors import UsageError
    from steer.base.files import check_writable
    from steer.cli.contrast_options import read_contrasts
    from steer.contrasts.contrasts import ContrastSource
    from steer.contrasts.frame import Frame
    from steer.distillation.request import distill_request
    from steer.steering.named import NamedSteer, resolved
    from steer.vectors import store
    from steer.vectors.sites import parse_layers

    if ceiling and (form != "edit" or contrasts is not None or conditions is not None):
        raise UsageError("--ceiling needs one --condition and an edit", hint="leave it out")
    if conditions is not None and (
        condition is not None or contrasts is not None or name is not None
    ):
        raise UsageError("--conditions excludes --condition, --contrasts and --name")
    if conditions is not None and budget is not None:
        raise UsageError("--budget needs one --condition and an edit", hint="use fewer --steps")
    if prompts is not None:
        names.check_files("prompts")
    request_of = partial(
        distill_request,
        baseline=baseline,
        prompts=None if prompts is None else read_prompts(prompts, names),
        chat=chat,
        form=form,
        tokens=tokens,
        scalar=scalar,
        inside=resolved([NamedSteer(text) for text in vector or []], options.find),
        method=method,
        rank=rank,
        layers=None if layers is None else () if layers == "all" else parse_layers(layers),
        scope=scope,
        steps=steps,
        samples=samples,
        held_out=held_out,
        max_tokens=max_tokens,
        budget=budget,
        seed=seed,
        description=description,
        license=license,
    )
    if conditions is not None:
        requests = {
            out / f"{key}{store.SUFFIX}": request_of(name=key, condition=text)
            for key, text in _named_conditions(conditions, names).items()
        }
        _check_folder(out)
        _run_several(options.load_model(source), requests, force=force, json=json)
        return
    store.check_path(out)
    check_writable(out, force=force)
    reader = None
    if contrasts is not None:
        pairs = ContrastSource(file=contrasts, names=names, frame=Frame(chat=chat))
        reader = partial(read_contrasts, pairs)
    request = request_of(name=name or out.stem, condition=condition, contrasts=reader)
    model = options.load_model(source)
    request = request.in_time(model, output.note)
    edit = _run(model, request)
    if ceiling:
        _ceiling(model, request, json=json)
    sealed = store.write(out, edit, force=force)
    report_distilled(model, out, sealed.metadata, source.name, json=json)


def _run(model: Model, request: DistillRequest) -> SteeringVector:
    return request.run(
        model, output.progress, resumable=True, note=output.note, warn=output.warning
    )


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
    model: Model, requests: dict[Path, DistillRequest], *, force: bool, json: bool
) -> None:
    """Distil each condition that has no file yet. A condition may contain, as <|NAME|>, tokens that
    come earlier in the file of conditions."""
    from steer.steering.spec import SteerSpec
    from steer.steering.steers import resolve
    from steer.vectors import store
    from steer.vectors.metadata import to_json

    rows = []
    tokens: list[Steer] = []
    for number, (path, request) in enumerate(requests.items(), 1):
        name = request.settings.name
        if path.exists() and not force:
            output.note(f"{path} is there already")
            vector = store.read(path)
        else:
            output.note(f"{number} of {len(requests)}: {name}")
            if request.settings.form == "token":
                request = request.with_tokens([*request.inside, *tokens])
            vector = store.write(path, _run(model, request), force=force)
        output.note(f"{name}: {vector.metadata.recommended.evidence}")
        rows.append({"path": str(path), **to_json(vector.metadata)})
        if request.settings.form == "token":
            tokens.append(resolve(SteerSpec(name), vector))
    if json:
        output.as_json(rows)
        return
    output.table(
        ["name", "evidence"],
        [[row["name"], row["recommended"]["evidence"]] for row in rows],
        left=2,
    )


def _ceiling(model: Model, request: DistillRequest, *, json: bool) -> None:
    """Print the recovery of the condition's own activations at each layer."""
    reached = request.ceiling(model, output.progress)
    if json:  # stdout is one object
        for layer, interval in reached.items():
            output.note(f"layer {layer}: recovery at best {interval}")
        return
    rows = [[str(layer), str(interval)] for layer, interval in reached.items()]
    output.table(["layer", "recovery at best"], rows)
    output.line()


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
    if distillation.unrelated_kl and distillation.condition_unrelated_kl:
        (own, low, high), prompts = distillation.unrelated_kl, distillation.condition_unrelated_kl
        output.line(
            f"on unrelated texts: KL {own:.3f} [{low:.3f}, {high:.3f}] nats per token from the"
            f" plain model; the condition {prompts[0]:.3f} [{prompts[1]:.3f}, {prompts[2]:.3f}]"
        )
    of_pairs = distillation.objective == "pairs"
    others = "the positive completions" if of_pairs else "those of the condition"
    output.line(
        f"its texts have {distillation.extra_nats:+.2f} nats per token under the unsteered model;"
        f" {others} {distillation.condition_extra_nats:+.2f}"
    )
    written(path, metadata, name)
