"""Low-rank edits with parameters that a gradient can change, and how well they do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from steer.distillation.lessons import (
    LOGITS_BUDGET,
    Lesson,
    log_probs,
    micro_batches,
    picked_logits,
    vocabulary,
)
from steer.distillation.recovery import Divergence, token_kl
from steer.hooks import ops
from steer.hooks.hooks import SiteFunction, placed
from steer.models.model import Model
from steer.vectors.sites import Site

#: Per site: bias [d_model], down [k, d_model], up [d_model, k].
State = dict[Site, tuple[Tensor, ...]]
#: Texts that are read together.
TOGETHER = 32


class Edits:
    """h + up (down h) + scale * bias at each site, float32 whatever the model's own type is.

    bias is in units of `scale`, the root mean square of an activation's entries at that site, so
    that one learning rate suits every layer of every model; of `up` and `down` the product has no
    unit. `down` begins random with rows of about unit length, `up` and bias at 0: so it begins as
    no edit at all, and yet with a gradient.
    """

    def __init__(
        self, model: Model, scales: dict[Site, float], rank: int, seed: int, *, response: bool
    ) -> None:
        width = model.identity.d_model
        generator = torch.Generator().manual_seed(seed)
        self._model, self._response = model, response
        self._scales = scales
        self.rank = rank
        self.state: State = {}
        for site in sorted(scales):
            parts = [torch.zeros(width)]
            if rank:
                down = torch.randn((rank, width), generator=generator) / width**0.5
                parts += [down, torch.zeros(width, rank)]
            device = _device(model, site)
            self.state[site] = tuple(part.to(device).requires_grad_() for part in parts)

    @property
    def sites(self) -> list[Site]:
        return list(self.state)

    @property
    def parameters(self) -> list[Tensor]:
        return [part for parts in self.state.values() for part in parts]

    def copy(self) -> State:
        """The numbers as they are now."""
        return {
            site: tuple(part.detach().clone() for part in parts)
            for site, parts in self.state.items()
        }

    def restore(self, state: State) -> None:
        """Numbers that were copied before."""
        with torch.no_grad():
            for site, parts in self.state.items():
                for part, kept in zip(parts, state[site], strict=True):
                    part.copy_(kept)

    def arrays(self, site: Site) -> list[np.ndarray]:
        """direction, down, up of one site in activation units, as a file has them."""
        bias, *factors = (part.detach().cpu().numpy() for part in self.state[site])
        return [np.float32(self._scales[site]) * bias, *factors]

    @contextmanager
    def acting(self, lessons: Sequence[Lesson]) -> Iterator[None]:
        """Edit the forwards of the block, which are of the baseline rows of `lessons`."""
        with placed(self._model, {site: self._function(site, lessons) for site in self.state}):
            yield

    def _function(self, site: Site, lessons: Sequence[Lesson]) -> SiteFunction:
        def edit(resid: Tensor) -> Tensor:
            bias, *factors = (part.to(resid.device) for part in self.state[site])
            delta = self._scales[site] * bias
            if factors:
                delta = delta + ops.low_rank(resid, *factors)
            return ops.add(resid, delta, self._weight(lessons, resid)).to(resid.dtype)

        return edit

    def _weight(self, lessons: Sequence[Lesson], resid: Tensor) -> ops.Weight:
        if not self._response:
            return 1.0
        starts = [len(lesson.baseline) - lesson.n - 1 for lesson in lessons]
        column = torch.arange(resid.shape[1], device=resid.device)
        return (column >= torch.tensor(starts, device=resid.device)[:, None])[..., None].float()


def _device(model: Model, site: Site) -> torch.device:
    """Where a site's module has its weights or, where it gets them only to run, the first module.

    It is for speed alone: an edit goes wherever the activations are.
    """
    module = model.network.get_submodule(model.hooks.place(site).module)
    weight = next(module.parameters(), None)
    return model.device if weight is None or weight.is_meta else torch.device(weight.device)


class Teacher:
    """log p(. | condition, text) of lessons; of the first of `lessons`, as many as `budget` bytes
    hold, remembered.

    They are run together by length, so what is remembered depends on nothing that came before.
    """

    @torch.no_grad()
    def __init__(
        self, model: Model, lessons: Sequence[Lesson] = (), budget: int = LOGITS_BUDGET
    ) -> None:
        self.model = model
        self._known: dict[Lesson, Tensor] = {}
        ends = np.cumsum([4 * lesson.n * vocabulary(model) for lesson in lessons])
        chosen = sorted(
            lessons[: int((ends <= budget).sum())], key=lambda one: len(one.conditioned)
        )
        for start in range(0, len(chosen), TOGETHER):
            for part in micro_batches(model, chosen[start : start + TOGETHER]):
                rows = by_lesson(self._log_probs(part), part)
                self._known.update(zip(part, (row.clone() for row in rows), strict=True))

    @torch.no_grad()
    def __call__(self, lessons: Sequence[Lesson]) -> Tensor:
        """float32 [sum of n, vocabulary], lesson after lesson."""
        unknown = [lesson for lesson in lessons if lesson not in self._known]
        if len(unknown) == len(lessons):
            return self._log_probs(lessons)
        new = by_lesson(self._log_probs(unknown), unknown) if unknown else []
        found = self._known | dict(zip(unknown, new, strict=True))
        return torch.cat([found[lesson] for lesson in lessons])

    def _log_probs(self, lessons: Sequence[Lesson]) -> Tensor:
        return log_probs(self.model, [(lesson.conditioned, lesson.n) for lesson in lessons])


def by_lesson(rows: Tensor, lessons: Sequence[Lesson]) -> list[Tensor]:
    """The rows of each lesson, of rows [sum of n, ...] lesson after lesson."""
    ends = np.cumsum([lesson.n for lesson in lessons]).tolist()
    return [rows[end - lesson.n : end] for end, lesson in zip(ends, lessons, strict=True)]


def loss(model: Model, edits: Edits, lessons: Sequence[Lesson], teacher: Teacher) -> Tensor:
    """KL(p_condition || p_steered) of each token, float32 [sum of n], with gradients."""
    targets = teacher(lessons)
    with edits.acting(lessons):
        logits = picked_logits(model, [(lesson.baseline, lesson.n) for lesson in lessons])
    divergence: Tensor = Divergence.apply(logits, targets)  # type: ignore[no-untyped-call]
    return divergence


def backward(
    model: Model, edits: Edits, lessons: Sequence[Lesson], teacher: Teacher, unit: float
) -> None:
    """Add the gradient of the mean KL per token, in units of `unit` nats.

    A part of the batch at a time, where memory asks for it.
    """
    whole = unit * sum(lesson.n for lesson in lessons)
    for part in micro_batches(model, lessons):
        share = loss(model, edits, part, teacher).sum() / whole
        share.backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def divergences(
    model: Model,
    lessons: Sequence[Lesson],
    teacher: Teacher,
    edits: Edits | None,
    batch_size: int = TOGETHER,
) -> list[float]:
    """Sum over its tokens of KL(p_condition || p_steered) for each lesson; edits None: p_base."""
    sums: list[float] = []
    for start in range(0, len(lessons), batch_size):
        for part in micro_batches(model, lessons[start : start + batch_size]):
            if edits is not None:
                tokens = loss(model, edits, part, teacher)
            else:
                rows = [(lesson.baseline, lesson.n) for lesson in part]
                tokens = token_kl(teacher(part), log_probs(model, rows))
            sums += [float(one.sum()) for one in by_lesson(tokens, part)]
    return sums
