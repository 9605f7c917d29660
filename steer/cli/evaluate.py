"""`steer eval`: how well vectors work, what they cost, and against what."""

from __future__ import annotations

from typing import Annotated

import typer

from steer.cli import engine as engines
from steer.cli import measuring, options, output, workers
from steer.models.source import ModelSource


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("eval")(evaluate)


@options.with_model(default="pocket", chat=True)
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
    from steer.base.errors import UsageError
    from steer.base.files import check_writable
    from steer.steering.named import NamedSteer, behind, resolved

    workers.check(cluster, source, ("--engine", engine), ("--lm-eval", task))
    if task_limit is not None and not task:
        raise UsageError("--lm-eval-limit needs --lm-eval")
    named = behind([NamedSteer(text) for text in vector], when, "--when")
    if out is not None:
        check_writable(out, force=force)
    steers = resolved(named, options.find)
    given = asked.given([steer.vector.metadata for steer in steers])
    used = [one for steer in steers for one in steer.vectors]
    source = options.with_template_of(used, source, chat=measuring.in_chat(given))
    settings = engines.check(engine, engine_option or [], steers)
    from steer.evaluation import evaluate as run

    with measuring.Steps() as steps:
        result = run(
            lambda: workers.model(context, cluster, source),
            steers,
            **given,
            concept=concept,
            judge_model=judge_model,
            judge_url=judge_url,
            lm_eval=task or (),
            lm_eval_limit=task_limit,
            engine=measuring.writer(engine, source, settings),
            engine_key=[engine or (cluster and "ray") or "", *(engine_option or [])],
            command=measuring.command_line(context),
            progress=steps,
            note=steps.note,
            warn=steps.warning,
        )
    if out is not None:
        measuring.write_json(out, result.to_dict(), force=force)
    if json:
        output.as_json(result.to_dict())
    else:
        measuring.show(result)
    result.finish()  # Only now is nothing lost.
