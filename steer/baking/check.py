"""Does a baked folder do what the hooks do? Log-probs of both on the same texts, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from steer.baking.tokens import LEAST, Added, chances, sampled
from steer.base.errors import InputError, ModelError
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.hooks.tokens import embedded
from steer.models.loading import load
from steer.models.model import Model
from steer.models.numbers import check_numbers
from steer.models.source import ModelSource
from steer.steering.steers import Steer
from steer.steering.tokens import separate

#: How far a log-prob may be off where the folder has all digits.
EXACT = 1e-4
#: Where its numbers are rounded to 16 bits, of the mean: what rounding all weights of a small model
#: costs is about half of this.
ROUNDED = {"bfloat16": 0.05, "float16": 0.01}
#: Tokens of a text that are looked at, and random ones beside the texts.
N_TOKENS = 64

TEXTS = (
    "The harbour was quiet when the first boats came in, and nobody on the quay could say where"
    " they had been all night.",
    "To make the dough, stir the flour and the salt together, add warm water, and let it rest for"
    " an hour before you bake it.",
    "Question: Why does the moon look larger near the horizon?\nAnswer: It is an illusion, since"
    " its angular size hardly changes.",
    "def area(width, height):\n    return width * height\n",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far the folder is from the hooks, and how far these are from the unsteered model.

    largest, mean: of the absolute differences of log-probs, over n_tokens tokens and the
    vocabulary. effect, mean_effect: likewise of the hooks' from the unsteered model's. dtype: of
    the folder. exact: whether it was baked to do what the hooks do. passed: within `tolerance`, of
    `largest` where it is exact and float32, of `mean` else; and no new token is ever likely.

    new_token: the highest log-probability of a learned token, which is never to be written, over
    the texts and over text that the folder wrote; None where there is no such token.
    """

    largest: float
    mean: float
    effect: float
    mean_effect: float
    n_tokens: int
    dtype: str
    exact: bool = True
    new_token: float | None = None

    @property
    def tolerance(self) -> float:
        if not self.exact:  # nearer to the hooks than doing nothing is
            return self.mean_effect
        return ROUNDED.get(self.dtype, EXACT)

    @property
    def passed(self) -> bool:
        if self.new_token is not None and self.new_token > -LEAST:
            return False
        is_largest = self.exact and self.dtype == "float32"
        return (self.largest if is_largest else self.mean) <= self.tolerance

    @property
    def says_nothing(self) -> bool:
        """Whether the steers do so little here that nobody could tell whether they are there."""
        if self.exact and self.dtype == "float32":
            return not self.effect > 10 * EXACT
        return self.exact and not self.mean_effect > 2 * self.tolerance

    def __str__(self) -> str:
        found = (
            f"log-probs differ from the hooks' by at most {self.largest:.1e} (mean {self.mean:.1e})"
        )
        does = f"steering moves them by up to {self.effect:.2g} (mean {self.mean_effect:.2g})"
        if not self.exact:
            allowed = f"approximate: a mean below {self.tolerance:.2g} is nearer than unsteered"
        elif self.dtype == "float32":
            allowed = f"allowed: {self.tolerance:g}"
        else:
            allowed = f"allowed in {self.dtype}: a mean of {self.tolerance:g}"
        never = ""
        if self.new_token is not None:
            never = f"; a new token is written with a log-prob of at most {self.new_token:.0f}"
        return f"{found}; {does}; {allowed}{never}"


@dataclass(frozen=True, slots=True)
class Reference:
    """What the folder is to give: its token ids of each text, and log-probs [token, vocabulary].

    Where learned tokens stand before a text, its own tokens are looked at.
    """

    ids: list[Tensor]
    steered: list[Tensor]
    unsteered: list[Tensor]

    def difference(self, found: Sequence[Tensor], dtype: str, *, exact: bool = True) -> Difference:
        """How far log-probs are from these."""
        # Of the vocabulary that there was, and the texts' own tokens.
        same = [a[-len(b) :, : b.shape[1]] for a, b in zip(found, self.steered, strict=True)]
        off = [(a - b).abs() for a, b in zip(same, self.steered, strict=True)]
        moved = [(a - b).abs() for a, b in zip(self.steered, self.unsteered, strict=True)]
        return Difference(
            largest=max(float(one.max()) for one in off),
            mean=float(torch.cat([one.flatten() for one in off]).mean()),
            effect=max(float(one.max()) for one in moved),
            mean_effect=float(torch.cat([one.flatten() for one in moved]).mean()),
            n_tokens=sum(len(one) for one in off),
            dtype=dtype,
            exact=exact,
        )


