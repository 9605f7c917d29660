"""The effect of `-v NAME` without a number: `python tests/benchmarks/unnumbered.py [--pairs]
[VALUE]`.

For each mood, style and topic of the pocket grammar: `steer extract` from stories, after the tag
and after nothing (or, with --pairs, from stories that have the value and others that have another),
`steer sweep --save` on pairs of other stories, and `steer apply -v NAME` on fresh seeds, each with
its defaults. Printed is the share of the attribute's words that are the value's, and how much of
what the tag does to it the vector does: 80 % is what the project promises.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from steer.base.intervals import Interval, ratio
from steer.cli.main import app
from steer.pocket import corpus
from steer.pocket.pairs import story_pairs

PROMISED = 0.8
TRAINED, HELD_OUT = 120, 60
#: Of the stories that are extracted from and swept with, and of what is written: seeds that nothing
#: in the tool was chosen by.
TRAINING_SEED, SWEEPING_SEED = 27, 28
SEEDS = (20_271, 20_272, 20_273)
SAMPLES = ["-n", "8", "-t", "1", "--max-tokens", "96", "--batch-size", "96"]


def steer(*words: object) -> Any:
    """What the command prints as JSON; its failure ends this program."""
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    if result.exit_code:
        raise RuntimeError(f"steer {' '.join(map(str, words))}: {result.stderr}")
    return json.loads(result.stdout)


def write_pairs(path: Path, kind: str, value: str, n: int, seed: int) -> None:
    """Stories of a value, each beside one of another value, which take turns."""
    others = [other for other in corpus.KINDS[kind] if other != value]
    drawn = [story_pairs(kind, value, other, n, seed) for other in others]
    pairs = islice((next(pairs) for pairs in cycle(drawn)), n)
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def share(texts: list[str], kind: str, value: str) -> Interval:
    """The share of the attribute's words that have the value."""
    counts = [corpus.counts(text)[kind] for text in texts]
    return ratio([words[value] for words in counts], [sum(words.values()) for words in counts])


def write_stories(path: Path, n: int, seed: int) -> None:
    """Stories of any mood, style and topic, without tags."""
    rng = random.Random(seed)
    drawn = (corpus.sample(rng, tags=corpus.Tags(), form="story").body.strip() for _ in range(n))
    path.write_text("".join(json.dumps({"text": story}) + "\n" for story in drawn))


def extracted(kind: str, value: str, *, pairs: bool) -> None:
    """A vector of the value's name."""
    place = ["-o", f"vectors/{value}.safetensors"]
    if pairs:
        write_pairs(Path("stories.jsonl"), kind, value, TRAINED, TRAINING_SEED)
        steer("extract", "stories.jsonl", *place)
    else:
        write_stories(Path("stories.jsonl"), TRAINED, TRAINING_SEED)
        tag = ["--positive", f"[{kind}: {value}]", "--negative", ""]
        steer("extract", *tag, "--texts", "stories.jsonl", *place)


def written(*words: object) -> list[dict[str, Any]]:
    """Stories on all the fresh seeds."""
    return [
        row for seed in SEEDS for row in steer("apply", *words, *SAMPLES, "--seed", seed)["results"]
    ]


def measured(kind: str, value: str, *, pairs: bool) -> Interval:
    """How much of the tag's effect the vector has; prints a row."""
    start = time.process_time()
    openings = [f"One day {hero} woke up." for hero in corpus.HEROES[:12]]
    for name, before in (("plain.txt", ""), ("tagged.txt", f"[{kind}: {value}] ")):
        Path(name).write_text("".join(f"{before}{opening}\n" for opening in openings))
    extracted(kind, value, pairs=pairs)
    write_pairs(Path("held-out.jsonl"), kind, value, HELD_OUT, SWEEPING_SEED)
    swept = steer("sweep", "-v", value, "--texts", "held-out.jsonl", "--save")
    rows = written("--prompts", "plain.txt", "-v", value, "--compare")
    tagged = written("--prompts", "tagged.txt")
    without, by_vector, by_tag = (
        share([row[key] for row in group], kind, value)
        for group, key in ((rows, "unsteered"), (rows, "text"), (tagged, "text"))
    )
    difference = by_tag.value - without.value
    done = Interval(
        *(
            (value - without.value) / difference
            for value in (by_vector.value, by_vector.low, by_vector.high)
        )
    )
    choice = swept["choice"]
    print(
        f"| {kind} | {value} | {without} | {by_vector} | {by_tag} | {done} |"
        f" {choice['coefficient']} at layer {choice['layers']} | {choice['kl']['value']:.3f} |"
        f" {swept['extra_nats']['value']:+.3f} | {'yes' if swept['stable'] else 'no'} |"
        f" {time.process_time() - start:.0f} s |",
        flush=True,
    )
    return done


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    pairs = "--pairs" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--pairs"]
    chosen = [
        (kind, value)
        for kind, values in corpus.KINDS.items()
        for value in values
        if not arguments or value in arguments
    ]
    head = "| | value | unsteered | vector | tag | of the tag's effect | chosen | KL | nats |"
    print(head + " stable | CPU |")
    print("|---" * 11 + "|")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("vectors").mkdir()
        results = [measured(kind, value, pairs=pairs) for kind, value in chosen]
        os.chdir("/")
    kept = sum(done.value >= PROMISED for done in results)
    sure = sum(done.low >= PROMISED for done in results)
    print(
        f"\n{kept} of {len(results)} values have at least {PROMISED:.0%} of their tag's effect,"
        f" {sure} with their whole interval"
    )


if __name__ == "__main__":
    main()
