"""Fit an edit to pairs without a condition, by the log-ratio of the two completions.

The edit should raise the probability of the positive completion of each prompt relative to the
negative one: with d(y) = log p_edited(y | prompt) - log p_base(y | prompt), it minimises over the
pairs

    -log sigmoid(BETA (d(positive) - d(negative)))

which is direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) of an edit (BiPO,
Cao et al. 2024, arXiv 2406.00045). The loss of no edit is log 2.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from steer.base.errors import InputError
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.overlap import sketch, texts_of
from steer.contrasts.reading import shared_prefix
from steer.distillation.checkpoints import Checkpoints
from steer.distillation.lessons import Lesson, micro_batches, picked_logits
from steer.distillation.lowrank import Edits, by_lesson
from steer.distillation.settings import DistillSettings
from steer.models.model import Model
from steer.vectors.provenance import ContrastSummary

#: A pair's loss saturates at a log-ratio of about 1 / BETA nats.
BETA = 0.1
#: The fewest pairs, since some are held out.
ENOUGH_PAIRS = 10


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of a prompt; each is a lesson without a condition."""

    positive: Lesson
    negative: Lesson

    @property
    def length(self) -> int:
        """Tokens of the longer one."""
        return max(self.positive.length, self.negative.length)


@dataclass(frozen=True)
class Preference:
    """The task of edits that are fitted to pairs.

    `lessons` are for training, `validation` for choosing the state to keep, `held_out` for the
    reported measure. checkpoints: of descents, so that an interrupted fit can be resumed.
    """

    model: Model
    lessons: list[Pair]
    validation: list[Pair]
    held_out: list[Pair]
    contrast: ContrastSummary
    chat: bool = False
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    @property
    def read(self) -> list[Lesson]:
        return [pair.negative for pair in self.validation]

    @cached_property
    def base(self) -> dict[Pair, float]:
        """Log-ratio of each pair, of the unsteered model, in nats."""
        pairs = [*self.lessons, *self.validation, *self.held_out]
        return dict(zip(pairs, self.log_ratios(pairs, None), strict=True))

    def backward(self, edits: Edits, lessons: Sequence[Pair]) -> None:
        """Add the gradient of the mean loss, a part of the pairs at a time."""
        for part in _parts(self.model, lessons):
            share = self._losses(edits, part).sum() / (len(lessons) * math.log(2))
            share.backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def recovered(self, edits: Edits) -> float:
        """The relative reduction of the loss on the validation pairs."""
        return 1 - float(np.mean(self.losses(edits, self.validation))) / math.log(2)

    @torch.no_grad()
    def losses(self, edits: Edits, pairs: Sequence[Pair]) -> list[float]:
        """The loss of each pair."""
        return [
            loss
            for part in _parts(self.model, pairs)
            for loss in self._losses(edits, part).tolist()
        ]

    @torch.no_grad()
    def log_ratios(self, pairs: Sequence[Pair], edits: Edits | None) -> list[float]:
        """log p(positive | prompt) - log p(negative | prompt) of each pair, in nats."""
        return [
            ratio
            for part in _parts(self.model, pairs)
            for ratio in _log_ratios(self.model, part, edits).tolist()
        ]

    def _losses(self, edits: Edits, pairs: Sequence[Pair]) -> Tensor:
        ratios = _log_ratios(self.model, pairs, edits)
        before = torch.tensor([self.base[pair] for pair in pairs], device=ratios.device)
        return softplus(-BETA * (ratios - before))


def _log_ratios(model: Model, pairs: Sequence[Pair], edits: Edits | None) -> Tensor:
    """float32 [pair], with gradients."""
    lessons = [pair.positive for pair in pairs] + [pair.negative for pair in pairs]
    rows = [(lesson.baseline, lesson.n) for lesson in lessons]
    if edits is None:
        logits = picked_logits(model, rows)
    else:
        with edits.active(lessons):
            logits = picked_logits(model, rows)
    wanted = [token for row, n in rows for token in row[len(row) - n :]]
    costs = cross_entropy(logits, torch.tensor(wanted, device=logits.device), reduction="none")
    sums = torch.stack([tokens.sum() for tokens in by_lesson(costs, lessons)])
    return sums[len(pairs) :] - sums[: len(pairs)]


def _parts(model: Model, pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
    """Parts of the pairs that fit in memory."""
    both = [pair.positive if pair.positive.n > pair.negative.n else pair.negative for pair in pairs]
    size = max(1, len(micro_batches(model, both)[0]) // 2) if pairs else 1
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def preference(
    model: Model,
    contrasts: Contrasts,
    settings: DistillSettings,
    checkpoints: Checkpoints | None = None,
) -> Preference:
    """The pairs as token ids, some of them held out.

    Raises:
        InputError: they are not pairs, too few, or longer than the model's context.
    """
    if not contrasts.paired or contrasts.conditions is not None:
        raise InputError(
            "distilling contrasts needs pairs",
            hint="for conditions, pass --condition and --baseline",
        )
    sides = contrasts.positive, contrasts.negative
    positive, negative = (model.encode_passages(side) for side in sides)
    pairs: list[Pair] = []
    prompts: list[Hashable] = []
    for a, b, passage in zip(positive, negative, contrasts.positive, strict=True):
        first, second = (tuple(encoded.ids[: encoded.text_stop]) for encoded in (a, b))
        start = shared_prefix(first, second)
        if 0 < start < min(len(first), len(second)):
            cut = start + settings.max_tokens
            pairs.append(
                Pair(*(Lesson(row, row, len(row) - start) for row in (first[:cut], second[:cut])))
            )
            prompts.append((passage.turns, passage.prompt))
    n_unlike = len(set(pairs))
    if n_unlike < ENOUGH_PAIRS:
        raise InputError(
            f"{n_unlike} pairs go on differently from a token that they share, of"
            f" {len(contrasts.positive)}; it takes {ENOUGH_PAIRS}",
            hint="see them with `steer contrasts check`",
        )
    longest = max(pair.length for pair in pairs)
    if model.context is not None and longest > model.context:
        raise InputError(
            f"a pair has {longest:,} tokens, and {model.identity.id} takes {model.context:,}"
        )
    held_out, validation, lessons = _split(pairs, prompts, settings.seed)
    summary = ContrastSummary(
        kind=contrasts.kind,
        n=len(lessons),
        sha256=contrasts.sha256,
        items=sketch(texts_of(contrasts)),
    )
    chat = contrasts.positive[0].role is not None
    kept = checkpoints or Checkpoints()
    return Preference(model, lessons, validation, held_out, summary, chat, kept)


def _split(
    pairs: Sequence[Pair], prompts: Sequence[Hashable], seed: int
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Held-out pairs, validation pairs and training pairs, in random order: a fifth, a fifth, and
    the rest. With enough prompts, whole prompts are divided, so that no held-out prompt was trained
    on with other completions; otherwise the pairs are divided, and equal pairs may be in two parts.
    """
    whose = prompts if len(set(prompts)) >= ENOUGH_PAIRS else pairs
    each = list(dict.fromkeys(whose))
    order = np.random.default_rng([seed, 2]).permutation(len(each)).tolist()
    place = {each[index]: place for place, index in enumerate(order)}
    fifth = len(each) // 5
    shuffled = sorted(zip(whose, pairs, strict=True), key=lambda row: place[row[0]])
    parts: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
    for owner, pair in shuffled:
        parts[min(place[owner] // fifth, 2)].append(pair)
    return parts
