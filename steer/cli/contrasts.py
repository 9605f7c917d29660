"""`steer contrasts`: check, split and write contrast sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import contrast_options, contrasts_write, options, output, texts
from steer.contrasts.contrasts import ContrastSource
from steer.contrasts.schema import Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.contrasts.contrasts import Contrasts
    from steer.contrasts.passages import Passage
    from steer.vectors.giveaways import Giveaways

_HELP = """Check, split and write contrast sets.

\b
The fields of the records say what a file contains. A TEXT is a string, or
chat messages [{"role": "user", "content": "..."}, ...].
  {"positive": TEXT, "negative": TEXT}   pairs; with "prompt", two completions
  {"question": ..., "answer_matching_behavior": ...,
   "answer_not_matching_behavior": ...}  multiple choice (anthropics/evals)
  {"question": ..., "correct_answers": [...],
   "incorrect_answers": [...]}           all pairs of correct and incorrect
  {"text": TEXT, "label": 1 or 0}        two sets that are not pairs; CSV too
  "..." or {"text": TEXT}                one side, as for --positive-file
\b
Or it is one JSON object:
  {"positive": [TEXT, ...], "negative": [TEXT, ...]}   two sets
  {"positive": [CONDITION, ...], "negative": [...],
   "texts": [...]}                                     conditions before texts

Files are JSONL, JSON, CSV, TSV, Parquet or lines of text, also as .gz. If the
fields have other names, say which: --map positive=good --map negative=bad.
"""


def register(app: typer.Typer) -> None:
    """Add the group to the app."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("check")(check)
    group.command("split")(split)
    group.command("write")(contrasts_write.write)
    app.add_typer(group, name="contrasts", help=_HELP, short_help=_HELP.partition("\n")[0])


@contrast_options.with_contrasts
@options.with_model(default=None, chat=True)
def check(
    *,
    contrasts: ContrastSource,
    json: options.Json = False,
    source: ModelSource | None,
) -> None:
    """Report the content of a contrast set, and how its sides differ.

    If the sides differ in length or in their first words, a vector may learn that instead. No model
    is loaded. With -m lengths are in tokens of that model, otherwise in words.

    \b
    steer contrasts check pairs.jsonl
    steer contrasts check facts.csv --map text=claim -m Qwen/Qwen2.5-0.5B-Instruct
    steer contrasts check --positive-file harmful.txt \\
        --negative-file harmless.txt --chat
    """
    from steer.library.checks import report_contrasts

    loaded = contrast_options.read_contrasts(contrasts)
    template = None
    if source is not None:
        from steer.models.loading import load_tokenizer
        from steer.models.templates import ChatTemplate

        with output.status(f"loading the tokenizer of {source.name}"):
            tokenizer = load_tokenizer(source)
        template = ChatTemplate(tokenizer, source.name, source.template)
    report = report_contrasts(loaded, template)
    if json:
        output.as_json(report.to_dict())
        return
    _print(report.contrasts, report.giveaways)
    for text in report.warnings:
        output.line()
        output.line(f"warning: {text}")


@texts.with_names
def split(
    *,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Contrasts or texts, as check reads them.")
    ],
    held_out: Annotated[float, typer.Option(help="The share of records to hold out.")] = 0.25,
    out: Annotated[
        tuple[Path, Path],
        typer.Option(
            "-o", "--out", metavar="TRAIN HELD", help="The two JSONL files to write, both."
        ),
    ],
    names: Names,
    seed: Annotated[int, typer.Option(min=0, help="Another seed holds out others.")] = 0,
    force: options.Force = False,
) -> None:
    """Divide a file into training and held-out records.

    Near-duplicates stay in the same part, and so do records with the same prompt if there are ten
    or more prompts. The same file, share and seed give the same parts.

    \b
    steer contrasts split pairs.jsonl -o train.jsonl held-out.jsonl
    steer extract train.jsonl -o warm.safetensors
    steer sweep -v ./warm.safetensors --texts held-out.jsonl --save
    """
    import json

    from steer.base.files import check_apart, check_writable, write_atomic
    from steer.contrasts.split import split as divide

    check_apart(*out)
    for path in out:
        check_writable(path, force=force)
    names.check_files()
    parts = divide(list(texts.records_of(file, names)), held_out, seed=seed, names=names)
    for path, part in zip(out, parts, strict=True):
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in part)
        write_atomic(path, lines.encode("utf-8", "surrogatepass"), force=force)
        output.note(f"wrote {path}, {len(part):,} records")


def _print(contrasts: Contrasts, facts: Giveaways) -> None:
    paired = "" if contrasts.paired or contrasts.kind == "unpaired" else ", not in pairs"
    output.line(f"{contrasts.kind}{paired}")
    sides = (contrasts.positive, contrasts.negative)
    for name, side in zip(("positive", "negative"), sides, strict=True):
        output.line(f"  {name}, the first: {_example(side[0])}")
    output.line()
    lengths = [
        f"{side.least} – {side.median:g} – {side.most}" for side in (facts.positive, facts.negative)
    ]
    rows = [
        ["texts", f"{len(sides[0]):,}", f"{len(sides[1]):,}"],
        [f"{facts.unit} each: least – median – most", *lengths],
    ]
    output.table(["", "positive", "negative"], rows)
    output.line()
    items = "pairs" if contrasts.paired else "texts"
    rows_below = {
        "duplicates": f"{facts.duplicates:,}",
        "equal sides" if contrasts.paired else "on both sides": f"{facts.equal_sides:,}",
        "nearly like another": f"{facts.near_duplicates:.0%} of the {items}",
    }
    if facts.length_auc is not None:
        rows_below["told by length"] = f"AUC {facts.length_auc:.2f} (0.50: not at all)"
    if facts.first_token is not None:
        rows_below[f"told by the first {facts.unit[:-1]}"] = (
            f"{facts.first_token:.0%} (50%: not at all)"
        )
    for label, value in rows_below.items():
        output.line(f"{label:<24} {value}")


def _example(passage: Passage) -> str:
    """The beginning of a passage, after an ellipsis if a prompt stands before it."""
    before = "… " if passage.prompt or passage.turns else ""
    text = " ".join(passage.text.split())
    return f"{before}{text[:60]}{'…' if len(text) > 60 else ''}"
