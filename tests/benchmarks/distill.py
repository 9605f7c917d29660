"""Distilled edits compared with their prompts: `python tests/benchmarks/distill.py --out FILE`.

Every tag of the pocket model and ten nested combinations of three, and with `--story-model FOLDER`
three first sentences before that model's stories; for each a vector, rank 8 at the best layer and
rank 16 at all, with the defaults of `steer distill` and nothing tuned. A line of JSON is written as
soon as an edit is measured, so a run that was stopped goes on; the table is of all that is there.

recovery: on texts of the tag that neither the edit nor its choice has seen.
shares: how often words bear the tag's attributes, by the probabilities that the model gives at the
words of its own texts (exact at each place, unlike a count); the largest distance from the tag, in
512 texts of each, with its interval.
nats: what the next token is expected to cost the unsteered model under the edit, more than under
the tag, where the tag's texts stand.
harm: KL per token on what has nothing to do with the tag (requests, and texts under tags of other
kinds), from how the model reads it without; of the edit, and of the tag put before the same.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent))
from beside import RemoteModel, harm, mean_differences, nats, shares

from steer.distillation.distill import fit
from steer.distillation.lessons import Conditions
from steer.distillation.settings import DistillSettings
from steer.distillation.task import Task
from steer.distillation.texts import journal, write
from steer.models.loading import load
from steer.models.source import ModelSource
from steer.pocket import corpus
from steer.pocket.tags import Tags, split_tags
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer

TAGS = [Tags(**{kind: value}) for kind, values in corpus.KINDS.items() for value in values]
NESTED = [
    Tags(*values) for values in random.Random(0).sample(list(product(*corpus.KINDS.values())), 10)
]
SENTENCES = (
    "Everyone was very sad and cried all day.",
    "It was the happiest day ever, and everyone laughed.",
    "It was a dark night, and everyone was afraid.",
)
#: Rank and layers: the best one, or all.
EDITS = ("8:best", "16:all", "0:best")
STORY_EDITS = ("16:best", "16:all")


def pieces(
    elsewhere: RemoteModel, condition: str, edits: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """What is measured of a condition, an edit at a time."""
    model = elsewhere.model
    start = time.process_time()
    settings = DistillSettings(name="x")
    conditions, prompts = Conditions(condition), [""]
    kept = journal(model, conditions, prompts, settings)
    texts = write(model, conditions, prompts, settings, kept=kept)
    sampled = time.process_time() - start
    task = Task.of(model, texts)
    tag = split_tags(condition + " ")[0]
    other = elsewhere.texts(tag) if tag.stated() else []
    for edit in edits:
        rank, layers = edit.split(":")
        start = time.process_time()
        vector = fit(
            task,
            replace(settings, rank=int(rank), layers=() if layers == "all" else None),
        )
        took = time.process_time() - start
        steer = Steer(vector, Coefficient(1.0), vector.metadata.layers)
        distillation = vector.metadata.method.distillation
        yield {
            "condition": condition,
            "edit": edit,
            "layers": vector.metadata.layers,
            **asdict_of(distillation),
            **nats(task, steer),
            **(shares(task, steer, tag) if tag.stated() else {}),
            **(harm(model, other, steer) if other else {}),
            **(mean_differences(task, other, steer) if rank == "0" and other else {}),
            "seconds": {"sampling": sampled, "fitting": took},
        }


def asdict_of(distillation: Any) -> dict[str, Any]:
    return {name: getattr(distillation, name) for name in distillation.__struct_fields__}


def known(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each condition and rank, and how many of each rank meet each bar."""
    lines = [
        "| condition | edit | layers | recovery | shares | nats beside the tag | harm, tag's |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row["condition"],
            row["edit"],
            ",".join(map(str, row["layers"])),
            "{:.3f} [{:.3f}, {:.3f}]".format(row["recovery"], *row["interval"]),
            off(row),
            "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row["nats"]["between"]),
            harms(row),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for edit in sorted({row["edit"] for row in rows}):
        some = [row for row in rows if row["edit"] == edit]
        recoveries = [row["recovery"] for row in some]
        lines.append(
            f"\n{edit}: {len(some)} conditions,"
            f" recovery {min(recoveries):.3f} to {max(recoveries):.3f},"
            f" median {np.median(recoveries):.3f}"
        )
        lines += [beside_mean_diff(row) for row in some if "mean_diff" in row]
    return "\n".join(lines)


def beside_mean_diff(row: dict[str, Any]) -> str:
    same, free = row["mean_diff"]["harmless"], row["mean_diff"]["any"]
    return (
        f"{row['condition']}: {row['vector']:.3f}; the best mean_diff with no more"
        f" harm {same['recovery']:.3f} (layer {same['layer']}, times {same['coefficient']}), with"
        f" any {free['recovery']:.3f}, at {free['harm_of_edits']:.1f} times the harm"
    )


def off(row: dict[str, Any]) -> str:
    """The largest distance of a share from the tag's own."""
    shares = [share["between"] for share in row.get("shares", {}).values() if "between" in share]
    if not shares:
        return "-"
    return "{value:+.1%} [{low:+.1%}, {high:+.1%}]".format(
        **max(shares, key=lambda share: abs(share["value"]))
    )


def harms(row: dict[str, Any]) -> str:
    if "harm" not in row:
        return "-"
    return ", ".join(f"{row['harm'][side]['value']:.3f}" for side in ("edit", "tag"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("distill.jsonl"))
    parser.add_argument("--conditions", nargs="*", default=None, help="such as '[mood: joyful]'")
    parser.add_argument("--edits", nargs="*", help="rank:best or rank:all, such as 8:best")
    parser.add_argument("--story-model", help="a model of stories, for the three sentences")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    chosen = args.conditions or (
        SENTENCES if args.story_model else [tag.render() for tag in TAGS + NESTED]
    )
    edits = args.edits or (STORY_EDITS if args.story_model else EDITS)
    start = time.monotonic()
    elsewhere = None
    for condition in () if args.table else chosen:
        done = {(row["condition"], row["edit"]) for row in known(args.out)}
        left = [edit for edit in edits if (condition, edit) not in done]
        if not left or time.monotonic() - start > 60 * args.minutes:
            continue
        elsewhere = elsewhere or RemoteModel(load(ModelSource(args.story_model or "pocket")))
        for row in pieces(elsewhere, condition, left):
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(table([row]).splitlines()[2], row["seconds"], flush=True)
    print(table(known(args.out)))


if __name__ == "__main__":
    main()
