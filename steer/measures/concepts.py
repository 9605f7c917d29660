"""Judges of whether texts show a concept: words, the pocket grammar, a classifier, or a language
model behind an endpoint (`steer.evaluation.endpoint`).

A judge takes texts and gives a numerator and a denominator for each. The rate over many texts is
the sum of the numerators divided by the sum of the denominators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from steer.base.errors import InputError, UsageError
from steer.base.files import read_bytes
from steer.measures.formulas import has_word
from steer.pocket import corpus
from steer.vectors.sites import listed

Judge = Callable[[Sequence[str]], list[tuple[float, float]]]

#: The meaning of a concept's rate, by the kind of judge.
KINDS = {
    "words": "share of the generated texts with one of the words",
    "grammar": "share of the attribute's words in the generated texts that have this value",
    "classifier": "mean probability of the label, over the generated texts",
    "judge": "mean grade of the generated texts, as a share of the best grade",
}


def meaning_of(concept: str | None, default: str) -> str:
    """The meaning of a concept's rate; `default` where the concept is a function."""
    return KINDS.get((concept or "").partition(":")[0], default)


def parse_concept(text: str) -> tuple[str, str]:
    """The kind of judge, and what follows it, in `words:glad,happy`, `grammar:formal`,
    `classifier:FOLDER=LABEL` or `judge:a cheerful mood`.

    Raises:
        UsageError: it is none of these.
    """
    kind, colon, rest = text.partition(":")
    if kind not in KINDS or not colon or not rest.strip():
        raise UsageError(
            f"{text!r} is not a concept",
            hint="write words:glad,happy, words:FILE.txt, grammar:formal, classifier:MODEL=LABEL or"
            " 'judge:a cheerful mood'",
        )
    return kind, rest


def by_words(rest: str) -> Judge:
    """1 for a text with one of the words, else 0. rest: `glad,happy`, or a file with a word a line.

    Raises:
        SteerError: the file cannot be read, or holds no words.
    """
    listing = rest.split(",")
    if rest.endswith(".txt"):
        listing = read_bytes(Path(rest), limit=10_000_000).decode("utf-8", "replace").split("\n")
    words = [word.strip() for word in listing if word.strip()]
    if not words:
        raise InputError(f"{rest} holds no words", hint="write one a line, or words:glad,happy")
    return lambda texts: [(float(has_word(text, words)), 1.0) for text in texts]


def by_grammar(value: str) -> Judge:
    """The words with `value` among the words with any value of the same attribute, such as
    `formal` among all words that mark formality. Exact for texts of pocket.

    Raises:
        UsageError: the grammar has no such value.
    """
    kinds = [kind for kind, values in corpus.KINDS.items() if value in values]
    if not kinds:
        every = listed(value for values in corpus.KINDS.values() for value in values)
        raise UsageError(f"the pocket grammar has no {value!r}", hint=f"it has {every}")

    def judged(texts: Sequence[str]) -> list[tuple[float, float]]:
        counts = [corpus.counts(text)[kinds[0]] for text in texts]
        return [(float(words[value]), float(sum(words.values()))) for words in counts]

    return judged


def by_classifier(classify: Callable[[Sequence[str]], list[dict[str, float]]], label: str) -> Judge:
    """The probability that a classifier gives to `label`. Empty texts are left out.

    Raises:
        UsageError: it has no such label.
    """
    labels = classify(["a"])[0]
    if label not in labels:
        raise UsageError(f"the classifier has no label {label!r}", hint=f"it has {listed(labels)}")

    def judged(texts: Sequence[str]) -> list[tuple[float, float]]:
        nonempty = [text for text in texts if text.strip()]
        scores: Any = iter(classify(nonempty) if nonempty else [])
        return [(next(scores)[label], 1.0) if text.strip() else (0.0, 0.0) for text in texts]

    return judged
