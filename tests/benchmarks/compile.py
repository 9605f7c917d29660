"""The strength of compiled prompts: `python tests/benchmarks/compile.py -m MODEL --out FILE`.

Six system prompts (persona, register, language, output format, two clauses, six clauses), and for
each the forms that it can be compiled to, with the defaults of `steer distill --chat` and nothing
tuned. A line of JSON is written as soon as a form is measured, so a run that was stopped goes on;
the table is of all that is there. `--quick` has fewer and shorter texts, and no descent.

recovery: on answers of the prompted model to questions that were held out, with its interval.
nats: KL per token of the prompted model from the plain one on these answers: what there is to do.
extra: nats per token of the form's own answers under the plain model, more than its own; beside it
the same of the prompted model's answers.
unrelated: KL per token from the plain model on facts, sums and code; beside it the prompt's.
seconds: of processor time, for the texts and for the fit.
hybrid: a text of some clauses with an edit for the rest, as `steer compile` makes it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from steer.base.journal import Journal
from steer.base.progress import Lines
from steer.contrasts.prompts import training_messages
from steer.distillation.distill import fit
from steer.distillation.hybrid import CompileSettings, compile_prompt, journals_of
from steer.distillation.lessons import Conditions
from steer.distillation.quick import quick
from steer.distillation.settings import DistillSettings, sizes
from steer.distillation.task import Task
from steer.distillation.texts import journal, write
from steer.distillation.token import fit_token
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource

PROMPTS = {
    "persona": "You are a cheerful pirate. You speak only like a pirate.",
    "register": "You answer in a very formal and polite register, as a butler would.",
    "language": "Answer only in French.",
    "format": "Answer with a numbered list of short points, and nothing else.",
    "two clauses": "Answer in the style of a formal letter, and always mention the weather.",
    "six clauses": "You are a grumpy old gardener. Answer in short sentences. Use simple words."
    " Mention a plant in every answer. Never use exclamation marks. End with a question.",
}
#: Prompts that say what an edit or a token may be unable to hold: facts, an exact format, a rule
#: about a single place. `--prompts` names them; they are not among the six.
HARD = {
    "facts": "You are the assistant of Harbour Street Dental. The practice is open on Mondays and"
    " Thursdays from 8 to 16, the telephone number is 555 0143, and the dentist is Dr Lindqvist."
    " Mention one of these facts in every answer.",
    "exact format": 'Answer with a JSON object that has the keys "answer" and "confidence", and'
    " with nothing else.",
    "one place": "Begin every answer with the word Certainly, and end it with the word Goodbye.",
}
FULL = DistillSettings(name="x", scope="response", **sizes("edit", chat=True))
QUICK = replace(FULL, samples=160, held_out=48, max_tokens=40)
TOKEN = DistillSettings(name="x", form="token", **sizes("token", chat=True))
PROGRESS = Lines(partial(print, file=sys.stderr))
#: Forms, as changes of the settings.
FORMS: dict[str, dict[str, Any]] = {
    "mean difference": {"method": "ridge", "rank": 0},
    "ridge": {"method": "ridge"},
    "distill": {"method": "descent"},
    "token": {"tokens": 1},
    "4 tokens": {"tokens": 4},
    "16 tokens": {"tokens": 16},
    "token for a range": {"tokens": 1, "scalar": True},
    "hybrid": {},
}


def pieces(
    model: Model, name: str, settings: DistillSettings, forms: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """What is measured of a prompt, a form at a time; tokens have shorter texts of their own."""
    conditions, messages = Conditions((PROMPTS | HARD)[name], chat=True), training_messages()
    tokens = [form for form in forms if "tokens" in FORMS[form]]
    edits = [form for form in forms if form not in (*tokens, "hybrid")]
    for own, some in ((settings, edits), (TOKEN, tokens)):
        if some:
            start = time.process_time()
            kept = journal(model, conditions, messages, own)
            texts = write(model, conditions, messages, own, PROGRESS, kept)
            sampling = time.process_time() - start
            yield from measured(name, Task.of(model, texts), own, some, sampling, kept)
    if "hybrid" in forms:
        yield hybrid(model, name)


def hybrid(model: Model, name: str) -> dict[str, Any]:
    """The line of `steer compile` with its defaults."""
    start = time.process_time()
    messages = training_messages()
    journals = journals_of(model, messages)
    compiled = compile_prompt(
        model, (PROMPTS | HARD)[name], messages, CompileSettings("x"), PROGRESS, journals
    )
    row, first_row = compiled.rows[compiled.chosen], compiled.rows[0]
    return {
        "prompt": name,
        "form": "hybrid",
        "compiled": compiled.to_dict(),
        "nats": compiled.nats,
        "recovery": row.recovery.value,
        "interval": [row.recovery.low, row.recovery.high],
        "extra_nats": row.extra_nats,
        "condition_extra_nats": first_row.extra_nats,
        "unrelated_kl": [row.unrelated.value],
        "condition_unrelated_kl": [first_row.unrelated.value],
        "seconds": {"sampling": 0.0, "fitting": time.process_time() - start},
    }


def measured(
    name: str,
    task: Task,
    settings: DistillSettings,
    forms: Sequence[str],
    sampling: float,
    kept: Journal,
) -> Iterator[dict[str, Any]]:
    """A line for each form."""
    for form in forms:
        start = time.process_time()
        own = replace(settings, **FORMS[form])
        is_token = own.form == "token"
        vector = fit_token(task, own, PROGRESS, kept) if is_token else fit(task, own, PROGRESS)
        distillation = vector.metadata.method.distillation
        assert distillation is not None
        yield {
            "prompt": name,
            "form": form,
            "nats": task.per_token,
            "layers": vector.metadata.layers,
            "rank": vector.metadata.rank,
            "tokens": vector.metadata.tokens,
            **{field: getattr(distillation, field) for field in distillation.__struct_fields__},
            "seconds": {"sampling": sampling, "fitting": time.process_time() - start},
        }


def known(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def size(row: dict[str, Any]) -> str:
    """The embeddings of a token, the text of a hybrid, or the layers and the rank of an edit."""
    if "compiled" in row:
        compiled = row["compiled"]
        return f"{compiled['text']!r} + {compiled['steer']}, {compiled['saved']} tokens saved"
    if row.get("tokens"):
        return f"{row['tokens']} embeddings"
    layers = row["layers"]
    return f"{len(layers)} layers, {layers[0]}-{layers[-1]}, rank {row['rank']}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line for each prompt and form."""
    lines = [
        "| prompt | nats | form | size | recovery | extra nats, prompt's | unrelated, prompt's"
        " | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        unrelated = [row.get(key) for key in ("unrelated_kl", "condition_unrelated_kl")]
        cells = [
            row["prompt"],
            f"{row['nats']:.2f}",
            row["form"],
            size(row),
            "{:.3f} [{:.3f}, {:.3f}]".format(row["recovery"], *row["interval"]),
            f"{row['extra_nats']:+.2f}, {row['condition_extra_nats']:+.2f}",
            ", ".join(f"{lesson[0]:.3f}" for lesson in unrelated if lesson),
            "{sampling:.0f} + {fitting:.0f}".format(**row["seconds"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", nargs="*", choices=PROMPTS | HARD, default=list(PROMPTS))
    parser.add_argument("--forms", nargs="*", choices=FORMS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    settings = QUICK if options.quick else FULL
    slow = ("distill", "16 tokens", "token for a range", "hybrid")
    forms = options.forms or [form for form in FORMS if form not in slow or not options.quick]
    done = {(row["prompt"], row["form"]) for row in known(options.out)}
    model = quick(load(ModelSource(options.model)))
    for name in options.prompts:
        open_ = [form for form in forms if (name, form) not in done]
        for row in pieces(model, name, settings, open_) if open_ else ():
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(table(known(options.out)))


if __name__ == "__main__":
    main()
