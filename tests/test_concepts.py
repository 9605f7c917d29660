"""Concepts: words to conditions, packs, and vectors from what a model answers."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steer.base.errors import InputError, UsageError
from steer.concepts import pack, questions, words
from steer.concepts.answers import Query, write
from steer.concepts.build import build
from steer.concepts.concept import Concept, concept_of, condition, find, form, slug
from steer.concepts.effect import Writer, costs, effect_sums
from steer.concepts.make import ConceptVector, _Work, make
from steer.concepts.settings import MakeSettings
from steer.generate.apply import continue_ids
from steer.generate.mixed import continue_mixed
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering import spec
from steer.steering.generation import Sampling
from steer.steering.steers import resolve
from steer.vectors import store

VECTORS = Path(__file__).parents[1] / "vectors"
QUICK = MakeSettings(train=12, choice=3, held_out=6, max_tokens=12, layers=(2, 3), chat=False)


@pytest.fixture(scope="module")
def pocket() -> Model:
    return load(ModelSource())


@pytest.mark.parametrize(
    ("pole", "expected"),
    [
        ("patient", "word"),
        ("full of hatred", "words"),
        ("a pirate", "somebody"),
        ("talks like a weather forecaster", "description"),
        ("always talks about food", "description"),
        ("Answer only in Spanish.", "instruction"),
        ("You are a poet", "instruction"),
        ("never mention money", "instruction"),
        ("[mood: joyful]", "as it is"),
    ],
)
def test_what_a_pole_is(pole: str, expected: str) -> None:
    assert form(pole) == expected
    for chat in (True, False):
        assert pole in condition(pole, chat=chat)
        assert "{}" not in condition(pole, chat=chat)


def test_a_phrase_of_the_users_own_stands_for_both_poles() -> None:
    assert condition("calm", chat=True, phrase="[mood: {}]") == "[mood: calm]"
    assert condition("", chat=True, phrase="[mood: {}]") == ""


@pytest.mark.parametrize(
    ("words_", "named"),
    [(("warm", "warm"), "warm"), (("Warm", " warm "), "Warm"), (("", "x"), "empty"),
     (("x", " "), "empty"), (("x" * 3000,), "3,000")],
)  # fmt: skip
def test_words_that_name_nothing_are_refused(words_: tuple[str, ...], named: str) -> None:
    with pytest.raises((InputError, UsageError), match=named):
        concept_of(*words_)


def test_a_concept_is_found_by_synonym() -> None:
    joy = Concept("joy", "joyful", "gloomy", synonyms=("being happy",))
    assert find([joy], "Being  Happy") is joy
    assert find([joy], "sad") is None
    assert slug("Talks like: a Pirate!") == "talks-like-a-pirate"


@pytest.mark.parametrize("chat", [True, False])
def test_questions_are_split_for_good(chat: bool) -> None:
    every = questions.everyday(chat=chat)
    parts = (every.train, every.choice, every.held_out)
    joined = [concept for part in parts for concept in part]
    assert len(set(joined)) == len(joined)
    if chat:
        assert len(joined) >= 120
    own = every.beside(["a?", "b?", "c?", every.held_out[0]])
    assert "c?" in own.held_out and "a?" in own.train
    assert not set(own.train) & set(own.held_out)


def test_the_packs_of_steer_define_hundreds_of_concepts() -> None:
    entries = pack.everything()
    names = [entry.concept.name.lower() for entry in entries]
    assert len(names) >= 300
    assert len(set(names)) == len(names)


def write_pack(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


GOOD = '[[concept]]\nname = "calm"\npoles = ["calm", "agitated"]\n'


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        (GOOD + '\n[[concept]]\nname = "Calm"\npoles = ["still"]\n', 5, "taken"),
        (GOOD + '[[concept]]\nname = "b"\n', 4, "no poles"),
        (GOOD + '[[concept]]\nname = "b"\npoles = []\n', 4, "no poles"),
        (GOOD + '[[concept]]\nname = "b"\npoles = ["x", ""]\n', 6, "empty"),
        (GOOD + '[[concept]]\nname = "b"\npoles = ["x", "x"]\n', 6, "both poles"),
        (GOOD + '[[concept]]\nname = "b"\npole = ["x"]\n', 6, "'pole' is not a key"),
        (GOOD + '[[concept]]\nname = "../b"\npoles = ["x"]\n', 5, "not a name"),
        (GOOD + '[[concept]]\nname = "b"\npoles = "x"\n', 6, "poles"),
        ('titel = "x"\n' + GOOD, 1, "'titel' is not a key"),
        ('include = ["../other.toml"]\n' + GOOD, 1, "leaves the folder"),
        ('title = "x"\ninclude = [\n  "/etc/passwd"\n]\n' + GOOD, 3, "leaves the folder"),
        ('include = ["mine.toml"]\n' + GOOD, 1, "includes itself"),
        ('include = ["missing.toml"]\n' + GOOD, 1, "missing.toml"),
        ('include = ["steer:nothing"]\n' + GOOD, None, "no pack"),
        ("x = [", None, "not TOML"),
        ('title = "empty"\n', None, "no concepts"),
    ],
)
def test_bad_packs_are_named_with_their_line(
    tmp_path: Path, text: str, line: int | None, named: str
) -> None:
    path = write_pack(tmp_path, text)
    with pytest.raises(InputError, match=named) as raised:
        pack.read(str(path))
    if line is not None:
        assert f"mine.toml:{line}:" in str(raised.value)


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    outside = write_pack(tmp_path, GOOD, "outside.toml")
    inside = tmp_path / "packs"
    inside.mkdir()
    (inside / "link.toml").symlink_to(outside)
    with pytest.raises(InputError, match="leaves the folder"):
        pack.read(str(write_pack(inside, 'include = ["link.toml"]\n')))


def test_includes_come_once(tmp_path: Path) -> None:
    write_pack(tmp_path, 'include = ["base.toml"]\n[[concept]]\npoles = ["warm"]\n', "a.toml")
    write_pack(tmp_path, GOOD, "base.toml")
    loaded = pack.read(str(write_pack(tmp_path, 'include = ["a.toml", "base.toml"]\n')))
    assert sorted(concept.name for concept in loaded.concepts) == ["calm", "warm"]
    with pytest.raises(InputError, match="no concept 'cold'"):
        loaded.only(["cold"])


def test_words_and_files_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("pairs.jsonl", "./patient", "-", "hf:owner/name", "missing.csv"):
        assert words.looks_like_file(text)
    for text in ("patient", "talks like a weather forecaster", "e.g. either/or questions"):
        assert not words.looks_like_file(text)
    (tmp_path / "patient").write_text("x", encoding="utf-8")
    assert words.looks_like_file("patient")
    with pytest.raises(UsageError, match="is a file"):
        words.interpret("patient", "impatient")
    assert words.interpret("pirate").concept.positive == "a pirate"
    assert words.interpret("pirate", "landlubber").concept.positive == "pirate"
    with pytest.raises(UsageError, match="empty"):
        words.interpret("patience", "")


def test_rows_under_steers_of_their_own_are_what_they_are_alone(pocket: Model) -> None:
    joyful = store.read(VECTORS / "joyful.safetensors")
    steerings = [
        (resolve(spec.parse(text), joyful),) if text else ()
        for text in ("joyful:3@2", "", "joyful:-2@3/response", "joyful:2@2/response/decay=3")
    ]
    rows = [(pocket.encode(text), n) for n, text in enumerate(("One day", "It was", "The", "A"))]
    sampling = Sampling(max_tokens=10, temperature=1.0, batch_size=4)
    together = continue_mixed(pocket, rows, steerings, sampling)
    alone = [
        continue_ids(pocket, [row], steers, sampling)[0]
        for row, steers in zip(rows, steerings, strict=True)
    ]
    assert together == alone


def test_what_an_answer_is_measured_with_does_not_depend_on_its_neighbours(pocket: Model) -> None:
    joyful = store.read(VECTORS / "joyful.safetensors")
    steers = (resolve(spec.parse("joyful:3@2"), joyful),)
    queries = [Query("", question, False) for question in ("One day", "The old man", "It was")]
    answers = write(pocket, queries, max_tokens=8)
    poles = ("[mood: joyful]", "[mood: gloomy]")
    writers: list[Writer] = [steers, "[mood: joyful]", ""]
    moved, priced = effect_sums(pocket, answers, poles, steers), costs(pocket, answers, writers)
    for index, (answer, writer) in enumerate(zip(answers, writers, strict=True)):
        own = effect_sums(pocket, [answer], poles, steers)
        assert np.allclose([moved.gap[index], moved.moved[index]], [own.gap[0], own.moved[0]], 1e-3)
        assert np.allclose(priced.nats[index], costs(pocket, [answer], [writer]).nats, 1e-3)
    assert moved.effect.value > 0.2
    assert (moved.gap > 0).all()  # a divergence


def test_the_effect_of_nothing_is_0_and_turns_with_the_poles(pocket: Model) -> None:
    joyful = store.read(VECTORS / "joyful.safetensors")
    steers, nothing = (
        (resolve(spec.parse(f"joyful:{coefficient}@2"), joyful),) for coefficient in (3, 0)
    )
    answers = write(pocket, [Query("", "One day", False)], max_tokens=8)
    poles = ("[mood: joyful]", "[mood: gloomy]")
    assert effect_sums(pocket, answers, poles, nothing).moved.tolist() == [0.0]
    there, back = (effect_sums(pocket, answers, way, steers) for way in (poles, poles[::-1]))
    assert there.moved[0] == pytest.approx(-back.moved[0])
    assert there.gap[0] == pytest.approx(back.gap[0])
    own = costs(pocket, answers, [""])
    assert costs(pocket, answers, [nothing]).above(own).value == 0
    assert costs(pocket, answers, [steers]).above(own).value > 0


@pytest.fixture(scope="module")
def vectors(pocket: Model) -> list[ConceptVector]:
    poles = [concept_of("[mood: joyful]", "[mood: gloomy]", name="joy"),
             Concept("nothing", "[" + "x" * 1500, "[mood: gloomy]"),
             concept_of("[style: formal]", "[style: casual]", name="formal")]  # fmt: skip
    return list(make(pocket, poles, QUICK))


def test_what_the_model_heeds_becomes_a_vector(pocket: Model, vectors: list[ConceptVector]) -> None:
    joy = vectors[0].report
    assert joy.heeded is not None and joy.heeded.low > 0
    vector = vectors[0].vector
    assert vector is not None
    assert vector.metadata.contrast.positive == "[mood: joyful]"
    assert vector.metadata.recommended.layers == joy.layers == (2, 3)
    assert vector.metadata.recommended.coefficient == joy.coefficient
    assert "joy" in joy.line


def test_what_it_does_not_heed_is_named(pocket: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer.concepts.make.LEAST_HEEDED", 100.0)
    [vector] = make(pocket, [concept_of("[mood: joyful]", "[mood: gloomy]")], QUICK)
    assert not vector.report.works and "ignores" in vector.report.reason
    assert vector.report.hint and vector.report.heeded is not None


def test_a_concept_that_fails_stops_nothing(vectors: list[ConceptVector]) -> None:
    nothing = vectors[1].report
    assert not nothing.works and "takes 512" in nothing.reason and nothing.hint
    assert vectors[1].vector is None
    assert vectors[2].report.heeded is not None


def test_a_concept_in_a_group_is_what_it_is_alone(
    pocket: Model, vectors: list[ConceptVector]
) -> None:
    [alone] = make(pocket, [vectors[2].report.concept], QUICK)
    assert alone.report.coefficient == vectors[2].report.coefficient
    assert alone.vector is not None and vectors[2].vector is not None
    assert np.allclose(alone.vector.directions, vectors[2].vector.directions, rtol=1e-3, atol=1e-4)
    assert alone.report.effect.value == pytest.approx(vectors[2].report.effect.value, rel=1e-2)


def test_what_fails_in_a_group_is_tried_alone(
    pocket: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    poles = [concept_of("[mood: joyful]", name="joy"), concept_of("[mood: calm]", name="calm")]

    def choose(self: object, works: list[_Work]) -> None:
        if any(work.concept.name == "calm" for work in works):
            raise InputError("this one fails")

    monkeypatch.setattr("steer.concepts.make._ConceptMaker._choose", choose)
    joy, calm = make(pocket, poles, QUICK)
    assert joy.report.layers and "this one fails" not in joy.report.reason
    assert calm.report.reason == "this one fails" and calm.vector is None


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="held_out"):
        MakeSettings(held_out=1)


@dataclass
class Pickling:
    """Two workers in one process, which get and give only what can be sent, in another order."""

    model: Model

    def map(self, job: Any, items: Any) -> Iterator[tuple[int, Any]]:
        runs = [pickle.loads(pickle.dumps(job))(self.model) for _ in range(2)]
        for number, item in reversed(list(enumerate(items))):
            yield number, pickle.loads(pickle.dumps(runs[number % 2](item)))


def test_workers_make_what_one_process_makes(
    pocket: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steer.concepts.make.TOGETHER", 1)
    chosen = pack.pack_of(
        [concept_of("[mood: joyful]", "[mood: gloomy]", name="joy"),
         concept_of("[style: formal]", "[style: casual]", name="formal")]
    )  # fmt: skip
    alone = build(pocket, chosen, tmp_path / "alone", QUICK)
    monkeypatch.setattr("steer.concepts.make.workers_of", Pickling)
    divided = build(pocket, chosen, tmp_path / "divided", QUICK)
    assert [row.name for row in divided.rows] == ["joy", "formal"]
    assert [row.values for row in divided.rows] == [row.values for row in alone.rows]
    for file in (tmp_path / "alone").iterdir():
        assert file.read_bytes() == (tmp_path / "divided" / file.name).read_bytes()
