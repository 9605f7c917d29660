"""What is promised of the pocket model, at places chosen beforehand and on few texts.

`tests/benchmarks/promises.py` measures the same on many, and chooses the places on others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.spec import SteerSpec
from steer.steering.steers import resolve
from steer.vectors.vector import SteeringVector

sys.path.append(str(Path(__file__).parent / "benchmarks"))
import promises

N = 40


@pytest.fixture(scope="module")
def model() -> Model:
    return load(ModelSource())


@pytest.fixture(scope="module")
def requests() -> promises.RequestSet:
    return promises.RequestSet.drawn(N, 5, reserved=True)


@pytest.fixture
def refusal() -> SteeringVector:
    return promises.extracted("refusal")


def test_moods_are_told_apart() -> None:
    shipped = promises.CONTRASTS.parents[1] / "vectors/joyful.safetensors"
    separated = promises.separation(shipped, ("joyful", "gloomy"), N)
    assert separated.value >= 0.97


def test_a_guard_knows_harmful_requests(
    model: Model, requests: promises.RequestSet, refusal: SteeringVector
) -> None:
    harmful, harmless = promises.guarding(model, refusal, requests)
    assert harmful.measured.value == 1
    assert harmless.measured.value == 0


def test_without_its_direction_requests_are_not_refused(
    model: Model, requests: promises.RequestSet
) -> None:
    without = promises.steered(promises.extracted("refusal", "mlp_out"), "ablate=writes@2")
    assert sum(promises.refused(promises.replies(model, requests.harmful, []))) >= 0.95 * N
    generations = promises.replies(model, requests.harmful, [without])
    assert sum(promises.refused(generations)) < 0.1 * N
    assert sum(promises.answered(generations)) > 0.8 * N
    assert promises.extra_nats(model, without, N).value < 0.025


def test_with_it_harmless_requests_are_refused(
    model: Model, requests: promises.RequestSet, refusal: SteeringVector
) -> None:
    added = promises.steered(refusal, "2@4/response=0")
    assert sum(promises.answered(promises.replies(model, requests.harmless, []))) > 0.9 * N
    assert sum(promises.refused(promises.replies(model, requests.harmless, [added]))) > 0.9 * N


def test_three_vectors_in_one_file_all_act(model: Model) -> None:
    typed = {}
    for kind, value in promises.COMPOSED.items():
        promises.extracted(value)
        typed[kind] = f"./{value}-resid_post.safetensors:1.5@2"
    combined = resolve(SteerSpec("three"), promises.Parts("all", typed).combined())
    plain, composed = (
        promises.TextMeasures.by(model, steers, 4, seed=7) for steers in ((), (combined,))
    )
    for kind, least in (("mood", 0.1), ("style", 0.25), ("topic", 0.03)):
        assert composed.share(kind) > plain.share(kind) + least
    assert composed.parses.value > 0.9
