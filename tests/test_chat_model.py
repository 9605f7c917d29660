"""On a small chat model, which `make chat-model` brings: vectors without a number do something."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import steer
from steer.contrasts.prompts import OTHER_QUESTIONS
from steer.library.models import Model
from steer.models import loading
from steer.models.source import ModelSource

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("STEER_CHAT_MODEL") or ROOT / "models/smollm2")
sys.path.insert(0, str(ROOT / "tests/benchmarks"))

from traits import CONDITIONS, MEASURES  # noqa: E402  (beside the benchmarks that share it)

pytestmark = pytest.mark.skipif(
    not (FOLDER / "config.json").is_file(),
    reason="make chat-model brings the model, or STEER_CHAT_MODEL names its folder",
)


@cache
def model() -> Model:
    return Model(loading.load(ModelSource(str(FOLDER), fast=True)))


def shown(trait: str, steers: object = None, system: str | None = None) -> float:
    """How far greedy answers to held-out questions show a trait."""
    questions = list(OTHER_QUESTIONS[:8])
    answers = model().generate_batch(
        questions, steers, chat=True, system=system, max_tokens=32, temperature=0
    )
    return float(np.mean([MEASURES[trait](str(answer)) for answer in answers]))


@pytest.mark.parametrize("trait", ["cheerful", "pirate"])
def test_a_vector_without_a_number_does_half_of_what_a_system_message_does(trait: str) -> None:
    vector = steer.extract(model(), ROOT / f"examples/chat/{trait}.jsonl", chat=True, name=trait)
    recommended = vector.data.metadata.recommended
    plain, prompt = shown(trait), shown(trait, system=CONDITIONS[trait])
    steered, opposite = shown(trait, vector()), shown(trait, vector(-1))
    assert len(recommended.layers) > 1
    assert steered - plain >= 0.5 * (prompt - plain)
    assert steered > opposite
