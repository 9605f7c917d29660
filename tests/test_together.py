"""Texts that are written together are each what they are alone, whoever comes and goes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
from families import FAMILIES

from steer.generate.apply import generate
from steer.generate.batch import Batch
from steer.generate.together import Continuation, RunningTexts
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering import projection, spec
from steer.steering.generation import Row, Sampling
from steer.steering.projection import Guard, Projection
from steer.steering.steers import Steer, resolve
from steer.vectors import store

VECTORS = Path(__file__).parents[1] / "vectors"
PROMPTS = ("One day Mara woke up.", "The boat", "In the evening Kofi went to the river and",
           "Once upon a time there was a little")  # fmt: skip


@cache
def pocket() -> Model:
    return load(ModelSource("pocket", device="cpu"))


def steer(typed: str, when: str | None = None) -> Steer:
    parsed = spec.parse(typed)
    gate = None
    if when is not None:
        condition = spec.parse_threshold(when)
        gate = projection.gate(condition, vector(condition.read.reference))
    return resolve(parsed, vector(parsed.reference), gate)


@cache
def vector(name: str) -> Any:
    return store.read(VECTORS / f"{name}.safetensors")


GREEDY = Sampling(max_tokens=12, temperature=0)


@dataclass(frozen=True)
class Wish:
    """A text as somebody asks for it."""

    prompt: str
    steers: tuple[Steer, ...] = ()
    sampling: Sampling = GREEDY
    watched: tuple[Projection, ...] = ()
    guards: tuple[Guard, ...] = ()

    def begun(self, model: Model) -> Continuation:
        row = Row(self.prompt, 0, model.encode(self.prompt))
        return Continuation(model, row, self.steers, self.sampling, self.watched, self.guards)

    def alone(self, model: Model) -> Any:
        return next(
            generate(
                model,
                [self.prompt],
                self.steers,
                self.sampling,
                watched=self.watched,
                guards=self.guards,
                allow_idle=True,
            )
        )


STEERS: tuple[tuple[Steer, ...], ...] = (
    (),
    (steer("joyful:2@2"),),
    (steer("sea:1@1,3"), steer("joyful:-1.5@2")),
    (steer("joyful:20%@2/response"),),
    (steer("sea:ablate@all"),),
    (steer("joyful:clamp=pos@2"), steer("sea:rotate=20@3")),
    (steer("joyful:2@2/decay=4"),),
    (steer("sea:2,norm=keep@2/response=2-6/skip-special"),),
    (steer("joyful:2@3", "sea@2>0.1/token"),),
    (steer("joyful:2@2", "sea>0.1/mean"),),
    (steer("joyful:2@2", "sea@4>0.1/last"),),
    (steer("sea:ablate=writes@2"),),
)


def wishes(count: int, seed: int) -> list[Wish]:
    chance = random.Random(seed)
    read = Projection(vector("joyful"), 2)
    texts = []
    for index in range(count):
        sampling = Sampling(
            max_tokens=chance.randint(1, 20),
            temperature=chance.choice([0, 0, 0.8, 1.3]),
            top_p=chance.choice([1, 0.9]),
            top_k=chance.choice([0, 20]),
            seed=chance.randint(0, 9),
            stop=chance.choice([(), (), ("e ", "and")]),
        )
        guard = Guard(projection.Threshold(read, True, chance.choice([0.5, 1.5])),
                      chance.choice(["stop", "ablate"]))  # fmt: skip
        texts.append(
            Wish(
                chance.choice(PROMPTS),
                STEERS[index % len(STEERS)],
                sampling,
                (read,) if chance.random() < 0.4 else (),
                (guard,) if chance.random() < 0.3 else (),
            )
        )
    return texts


def written(model: Model, requests: Sequence[Wish], seed: int) -> list[Continuation]:
    """All of them, begun at odd moments; some wait for a while, and some strangers leave."""
    chance = random.Random(seed)
    together = RunningTexts(model)
    rows = [request.begun(model) for request in requests]
    waiting, parked = list(rows), []
    while waiting or parked or together.rows:
        if waiting and chance.random() < 0.5:
            count = chance.randint(1, 3)
            stranger = replace(requests[0], sampling=Sampling(max_tokens=50)).begun(model)
            together.add([*waiting[:count], stranger])
            waiting = waiting[count:]
            together.step()
            together.remove(stranger)
        if parked and chance.random() < 0.5:
            together.add([parked.pop()])
        if together.rows and chance.random() < 0.2:
            row = chance.choice(together.rows)
            together.park(row)
            parked.append(row)
        together.step()
    return rows


@pytest.mark.parametrize("seed", [0, 1])
def test_each_text_is_what_apply_writes_alone(seed: int) -> None:
    requests = wishes(2 * len(STEERS), seed)
    rows = written(pocket(), requests, seed)
    for row, wish in zip(rows, requests, strict=True):
        if row.error is not None:
            raise row.error
        generation, alone = row.generation(), wish.alone(pocket())
        assert (generation.text, generation.n_tokens, generation.finish) == (
            alone.text, alone.n_tokens, alone.finish,
        )  # fmt: skip
        assert generation.watched.keys() == alone.watched.keys()
        for name, values in generation.watched.items():
            assert values == pytest.approx(alone.watched[name], abs=1e-3)
        assert [gate.gate for gate in generation.gates] == [gate.gate for gate in alone.gates]
        assert [(trip.guard, trip.token) for trip in generation.trips] == [
            (trip.guard, trip.token) for trip in alone.trips
        ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_writes_together_what_it_writes_alone(family: str) -> None:
    model = tiny.model(family)
    steered = tiny.steer(model)
    requests = [
        Wish("a b c d e f g", (steered,), Sampling(max_tokens=12, temperature=0)),
        Wish("c", (), Sampling(max_tokens=9, temperature=0)),
        Wish("g f e d c", (steered,), Sampling(max_tokens=7, temperature=0.9)),
    ]
    rows = written(model, requests, 3)
    assert [row.error for row in rows] == [None] * 3
    new = [row.new[: row.generation().n_tokens] for row in rows]
    assert new == [_alone(model, wish) for wish in requests]


def _alone(model: Model, wish: Wish) -> list[int]:
    row = Row("", 0, model.encode(wish.prompt))
    (ids,) = Batch(model, [row], wish.steers, wish.sampling).run()
    end = next((i for i, token in enumerate(ids) if token in model.end_ids), len(ids))
    return ids[:end]


def test_what_fails_ends_one_text_only() -> None:
    model = tiny.model("llama")
    good = Wish("a b c", (tiny.steer(model),), Sampling(max_tokens=8, temperature=0))
    bad, fine = good.begun(model), good.begun(model)
    together = RunningTexts(model)
    together.add([bad, fine])

    def broken(_resid: Any) -> None:
        raise RuntimeError("no")

    site = next(iter(bad.runs[0].functions))
    bad.runs[0].functions[site] = broken
    while together.rows:
        together.step()
    assert isinstance(bad.error, RuntimeError)
    assert fine.error is None
    assert fine.generation().text == good.alone(model).text
