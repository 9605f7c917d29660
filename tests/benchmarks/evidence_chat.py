"""The effect of steering on a chat model: `evidence_chat.py MODEL [--quick]`, a table for the docs.

Eight everyday traits (`examples/chat`), each as a system message, by guidance, and as vectors of
several methods, on questions that nothing was made from or calibrated on. A vector is made by
`steer.extract` with its defaults, which calibrate its layers and coefficient; an edit by
`steer.distill`. Columns, with 95 % intervals over texts:

trait       how far the answers show it, by a measure that needs no judge (`traits.py`)
of prompt   the same, where 0 is unsteered and 1 is the system message
recovery    share of the system message's effect on the next token (KL): 1 is all, 0 none
KL          nats per token by which the unsteered model's own answers are read otherwise
extra nats  nats per token of the answers under the unsteered model, more than of its own
distinct-2  share of different bigrams in an answer

Answers are sampled at temperature 0.7, as `steer apply` does.

Each row is written to a file of its own as it is done, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from traits import CONDITIONS, MEASURES

import steer
from steer.base.intervals import Interval, mean, plain, rate, ratio, share_of_gap
from steer.contrasts.prompts import OTHER_QUESTIONS
from steer.distillation.lessons import Conditions
from steer.evaluation.batches import Text, distance, drift, log_prob
from steer.evaluation.cells import PROMPTED, UNSTEERED, Cell, SteeredCell
from steer.evaluation.scoring import Nats, added_nats, score, scored
from steer.evaluation.written import (
    GeneratedText,
    TextSettings,
    lesson_text,
    own_texts,
    write_conditioned,
    write_together,
)
from steer.generate.apply import Sampling, generate
from steer.generate.guidance import guidance
from steer.library.models import Model
from steer.measures.baselines import random_direction
from steer.measures.formulas import distinct
from steer.steering.generation import Guide
from steer.steering.spec import SteerSpec
from steer.steering.steers import Steer, resolve

EXAMPLES = Path(__file__).parents[2] / "examples/chat"
METHODS = ("mean_diff", "pca", "lda", "probe")
ROWS = ("unsteered", "random", "prompt", "guidance 1.5", *METHODS, "ridge", "distill")
QUICK_ROWS = ("unsteered", "random", "prompt", "mean_diff", "pca", "lda")
TEMPERATURE = 0.7
COLUMNS = ("trait", "of prompt", "recovery", "KL", "extra nats", "distinct-2")
STRENGTH = 1.5


class Bench:
    """What all rows of one trait have in common: the questions, and the texts to score on."""

    def __init__(self, model: Model, trait: str, samples: int, max_tokens: int) -> None:
        self.model, self.trait, self.inner = model, trait, model.inner
        questions = OTHER_QUESTIONS[: min(samples, len(OTHER_QUESTIONS))]
        self.writing = TextSettings(
            questions, Conditions(CONDITIONS[trait], "", chat=True), chat=True, samples=samples,
            max_tokens=max_tokens,
        )  # fmt: skip
        self.written = self.answers()
        self.own = own_texts(self.inner, self.writing, self.written)
        self.lessons = write_conditioned(self.inner, self.writing)
        self.conditioned = [lesson_text(lesson) for lesson in self.lessons]
        self.base_nats = self.nats(self.written)
        self.base_distance = self._sums(self.conditioned, UNSTEERED, distance)

    def answers(self, *steers: Steer) -> list[GeneratedText]:
        [written] = write_together(self.inner, self.writing, [steers], temperature=TEMPERATURE)
        return written

    def nats(self, written: Sequence[GeneratedText]) -> Nats:
        """Nats of each answer's tokens under the unsteered model, and their number."""
        texts = [text.scored for text in written]
        counts = np.array([float(len(text.scored)) for text in texts])
        return -score(self.inner, texts, [UNSTEERED], log_prob)[0], counts

    def traits(self, texts: Sequence[str]) -> list[float]:
        return [MEASURES[self.trait](text) for text in texts]

    def steered(self, steer: Steer) -> dict[str, Any]:
        """The numbers of a row under a steer."""
        written = self.answers(steer)
        cell = SteeredCell((steer,))
        scores = self.of_texts(self._decoded(written), [text.own for text in written])
        left = self._sums(self.conditioned, cell, distance)
        drifts = self._sums(self.own, cell, drift)
        counts = np.array([float(len(text.scored)) for text in self.own])
        nats = added_nats(self.nats(written), self.base_nats)
        return scores | {
            "recovery": plain(ratio(self.base_distance - left, self.base_distance)),
            "KL": plain(ratio(drifts, counts)),
            "extra nats": plain(nats),
            "steer": str(steer),
        }

    def unsteered(self) -> dict[str, Any]:
        return self.of_texts(self._decoded(self.written), [text.own for text in self.written])

    def prompted(self) -> dict[str, Any]:
        """The numbers of the system message itself."""
        system = Conditions("", CONDITIONS[self.trait], chat=True)
        settings = replace(self.writing, conditions=system)
        [written] = write_together(self.inner, settings, [()], temperature=TEMPERATURE)
        # The same answers after the questions alone.
        bare = [
            GeneratedText((*before.ids[: len(before.ids) - before.n], *pair.own), pair.n)
            for before, pair in zip(self.written, written, strict=True)
        ]
        scores = self.of_texts(self._decoded(written), [text.own for text in written])
        drifts = self._sums(self.own, PROMPTED, drift)
        counts = np.array([float(len(text.scored)) for text in self.own])
        return scores | {
            "recovery": {"value": 1.0, "low": 1.0, "high": 1.0},
            "KL": plain(ratio(drifts, counts)),
            "extra nats": plain(added_nats(self.nats(bare), self.base_nats)),
        }

    def guided(self) -> dict[str, Any]:
        """The system message by guidance, which writes and is not scored."""
        questions = self.writing.prompts
        sampling = Sampling(
            max_tokens=self.writing.max_tokens, temperature=TEMPERATURE, batch_size=32
        )
        guides = [Guide(CONDITIONS[self.trait], STRENGTH)]
        guided = guidance(self.inner, questions, guides, chat=True)
        prompts = [self.inner.chat(question) for question in questions]
        written = list(generate(self.inner, prompts, (), sampling, special=False, guidance=guided))
        texts = [text.text for text in written]
        return self.of_texts(texts, [self.inner.encode(text, special=False) for text in texts])

    def of_texts(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        """What the answers alone show."""
        pairs = np.array([distinct(token_id) for token_id in ids], float).reshape(-1, 2)
        values = self.traits(texts)
        return {
            "trait": plain(mean(values)),
            "distinct-2": plain(rate(pairs[:, 0], pairs[:, 1])),
            "values": values,
            "texts": list(texts[:6]),
        }

    def _sums(self, texts: Sequence[Text], cell: Cell, measure: Any) -> Any:
        return scored(self.inner, texts, [cell], measure).sums[0]

    def _decoded(self, written: Sequence[GeneratedText]) -> list[str]:
        return [self.inner.decode(text.own) for text in written]


def row_of(bench: Bench, row: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    """One row of a trait."""
    if row == "unsteered":
        return bench.unsteered()
    if row == "prompt":
        return bench.prompted()
    if row.startswith("guidance"):
        return bench.guided()
    vector = vector_of(bench, "mean_diff" if row == "random" else row, folder, quick=quick)
    steer = resolve(SteerSpec(vector.name), vector)
    return bench.steered(random_direction(steer, 0) if row == "random" else steer)


def vector_of(bench: Bench, method: str, folder: Path, *, quick: bool) -> Any:
    """The vector of a method, fitted once."""
    path = folder / f"{bench.trait}-{method}.safetensors"
    if not path.exists():
        if method in ("ridge", "distill"):
            vector = steer.distill(
                bench.model, CONDITIONS[bench.trait], chat=True, name=bench.trait,
                method="ridge" if method == "ridge" else "descent",
                samples=64 if quick else 128, held_out=16 if quick else 32, max_tokens=48,
            )  # fmt: skip
        else:
            pairs = EXAMPLES / f"{bench.trait}.jsonl"
            vector = steer.extract(bench.model, pairs, chat=True, method=method, name=bench.trait)
        vector.save(path)
    return steer.read(path).data


def gap(rows: dict[str, dict[str, Any]], row: str) -> Interval | None:
    """The trait of a row, where 0 is unsteered and 1 is the prompt; None where the prompt does not
    raise it by 0.05."""
    if not {"unsteered", "prompt", row} <= set(rows):
        return None
    low, high, own = (np.array(rows[name]["values"]) for name in ("unsteered", "prompt", row))
    n = min(map(len, (low, high, own)))
    ones = np.ones(n)
    if high.mean() - low.mean() < 0.05:
        return None
    return share_of_gap((own[:n], ones), (low[:n], ones), (high[:n], ones))


def table(results: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    """The results in Markdown: a table of medians over the traits, and one of each trait."""
    names = list(dict.fromkeys(row for rows in results.values() for row in rows))
    done = [rows for rows in results.values() if rows]
    yield "| row, medians | " + " | ".join(COLUMNS) + " |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for name in names:
        cells = []
        for column in COLUMNS:
            values = [v for rows in done if name in rows and (v := value_of(rows, name, column))]
            middle = float(np.median([value["value"] for value in values])) if values else None
            cells.append("–" if middle is None else f"{middle:.2f} ({len(values)})")
        yield f"| {name} | " + " | ".join(cells) + " |"
    for trait, rows in results.items():
        yield ""
        yield f"| {trait} | " + " | ".join(COLUMNS) + " |"
        yield "|---" * (len(COLUMNS) + 1) + "|"
        for name in rows:
            cells = [shown(value_of(rows, name, column)) for column in COLUMNS]
            yield f"| {name} | " + " | ".join(cells) + " |"


def value_of(rows: dict[str, dict[str, Any]], row: str, column: str) -> dict[str, float] | None:
    if column == "of prompt":
        return plain(gap(rows, row))
    value: dict[str, float] | None = rows[row].get(column)
    return value


def shown(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "–"
    return f"{interval['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The content of a file; if it does not exist, it is computed and written."""
    if not path.exists():
        value = make()
        path.with_suffix(".part").write_text(json.dumps(value))
        path.with_suffix(".part").replace(path)
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--quick", action="store_true", help="fewer rows, texts and tokens")
    parser.add_argument("--rows", help="with commas between")
    parser.add_argument("--traits", default=",".join(CONDITIONS))
    parser.add_argument("--samples", type=int)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--dtype", default="bfloat16", help="of the model; default: bfloat16")
    parser.add_argument("--out", type=Path, default=Path("evidence-chat"))
    parser.add_argument("--show", action="store_true", help="print what is there, and stop")
    args = parser.parse_args()
    rows = args.rows.split(",") if args.rows else QUICK_ROWS if args.quick else ROWS
    samples = args.samples or (12 if args.quick else 48)
    max_tokens = args.max_tokens or (32 if args.quick else 64)
    args.out.mkdir(parents=True, exist_ok=True)
    todo = [
        (trait, row)
        for trait in args.traits.split(",")
        for row in rows
        if not (args.out / f"{trait} {row}.json").exists()
    ]
    if not args.show and todo:
        run(args, todo, samples, max_tokens)
    results = {
        trait: {
            row: json.loads(path.read_text())
            for row in ROWS
            if (path := args.out / f"{trait} {row}.json").exists()
        }
        for trait in args.traits.split(",")
    }
    print("\n".join(table(results)))


def run(args: Any, todo: list[tuple[str, str]], samples: int, max_tokens: int) -> None:
    """Measure the rows that are missing, and say how long the rest will take."""
    model, began, bench = steer.load(args.model, dtype=args.dtype), time.monotonic(), None
    for number, (trait, row) in enumerate(todo):
        if bench is None or bench.trait != trait:
            bench = Bench(model, trait, samples, max_tokens)
        current = bench
        kept(
            args.out / f"{trait} {row}.json",
            lambda row=row, current=current: row_of(current, row, args.out, quick=args.quick),  # type: ignore[misc]
        )
        spent = time.monotonic() - began
        left = spent / (number + 1) * (len(todo) - number - 1)
        print(f"{trait}, {row}: done; about {left / 60:.0f} minutes are left", flush=True)


if __name__ == "__main__":
    main()
