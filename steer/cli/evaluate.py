"""`steer eval`: how well vectors work, what they cost, and against what."""

from __future__ import annotations

import json as json_library
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import engine as engines
from steer.cli import measuring, options, output, tasks, workers
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.base.intervals import Interval
    from steer.evaluation.evaluate import Row
    from steer.evaluation.task import Task
    from steer.models.model import Model
    from steer.steering.steers import Steer

TITLES = {
    "preference": "preference",
    "right_way": "right way",
    "multiple_choice": "matching",
    "recovery": "recovery",
    "concept": "concept",
    "kl": "KL",
    "extra_nats": "extra nats",
    "distinct": "distinct-2",
}
MEANINGS = {
    "preference": "nats by which the positive ending gains on the negative one",
    "right_way": "share of pairs that move so",
    "multiple_choice": "probability of the matching answer, of the two",
    "recovery": "1 is all that the condition does, 0 nothing",
    "kl": "nats per token by which unrelated texts are read otherwise",
    "extra_nats": "per token of the written texts, under the unsteered model",
    "distinct": "share of different bigrams in a text",
}
#: What a concept's number is, by the kind of judge.
CONCEPTS = {
    "words": "share of the written texts with one of the words",
    "grammar": "share of the written words that say the attribute and say it so",
    "classifier": "mean probability of the label, over the written texts",
    "judge": "mean grade of the written texts, as a share of the best one",
}
PERCENT = ("right_way", "multiple_choice", "concept", "distinct")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("eval")(evaluate)


