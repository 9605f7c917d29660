"""The targets that the pocket model learns from are what the grammar would draw next."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from steer.pocket import corpus, path
from steer.pocket.corpus import Document, Tags
from steer.pocket.teacher import Targets, Teacher, entropy


class School:
    """Targets of drawn texts in the tokens of the pocket model."""

    def __init__(self) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path())
        self.teacher = Teacher(
            lambda text: self.tokenizer(text, add_special_tokens=False)["input_ids"],
            self.tokenizer.eos_token_id,
        )

    def read(self, document: Document) -> tuple[list[int], list[int], Targets]:
        """Token ids, where each begins, and the targets."""
        read = self.tokenizer(document.text + corpus.END, return_offsets_mapping=True)
        starts = [start for start, _ in read["offset_mapping"]]
        ids = read["input_ids"]
        return ids, starts, self.teacher.targets(document, ids, starts)

    def at(self, targets: Targets) -> Iterator[tuple[int, dict[int, float]]]:
        """Of each position with a target, the token ids that may stand there and how likely."""
        for position in np.unique(targets.positions):
            here = targets.positions == position
            expected: dict[int, float] = {}
            for token, weight in zip(targets.tokens[here], targets.weights[here], strict=True):
                expected[int(token)] = expected.get(int(token), 0.0) + float(weight)
            yield int(position), expected


@pytest.fixture(scope="module")
def school() -> School:
    return School()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_every_token_of_a_body_has_a_target_that_allows_it(school: School, seed: int) -> None:
    document = corpus.sample(random.Random(seed))
    ids, starts, targets = school.read(document)
    expected = dict(school.at(targets))
    body = [i for i, start in enumerate(starts) if i and start >= len(document.prompt)]
    assert list(expected) == body
    for position, shares in expected.items():
        assert sum(shares.values()) == pytest.approx(1)
        assert shares.get(ids[position], 0) > 0, school.tokenizer.decode(ids[: position + 1])


def test_where_a_text_could_have_gone_on_it_would_with_a_space(school: School) -> None:
    rng = random.Random(4)
    seen = set()
    for _ in range(200):
        document = corpus.sample(rng, form="harmful")
        ids, _, targets = school.read(document)
        last = dict(school.at(targets))[len(ids) - 1]
        pieces = school.tokenizer.convert_ids_to_tokens([i for i in last if i != ids[-1]])
        assert all(piece.startswith("Ġ") for piece in pieces), pieces
        seen.add(len(pieces))
    assert {0} < seen  # some texts could only end, some could go on


@pytest.mark.parametrize("tags", [None, Tags("calm", "plain", "sea"), Tags(topic="city")])
def test_the_targets_are_calibrated(school: School, tags: Tags | None) -> None:
    rng = random.Random(5)
    surprises = []
    for _ in range(600):
        ids, _, targets = school.read(corpus.sample(rng, tags=tags))
        nats = sum(-np.log(shares[ids[position]]) for position, shares in school.at(targets))
        surprises.append(nats - entropy(targets))
    # What was drawn surprises as much as the targets say it does: neither too sure nor too vague.
    assert abs(np.mean(surprises)) < 4 * np.std(surprises) / len(surprises) ** 0.5
    assert np.std(surprises) < 12


def test_the_first_words_are_drawn_as_often_as_they_are_expected(school: School) -> None:
    documents = [d for d in islice(corpus.stream(8), 3000) if d.form == "story"]
    drawn = np.zeros(len(school.tokenizer))
    expected = np.zeros(len(school.tokenizer))
    for document in documents:
        ids, _, targets = school.read(document)
        first = targets.positions.min()
        drawn[ids[first]] += 1
        here = targets.positions == first
        np.add.at(expected, targets.tokens[here], targets.weights[here])
    assert np.all(np.abs(drawn - expected) <= 5 * np.sqrt(expected) + 1)


def test_what_a_text_betrays_of_itself_counts(school: School) -> None:
    """Without a tag, words of one mood make more of them likelier."""
    rng = random.Random(6)
    document = next(
        d
        for d in iter(lambda: corpus.sample(rng, tags=Tags(), form="story"), None)
        if corpus.counts(d.body)["mood"][d.latent["mood"]] > 5
    )
    _, _, targets = school.read(document)
    words = school.tokenizer.convert_ids_to_tokens(list(range(len(school.tokenizer))))
    own = {
        index
        for index, word in enumerate(words)
        if corpus.markers().get(word.lstrip("Ġ").lower()) == ("mood", document.latent["mood"])
    }
    shares = [
        sum(weight for token, weight in expected.items() if token in own)
        for _, expected in school.at(targets)
    ]
    mood = [share for share in shares if share > 0.1]
    assert mood[-1] > 0.5 > 0.35 > mood[0]
