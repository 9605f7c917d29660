"""`steer contrasts write`: have a model write a contrast set."""

from __future__ import annotations

import json as json_lines
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.base.errors import UsageError
from steer.cli import from_words, options, output
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.concepts.answers import Query
    from steer.concepts.writing import Answerer


@options.with_model(default="pocket", fast=True)
def write(
    *,
    word: Annotated[str, typer.Argument(help="A word or a sentence, as steer extract takes it.")],
    against: Annotated[
        str | None, typer.Option(help="The opposite word. Default: the unchanged model.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=4, max=5_000, help="How many pairs.")] = 64,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Default: NAME.jsonl, of the word.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=8, help="Tokens of an answer.")] = 40,
    phrase: from_words.PhraseOption = None,
    questions: Annotated[
        Path | None, typer.Option(help="A file of questions, instead of steer's own.")
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Ask in the chat template. Default: if there is."),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(envvar="STEER_JUDGE_MODEL", help="A bigger model that writes.")
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(envvar="STEER_JUDGE_URL", help="The URL of its server, with OpenAI's API."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the answers.")] = 0,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Have a model write a contrast set: pairs of answers under two words.

    The pairs are answers to steer's everyday questions, without near-duplicates. Both answers of a
    pair have the same length, and first words are balanced between the sides. Read and edit the
    file before you use it.

    \b
    steer contrasts write "formal" --against "casual" -n 64 -m MODEL
    steer extract formal.jsonl --chat -m MODEL -o formal.safetensors
    """
    from steer.base.files import check_writable, write_atomic
    from steer.concepts.concept import check_phrase
    from steer.concepts.questions import Questions
    from steer.concepts.words import interpret
    from steer.contrasts import contrast_files
    from steer.contrasts.check import giveaways
    from steer.contrasts.contrasts import ContrastSource
    from steer.contrasts.records import records_in

    check_phrase(phrase)
    if judge_url is not None and judge_model is None:
        raise UsageError("a server needs a model", hint="pass --judge-model NAME")
    interpreted = interpret(word, against)
    path = out or Path(f"{interpreted.concept.name}.jsonl")
    check_writable(path, force=force)
    typed = from_words.read_questions(questions)
    question_sets = None if typed is None else Questions.split(typed)
    output.note(f"interpret {interpreted.note}")
    answerer, is_chat, described = (
        _teacher(judge_model, judge_url, seed, max_tokens)
        if judge_model is not None
        else _local(source, chat, seed, max_tokens)
    )
    from steer.concepts.writing import write_contrast_set

    pairs = write_contrast_set(
        answerer, interpreted.concept, n, chat=is_chat, phrase=phrase, questions=question_sets
    )
    records = [pair.record() for pair in pairs]
    lines = "".join(json_lines.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_atomic(path, lines.encode("utf-8", "surrogatepass"), force=force)
    numbered = list(records_in(records, str(path)))
    checked = giveaways(contrast_files.read(ContrastSource("pairs"), lambda _: numbered))
    warnings = checked.warnings(paired=True)
    if len(pairs) < n:
        warnings.append(f"only {len(pairs)} of the {n} pairs are usable")
    if json:
        output.as_json({"path": str(path), "n": len(pairs), "warnings": warnings})
    else:
        for pair in pairs[:3]:
            output.heading(pair.question)
            output.line(f"  positive  {pair.positive}")
            output.line(f"  negative  {pair.negative}")
    for text in warnings:
        output.warning(text)
    on_chat = " --chat" if is_chat else ""
    output.note(
        f"{described} wrote {len(pairs)} pairs into {path}; read them, and then:"
        f" steer extract {path}{on_chat} -m MODEL"
    )


def _local(
    source: ModelSource, chat: bool | None, seed: int, max_tokens: int
) -> tuple[Answerer, bool, str]:
    model = options.load_model(source)
    from steer.concepts import answers

    def answerer(queries: Sequence[Query], numbers: Sequence[int]) -> list[str]:
        written = answers.write(
            model, queries, samples=numbers, max_tokens=max_tokens, seed=seed,
            progress=output.progress,
        )  # fmt: skip
        return [answer.text for answer in written]

    return answerer, model.template.exists if chat is None else chat, model.describe()


def _teacher(
    judge_model: str, judge_url: str | None, seed: int, max_tokens: int
) -> tuple[Answerer, bool, str]:
    from steer.evaluation.endpoint import GraderModel, answers

    endpoint = GraderModel(judge_model, judge_url, seed)

    def answerer(queries: Sequence[Query], numbers: Sequence[int]) -> list[str]:
        with output.status(f"{judge_model} is writing"):
            return answers(
                endpoint, [(q.condition, q.question) for q in queries], numbers, max_tokens
            )

    return answerer, True, judge_model
