"""Trainable low-rank edits, and their divergence from the conditioned model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from steer.distillation.below import TOGETHER, BlockOutputs
from steer.distillation.lessons import Lesson, log_probs, micro_batches, picked_logits
from steer.distillation.recovery import Divergence, token_kl
from steer.distillation.ridge import Affine, Spread
from steer.hooks import ops
from steer.hooks.beginnings import last_hidden_after, read_beginnings, takes_beginnings
from steer.hooks.head import apply_head, has_head, last_hidden
from steer.hooks.hooks import SiteFunction, placed
from steer.hooks.trunk import replayed
from steer.models.model import Model
from steer.models.numbers import check_numbers
from steer.vectors.sites import Site

#: Per site: bias [d_model], down [k, d_model], up [d_model, k].
State = dict[Site, tuple[Tensor, ...]]
#: The most bytes of hidden states that a teacher keeps.
HIDDEN_BUDGET = 1_000_000_000
#: The step size of a descent that starts from a regression, as a share of the regression's own
#: size. At n layers it is divided by sqrt(n), since the noise of their steps adds up.
STEP_SHARE = 3.0


class Edits:
    """h + deviation * (bias + up (down z)) at each site, with z = (h - mean) / deviation.

    Everything is float32, whatever the model's own type is. A few entries of an activation are a
    hundred times as large as the others. In units of each entry's own deviation, a step of one size
    matters equally everywhere, so one learning rate suits every layer of every model. `down` starts
    random with rows of about unit length, `up` and bias start at 0: this changes nothing, but has a
    gradient.

    state: bias [d_model], down [k, d_model] and up [d_model, k] of each site. units: the step size
    for each of these, as a multiple of the learning rate.
    """

    def __init__(
        self, model: Model, spreads: dict[Site, Spread], rank: int, seed: int, *, start: int | None
    ) -> None:
        has_head(model)  # tested here, before any edit is active
        width = model.identity.d_model
        generator = torch.Generator().manual_seed(seed)
        self._model, self.start = model, start
        self._spreads = spreads
        self.rank = rank
        self.state: State = {}
        self.units: dict[Site, tuple[float, ...]] = {}
        for site in sorted(spreads):
            parts = [torch.zeros(width)]
            if rank:
                down = torch.randn((rank, width), generator=generator) / width**0.5
                parts += [down, torch.zeros(width, rank)]
            device = _device(model, site)
            self.state[site] = tuple(part.to(device).requires_grad_() for part in parts)
            # The changes of edits at several layers add up.
            self.units[site] = (1 / len(spreads),) * len(parts)

    @classmethod
    def of(cls, model: Model, affines: dict[Site, Affine], *, start: int | None) -> Edits:
        """Edits that start from a regression.

        A step is a share of the regression's own size at the layer, since its edits at the lowest
        layers are a tenth of those at the highest.
        """
        (rank,) = {affine.rank for affine in affines.values()}
        spreads = {site: affine.spread for site, affine in affines.items()}
        edits = cls(model, spreads, rank, 0, start=start)
        state: State = {}
        for site, affine in affines.items():
            mean, deviation = affine.spread.mean, affine.spread.deviation
            parts = [affine(mean) / deviation]
            if rank:
                parts += [affine.down * deviation, affine.up / deviation[:, None]]
            state[site] = tuple(parts)
            changed = torch.cat([parts[0][:, None], *parts[2:]], 1).square().sum(1)
            size = float(changed.mean().sqrt())
            units = [size, *(float(part.square().mean().sqrt()) for part in parts[1:])]
            edits.units[site] = tuple(STEP_SHARE / len(affines) ** 0.5 * unit for unit in units)
        edits.restore(state)
        return edits

    def starts(self, lessons: Sequence[Lesson]) -> list[int]:
        """The first position in each baseline row that is edited."""
        return [lesson.response if self.start is None else self.start for lesson in lessons]

    @property
    def sites(self) -> list[Site]:
        return list(self.state)

    @property
    def parameters(self) -> list[Tensor]:
        return [part for parts in self.state.values() for part in parts]

    @property
    def has_effect(self) -> bool:
        """Whether it changes anything."""
        return any(
            bool(part.any()) for bias, *rest in self.state.values() for part in (bias, *rest[1:])
        )

    def copy(self) -> State:
        """A copy of the current state."""
        return {
            site: tuple(part.detach().clone() for part in parts)
            for site, parts in self.state.items()
        }

    def restore(self, state: State) -> None:
        """Return to a state that `copy` gave."""
        with torch.no_grad():
            for site, parts in self.state.items():
                for part, kept in zip(parts, state[site], strict=True):
                    part.copy_(kept)

    def arrays(self, site: Site) -> list[np.ndarray]:
        """direction, down, up of one site in activation units, as in a vector file."""
        return [part.detach().cpu().numpy() for part in self._factors(site, self._model.device)]

    def _factors(self, site: Site, device: torch.device) -> tuple[Tensor, ...]:
        """h + direction + up (down h): the edit without `Spread`."""
        bias, *factors = (part.to(device) for part in self.state[site])
        mean, deviation = (
            self._spreads[site].mean.to(device),
            self._spreads[site].deviation.to(device),
        )
        if not factors:
            return (deviation * bias,)
        down, up = factors[0] / deviation, factors[1] * deviation[:, None]
        return deviation * bias - up @ (down @ mean), down, up

    @contextmanager
    def active(self, lessons: Sequence[Lesson], *, only_ends: bool = False) -> Iterator[None]:
        """Edit all forwards within the block, which must be of the baseline rows of `lessons`.

        only_ends: the rows begin with the first token that is edited.
        """
        starts = [0] * len(lessons) if only_ends else self.starts(lessons)
        with placed(self._model, {site: self._function(site, starts) for site in self.state}):
            yield

    def _function(self, site: Site, starts: Sequence[int]) -> SiteFunction:
        def edit(resid: Tensor) -> Tensor:
            delta, *factors = self._factors(site, resid.device)
            if factors:
                delta = delta + ops.low_rank(resid, *factors)
            return ops.add(resid, delta, _weight(starts, resid)).to(resid.dtype)

        return edit


def _weight(starts: Sequence[int], resid: Tensor) -> ops.Weight:
    """1 from each row's start on, and 0 before."""
    if not any(starts):
        return 1.0
    column = torch.arange(resid.shape[1], device=resid.device)
    return (column >= torch.tensor(starts, device=resid.device)[:, None])[..., None].float()


