"""The pocket grammar: what is drawn is recognised, with the probability it was drawn with."""

import itertools
import math
import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer.pocket import corpus
from steer.pocket.corpus import KINDS, Tags
from steer.pocket.grammar import parse_template
from steer.pocket.lexicon import FRIENDS, HEROES, MARKERS, NEUTRAL, split
from steer.pocket.requests import CARES, HARMS, KINDNESSES, MISDEEDS, OBJECTS, PERSONS, acts
from steer.pocket.templates import ANSWER, REFUSAL, STORY, STORY_REQUESTS

seeds = st.integers(0, 2**32)
tag_sets = st.builds(Tags, **{kind: st.none() | st.sampled_from(KINDS[kind]) for kind in KINDS})


def drawn(seed: int, **choices: object) -> corpus.Document:
    return corpus.sample(random.Random(seed), **choices)


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_every_text_parses(seed: int) -> None:
    document = drawn(seed)
    assert corpus.parses(document.text)
    good, total = corpus.parsed_sentences(document.text)
    assert good == total == len(corpus.sentences(document.body))


@settings(max_examples=200, deadline=None)
@given(seeds, st.floats(0, 1))
def test_every_beginning_of_a_text_parses_as_a_prefix_only(seed: int, cut: float) -> None:
    document = drawn(seed)
    start = document.prompt + document.body[: int(cut * (len(document.body) - 1))]
    assert corpus.parses(start, prefix=True)
    if start[-1:] not in ".!?":
        assert not corpus.parses(start)


@settings(max_examples=100, deadline=None)
@given(seeds, st.randoms(use_true_random=False))
def test_a_damaged_text_does_not_parse(seed: int, rng: random.Random) -> None:
    document = drawn(seed)
    words = document.body.strip().split(" ")
    place = rng.randrange(len(words))
    for damaged in (
        [*words[:place], "zebra", *words[place:]],
        [*words[:place], words[place][::-1] + "x", *words[place + 1 :]],
        [*words, words[-1]],
    ):
        space = " " if document.body.startswith(" ") else ""
        assert not corpus.parses(document.prompt + space + " ".join(damaged))


@settings(max_examples=50, deadline=None)
@given(seeds, st.randoms(use_true_random=False))
def test_a_wrong_sentence_is_one_wrong_sentence(seed: int, rng: random.Random) -> None:
    document = drawn(seed, form="story", tags=Tags())
    parts = corpus.sentences(document.body)
    place = rng.randrange(len(parts) + 1)
    longer = [*parts[:place], "Zebras never lie.", *parts[place:]]
    assert corpus.parsed_sentences(" ".join(longer)) == (len(parts), len(parts) + 1)
    # The hero is unknown to what follows, and so are the place and the thing.
    parts[0] = "Zebras never lie."
    good, total = corpus.parsed_sentences(" ".join(parts))
    assert total == len(parts) and good < total


