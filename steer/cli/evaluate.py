"""`steer eval`: measure the effect and cost of vectors, beside baselines."""

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
@measuring.with_common
def evaluate(
    *,
    context: typer.Context,
    vector: Annotated[
        list[str],
        typer.Option(
            "-v",
            "--vector",
            help="A vector and how to steer, as in apply. Repeatable.",
        ),
    ],
    when: Annotated[
        str | None, typer.Option(help="Steer only where this holds: 'refusal>0.4'.")
    ] = None,
    common: measuring.CommonOptions,
    concept: Annotated[
        str | None,
        typer.Option(help="What to count in generated texts: see above."),
    ] = None,
    guidance: Annotated[
        list[float] | None,
        typer.Option(help="Also guide by the condition at X. Repeatable."),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(
            envvar="STEER_JUDGE_MODEL",
            help="The judge's model. The key is $OPENAI_API_KEY.",
        ),
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(envvar="STEER_JUDGE_URL", help="The judge's server. Default: OpenAI's."),
    ] = None,
    out: measuring.Out = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--lm-eval",
            help="A task of lm-evaluation-harness, or its .yaml file.",
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

    \b
    steer eval -v joyful --texts held-out.jsonl
    steer eval -v formal:2@2 --texts pairs.jsonl --condition "[style: formal]" \\
        --concept grammar:formal
    steer eval -v joyful:ablate --when 'sea>0.4/token' --texts pairs.jsonl
    steer eval -v mean.safetensors -v pca.safetensors --texts pairs.jsonl \\
        -m MODEL -o eval.json

    Effect: preference shift on held-out pairs, recovery of a condition, rate of a concept in
    generated texts. Cost: KL on unrelated texts, extra nats and repetition of generated texts.
    Baselines: unsteered, the opposite vector, random directions of the same length, and the
    condition as a prompt.

    \b
    --concept words:glad,happy     texts with one of these words; words:FILE.txt
    --concept grammar:formal       a tag of the pocket model's grammar
    --concept classifier:MODEL=LABEL     a Hugging Face classifier
    --concept 'judge:a cheerful mood'    a language model judges
    """
    from steer.base.errors import UsageError
    from steer.base.files import check_writable
    from steer.steering.named import NamedSteer, gated, resolved

    workers.check(
        cluster, source, ("--engine", engine), ("--lm-eval", task), ("--guidance", guidance)
    )
    if task_limit is not None and not task:
        raise UsageError("--lm-eval-limit needs --lm-eval")
    named = gated([NamedSteer(text) for text in vector], when, "--when")
    if out is not None:
        check_writable(out, force=force)
    steers = resolved(named, options.find)
    arguments = common.arguments([steer.vector.metadata for steer in steers])
    used = [vector for steer in steers for vector in steer.vectors]
    source = options.for_vectors(used, source, chat=measuring.in_chat(arguments))
    settings = engines.check(engine, engine_option or [], steers)
    from steer.evaluation import evaluate as run

    result = run(
        lambda: workers.model(context, cluster, source),
        steers,
        **arguments,
        concept=concept,
        guidance=guidance or (),
        judge_model=judge_model,
        judge_url=judge_url,
        lm_eval=task or (),
        lm_eval_limit=task_limit,
        engine=measuring.writer(engine, source, settings),
        engine_key=[engine or (cluster and "ray") or "", *(engine_option or [])],
        command=measuring.command_line(context),
        progress=output.progress,
        note=output.note,
        warn=output.warning,
    )
    if out is not None:
        measuring.write_json(out, result.to_dict(), force=force)
    if json:
        output.as_json(result.to_dict())
    else:
        measuring.show(result)
    result.finish()  # Deletes the kept scores, now that the result is written.
