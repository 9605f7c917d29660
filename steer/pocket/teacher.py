"""The grammar's distribution of the next token at each token of a drawn text: soft targets for the
training of the pocket model.

A drawn token is one sample of, say, thirty words, but the grammar knows the probability of each. A
model that is trained on these probabilities learns as much from one text as from many samples. The
expected gradient is the same (Rao and Blackwell), without the noise.

No torch: targets are plain arrays, sparse over the vocabulary.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .corpus import Document
from .grammar import Fork, Option, Part, available, options, parse_template, value_share
from .lexicon import KINDS

Ids = NDArray[np.int64]
Weights = NDArray[np.float64]
Encode = Callable[[str], Sequence[int]]
"""Text to token ids, without special tokens."""

Expected = tuple[Ids, Weights]
"""The tokens that may stand at a position, and how likely each is."""

Beliefs = dict[str, Weights]
"""Of each kind, how likely each value is, given the tags and the markers so far."""


@dataclass(frozen=True)
class Targets:
    """Token `tokens[i]` is expected at `positions[i]` with `weights[i]`; a position sums to 1.

    Positions without an entry, those of the prompt, have no target.
    """

    positions: Ids
    tokens: Ids
    weights: Weights


@dataclass
class _Table:
    """The options of a slot as token sequences."""

    options: tuple[Option, ...]
    sequences: list[tuple[int, ...]]

    def __post_init__(self) -> None:
        self.steps: dict[tuple[int, ...], tuple[Ids, Ids]] = {}
        self.place = {option.word: index for index, option in enumerate(self.options)}
        self.shares: Weights = np.exp([option.log_share for option in self.options])
        draw = self.options[0].draw
        self.kind = draw[0][0] if draw else None
        if self.kind is not None:
            values = KINDS[self.kind]
            self.values = np.array([values.index(o.draw[0][1]) for o in self.options])

    def weights(self, beliefs: Beliefs) -> Weights:
        """How likely each option is."""
        if self.kind is None:
            return self.shares
        expected: Weights = beliefs[self.kind] @ _emission(self.kind)
        weights: Weights = self.shares * expected[self.values]
        return weights

    def after(self, prefix: tuple[int, ...]) -> tuple[Ids, Ids]:
        """The options that continue `prefix`, and their next tokens."""
        if prefix not in self.steps:
            n = len(prefix)
            options = [i for i, s in enumerate(self.sequences) if len(s) > n and s[:n] == prefix]
            following = [self.sequences[i][n] for i in options]
            self.steps[prefix] = np.array(options, dtype=np.int64), np.array(following, np.int64)
        return self.steps[prefix]


class Teacher:
    """Targets for drawn texts, in the tokens of one tokenizer."""

    def __init__(self, encode: Encode, end: int) -> None:
        self._encode = encode
        self._end = end
        self._tables: dict[tuple[Part, int, str], _Table] = {}
        self._firsts: dict[str, Ids] = {}

    def targets(self, document: Document, ids: Sequence[int], starts: Sequence[int]) -> Targets:
        """The targets of a text. `ids` are its tokens, the end token last; `starts` where each
        begins in the text, in characters; for the end token, the length of the text."""
        text, body = document.text, len(document.prompt)
        expected: dict[int, Expected] = {
            index: (np.array([ids[index]]), np.ones(1))
            for index, start in enumerate(starts)
            if start >= body and index
        }
        beliefs = _prior(document)
        opening = -1
        for fork in document.forks:
            index = bisect_right(starts, body + fork.at) - 1
            # At the end of the text, the sentences that could have come would bring their space.
            lead = " " if text[starts[index] : starts[index] + 1] in (" ", "") else ""
            if fork.part is None:
                opening, expected[index] = index, self._opening(fork, lead, beliefs)
                continue
            # Where a slot opens a sentence, its first token is a choice among sentences.
            filled = self._filling(fork, lead, beliefs, skip=index == opening)
            expected.update((index + step, targets) for step, targets in filled)
        positions = [np.full(len(tokens), index) for index, (tokens, _) in expected.items()]
        return Targets(
            np.concatenate(positions),
            np.concatenate([tokens for tokens, _ in expected.values()]),
            np.concatenate([weights for _, weights in expected.values()]),
        )

    def _filling(
        self, fork: Fork, lead: str, beliefs: Beliefs, *, skip: bool
    ) -> Iterator[tuple[int, Expected]]:
        """The expected distribution at each token of a slot; without the first if `skip`."""
        assert fork.part is not None and fork.option is not None
        choices = options(fork.part, fork.bindings)
        if len(choices) > 1:
            table = self._table(fork.part, choices, lead)
            weights = table.weights(beliefs)
            drawn = table.sequences[table.place[fork.option.word]]
            for step in range(int(skip), len(drawn)):
                rows, tokens = table.after(drawn[:step])
                yield step, (tokens, weights[rows] / weights[rows].sum())
        for kind, value in fork.option.draw:
            posterior = beliefs[kind] * _emission(kind)[:, KINDS[kind].index(value)]
            beliefs[kind] = posterior / posterior.sum()

    def _opening(self, fork: Fork, lead: str, beliefs: Beliefs) -> Expected:
        """The first token of what comes next: of every sentence that could, or the end."""
        tokens: list[Ids] = []
        weights: list[Weights] = []
        rest = 1.0
        for stage in fork.ahead:
            templates = available(stage, fork.bindings)
            share = rest * stage.probability / len(templates)
            for template in templates:
                part = parse_template(template)[0]
                choices = options(part, fork.bindings)
                if len(choices) > 1:
                    table = self._table(part, choices, lead)
                    tokens.append(table.after(())[1])
                    weights.append(share * table.weights(beliefs))
                else:
                    tokens.append(self._first(lead + part.surface(choices[0].word)))
                    weights.append(np.array([share]))
            rest *= 1 - stage.probability
            if not rest:
                break
        if rest:
            tokens.append(np.array([self._end]))
            weights.append(np.array([rest]))
        return np.concatenate(tokens), np.concatenate(weights)

    def _first(self, text: str) -> Ids:
        if text not in self._firsts:
            self._firsts[text] = np.array(self._encode(text)[:1])
        return self._firsts[text]

    def _table(self, part: Part, choices: tuple[Option, ...], lead: str) -> _Table:
        # By identity, which is quick: the grammar makes each set of choices once.
        key = part, id(choices), lead
        if key not in self._tables:
            surfaces = [lead + part.surface(option.word) for option in choices]
            self._tables[key] = _Table(choices, [tuple(self._encode(s)) for s in surfaces])
        return self._tables[key]


def _prior(document: Document) -> Beliefs:
    stated = document.tags.stated()
    return {
        kind: np.array([float(v == stated[kind]) for v in values])
        if kind in stated
        else np.full(len(values), 1 / len(values))
        for kind, values in KINDS.items()
    }


_EMISSIONS = {
    kind: np.array([[value_share(kind, value, own) for value in values] for own in values])
    for kind, values in KINDS.items()
}


def _emission(kind: str) -> Weights:
    """[own value, marker's value]: how often a marker bears a value."""
    return _EMISSIONS[kind]


def entropy(targets: Targets) -> float:
    """Nats that no model can save on these targets, summed over positions."""
    order = np.lexsort((targets.tokens, targets.positions))
    places = np.stack([targets.positions[order], targets.tokens[order]])
    new = np.append(True, (np.diff(places) != 0).any(axis=0))
    shares = np.add.reduceat(targets.weights[order], np.flatnonzero(new))
    return -float(shares @ np.log(shares))
