"""On a real model that others trained, with sentences written for the purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from recorded import extract, pairs

from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer

pytestmark = needs_shared

NAMES = ["Tim", "Lily", "Ben", "Mia", "Sam", "Tom", "Sue", "Max", "Anna", "Lucy", "Jack", "Bob"]
HAPPY = ["{} was very happy and smiled.", "{} laughed and had so much fun.",
         "{} was so happy that he hugged his mom."]  # fmt: skip
SAD = ["{} was very sad and cried.", "{} was alone and had no fun.",
       "{} was so sad that he cried all day."]  # fmt: skip

OPENINGS = [
    "Amy went to the park with her mom. She was very",
    "Tom lost his toy car. He looked for it. He felt",
    "The dog ran to the boy. The boy was so",
    "It was a big day. Mom said it was time to go. Kim was",
]
HELD_OUT = [
    "One day, a cat saw a bird in a tree. The cat felt",
    "Sara had a red ball. She threw it to her friend. She was",
    "Dad came home from work. Dan ran to the door. Dan was very",
    "They walked to the shop. The girl looked at the cake. She was so",
]
WORDS = {"happy": [" happy", " glad", " excited"], "sad": [" sad", " upset", " scared"]}


@pytest.fixture(scope="module")
def model() -> Model:
    return load(ModelSource(str(SHARED / "models/babyllama-tok105")))


def log_prob(model: Model, opening: str, word: str, steers: list[Steer]) -> float:
    """Log-probability of a word after an opening, in nats."""
    ids = model.encode(opening + word)
    start = len(model.encode(opening))
    clock = TokenClock(start, torch.zeros(1, dtype=torch.int64))
    with torch.no_grad(), injected(model, steers, clock):
        scores = model.network(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(scores[position - 1, ids[position]]) for position in range(start, len(ids)))


def preference(model: Model, openings: list[str], steers: list[Steer]) -> float:
    """Mean over openings of log p(a happy word) - log p(a sad word)."""
    sums = {
        mood: [
            np.logaddexp.reduce([log_prob(model, opening, word, steers) for word in words])
            for opening in openings
        ]
        for mood, words in WORDS.items()
    }
    return float(np.mean(np.subtract(sums["happy"], sums["sad"])))


def test_happy_words_rise_steadily_with_the_coefficient(model: Model) -> None:
    texts = [
        (happy.format(name), sad.format(name))
        for name in NAMES
        for happy, sad in zip(HAPPY, SAD, strict=True)
    ]
    vector = extract(model, pairs(*texts))

    def steps(layer: int, openings: list[str]) -> list[float]:
        """How much each step of the coefficient adds."""
        curve = [
            preference(model, openings, [Steer(vector, Coefficient(coefficient), (layer,))])
            for coefficient in (-2, -1, 0, 1, 2)
        ]
        return np.diff(curve).tolist()

    chosen = max(range(model.n_layers), key=lambda layer: min(steps(layer, OPENINGS)))
    assert min(steps(chosen, HELD_OUT)) > 0.1, steps(chosen, HELD_OUT)