def _device(model: Model, site: Site) -> torch.device:
    """The device of a site's weights or, if they are only loaded to run, of the first module.

    This only affects speed: an edit moves to the device of the activations.
    """
    module = model.network.get_submodule(model.hooks.place(site).module)
    weight = next(module.parameters(), None)
    return model.device if weight is None or weight.is_meta else torch.device(weight.device)


class Teacher:
    """log p(. | condition, text) of lessons.

    The last hidden states of `lessons` are kept, d_model numbers per token, and the LM head runs on
    them when needed. If it cannot run separately, or they take more than `budget` bytes, the whole
    network runs again.
    """

    def __init__(
        self, model: Model, lessons: Sequence[Lesson] = (), budget: int = HIDDEN_BUDGET
    ) -> None:
        self.model, self._budget = model, budget
        self._hidden: dict[tuple[tuple[int, ...], int], Tensor] = {}
        self.keep(lessons)

    @torch.no_grad()
    def keep(
        self,
        lessons: Sequence[Lesson],
        on_done: Callable[[int], None] = lambda n_texts: None,
    ) -> None:
        """Keep the last hidden states of lessons, if there is room for all of them."""
        size = self.model.identity.d_model * self.model.network.dtype.itemsize
        endings = dict.fromkeys((lesson.conditioned, lesson.n) for lesson in lessons)
        n_tokens = sum(n for _, n in self._hidden.keys() | endings.keys())
        if not lessons or not has_head(self.model) or n_tokens * size > self._budget:
            return
        # By length, so that the result does not depend on earlier calls.
        ordered = sorted(endings, key=lambda ending: len(ending[0]))
        for start in range(0, len(ordered), TOGETHER):
            part = ordered[start : start + TOGETHER]
            rows = torch.split(last_hidden(self.model, part), [n for _, n in part])
            self._hidden.update(zip(part, map(Tensor.clone, rows), strict=True))
            on_done(len(part))

    @torch.no_grad()
    def __call__(self, lessons: Sequence[Lesson]) -> Tensor:
        """float32 [sum of n, vocabulary], lesson after lesson."""
        endings = [(lesson.conditioned, lesson.n) for lesson in lessons]
        if all(ending in self._hidden for ending in endings):
            hidden = torch.cat([self._hidden[ending] for ending in endings])
            return check_numbers(self.model, apply_head(self.model, hidden)).log_softmax(-1)
        return log_probs(self.model, endings)


