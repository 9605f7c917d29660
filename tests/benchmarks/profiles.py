"""How well `steer monitor --pack` reads texts: the rank of the right concept among all of a pack.

    python tests/benchmarks/profiles.py -m MODEL --pack vectors/ --work work/ [--read bare|asked]

For concepts that work, chosen evenly from every kind, the model writes two answers each under the
positive condition, to questions that building the pack did not use. Each answer is read over the
whole pack, as a bare text (`bare`) or after its question (`asked`). Beside them, the model's own
answers without a condition, for which each concept that is above its 5 % threshold is an error.

The order of concepts (raw readings, or standard deviations) is chosen on half of the concepts, and
the table is of the other half. Everything is saved as it is done, and the same command goes on
where it stopped. The 362 concepts on SmolLM2-135M-Instruct take an hour of processor time.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steer.concepts import answers as answering
from steer.concepts.answers import Query
from steer.concepts.index import BuiltPack, IndexRow, read
from steer.concepts.profile import N_BASELINE, Profile, Profiler
from steer.contrasts.passages import Message
from steer.contrasts.prompts import QUESTIONS
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource

Array = NDArray[np.float64]
CONCEPTS, OWN, TOKENS = 60, 24, 16
ASKED = QUESTIONS[:12]


def chosen(pack: BuiltPack) -> list[IndexRow]:
    """Concepts that work: of each kind in turn, evenly spaced within it."""
    kinds: dict[str, list[IndexRow]] = defaultdict(list)
    for row in pack.working_rows:
        kinds[row.pack].append(row)
    rng = np.random.default_rng(0)
    for rows in kinds.values():
        rng.shuffle(rows)  # type: ignore[arg-type]
    turns = (rows[turn] for turn in range(CONCEPTS) for rows in kinds.values() if turn < len(rows))
    return [row for row, _ in zip(turns, range(CONCEPTS), strict=False)]


def write(model: Model, rows: list[IndexRow]) -> list[dict[str, str]]:
    """The answers: first one of each concept, then the model's own, then the second ones."""
    queries, names = [], []
    for sample in range(2):
        order = sorted(range(len(rows)), key=lambda i: (i + 7 * sample) % len(ASKED))
        for i in order:
            condition = rows[i].values["conditions"][0]
            queries.append(Query(condition, ASKED[(i + 7 * sample) % len(ASKED)], True))
            names.append(rows[i].name)
        if not sample:
            queries += [Query("", ASKED[i * len(ASKED) // OWN], True) for i in range(OWN)]
            names += [""] * OWN
    written = answering.write(
        model, queries, samples=list(range(len(queries))), max_tokens=TOKENS, seed=1
    )
    return [
        {"concept": name, "question": answer.query.question, "text": answer.text.strip()}
        for name, answer in zip(names, written, strict=True)
    ]


def readings(work: Path, kind: str, samples: int, profiler: Profiler) -> None:
    """Read every answer, and save the result of each."""
    texts = json.loads((work / "answers.json").read_text("utf-8"))
    # The first answers of all concepts and the model's own first; in conversations, those to the
    # same question together, whose keys and values are kept.
    last = CONCEPTS + OWN if samples == 1 else len(texts)
    order = list(range(last))
    if kind == "asked":
        order.sort(key=lambda number: texts[number]["question"])
    for number in order:
        item = texts[number]
        file = work / f"{kind}-{number}.npz"
        if file.exists() or not item["text"]:
            continue
        if kind == "bare":
            profile = profiler.read(item["text"])
        else:
            turns = [Message("user", item["question"]), Message("assistant", item["text"])]
            [profile] = profiler.read_turns(turns)
        save(file, profile)
        print(kind, number, item["concept"] or "-", profile.top(3), flush=True)


def save(file: Path, profile: Profile) -> None:
    own = profile.baseline.readings(profile.n_tokens)
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez(
            stream,
            raw=profile.readings,
            score=(profile.readings - own.mean(0)) / own.std(0, ddof=1),
            rate=profile.false_positives,
            names=np.array(profile.names),
        )
    part.rename(file)


@dataclass(frozen=True)
class Results:
    """Saved results: readings and rates float64 [answer, concept], and the right concept of each
    answer, "" for the model's own."""

    names: list[str]
    concepts: list[str]
    orders: dict[str, Array]
    rates: Array


def results(work: Path, kind: str) -> Results:
    """The saved results of one kind of reading."""
    texts = json.loads((work / "answers.json").read_text("utf-8"))
    files = [work / f"{kind}-{number}.npz" for number in range(len(texts))]
    saved = [(item, np.load(file)) for item, file in zip(texts, files, strict=True)
             if file.exists()]  # fmt: skip
    raw, score, rates = (np.stack([v[key] for _, v in saved]) for key in ("raw", "score", "rate"))
    concepts = [item["concept"] for item, _ in saved]
    own = raw[[not concept for concept in concepts]]
    orders = {"nats": raw, "SD": score}
    if len(own) > 2:
        orders["nats above the own answers'"] = raw - own.mean(0)
        orders["SD of the own answers"] = (raw - own.mean(0)) / own.std(0, ddof=1)
    return Results(list(saved[0][1]["names"]), concepts, orders, rates)


def table(work: Path, pack: BuiltPack, kind: str) -> None:
    """Print what the saved results say."""
    read_answers = results(work, kind)
    concepts, names = np.array(read_answers.concepts), read_answers.names
    kinds = {row.name: row.pack for row in pack.rows}
    is_own = concepts == ""
    answers = np.flatnonzero(~is_own)
    right = [names.index(concepts[index]) for index in answers]
    ranks = {
        order: np.array(
            [
                (row > row[place]).sum() + 1
                for row, place in zip(values[answers], right, strict=True)
            ]
        )
        for order, values in read_answers.orders.items()
    }
    distinct = list(dict.fromkeys(concepts[answers]))
    first_half = np.isin(concepts[answers], distinct[::2])
    print(
        f"\n{kind}: {len(answers)} answers of {len(distinct)} concepts, {is_own.sum()} own"
        f" answers, {len(names)} concepts to tell apart"
    )
    for order, values in ranks.items():
        print(
            f"  by {order}: chosen on {described(values[first_half])};"
            f" reported {described(values[~first_half])}"
        )
    best = min(ranks, key=lambda order: float(np.median(ranks[order][first_half])))
    for part in dict.fromkeys(kinds[name] for name in distinct):
        members = np.array([kinds[name] == part for name in concepts[answers]])
        print(f"  {part:10} by {best}: {described(ranks[best][members])}")
    hits = [
        read_answers.rates[index, place] < 0.05 for index, place in zip(answers, right, strict=True)
    ]
    print(f"  the right concept is above its 5 % threshold in {np.mean(hits):.0%}")
    for label, members in (("concepts' answers", ~is_own), ("own answers", is_own)):
        shares = (read_answers.rates[members] < 0.05).mean(1)
        if len(shares):
            print(
                f"  concepts above their 5 % threshold in {label}: mean {shares.mean():.1%},"
                f" quartiles {np.quantile(shares, 0.25):.1%} to {np.quantile(shares, 0.75):.1%}"
            )


def described(ranks: NDArray[np.int64]) -> str:
    if not len(ranks):
        return "none"
    return (
        f"median rank {np.median(ranks):.0f}, first {np.mean(ranks == 1):.0%},"
        f" in the first ten {np.mean(ranks <= 10):.0%} (n {len(ranks)})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--read", choices=("bare", "asked", "none"), default="bare")
    parser.add_argument("--samples", type=int, choices=(1, 2), default=2)
    parser.add_argument("--baseline", type=int, default=N_BASELINE)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    pack = read(arguments.pack)
    model = None
    answers = arguments.work / "answers.json"
    if not answers.exists() or arguments.read != "none":
        model = load(ModelSource(arguments.model, fast=True))
    if not answers.exists():
        assert model is not None
        answers.write_text(json.dumps(write(model, chosen(pack)), indent=1), encoding="utf-8")
    if arguments.read != "none":
        assert model is not None
        profiler = Profiler(model, pack, n_baseline=arguments.baseline)
        readings(arguments.work, arguments.read, arguments.samples, profiler)
    for kind in ("bare", "asked"):
        if any(arguments.work.glob(f"{kind}-*.npz")):
            table(arguments.work, pack, kind)


if __name__ == "__main__":
    main()
