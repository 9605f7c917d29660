"""Test whether a running server is steered: compare its greedy answers with ours.

For each prompt we generate two texts, with the steers and without. The server's text agrees with
one of them if it follows that text past the point where the two differ, and for at least half its
length; engines with other rounding diverge eventually. If the server gives the log-probs p of its
tokens, they decide instead: with s and u our log-probs of the same tokens, steered and unsteered,
the server is steered if the mean |p - s| is small compared with the mean |s - u|. If a multiple of
the coefficients fits p much better, that multiple is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from steer.engines.endpoint import Answer
from steer.generate.apply import continue_ids
from steer.hooks.clock import TokenClock
from steer.hooks.gates import prompt_values
from steer.hooks.inject import injected
from steer.models.model import Model
from steer.steering.generation import Sampling
from steer.steering.steers import Steer

PROMPTS = (
    "One day",
    "The most important thing is",
    "I went outside and",
    "My answer to your question is",
)
#: A distance is small if it is at most this share of the one between steered and unsteered ...
CLOSE = 0.1
#: ... or at most this many nats per token, the usual difference between 16-bit engines.
ROUNDING = 0.02
#: Below this distance between steered and unsteered, in nats per token, rounding could decide.
FAINT = 0.05
#: Multiples of the coefficients to test; 0 would be unsteered, 1 the requested coefficients.
MULTIPLES = (-1.0, 0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2.0, 4.0)
#: A multiple is in force if its distance is below this share of that of the requested ones.
NEARER = 0.7
#: The share of texts that have to agree, if texts decide.
MOST = 0.75

Side = Literal["steered", "unsteered", "neither"]
Verdict = Literal["steered", "other", "unsteered", "neither", "unclear"]


@dataclass(frozen=True, slots=True)
class PromptComparison:
    """A prompt, our two texts, and the server's text.

    agrees: the text that the server's agrees with; None if our two texts are equal. to_steered,
    to_unsteered, between: mean distances of log-probs, in nats per token; None if the server gives
    no log-probs. to_multiples: distances to each of `MULTIPLES`, for steers that have them.
    """

    prompt: str
    steered: str
    unsteered: str
    served: str
    agrees: Side | None
    to_steered: float | None = None
    to_unsteered: float | None = None
    between: float | None = None
    to_multiples: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """The comparisons of all prompts, and the verdict on the server."""

    prompts: list[PromptComparison]

    @property
    def distances(self) -> tuple[float, float, float] | None:
        """Means over the prompts of to_steered, to_unsteered and between."""
        rows = [
            (prompted.to_steered, prompted.to_unsteered, prompted.between)
            for prompted in self.prompts
            if prompted.between is not None
        ]
        if not rows:
            return None
        steered, unsteered, between = np.mean(np.array(rows, dtype=float), axis=0)
        return float(steered), float(unsteered), float(between)

    @property
    def multiple(self) -> float | None:
        """The multiple of the coefficients that is in force instead of the requested ones."""
        rows = [each.to_multiples for each in self.prompts if each.to_multiples is not None]
        if not rows or self.distances is None:
            return None
        means = np.mean(np.array(rows), axis=0)
        nearest = int(means.argmin())
        steered, unsteered, between = self.distances
        small = means[nearest] <= max(CLOSE * between, ROUNDING)
        nearer = means[nearest] < NEARER * min(steered, unsteered)
        return MULTIPLES[nearest] if small and nearer else None

    @property
    def verdict(self) -> Verdict:
        """`other`: steered, at another strength. `unclear`: the steers change too little."""
        distances = self.distances
        if distances is not None and distances[2] >= FAINT:
            steered, unsteered, between = distances
            if self.multiple is not None:
                return "other"
            if min(steered, unsteered) > max(CLOSE * between, ROUNDING):
                return "neither"
            return "steered" if steered < unsteered else "unsteered"
        sides = [each.agrees for each in self.prompts if each.agrees is not None]
        if not sides:
            return "unclear"
        for side in ("steered", "unsteered"):
            if sides.count(side) >= MOST * len(sides):
                return side
        return "neither"


def compare_answers(
    model: Model,
    steers: Sequence[Steer],
    prompts: Sequence[str],
    ask: Callable[[str], Answer],
    *,
    max_tokens: int = 16,
    chat: bool = False,
    on_done: Callable[[], None] = lambda: None,
) -> AnswerComparison:
    """Send each prompt to a server, and compare its answers with those of our hooks.

    Raises:
        SteerError: the server does not answer.
        HookError: a steer was never applied.
    """
    rows = []
    for prompt in prompts:
        text = model.chat(prompt) if chat else prompt
        ids = model.encode(text, special=not chat)
        own = [_continued(model, ids, some, max_tokens) for some in (steers, [])]
        answer = ask(prompt)
        rows.append(_compared(model, steers, prompt, ids, own, answer))
        on_done()
    return AnswerComparison(rows)


def _continued(model: Model, ids: list[int], steers: Sequence[Steer], max_tokens: int) -> list[int]:
    sampling = Sampling(max_tokens=max_tokens, temperature=0)
    return continue_ids(model, [(ids, 0)], steers, sampling)[0]


def _compared(
    model: Model,
    steers: Sequence[Steer],
    prompt: str,
    ids: list[int],
    own: Sequence[list[int]],
    answer: Answer,
) -> PromptComparison:
    steered, unsteered = map(model.decode, own)
    distances: tuple[Any, ...] = ()
    tokens = _tokens(model, own, answer)
    if tokens and answer.log_probs:
        served = np.array(answer.log_probs[: len(tokens)])

        def under(some: Sequence[Steer]) -> np.ndarray:
            return _log_probs(model, ids, tokens, some)

        s, u = under(steers), under([])
        distances = tuple(
            float(np.abs(a - b).mean()) for a, b in ((served, s), (served, u), (s, u))
        )
        multiples = [under(some) for some in _multiples(steers)]
        distances += (tuple(float(np.abs(served - m).mean()) for m in multiples) or None,)
    return PromptComparison(
        prompt,
        steered,
        unsteered,
        answer.text,
        _agreement(answer.text, steered, unsteered),
        *distances,
    )


def _multiples(steers: Sequence[Steer]) -> list[list[Steer]]:
    """The steers at each of `MULTIPLES`; none if a coefficient is not a strength."""
    if not all(steer.op.op.adds for steer in steers):
        return []
    return [
        [
            replace(
                steer,
                coefficient=replace(steer.coefficient, value=steer.coefficient.value * multiple),
            )
            for steer in steers
        ]
        for multiple in MULTIPLES
    ]


def _agreement(text: str, steered: str, unsteered: str) -> Side | None:
    """The one of two texts that `text` follows past the first character in which they differ."""
    # Some servers drop the leading blank of a continuation.
    text, steered, unsteered = (each.lstrip() for each in (text, steered, unsteered))
    if steered == unsteered:
        return None
    shorter = min(len(steered), len(unsteered))
    part = next((i for i in range(shorter) if steered[i] != unsteered[i]), shorter) + 1
    sides: list[tuple[Side, str]] = [("steered", steered), ("unsteered", unsteered)]
    for side, expected in sides:
        length = max(part, len(expected) // 2)
        if text[:length] == expected[:length]:
            return side
    return "neither"


def _tokens(model: Model, own: Sequence[list[int]], answer: Answer) -> list[int] | None:
    """The tokens of the server's text; None unless they are certain."""
    if answer.log_probs is None:
        return None
    n = len(answer.log_probs)
    for generated in own:
        # A server may or may not give a log-prob for the token that ends the text.
        same_text = model.decode(generated).lstrip() == answer.text.lstrip()
        if same_text and n in (len(generated), len(generated) - 1):
            return generated[:n]
    tokens = model.encode(answer.text, special=False)
    return tokens if len(tokens) == n and model.decode(tokens) == answer.text else None


def _log_probs(
    model: Model, ids: list[int], tokens: list[int], steers: Sequence[Steer]
) -> np.ndarray:
    """Log-probs of `tokens` after `ids`, in nats."""
    row = torch.tensor([[*ids, *tokens]], device=model.device)
    values = prompt_values(model, steers, [ids])
    clock = TokenClock(len(ids), torch.zeros(1, dtype=torch.int64), values)
    with torch.no_grad(), injected(model, steers, clock):
        logits = model.network(input_ids=row, use_cache=False).logits[0]
    scores = logits[len(ids) - 1 : -1].float().log_softmax(-1)
    chosen = scores[torch.arange(len(tokens)), torch.tensor(tokens, device=scores.device)]
    return np.asarray(chosen.cpu().numpy(), dtype=np.float64)