def by_lesson(rows: Tensor, lessons: Sequence[Lesson]) -> list[Tensor]:
    """The rows of each lesson, of rows [sum of n, ...] lesson after lesson."""
    ends = np.cumsum([lesson.n for lesson in lessons]).tolist()
    return [rows[end - lesson.n : end] for end, lesson in zip(ends, lessons, strict=True)]


def loss(
    model: Model,
    edits: Edits,
    lessons: Sequence[Lesson],
    teacher: Teacher,
    below: BlockOutputs | None = None,
) -> Tensor:
    """KL(p_condition || p_steered) of each token, float32 [sum of n], with gradients.

    below: the stored residual stream below the first edit, if any.
    """
    targets = teacher(lessons)
    if below is None and runs_ends(model, edits, lessons):
        logits = _logits_of_ends(model, edits, lessons)
    else:
        trunk = below.trunk(lessons) if below is not None else None
        with replayed(model, trunk), edits.active(lessons):
            logits = picked_logits(model, [(lesson.baseline, lesson.n) for lesson in lessons])
    divergence: Tensor = Divergence.apply(logits, targets)  # type: ignore[no-untyped-call]
    return divergence


def runs_ends(model: Model, edits: Edits, lessons: Sequence[Lesson]) -> bool:
    """Whether the edited ends can run alone, after the cached keys and values of the rest."""
    return all(edits.starts(lessons)) and takes_beginnings(model)


def _logits_of_ends(model: Model, edits: Edits, lessons: Sequence[Lesson]) -> Tensor:
    """As `picked_logits` under the edits, with gradients of what is edited only."""
    starts = edits.starts(lessons)
    beginnings = read_beginnings(
        model, [lesson.baseline[:n] for lesson, n in zip(lessons, starts, strict=True)]
    )
    ends = [(lesson.baseline[n:], lesson.n) for lesson, n in zip(lessons, starts, strict=True)]
    with edits.active(lessons, only_ends=True):
        hidden = last_hidden_after(model, beginnings, ends)
    return check_numbers(model, apply_head(model, hidden))


def backward(
    model: Model,
    edits: Edits,
    lessons: Sequence[Lesson],
    teacher: Teacher,
    unit: float,
    below: BlockOutputs | None = None,
) -> None:
    """Add the gradient of the mean KL per token, in units of `unit` nats.

    The batch is divided if memory requires it.
    """
    denominator = unit * sum(lesson.n for lesson in lessons)
    for part in micro_batches(model, lessons):
        share = loss(model, edits, part, teacher, below).sum() / denominator
        share.backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def divergences(
    model: Model,
    lessons: Sequence[Lesson],
    teacher: Teacher,
    edits: Edits | None,
    batch_size: int = TOGETHER,
    below: BlockOutputs | None = None,
) -> list[float]:
    """Sum over its tokens of KL(p_condition || p_steered) for each lesson; edits None: p_base."""
    sums: list[float] = []
    for start in range(0, len(lessons), batch_size):
        for part in micro_batches(model, lessons[start : start + batch_size]):
            if edits is not None:
                tokens = loss(model, edits, part, teacher, below)
            else:
                rows = [(lesson.baseline, lesson.n) for lesson in part]
                tokens = token_kl(teacher(part), log_probs(model, rows))
            sums += [float(divergences.sum()) for divergences in by_lesson(tokens, part)]
    return sums
