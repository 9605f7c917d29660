"""Is a running server steered? Its greedy answers, beside what the hooks give here.

Of each prompt there are two texts from here, with the steers and without. The server's text agrees
with the one that it follows past the place where the two part, and to its half at least: engines
that round otherwise go other ways in the end. Where the server tells the log-probs p of its tokens,
they decide in place of the texts: with s and u the log-probs of the same tokens here, steered and
unsteered, it is steered where the mean |p - s| is small beside the mean |s - u|. Where those of a
multiple of the coefficients come much nearer to p, it is that multiple which is in force.
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
#: A distance is small that is this share of the one between steered and unsteered ...
CLOSE = 0.1
#: ... or so many nats per token, which is what engines that round to 16 bits are apart.
ROUNDING = 0.02
#: Nats per token between the two, below which rounding could be mistaken for steering.
FAINT = 0.05
#: Multiples of the coefficients that are tried besides; 0 would be unsteered, 1 as asked.
MULTIPLES = (-1.0, 0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2.0, 4.0)
#: One is in force whose distance is less than this share of the one to what was asked.
NEARER = 0.7
#: Share of the texts that have to agree, where texts decide.
MOST = 0.75

Side = Literal["steered", "unsteered", "neither"]
Verdict = Literal["steered", "other", "unsteered", "neither", "unclear"]


@dataclass(frozen=True, slots=True)
class Prompted:
    """A prompt, what the hooks make of it, and what the server made of it.

    agrees: which of the two texts the server's agrees with; None where they do not part.
    to_steered, to_unsteered, between: mean distances of log-probs, in nats per token; None where
    the server tells none. to_multiples: to each of `MULTIPLES`, where they can be tried.
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
class Probe:
    """All prompts, and what they say of the server."""

    prompts: list[Prompted]

    @property
    def distances(self) -> tuple[float, float, float] | None:
        """Means over the prompts of to_steered, to_unsteered and between."""
        rows = [
            (one.to_steered, one.to_unsteered, one.between)
            for one in self.prompts
            if one.between is not None
        ]
        if not rows:
            return None
        steered, unsteered, between = np.mean(np.array(rows, dtype=float), axis=0)
        return float(steered), float(unsteered), float(between)

    @property
    def multiple(self) -> float | None:
        """Of the coefficients, the multiple that is in force in place of them, if one is."""
        rows = [one.to_multiples for one in self.prompts if one.to_multiples is not None]
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
        """`other` where it is steered at another strength; `unclear` where the steers change too
        little to tell."""
        found = self.distances
        if found is not None and found[2] >= FAINT:
            steered, unsteered, between = found
            if self.multiple is not None:
                return "other"
            if min(steered, unsteered) > max(CLOSE * between, ROUNDING):
                return "neither"
            return "steered" if steered < unsteered else "unsteered"
        sides = [one.agrees for one in self.prompts if one.agrees is not None]
        if not sides:
            return "unclear"
        for side in ("steered", "unsteered"):
            if sides.count(side) >= MOST * len(sides):
                return side
        return "neither"


def probe(
    model: Model,
    steers: Sequence[Steer],
    prompts: Sequence[str],
    ask: Callable[[str], Answer],
    *,
    max_tokens: int = 16,
    chat: bool = False,
    on_done: Callable[[], None] = lambda: None,
) -> Probe:
    """Ask a server each prompt, and compare its answers with what the hooks give.

    Raises:
        SteerError: the server does not answer.
        HookError: a steer was never applied.
    """
    rows = []
    for prompt in prompts:
        text = model.chat(prompt) if chat else prompt
        ids = model.encode(text, special=not chat)
        here = [_continued(model, ids, some, max_tokens) for some in (steers, [])]
        answer = ask(prompt)
        rows.append(_compared(model, steers, prompt, ids, here, answer))
        on_done()
    return Probe(rows)


def _continued(model: Model, ids: list[int], steers: Sequence[Steer], max_tokens: int) -> list[int]:
    sampling = Sampling(max_tokens=max_tokens, temperature=0)
    return continue_ids(model, [(ids, 0)], steers, sampling)[0]


def _compared(
    model: Model,
    steers: Sequence[Steer],
    prompt: str,
    ids: list[int],
    here: Sequence[list[int]],
    answer: Answer,
) -> Prompted:
    steered, unsteered = map(model.decode, here)
    distances: tuple[Any, ...] = ()
    tokens = _tokens(model, here, answer)
    if tokens and answer.log_probs:
        told = np.array(answer.log_probs[: len(tokens)])

        def under(some: Sequence[Steer]) -> np.ndarray:
            return _log_probs(model, ids, tokens, some)

        s, u = under(steers), under([])
        distances = tuple(float(np.abs(a - b).mean()) for a, b in ((told, s), (told, u), (s, u)))
        many = [under(some) for some in _multiples(steers)]
        distances += (tuple(float(np.abs(told - m).mean()) for m in many) or None,)
    return Prompted(
        prompt,
        steered,
        unsteered,
        answer.text,
        _agreement(answer.text, steered, unsteered),
        *distances,
    )


def _multiples(steers: Sequence[Steer]) -> list[list[Steer]]:
    """The steers at each of `MULTIPLES`; none where coefficients are no strengths."""
    if not all(steer.op.op.adds for steer in steers):
        return []
    return [
        [
            replace(steer, coefficient=replace(one, value=one.value * multiple))
            for steer in steers
            for one in (steer.coefficient,)
        ]
        for multiple in MULTIPLES
    ]


def _agreement(text: str, steered: str, unsteered: str) -> Side | None:
    """Which of two texts a third follows, past the first place where they part."""
    # Some servers drop the blank that a continuation begins with.
    text, steered, unsteered = (one.lstrip() for one in (text, steered, unsteered))
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


def _tokens(model: Model, here: Sequence[list[int]], answer: Answer) -> list[int] | None:
    """The tokens of the server's text, where it is sure which they are."""
    if answer.log_probs is None:
        return None
    n = len(answer.log_probs)
    for made in here:
        # A server may, or may not, tell of the token that ends a text.
        if model.decode(made).lstrip() == answer.text.lstrip() and n in (len(made), len(made) - 1):
            return made[:n]
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
    found = scores[torch.arange(len(tokens)), torch.tensor(tokens, device=scores.device)]
    return np.asarray(found.cpu().numpy(), dtype=np.float64)