@options.with_model(default="pocket")
@workers.with_cluster
@measuring.with_asked
def evaluate(
    *,
    context: typer.Context,
    vector: Annotated[
        list[str],
        typer.Option(
            "-v",
            "--vector",
            help="As in `steer apply`, ops, scopes and schedules too; several are rows beside each"
            " other.",
        ),
    ],
    when: Annotated[
        str | None, typer.Option(help="Steer only where this holds, as in `steer apply`.")
    ] = None,
    asked: measuring.Asked,
    concept: Annotated[
        str | None,
        typer.Option(
            help="What to look for in written texts: words:glad,happy, words:FILE.txt,"
            " grammar:formal (pocket), classifier:MODEL=LABEL, 'judge:a cheerful mood'."
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(
            envvar="STEER_JUDGE_MODEL",
            help="The model that judges, behind an endpoint that speaks OpenAI's protocol; the key"
            " is $OPENAI_API_KEY.",
        ),
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(
            envvar="STEER_JUDGE_URL", help="Its address, http://HOST:PORT/v1. Default: OpenAI's."
        ),
    ] = None,
    out: measuring.Out = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--lm-eval",
            help="A task of lm-evaluation-harness, by its name or its .yaml file, whose code runs;"
            " of the unsteered model, each vector and the prompt.",
        ),
    ] = None,
    task_limit: Annotated[
        int | None, typer.Option("--lm-eval-limit", min=2, help="Items of each task at most.")
    ] = None,
    engine: engines.WriterOption = None,
    engine_option: engines.EngineSettings = None,
    cluster: workers.Cluster | None,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Measure vectors: effect and cost, beside baselines.

    Effect: preference shift on held-out pairs, recovery of a condition, rate of a concept in
    written texts. Cost: divergence on unrelated texts, extra nats of written texts, repetition.
    Beside each vector: nothing, its opposite, random directions as long, the condition as a prompt.

    \b
    steer eval -v joyful --texts held-out.jsonl
    steer eval -v formal:2@2 --texts pairs.jsonl --condition "[style: formal]" \\
        --concept grammar:formal
    steer eval -v refusal:ablate --when 'refusal>0.4/token' --texts pairs.jsonl
    steer eval -v mean.safetensors -v pca.safetensors --texts pairs.jsonl \\
        -m MODEL -o eval.json
    """
    from steer.base.errors import InputError, UsageError
    from steer.base.files import check_writable
    from steer.steering.named import NamedSteer, behind, resolved

    workers.check(cluster, source, ("--engine", engine), ("--lm-eval", task))
    if task_limit is not None and not task:
        raise UsageError("--lm-eval-limit needs --lm-eval")
    named = behind([NamedSteer(text) for text in vector], when, "--when")
    if out is not None:
        check_writable(out, force=force)
    steers = resolved(named, options.find)
    known = [steer.vector.metadata for steer in steers]
    used = [one for steer in steers for one in steer.vectors]
    held_out = asked.held_out(known, [one.metadata for one in used])
    told = asked.condition_of(known)
    if held_out.texts is not None and told is None:
        raise InputError("texts alone say nothing", hint="give pairs, or a --condition")
    if held_out.pairs is None and told is None and concept is None:
        raise InputError(
            "there is nothing to see an effect by",
            hint="pass --texts with held-out pairs, a --condition, or a --concept",
        )
    settings = engines.check(engine, engine_option or [], steers)
    loaded = tasks.load(task or ())
    judge = measuring.concept(concept, judge_model, judge_url, asked.seed)
    what = asked.task(held_out, known, judge)
    model = workers.model(context, cluster, source)
    options.check_fit(used, model.identity, allow_other_model=asked.allow_other_model)
    from steer.evaluation.evaluate import evaluate as run
    from steer.evaluation.task import journal, n_units, variants

    rows = variants(steers, condition=told and told[0])
    cells = [cell for row in rows for cell in row.cells if isinstance(cell, tuple)]
    done = journal(model, rows, what, [engine or (cluster and "ray") or "", *(engine_option or [])])
    if len(done):
        output.note("going on with an evaluation that was stopped")
    with (
        engines.writer(engine, source, model, cells, settings) as write,
        output.progress("measuring", n_units(what, rows)) as advance,
    ):
        measured = run(model, rows, what, lambda doing, n: advance(n, doing), write, done)
    if loaded is not None:
        tasks.run(model, measured, what, loaded, task_limit)
    command = measuring.command_line(context)
    report = _report(model, measured, what, command, steers)
    if out is not None:
        from steer.base.files import write_atomic

        data = json_library.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomic(out, data.encode(), force=force)
        output.note(f"wrote {out}")
    if json:
        output.as_json(report)
    else:
        _print(model, measured, what, command, CONCEPTS.get((concept or "").partition(":")[0]))
    done.finish()


def _report(
    model: Model, rows: Sequence[Row], task: Task, command: str, steers: Sequence[Steer]
) -> dict[str, Any]:
    from steer.base.intervals import plain
    from steer.evaluation.task import names_of
    from steer.measures.measures import wrong_way

    pairs = task.held_out.pairs
    conditions = task.writing.conditions
    return {
        "command": command,
        "model": model.identity.id,
        "fingerprint": model.identity.fingerprint,
        "vectors": {name: vector.sha256 for vector, name in names_of(steers).items()},
        "seed": task.writing.seed,
        "condition": conditions and conditions.condition,
        "n": {
            "pairs": len(pairs.positive) if pairs is not None else 0,
            "texts": task.writing.samples,
            "unrelated": len(task.unrelated) if task.unrelated else task.writing.samples,
        },
        "rows": [
            {
                "label": row.variant.label,
                "kind": row.variant.kind,
                "vector": row.variant.vector,
                **{name: plain(row.measures.get(name)) for name in TITLES},
                "lm_eval": {name: plain(found) for name, found in row.tasks.items()},
                "shifts": None if row.shifts is None else row.shifts.tolist(),
                "wrong_way": None if row.shifts is None else wrong_way(row.shifts),
                "samples": list(row.samples),
            }
            for row in rows
        ],
    }


def _print(
    model: Model, rows: Sequence[Row], task: Task, command: str, concept: str | None
) -> None:
    names = [name for name in TITLES if any(name in row.measures for row in rows)]
    asked = list(dict.fromkeys(name for row in rows for name in row.tasks))
    heads = [*(TITLES[name] for name in names), *asked]
    cells = [
        [
            row.variant.label,
            *(_cell(name, row.measures.get(name)) for name in names),
            *(_cell(name, row.tasks.get(name)) for name in asked),
        ]
        for row in rows
    ]
    output.intervals(["", *heads], cells)
    output.line()
    for name in names:
        output.line(f"{TITLES[name]}: {MEANINGS.get(name, concept)}")
    if asked:
        output.line(f"{', '.join(asked)}: of lm-evaluation-harness, ± 1.96 of its standard errors")
    output.line()
    _print_items(rows)
    pairs = task.held_out.pairs
    n = [f"{len(pairs.positive)} pairs"] if pairs is not None else []
    n += [f"{task.writing.samples} written texts a row", f"seed {task.writing.seed}"]
    output.line(f"{model.describe()} · {', '.join(n)} · in brackets 95 % intervals")
    output.line(f"again: {command}")


def _print_items(rows: Sequence[Row]) -> None:
    """Which pairs a vector moves the wrong way."""
    from steer.measures.measures import wrong_way

    for row in rows:
        if row.variant.kind != "vector" or row.shifts is None:
            continue
        wrong = wrong_way(row.shifts)
        which = ", ".join(str(index + 1) for index in wrong[:8])
        told = f", the worst first: {which}{', ...' if len(wrong) > 8 else ''}" if wrong else ""
        output.line(
            f"{row.variant.label}: {len(wrong)} of {len(row.shifts)} pairs move the wrong way{told}"
        )


def _cell(name: str, interval: Interval | None) -> str:
    import math

    if interval is None or not math.isfinite(interval.value):
        return output.NOTHING
    style = "{:.0%}" if name in PERCENT else "{:.2f}" if name != "kl" else "{:.3f}"
    value, low, high = map(style.format, (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"
