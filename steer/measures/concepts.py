"""Whether texts show a concept: by words, by the pocket grammar, by a classifier, or by a judge
behind an endpoint (`steer.evaluation.endpoint`).

A judge takes texts and gives (n, of how many) for each: the rate over many texts is the sum of the
first over the sum of the second.
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

#: What a concept's number is, by the kind of judge.
KINDS = {
    "words": "share of the written texts with one of the words",
    "grammar": "share of the written words that say the attribute and say it so",
    "classifier": "mean probability of the label, over the written texts",
    "judge": "mean grade of the written texts, as a share of the best one",
}


def meaning_of(concept: str | None, default: str) -> str:
    """What the numbers of a concept mean; `default` where it was given as a function."""
    return KINDS.get((concept or "").partition(":")[0], default)


def judge(text: str) -> tuple[str, str]:
    """The kind and the rest of `words:glad,happy`, `grammar:formal`, `classifier:FOLDER=LABEL` or
    `judge:a cheerful mood`.

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
    """1 of 1 for a text with one of the words: `glad,happy`, or a file with one a line.

    Raises:
        SteerError: the file cannot be read, or holds none.
    """
    listing = rest.split(",")
    if rest.endswith(".txt"):
        listing = read_bytes(Path(rest), limit=10_000_000).decode("utf-8", "replace").split("\n")
    words = [word.strip() for word in listing if word.strip()]
    if not words:
        raise InputError(f"{rest} holds no words", hint="write one a line, or words:glad,happy")
    return lambda texts: [(float(has_word(text, words)), 1.0) for text in texts]


def by_grammar(value: str) -> Judge:
    """Of a text's words that bear the attribute, those that bear `value`: exact on pocket's texts.

    Raises:
        UsageError: the grammar has no such value.
    """
    kinds = [kind for kind, values in corpus.KINDS.items() if value in values]
    if not kinds:
        every = listed(value for values in corpus.KINDS.values() for value in values)
        raise UsageError(f"the pocket grammar knows no {value!r}", hint=f"it knows {every}")

    def judged(texts: Sequence[str]) -> list[tuple[float, float]]:
        found = [corpus.counts(text)[kinds[0]] for text in texts]
        return [(float(words[value]), float(sum(words.values()))) for words in found]

    return judged


def by_classifier(classify: Callable[[Sequence[str]], list[dict[str, float]]], label: str) -> Judge:
    """The probability that a classifier gives `label`, of 1. Empty texts are left out.

    Raises:
        UsageError: it has no such label.
    """
    labels = classify(["a"])[0]
    if label not in labels:
        raise UsageError(f"the classifier has no label {label!r}", hint=f"it has {listed(labels)}")

    def judged(texts: Sequence[str]) -> list[tuple[float, float]]:
        whole = [text for text in texts if text.strip()]
        scores: Any = iter(classify(whole) if whole else [])
        return [(next(scores)[label], 1.0) if text.strip() else (0.0, 0.0) for text in texts]

    return judged
