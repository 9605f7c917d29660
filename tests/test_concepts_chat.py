"""Concepts on a small chat model, which `make chat-model` brings: steering does what prompts do.

`python -m steer pack build PACK -m models/smollm2 -o FOLDER` builds whole packs there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import steer
from steer.concepts import index, pack
from steer.concepts.make import LEAST_EFFECT, LEAST_HEEDED
from steer.library.models import Model
from steer.models import loading
from steer.models.source import ModelSource

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("STEER_CHAT_MODEL") or ROOT / "models/smollm2")

pytestmark = pytest.mark.skipif(
    not (FOLDER / "config.json").is_file(),
    reason="make chat-model brings the model, or STEER_CHAT_MODEL names its folder",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> index.BuiltPack:
    model = Model(loading.load(ModelSource(str(FOLDER), fast=True)))
    known = {entry.concept.name: entry.concept for entry in pack.everything()}
    chosen = [
        known[name] for name in ("pirate", "spanish", "joyful", "formal", "cooking", "capitals")
    ]
    return steer.build_pack(model, chosen, tmp_path_factory.mktemp("concepts"))


def test_a_chat_model_heeds_what_changes_every_word(built: index.BuiltPack) -> None:
    rows = {row.name: row for row in built.rows}
    for name in ("pirate", "spanish"):
        assert (rows[name].number("heeded") or 0) > 5 * LEAST_HEEDED


def test_some_of_it_is_one_direction(built: index.BuiltPack) -> None:
    assert built.working_rows, [(row.name, row.reason) for row in built.rows]
    for row in built.working_rows:
        assert (row.number("effect") or 0) >= LEAST_EFFECT
        recommended = steer.read(built.vector_path(row)).metadata.recommended
        assert recommended.layers == row.layers
        assert recommended.coefficient == row.number("coefficient")


def test_what_does_not_work_has_a_reason(built: index.BuiltPack) -> None:
    for row in built.rows:
        assert row.works or row.reason
