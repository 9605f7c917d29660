"""`steer sweep`: which layer, which coefficient, and whether it deserves to be recommended."""

from __future__ import annotations

import json as json_library
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from steer.cli import contrast_options, measuring, options, output, swept
from steer.contrasts.source import ModelSource

if TYPE_CHECKING:
    from steer.evaluation.evaluate import Task
    from steer.evaluation.findings import Findings
    from steer.evaluation.verdict import Budget
    from steer.measures.grids import Grid, Plan
    from steer.models.model import Model
    from steer.vectors.vector import SteeringVector


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("sweep")(sweep)


@options.with_model(default="pocket")
def sweep(
    source: ModelSource,
    context: typer.Context,
    vector: Annotated[str, typer.Option("-v", "--vector", help="NAME or path.")],
    texts: measuring.Texts = None,
    condition: measuring.Condition = None,
    baseline: measuring.Baseline = "",
    layers: Annotated[
        str | None, typer.Option(help="Such as 3, 2,5 or 4-7. Default: all that are stored.")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Steer at all of these layers at once.")
    ] = False,
    coefficients: Annotated[
        str | None,
        typer.Option(
            help="Such as 5%,10%,20% (of the activations' length) or 0.5,1,2 (times the vector)."
            " Default: nine from 2% to 60%."
        ),
    ] = None,
    max_kl: Annotated[
        float, typer.Option(help="Budget: KL on unrelated texts, in nats per token.")
    ] = 0.1,
    max_nats: Annotated[
        float,
        typer.Option(
            help="Budget: extra nats per token of written texts, under the unsteered model."
        ),
    ] = 0.1,
    rule: Annotated[
        str,
        typer.Option(
            help="budget: the strongest effect within it. refusal_direction: what its authors do"
            " (below the last fifth of layers, KL at most 0.1, adding induces, taking out does"
            " most), for pairs."
        ),
    ] = "budget",
    save: Annotated[
        bool, typer.Option("--save", help="Write the choice into the vector file, for `-v NAME`.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw effect, cost and front: a .png, .pdf or .svg.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write one HTML page with everything.")
    ] = None,
    prompts: measuring.Prompts = None,
    chat: measuring.Chat = False,
    unrelated: measuring.Unrelated = None,
    samples: Annotated[
        int, typer.Option(help="Texts to write: unsteered, and at the choice.")
    ] = 48,
    max_tokens: measuring.MaxTokens = 64,
    seed: measuring.Seed = 0,
    map: contrast_options.Map = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write everything here, as JSON.")
    ] = None,
    allow_overlap: measuring.AllowOverlap = False,
    allow_other_model: measuring.AllowOtherModel = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Find the layer and the coefficient with the strongest effect within a budget.

    Every layer with every coefficient is scored on held-out pairs (preference shift) or by a
    condition (recovery), and by how far it moves the model on unrelated texts. A choice that does
    not beat random directions is not recommended. A sweep that was killed goes on where it was.

    \b
    steer sweep -v joyful --texts held-out.jsonl --save
    steer sweep -v pirate.safetensors --max-kl 0.05 --report sweep.html
    steer sweep -v warm --texts pairs.jsonl -m MODEL --layers 10-20 --coefficients 5%,10%,20%
    """
    from steer.contrasts.schema import parse_mapping
    from steer.errors import InputError, UsageError
    from steer.files import check_writable
    from steer.vectors import store

    if rule not in ("budget", "refusal_direction"):
        raise UsageError(f"{rule!r} is not a rule", hint="use budget or refusal_direction")
    for path in (out, plot, report):
        if path is not None:
            check_writable(path, force=force)
    if plot is not None or report is not None:
        from steer.measures.pictures import check_format

        check_format(plot)
    asked = measuring.Asked(
        texts, parse_mapping(map or ()), condition, baseline, chat, prompts, unrelated,
        samples, max_tokens, seed, allow_overlap,
    )  # fmt: skip
    found_at = store.find(_name(vector))
    read = store.read(found_at)
    if save:
        check_writable(found_at, force=True)
    columns = _coefficients(coefficients, read, rule)
    rows = _rows(layers, read, together=together)
    held_out = asked.held_out([read.metadata])
    if held_out.pairs is None and asked.condition_of([read.metadata]) is None:
        raise InputError(
            "there is nothing to see an effect by",
            hint="pass --texts with held-out pairs, or a --condition",
        )
    if rule != "budget" and held_out.pairs is None:
        raise UsageError(f"the rule {rule} needs held-out pairs", hint="pass --texts")
    model = options.load_model(source)
    from steer.evaluation.verdict import Budget
    from steer.measures.grids import Plan
    from steer.steering.spec import SteerSpec
    from steer.steering.steers import check_fits, resolve

    steer = resolve(SteerSpec(str(found_at)), read)
    for text in check_fits(read, model.identity, allow_other_model=allow_other_model):
        output.warning(text)
    task = asked.task(held_out, [read.metadata])
    plan = Plan(read, rows, columns, steer.scope)
    budget = Budget(max_kl, max_nats, cast("Literal['budget', 'refusal_direction']", rule))
    made = _run(model, plan, budget, task)
    told = made.as_json(measuring.command_line(context))
    _write(told, out, plot, report, force=force)
    if save and made.verdict.recommended:
        _save(found_at, read, made)
    if json:
        output.as_json(told)
    else:
        swept.show(model, made, told, vector)
    if not made.verdict.recommended:
        raise InputError(f"nothing to recommend: {made.verdict.reason}", hint=swept.hint(told))
    if not json:
        output.note(
            f'try: steer apply "One day" -v {swept.typed(vector, told, saved=save)} --compare'
        )


def _run(model: Model, plan: Plan, budget: Budget, task: Task) -> Findings:
    from steer.cli.heat import heat_map
    from steer.evaluation.findings import Findings
    from steer.evaluation.sweep import bench, journal, n_units, run
    from steer.evaluation.verdict import judge

    output.note(
        f"{model.describe()} · {len(plan.layers)} layers × {len(plan.coefficients)} coefficients ·"
        f" budget: KL at most {budget.kl:g} and extra nats at most {budget.nats:g} per token"
    )
    with output.progress("writing", _n_written(task)) as advance:
        texts = bench(model, task, lambda what, n: advance(n, what))
    done = journal(model, plan, texts)
    if len(done):
        output.note("going on with a sweep that was stopped")
    grid: Grid | None = None
    finished, total = 0, n_units(plan, texts)
    with output.live() as show:

        def on_progress(what: str, count: int) -> None:
            nonlocal finished
            finished += count
            show(heat_map(plan, grid, budget.kl, caption=f"{what}, {finished / total:.0%}"))

        for rows in run(texts, plan, done, on_progress):
            grid = rows
    assert grid is not None
    with output.status("holding the choice against random directions"):
        verdict = judge(texts, plan, grid, budget, task.writing)
    done.finish()
    own = tuple(model.decode(one.ids) for one in texts.own[:6])
    return Findings(model.identity, plan, budget, task.writing, grid, verdict, own)


def _n_written(task: Task) -> int:
    both = task.held_out.pairs is None and task.held_out.texts is None
    return task.writing.samples * (2 if both else 1)


def _name(text: str) -> str:
    from steer.errors import UsageError
    from steer.steering import spec

    parsed = spec.parse(text)
    if parsed.coefficient is not None or parsed.layers is not None:
        raise UsageError(
            f"{text!r}: a sweep finds the numbers", hint="use --coefficients and --layers"
        )
    if parsed != spec.SteerSpec(parsed.reference):
        raise UsageError(
            f"{text!r}: a sweep adds the vector, everywhere and always",
            hint="measure ops, scopes and schedules with `steer eval`",
        )
    return parsed.reference


def _coefficients(text: str | None, vector: SteeringVector, rule: str) -> tuple[Any, ...]:
    from steer.errors import UsageError
    from steer.steering.operation import Coefficient, parse_coefficient

    if text is None:
        from steer.measures.grids import default_coefficients

        chosen = default_coefficients(vector)
    else:
        chosen = tuple(parse_coefficient(part.strip(), part) for part in text.split(","))
    if rule == "refusal_direction" and all(one.value > 0 for one in chosen):
        chosen += tuple(Coefficient(-one.value, one.unit) for one in chosen)
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"a coefficient twice in {text!r}")
    if any(one.unit == "residual" for one in chosen) and vector.metadata.rank:
        raise UsageError(
            f"vector {vector.name!r} is a low-rank edit: what it adds has no one length",
            hint="write multiples of it, such as 0.5,1,1.5",
        )
    return chosen


def _rows(
    text: str | None, vector: SteeringVector, *, together: bool
) -> tuple[tuple[int, ...], ...]:
    from steer.sites import parse_layers

    metadata = vector.metadata
    layers = metadata.layers if text is None else parse_layers(text)
    for layer in layers:
        metadata.at(layer)
    # What was learned for several layers at once is meant to act at all of them.
    if together or (metadata.method.name == "distill" and text is None):
        return (layers,)
    return tuple((layer,) for layer in layers)


def _write(
    told: dict[str, Any], out: Path | None, plot: Path | None, report: Path | None, *, force: bool
) -> None:
    from steer.files import write_atomic

    if out is not None:
        data = json_library.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomic(out, data.encode(), force=force)
        output.note(f"wrote {out}")
    if plot is not None:
        from steer.measures.pictures import draw

        write_atomic(plot, draw(told, plot.suffix[1:]), force=force)
        output.note(f"wrote {plot}")
    if report is not None:
        from steer.measures.report import page

        write_atomic(report, page(told).encode(), force=force)
        output.note(f"wrote {report}")


def _save(path: Path, read: SteeringVector, made: Findings) -> None:
    from steer.errors import VectorError
    from steer.vectors import store

    if store.read(path).sha256 != read.sha256:
        raise VectorError(f"{path} has changed since the sweep began", hint="run it again")
    store.write(path, made.recommending(), force=True)
    output.note(f"wrote the recommendation into {path}")
