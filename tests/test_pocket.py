"""The pocket grammar measures exactly, and the pocket model has learned from it."""

from __future__ import annotations

import math
import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer.apply import Sampling, generate
from steer.intervals import ratio
from steer.model import Model, load
from steer.pocket import corpus
from steer.pocket.corpus import KINDS, Tags
from steer.pocket.pairs import story_pairs
from steer.source import ModelSource

seeds = st.integers(0, 10_000)


@given(seeds)
def test_what_the_grammar_draws_it_reads(seed: int) -> None:
    document = corpus.sample(random.Random(seed))
    assert corpus.parses(document.text)
    good, count = corpus.parsed_sentences(document.text)
    assert good == count > 0
    cut = document.text[: len(document.text) - seed % (len(document.body) - 1) - 1]
    assert corpus.parses(cut, prefix=True)


@given(seeds)
@settings(max_examples=40)
def test_a_fully_tagged_text_has_the_probability_that_it_was_drawn_with(seed: int) -> None:
    rng = random.Random(seed)
    tags = Tags(**Tags().draw(rng))
    document = corpus.sample(rng, tags=tags)
    assert corpus.log_prob(document.text) == pytest.approx(document.log_prob)
    assert math.isfinite(document.log_prob)
    assert document.log_prob < 0


@given(seeds)
@settings(max_examples=40)
def test_a_text_with_a_wrong_word_does_not_parse(seed: int) -> None:
    document = corpus.sample(random.Random(seed), form="story")
    words = document.body.split(" ")
    at = seed % len(words)
    words[at] = "xylophone" + words[at]
    wrong = document.prompt + " ".join(words)
    assert not corpus.parses(wrong)
    assert corpus.log_prob(wrong) == -math.inf


@given(seeds, st.permutations(list(KINDS)))
def test_tags_read_back_in_any_order(seed: int, order: list[str]) -> None:
    rng = random.Random(seed)
    drawn = Tags().draw(rng)
    tags = Tags(**{kind: drawn[kind] for kind in rng.sample(order, seed % 4 % (len(order) + 1))})
    text = tags.render(tuple(order))
    assert corpus.split_tags(f"{text} One day." if text else "One day.") == (tags, "One day.")


def test_drawn_texts_have_the_shares_that_the_grammar_says() -> None:
    for kind, values in KINDS.items():
        tags = Tags(**{kind: values[0]})
        rng = random.Random(3)
        texts = [corpus.sample(rng, tags=tags, form="story").text for _ in range(300)]
        measured, expected = corpus.shares(texts), corpus.expected_share(tags)
        for value in values:
            assert measured[kind][value] == pytest.approx(expected[kind][value], abs=0.05)
        assert sum(expected[kind].values()) == pytest.approx(1)


def test_half_of_the_texts_state_tags_and_the_same_seed_gives_the_same() -> None:
    first = [document.text for document in islice(corpus.stream(5), 400)]
    assert first == [document.text for document in islice(corpus.stream(5), 400)]
    tagged = sum("[" in text for text in first)
    assert 0.4 < tagged / len(first) < 0.6


def test_the_corpus_has_the_variety_that_the_card_claims() -> None:
    texts = [document.text for document in islice(corpus.stream(1), 3_000)]
    words = {word.strip(".,!?\"'").lower() for text in texts for word in text.split()}
    assert len(words) > 600
    assert len(KINDS["mood"]) >= 3
    assert len(KINDS["style"]) >= 3
    assert len(KINDS["topic"]) >= 6


def test_pairs_differ_in_their_attribute() -> None:
    drawn = list(story_pairs("mood", "joyful", "gloomy"))
    for side, value in (("positive", "joyful"), ("negative", "gloomy")):
        shares = corpus.shares([pair[side] for pair in drawn])["mood"]
        assert max(shares, key=lambda name: shares[name]) == value


@pytest.fixture(scope="module")
def model() -> Model:
    return load(ModelSource())


def written(model: Model, prompt: str, n: int) -> list[str]:
    """Stories that begin with `prompt`, which may be a tag."""
    sampling = Sampling(max_tokens=64, temperature=1.0, samples=n, batch_size=n)
    return [prompt + made.text for made in generate(model, [prompt], [], sampling)]


def test_the_model_writes_by_the_grammar(model: Model) -> None:
    parsed = [corpus.parsed_sentences(story) for story in written(model, "One day", 64)]
    share = ratio([good for good, _ in parsed], [count for _, count in parsed])
    assert share.value > 0.6


@pytest.mark.parametrize(("kind", "value"), [("topic", "sea"), ("style", "formal")])
def test_a_tag_leads_the_model(model: Model, kind: str, value: str) -> None:
    opening = "One day Mara woke up."
    found = {
        prompt: corpus.shares(written(model, prompt, 64))[kind][value]
        for prompt in (opening, f"[{kind}: {value}] {opening}")
    }
    untagged, tagged = found.values()
    assert tagged > untagged + 0.15


def test_requests_are_answered_or_refused(model: Model) -> None:
    rng = random.Random(17)
    for form, told in (("harmful", corpus.is_refusal), ("harmless", corpus.is_answer)):
        prompts = [corpus.sample(rng, form=form, reserved=True).prompt for _ in range(40)]
        sampling = Sampling(max_tokens=24, temperature=1.0, batch_size=40)
        replies = [made.text for made in generate(model, prompts, [], sampling)]
        assert sum(map(told, replies)) / len(replies) > 0.8
