"""Compare a baked folder with the hooks: log-probs of both on the same texts, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from steer.baking.tokens import LEAST, AddedToken, chances, sampled
from steer.base.errors import IdleError, InputError, ModelError
from steer.hooks.acting import acted
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.hooks.tokens import embedded
from steer.models.loading import load
from steer.models.model import Model
from steer.models.numbers import check_numbers
from steer.models.source import ModelSource
from steer.steering.steers import Steer
from steer.steering.tokens import separate

#: The largest difference of log-probs for a float32 folder.
EXACT = 1e-4
#: The largest mean difference for 16-bit folders: about twice the effect of rounding all weights of
#: a small model.
ROUNDED = {"bfloat16": 0.05, "float16": 0.01}
#: Tokens compared per text, and random tokens besides the texts.
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
    """The difference between the folder and the hooks, and between the hooks and no steering.

    largest, mean: of the absolute differences of log-probs, over n_tokens tokens and the
    vocabulary. effect, mean_effect: the same for the hooks and the unsteered model. dtype: of the
    folder. exact: whether the baking is exact. passed: `largest` (if exact and float32, else
    `mean`) is within `tolerance`, and no new token is ever likely. new_token: the highest
    log-probability of a learned token, which should never be generated, over the texts and texts
    that the folder generated; None without such a token.
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
        if not self.exact:  # nearer to the hooks than the unsteered model
            return self.mean_effect
        return ROUNDED.get(self.dtype, EXACT)

    @property
    def passed(self) -> bool:
        if self.new_token is not None and self.new_token > -LEAST:
            return False
        is_largest = self.exact and self.dtype == "float32"
        return (self.largest if is_largest else self.mean) <= self.tolerance

    @property
    def is_inconclusive(self) -> bool:
        """Whether the steers' effect is too small here to detect."""
        if self.exact and self.dtype == "float32":
            return not self.effect > 10 * EXACT
        return self.exact and not self.mean_effect > 2 * self.tolerance

    def __str__(self) -> str:
        differs = (
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
        return f"{differs}; {does}; {allowed}{never}"


@dataclass(frozen=True, slots=True)
class Reference:
    """The expected result of the folder: token ids of each text, and log-probs [token, vocabulary].

    After learned tokens, only the text's own tokens are compared.
    """

    ids: list[Tensor]
    steered: list[Tensor]
    unsteered: list[Tensor]

    def check_effect(self, dtype: str) -> None:
        """Refuse steers whose effect is so small that an unsteered folder would pass.

        Raises:
            IdleError: no log-prob moves by more than the folder's may differ.
        """
        tolerance = ROUNDED.get(dtype, EXACT)
        pairs = zip(self.steered, self.unsteered, strict=True)
        effect = max(float((a - b).abs().max()) for a, b in pairs)
        if effect <= tolerance:
            raise IdleError(
                f"the steers move log-probs by at most {effect:.1e}, and {tolerance:g} is within"
                f" the rounding of {dtype}: nobody could tell that they were baked",
                hint="use larger coefficients, or compare on --texts on which the steers act",
            )

    def difference(self, baked: Sequence[Tensor], dtype: str, *, exact: bool = True) -> Difference:
        """Compare log-probs with these."""
        # Only for the original vocabulary and the texts' own tokens.
        same = [a[-len(b) :, : b.shape[1]] for a, b in zip(baked, self.steered, strict=True)]
        off = [(a - b).abs() for a, b in zip(same, self.steered, strict=True)]
        moved = [(a - b).abs() for a, b in zip(self.steered, self.unsteered, strict=True)]
        return Difference(
            largest=max(float(row.max()) for row in off),
            mean=float(torch.cat([row.flatten() for row in off]).mean()),
            effect=max(float(row.max()) for row in moved),
            mean_effect=float(torch.cat([row.flatten() for row in moved]).mean()),
            n_tokens=sum(len(row) for row in off),
            dtype=dtype,
            exact=exact,
        )


def reference(
    model: Model,
    steers: Sequence[Steer],
    texts: Sequence[str] = TEXTS,
    added: Sequence[AddedToken] = (),
) -> Reference:
    """Log-probs with hooks on the texts, and on random tokens.

    added: the steers' learned tokens in the folder; each is tried before the texts, or in the
    system message of a chat.

    Raises:
        InputError: no text has a token.
        HookError: a steer was never applied.
        IdleError: a steer changed no bit of any text, so nothing can be compared.
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
    idle = {steer for steer in editing if not steer.op.op.bounded}
    expected = Reference(rows, log_probs(model, rows, editing, idle), log_probs(model, rows))
    for steer in idle:
        raise IdleError(
            f"{steer} changes nothing in {str(model.network.dtype).removeprefix('torch.')}",
            hint="use a larger coefficient, or leave it out",
        )
    values: dict[int, int] = {}
    for token, new in zip(tokens, added, strict=True):
        values |= dict(zip(token.ids, new.ids, strict=True))
    for token in tokens:
        for text in _around(model, token.mark, texts):
            plain = model.encode(text.replace(token.mark, ""), special=not model.template.exists)
            ids = model.with_learned_tokens([token]).encode(text, special=not model.template.exists)
            with embedded(model, [token]):
                [steered] = log_probs(model, [torch.tensor(ids, device=model.device)], editing)
            [unsteered] = log_probs(model, [torch.tensor(plain, device=model.device)])
            own = min(len(plain), len(ids) - len(token.ids)) - 1
            mapped = [values.get(id_, id_) for id_ in ids]
            expected.ids.append(torch.tensor(mapped, device=model.device))
            expected.steered.append(steered[-own:])
            expected.unsteered.append(unsteered[-own:])
    return expected


def _around(model: Model, mark: str, texts: Sequence[str]) -> list[str]:
    """Texts with a token before them or, with a chat template, in the system message."""
    if not model.template.exists:
        return [mark + text for text in texts]
    return [model.chat(text, mark) for text in texts]


def log_probs(
    model: Model,
    rows: Sequence[Tensor],
    steers: Sequence[Steer] = (),
    idle: set[Steer] | None = None,
) -> list[Tensor]:
    """Log-probs float32 [token, vocabulary] of each row of ids.

    idle: steers that have changed nothing so far; those that change a row are taken out.

    Raises:
        HookError: they are not numbers, or a steer was never applied.
    """
    result = []
    for row in rows:
        clock = TokenClock(len(row), torch.zeros(1, dtype=torch.int64))
        with torch.no_grad(), injected(model, steers, clock):
            logits = model.network(input_ids=row[None], use_cache=False).logits[0]
        if idle:
            idle -= {steer for steer in idle if acted(clock, steer, 0)}
        result.append(check_numbers(model, logits).float().log_softmax(-1).cpu())
    return result


def compare(
    source: ModelSource,
    expected: Reference,
    *,
    dtype: str,
    exact: bool = True,
    added: Sequence[AddedToken] = (),
) -> Difference:
    """Load the folder in float32 and compare it with the hooks.

    dtype: of its weights. added: its learned tokens, which it must never generate.

    Raises:
        ModelError: it cannot be loaded.
    """
    model = load(replace(source, dtype="float32"))
    rows = [row.to(model.device) for row in expected.ids]
    difference = expected.difference(log_probs(model, rows), dtype, exact=exact)
    if not added:
        return difference
    _check_written(model, added, expected)
    highest = chances(model, added, [*rows, *sampled(model, rows, seed=0)])
    return replace(difference, new_token=highest)


def _check_written(model: Model, added: Sequence[AddedToken], expected: Reference) -> None:
    """Check that the folder's tokenizer maps a token's text to its ids.

    Raises:
        ModelError: it does not.
    """
    for token in added:
        if model.encode(token.written, special=False) != list(token.ids):
            raise ModelError(
                f"the tokenizer of the baked folder does not read {token.written} as one token",
                hint="please report this model",
            )