def reference(
    model: Model,
    steers: Sequence[Steer],
    texts: Sequence[str] = TEXTS,
    added: Sequence[Added] = (),
) -> Reference:
    """What hooks give on the texts, and on random tokens.

    added: the steers' learned tokens as the folder has them; each is tried before the texts, and in
    the system message of a chat.

    Raises:
        InputError: no text has a token.
        HookError: a steer was never applied.
    """
    encoded = [model.encode(text)[:N_TOKENS] for text in texts]
    rows = [torch.tensor(ids, device=model.device) for ids in encoded if ids]
    if not rows:
        raise InputError("none of the texts has a token")
    size = model.network.config.get_text_config().vocab_size
    length = min(N_TOKENS, model.context or N_TOKENS)
    drawn = np.random.default_rng(0).integers(0, size, length)
    rows.append(torch.from_numpy(drawn).to(model.device))
    tokens, editing = separate(steers)
    found = Reference(rows, log_probs(model, rows, editing), log_probs(model, rows))
    here: dict[int, int] = {}
    for token, one in zip(tokens, added, strict=True):
        here |= dict(zip(token.ids, one.ids, strict=True))
    for token in tokens:
        for text in _around(model, token.mark, texts):
            plain = model.encode(text.replace(token.mark, ""), special=not model.template.exists)
            ids = model.knowing([token]).encode(text, special=not model.template.exists)
            with embedded(model, [token]):
                [steered] = log_probs(model, [torch.tensor(ids, device=model.device)], editing)
            [unsteered] = log_probs(model, [torch.tensor(plain, device=model.device)])
            own = min(len(plain), len(ids) - len(token.ids)) - 1
            mapped = [here.get(id_, id_) for id_ in ids]
            found.ids.append(torch.tensor(mapped, device=model.device))
            found.steered.append(steered[-own:])
            found.unsteered.append(unsteered[-own:])
    return found


def _around(model: Model, mark: str, texts: Sequence[str]) -> list[str]:
    """Texts with a token before them or, where there is a chat template, in a system message."""
    if not model.template.exists:
        return [mark + text for text in texts]
    return [model.chat(text, mark) for text in texts]


def log_probs(model: Model, rows: Sequence[Tensor], steers: Sequence[Steer] = ()) -> list[Tensor]:
    """Log-probs float32 [token, vocabulary] of each row of ids.

    Raises:
        HookError: they are not numbers, or a steer was never applied.
    """
    found = []
    for row in rows:
        clock = TokenClock(len(row), torch.zeros(1, dtype=torch.int64))
        with torch.no_grad(), injected(model, steers, clock):
            logits = model.network(input_ids=row[None], use_cache=False).logits[0]
        found.append(check_numbers(model, logits).float().log_softmax(-1).cpu())
    return found


def compare(
    source: ModelSource,
    expected: Reference,
    *,
    dtype: str,
    exact: bool = True,
    added: Sequence[Added] = (),
) -> Difference:
    """Load what was baked, in float32, and hold it against what the hooks gave.

    dtype: in which its numbers are written. added: its learned tokens, which it must never write.

    Raises:
        ModelError: it cannot be loaded.
    """
    model = load(replace(source, dtype="float32"))
    rows = [row.to(model.device) for row in expected.ids]
    found = expected.difference(log_probs(model, rows), dtype, exact=exact)
    if not added:
        return found
    _check_written(model, added, expected)
    highest = chances(model, added, [*rows, *sampled(model, rows, seed=0)])
    return replace(found, new_token=highest)


def _check_written(model: Model, added: Sequence[Added], expected: Reference) -> None:
    """Refuse a folder whose tokenizer does not read a token as what the comparison has run.

    Raises:
        ModelError: it does not.
    """
    for one in added:
        if model.encode(one.written, special=False) != list(one.ids):
            raise ModelError(
                f"the tokenizer of the baked folder does not read {one.written} as one token",
                hint="please report this model",
            )