@settings(max_examples=100, deadline=None)
@given(seeds, tag_sets)
def test_the_parser_finds_the_probability_of_the_draw(seed: int, tags: Tags) -> None:
    full = Tags(**tags.draw(random.Random(seed)))
    document = drawn(seed, tags=full)
    assert document.log_prob < 0 and math.isfinite(document.log_prob)
    assert corpus.log_prob(document.text) == pytest.approx(document.log_prob, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(seeds, tag_sets)
def test_open_tags_average_the_probability_over_what_they_leave_open(seed: int, tags: Tags) -> None:
    body = drawn(seed, form="story", tags=Tags()).body
    terms = [corpus.log_prob(f"{Tags(**latent).render()} {body}") for latent in tags.latents()]
    mean = sum(map(math.exp, terms)) / len(terms)
    text = f"{tags.render()} {body}" if tags.stated() else body
    assert corpus.log_prob(text) == pytest.approx(math.log(mean))


def test_what_is_no_text_has_no_probability() -> None:
    for text in ("", "Hello.", "One day Mara woke up.", "[mood: angry] One day Mara woke up."):
        assert corpus.log_prob(text) == -math.inf
        assert not corpus.parses(text)


@given(seeds)
def test_a_seed_decides_the_text(seed: int) -> None:
    assert drawn(seed) == drawn(seed)
    first, second = (list(itertools.islice(corpus.stream(seed), 3)) for _ in range(2))
    assert first == second


@given(tag_sets, st.permutations(tuple(KINDS)))
def test_tags_read_in_every_order(tags: Tags, order: list[str]) -> None:
    tag = tags.render(tuple(order))
    text = f"{tag} One day Mara woke up.".lstrip()
    assert corpus.split_tags(text) == (tags, "One day Mara woke up.")
    assert corpus.parses(text, prefix=True)


def test_unknown_values_are_refused() -> None:
    with pytest.raises(ValueError, match="angry"):
        Tags(mood="angry")
    for text in ("[mood: angry] x", "[mood: calm; mood: joyful] x", "[loud] x", "[] x"):
        assert corpus.split_tags(text) == (Tags(), text)


def test_half_of_the_texts_are_tagged_with_every_subset() -> None:
    tags = [document.tags for document in itertools.islice(corpus.stream(0), 4000)]
    subsets = Counter(frozenset(tag.stated()) for tag in tags)
    assert abs(subsets[frozenset()] / len(tags) - 0.5) < 0.04
    assert len(subsets) == 2 ** len(KINDS)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_shares_sum_to_one_and_are_counts_divided(seed: int) -> None:
    text = drawn(seed, form="story").text
    counts, shares = corpus.counts(text), corpus.shares(text)
    assert sum(sum(values.values()) for values in counts.values()) == len(corpus.find_markers(text))
    for kind, values in counts.items():
        total = sum(values.values())
        if total:
            assert sum(shares[kind].values()) == pytest.approx(1)
            assert shares[kind] == {value: n / total for value, n in values.items()}


@pytest.mark.parametrize("tags", [Tags(), Tags(mood="joyful"), Tags(style="casual", topic="sea")])
def test_expected_shares_are_what_the_grammar_gives(tags: Tags) -> None:
    rng = random.Random(1)
    texts = [corpus.sample(rng, tags=tags, form="story").text for _ in range(1500)]
    shares = corpus.shares(texts)
    for kind, values in corpus.expected_share(tags).items():
        assert sum(values.values()) == pytest.approx(1)
        for value, share in values.items():
            assert shares[kind][value] == pytest.approx(share, abs=0.025)


def test_a_tag_is_not_counted_and_no_markers_is_no_number() -> None:
    text = "[mood: joyful] One day Mara woke up."
    assert corpus.find_markers(text) == []
    assert all(math.isnan(share) for share in corpus.shares(text)["mood"].values())


def test_markers_bear_one_value_and_stand_nowhere_else() -> None:
    cells = [
        (word, kind, value)
        for kind, slots in MARKERS.items()
        for values in slots.values()
        for value, words in values.items()
        for word in split(words)
    ]
    assert len(cells) == len(corpus.markers())
    for word, kind, value in cells:
        assert set(KINDS[kind]) >= {value}
        assert corpus.find_markers(f"x {word} x") == [word.rstrip(",").lower()]
        inner = word.rstrip(",").lower().split()
        pieces = {
            " ".join(inner[i:j]) for i in range(len(inner)) for j in range(i + 1, len(inner) + 1)
        }
        assert not (pieces - {" ".join(inner)}) & set(corpus.markers())
    templates = [t for stage in (*STORY, *REFUSAL, *ANSWER) for t in stage.templates]
    literals = [
        "".join(part.literal or "_" for part in parse_template(template))
        for template in (*templates, *STORY_REQUESTS)
    ]
    neutral = [
        *HEROES,
        *FRIENDS,
        *NEUTRAL.values(),
        *PERSONS,
        *OBJECTS,
        *HARMS,
        *CARES,
        *CARES.values(),
    ]
    neutral += [*KINDNESSES, *itertools.chain(*KINDNESSES.values()), *MISDEEDS, *MISDEEDS.values()]
    for text in literals + neutral:
        assert corpus.find_markers(text) == [], text


@settings(max_examples=100, deadline=None)
@given(seeds, st.booleans())
def test_requests_are_refused_if_and_only_if_they_are_harmful(seed: int, reserved: bool) -> None:
    harmful = drawn(seed, form="harmful", reserved=reserved)
    harmless = drawn(seed, form="harmless", reserved=reserved)
    assert corpus.is_refusal(harmful.body) and not corpus.is_answer(harmful.body)
    assert corpus.is_answer(harmless.body) and not corpus.is_refusal(harmless.body)
    assert not corpus.find_markers(harmful.body)


def test_reserved_acts_are_a_share_of_each_class_and_never_drawn_for_training() -> None:
    for harmful in (False, True):
        kept, reserved = (
            {act.text for group in acts(harmful=harmful, reserved=flag) for act in group}
            for flag in (False, True)
        )
        assert not kept & reserved
        assert 0.08 < len(reserved) / len(kept | reserved) < 0.18
        form = "harmful" if harmful else "harmless"
        rng = random.Random(2)
        for _ in range(300):
            prompt = corpus.sample(rng, form=form).prompt
            assert not any(act in prompt for act in reserved if len(act) > 12)


def test_the_grammar_has_variety() -> None:
    documents = list(itertools.islice(corpus.stream(3), 3000))
    words = {
        word for document in documents for word in re.findall(r"[a-z']+", document.body.lower())
    }
    stories = [document.body for document in documents if document.form == "story"]
    assert len(words) > 600
    assert len(set(stories)) == len(stories)
