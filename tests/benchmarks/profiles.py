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
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steer.concepts import answers as answering
from steer.concepts.answers import Query
from steer.concepts.index import BuiltPack, IndexRow, read
from steer.concepts.profile import Profile, Profiler
from steer.contrasts.passages import Message
from steer.contrasts.prompts import QUESTIONS
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource

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


def readings(work: Path, kind: str, profiler: Profiler) -> None:
    """Read every answer, and save the result of each."""
    texts = json.loads((work / "answers.json").read_text("utf-8"))
    for number, item in enumerate(texts):
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
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez(
            stream,
            raw=profile.readings,
            score=profile.scores,
            rate=profile.false_positives,
            names=np.array(profile.names),
        )
    part.rename(file)


Ranks = dict[str, dict[str, list[float]]]  # by order and concept


def table(work: Path, pack: BuiltPack, kind: str) -> None:
    """Print what the saved results say."""
    texts = json.loads((work / "answers.json").read_text("utf-8"))
    kinds = {row.name: row.pack for row in pack.rows}
    ranks: Ranks = {order: defaultdict(list) for order in ("raw", "score")}
    above: dict[str, list[float]] = defaultdict(list)
    hits: list[float] = []
    n = 0
    for number, item in enumerate(texts):
        file = work / f"{kind}-{number}.npz"
        if not file.exists():
            continue
        values = np.load(file)
        names = list(values["names"])
        n = len(names)
        above["own" if not item["concept"] else "concept"].append(
            float((values["rate"] < 0.05).mean())
        )
        if not item["concept"]:
            continue
        right = names.index(item["concept"])
        hits.append(float(values["rate"][right] < 0.05))
        for order, ranks_of in ranks.items():
            own = values[order]
            ranks_of[item["concept"]].append(float((own > own[right]).sum() + 1))
    concepts = list(ranks["raw"])
    halves = concepts[::2], concepts[1::2]
    print(
        f"\n{kind}: {sum(map(len, ranks['raw'].values()))} answers of {len(concepts)} concepts,"
        f" {len(above['own'])} own answers, {n} concepts to tell apart"
    )
    for order, ranks_of in ranks.items():
        for label, half in zip(("chosen on", "reported"), halves, strict=True):
            print(f"  {order:5} {label}: {described([r for c in half for r in ranks_of[c]])}")
    best = min(ranks, key=lambda order: np.median([r for c in halves[0] for r in ranks[order][c]]))
    for pack_kind in dict.fromkeys(kinds[c] for c in concepts):
        own = [r for c in concepts if kinds[c] == pack_kind for r in ranks[best][c]]
        print(f"  {pack_kind:10} by {best}: {described(own)}")
    print(f"  the right concept is above its 5 % threshold: {np.mean(hits):.0%}")
    for label, shares in above.items():
        print(
            f"  above their 5 % threshold, of all concepts, in an answer ({label}):"
            f" mean {np.mean(shares):.1%}, {min(shares):.1%} to {max(shares):.1%}"
        )


def described(ranks: list[float]) -> str:
    values: NDArray[np.float64] = np.array(ranks)
    if not len(values):
        return "none"
    return (
        f"median rank {np.median(values):.0f}, first {np.mean(values == 1):.0%},"
        f" in the first ten {np.mean(values <= 10):.0%} (n {len(values)})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--read", choices=("bare", "asked", "none"), default="bare")
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
        readings(arguments.work, arguments.read, Profiler(model, pack))
    for kind in ("bare", "asked"):
        if any(arguments.work.glob(f"{kind}-*.npz")):
            table(arguments.work, pack, kind)


if __name__ == "__main__":
    main()
