"""`steer sweep`: which layer, which coefficient, and whether it deserves to be recommended."""

from __future__ import annotations

import json as json_library
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from steer.cli import engine as engines
from steer.cli import measuring, options, output, swept, workers
from steer.cli.sweep_rows import rows_of, strongest
from steer.cli.tables import trial
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.base.journal import Journal
    from steer.evaluation.choice import Budget
    from steer.evaluation.findings import Findings
    from steer.evaluation.sweep import Bench
    from steer.evaluation.task import Task
    from steer.evaluation.written import Continue
    from steer.measures.grids import Grid, Plan
    from steer.models.model import Model


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("sweep")(sweep)


@options.with_model(default="pocket")
@workers.with_cluster
@measuring.with_asked
def sweep(
    *,
    context: typer.Context,
    vector: Annotated[
        list[str],
        typer.Option(
            "-v",
            "--vector",
            help="NAME, path or address; with an op (NAME:ablate) where that is not add, a scope"
            " (NAME:add/response=0) where it is not all; several are swept beside each other,"
            " such as methods or positions.",
        ),
    ],
    asked: measuring.Asked,
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
            " Default: nine from 2% to 60%, and finer ones about the budget's edge; of other ops,"
            " shares of the edit."
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
    exhaustive: Annotated[
        bool,
        typer.Option(
            "--exhaustive",
            help="Score every cell on all texts. Else those that by a part of them cannot be the"
            " strongest within --max-kl are left out.",
        ),
    ] = False,
    save: Annotated[
        bool, typer.Option("--save", help="Write the choice into the vector file, for `-v NAME`.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw effect, cost and front: a .png, .pdf or .svg.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write one HTML page with everything.")
    ] = None,
    out: measuring.Out = None,
    engine: engines.WriterOption = None,
    engine_option: engines.EngineSettings = None,
    cluster: workers.Cluster | None,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Find the layer and coefficient that do most within a budget.

    Every layer with every coefficient is scored on held-out pairs (preference shift) or by a
    condition (recovery), and by how far it moves the model on unrelated texts. A choice that does
    not beat random directions is not recommended. A sweep that was killed goes on.

    \b
    steer sweep -v joyful --texts held-out.jsonl --save
    steer sweep -v pirate.safetensors --max-kl 0.05 --report sweep.html
    steer sweep -v warm --texts pairs.jsonl -m MODEL --layers 10-20 \\
        --coefficients 5%,10%,20%
    steer sweep -v mean.safetensors -v lda.safetensors \\
        -v mean.safetensors:norm=keep --texts pairs.jsonl
    """
    from steer.base.errors import InputError, UsageError
    from steer.base.files import check_apart, check_writable

    workers.check(cluster, source, ("--engine", engine))
    if rule not in ("budget", "refusal_direction"):
        raise UsageError(f"{rule!r} is not a rule", hint="use budget or refusal_direction")
    if not all(0 <= budget < math.inf for budget in (max_kl, max_nats)):
        raise UsageError("--max-kl and --max-nats are numbers, 0 or more")
    check_apart(out, plot, report)
    for path in (out, plot, report):
        if path is not None:
            check_writable(path, force=force)
    if plot is not None or report is not None:
        from steer.measures.pictures import check_format

        check_format(plot)
    rows = rows_of(vector, layers, coefficients, rule, together=together, save=save)
    known = [row.vector.metadata for row in rows]
    held_out = asked.held_out(known)
    if held_out.pairs is None and asked.condition_of(known) is None:
        raise InputError(
            "there is nothing to see an effect by",
            hint="pass --texts with held-out pairs, or a --condition",
        )
    if rule != "budget" and held_out.pairs is None:
        raise UsageError(f"the rule {rule} needs held-out pairs", hint="pass --texts")
    from steer.measures.grids import Plan

    plan = Plan(rows)
    most = strongest(rows)
    settings = engines.check(engine, engine_option or [], most)
    task = asked.task(held_out, known).for_choice
    model = workers.model(context, cluster, source)
    from steer.evaluation.choice import Budget

    used = [row.vector for row in rows]
    options.check_fit(used, model.identity, allow_other_model=asked.allow_other_model)
    budget = Budget(max_kl, max_nats, cast("Literal['budget', 'refusal_direction']", rule))
    with engines.writer(engine, source, model, [[one] for one in most], settings) as write:
        made, journals = _run(model, plan, budget, task, write, exhaustive=exhaustive)
    told = made.as_json(measuring.command_line(context))
    _write(told, out, plot, report, force=force)
    saved = save and made.verdict.recommended and _save(made)
    if json:
        output.as_json(told)
    else:
        swept.show(model, made, told)
    for journal in journals:  # Only now is nothing lost.
        journal.finish()
    if not made.verdict.recommended:
        raise InputError(f"nothing to recommend: {made.verdict.reason}", hint=swept.hint(told))
    if not json:
        typed = told["choice"]["vector" if saved else "typed"]
        output.note(f"try: {trial(typed, source.name, chat=asked.in_chat(known))}")


def _run(
    model: Model,
    plan: Plan,
    budget: Budget,
    task: Task,
    engine: Continue | None,
    *,
    exhaustive: bool,
) -> tuple[Findings, list[Journal]]:
    from steer.evaluation.findings import Findings
    from steer.evaluation.sweep import bench
    from steer.evaluation.verdict import judge
    from steer.measures.grids import Plan, finer, joined

    output.note(
        f"{model.describe()} · {len(plan.rows)} rows × {plan.n_columns} coefficients ·"
        f" budget: KL at most {budget.kl:g} and extra nats at most {budget.nats:g} per token"
    )
    with output.progress("writing", _n_written(task)) as advance:
        texts = bench(model, task, lambda what, n: advance(n, what), engine)
    journals: list[Journal] = []
    # That rule goes by more than the effect.
    exhaustive = exhaustive or budget.rule != "budget"
    grid = _scored(texts, plan, budget, journals, exhaustive=exhaustive)
    more = finer(plan, grid, budget.kl) if budget.rule == "budget" else None
    if more is not None:
        second = _scored(texts, more, budget, journals, exhaustive=exhaustive)
        plan, grid = Plan(plan.rows + more.rows), joined(grid, second)
    with output.status("holding the choice against random directions"):
        verdict = judge(texts, plan, grid, budget, task.writing)
    own = tuple(model.decode(one.ids) for one in texts.own[:6])
    found = Findings(model.identity, plan, budget, task.writing, verdict, own)
    return found, journals


def _scored(
    texts: Bench, plan: Plan, budget: Budget, journals: list[Journal], *, exhaustive: bool
) -> Grid:
    """The grid of a plan, drawn as it fills in; its journal joins the others."""
    from steer.cli.heat import heat_map
    from steer.evaluation.sweep import journal, run

    journals.append(journal(texts.model, plan, texts))
    if len(journals[-1]):
        output.note("going on with a sweep that was stopped")
    grid: Grid | None = None
    with output.live() as show:

        def on_progress(what: str, share: float) -> None:
            caption = f"{what}, {share:.0%}"
            show(heat_map(plan, grid, budget.kl, width=output.width(), caption=caption))

        max_kl = None if exhaustive else budget.kl
        for rows in run(texts, plan, journals[-1], on_progress, max_kl):
            grid = rows
    assert grid is not None
    return grid


def _n_written(task: Task) -> int:
    both = task.held_out.pairs is None and task.held_out.texts is None
    return task.writing.samples * (2 if both else 1)


def _write(
    told: dict[str, Any], out: Path | None, plot: Path | None, report: Path | None, *, force: bool
) -> None:
    from steer.base.files import write_atomic

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


def _save(made: Findings) -> bool:
    """Write the recommendation into its file; False where a file cannot hold it."""
    from steer.base.errors import VectorError
    from steer.steering.spec import SteerSpec
    from steer.steering.steers import resolve
    from steer.vectors import store

    place = made.verdict.place
    assert place is not None
    row = made.plan.rows[place[0]]
    plain = resolve(SteerSpec(row.reference), row.vector)
    if row.scope != plain.scope:
        output.warning(
            f"a vector file recommends no scope, and the choice is {row}: nothing was saved"
        )
        return False
    path = store.find(row.reference)
    if store.read(path).sha256 != row.vector.sha256:
        raise VectorError(f"{path} has changed since the sweep began", hint="run it again")
    store.write(path, made.recommending(), force=True)
    output.note(f"wrote the recommendation into {path}")
    return True
