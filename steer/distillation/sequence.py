"""An edit at several layers in closed form, from the lowest layer up.

The same texts are run once with the condition and once without. At each edited layer the difference
of the two activations is regressed on the one without (`steer.distillation.ridge`). The lower
layers of the latter are already edited, so each layer fits the remaining difference. It takes two
forward passes in all and no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steer.distillation.below import by_length, copy_to_disk, stream_of, with_stream
from steer.distillation.lessons import Lesson
from steer.distillation.ridge import Affine, Moments
from steer.hooks import ops
from steer.hooks.head import Ending, ending_rows
from steer.hooks.hooks import SiteFunction, placed
from steer.hooks.record import capture, run
from steer.hooks.trunk import Trunk, takes_trunks, trunk_at
from steer.models.model import Model
from steer.vectors.sites import Site


@dataclass(frozen=True)
class Group:
    """Lessons that run together: their padded baseline rows, and the positions to read and edit.

    rows, conditioned: each row, and the number of its last tokens that the recorded positions
    predict. weight: 1 where an edit acts, 0 elsewhere, float32 [row, position, 1].
    """

    ids: Tensor
    mask: Tensor
    rows: list[Ending]
    conditioned: list[Ending]
    weight: Tensor

    @classmethod
    def of(cls, model: Model, lessons: Sequence[Lesson], start: int | None) -> Group:
        ids, mask = model.padded([lesson.baseline for lesson in lessons], left=False)
        starts = [lesson.response if start is None else start for lesson in lessons]
        read = [
            len(lesson.baseline) - 1 - max(first, lesson.question)
            for lesson, first in zip(lessons, starts, strict=True)
        ]
        column = torch.arange(ids.shape[1])
        weight = (column >= torch.tensor(starts)[:, None]).float()[..., None]
        return cls(
            ids,
            mask,
            [(lesson.baseline, n) for lesson, n in zip(lessons, read, strict=True)],
            [(lesson.conditioned, n) for lesson, n in zip(lessons, read, strict=True)],
            weight.to(model.device),
        )


@dataclass
class SequentialRegression:
    """Regressions of one set of lessons, at any layers among `layers`.

    Raises:
        SiteError: the model has no such layer.
    """

    model: Model
    lessons: Sequence[Lesson]
    layers: Sequence[int]
    start: int | None
    on_done: Callable[[int], None] = lambda n_texts: None
    _unedited: dict[int, list[Trunk]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = self.model
        self._takes_trunks = takes_trunks(model)
        groups = by_length(self.lessons)
        self._groups = [Group.of(model, group, self.start) for group in groups]
        self._targets = []
        for group, lessons in zip(self._groups, groups, strict=True):
            self._targets.append(self._conditioned(group))
            self.on_done(len(lessons))

    def _conditioned(self, group: Group) -> dict[int, Tensor]:
        """Activations under the condition at each layer, [token, d_model]."""
        ids, mask = self.model.padded([row for row, _ in group.conditioned], left=False)
        conditioned: dict[int, Tensor] = {}

        def reader(layer: int) -> Callable[[Tensor], None]:
            return lambda resid: conditioned.__setitem__(
                layer, copy_to_disk(ending_rows(resid, group.conditioned))
            )

        run(self.model, ids, mask, {Site(layer): reader(layer) for layer in self.layers})
        return conditioned

    @torch.no_grad()
    def fit(
        self,
        layers: Sequence[int],
        rank: int,
        ridge: float,
        on_layer: Callable[[], None] = lambda: None,
    ) -> dict[Site, Affine]:
        """The edit of one rank at some of the layers, in rising order."""
        edits: dict[Site, Affine] = {}
        trunks: list[Trunk | None] = [None] * len(self._groups)
        for layer in layers:
            moments = Moments(self.model.identity.d_model)
            for index, group in enumerate(self._groups):
                trunk = self._trunk(index, layer, trunks[index], edits)
                x = ending_rows(stream_of(trunk.output), group.rows).float()
                moments.add(x, self._targets[index][layer].to(x.device).float() - x)
                trunks[index] = trunk
            affine = moments.spectrum().solve(ridge, rank)
            edits[Site(layer)] = affine
            if layer != layers[-1]:
                trunks = [
                    self._edited(trunk, affine, group)
                    for trunk, group in zip(trunks, self._groups, strict=True)
                ]
            on_layer()
        return edits

    def _trunk(
        self, index: int, layer: int, trunk: Trunk | None, edits: dict[Site, Affine]
    ) -> Trunk:
        """A group's residual stream at a layer, with the edits below it. trunk: of a lower layer,
        already edited."""
        group = self._groups[index]
        if not self._takes_trunks:
            functions = {site: _function(affine, group) for site, affine in edits.items()}
            with placed(self.model, functions):
                captured = capture(self.model, group.ids, group.mask, [Site(layer)])
            return Trunk(layer, captured[Site(layer)])
        if trunk is not None:
            return trunk_at(self.model, group.ids, layer, self._on_device(trunk))
        known = self._unedited.setdefault(layer, [])
        if index == len(known):
            known.append(_on_disk(trunk_at(self.model, group.ids, layer, None)))
        return self._on_device(known[index])

    def _on_device(self, trunk: Trunk) -> Trunk:
        """A trunk on the model's device."""
        stream = stream_of(trunk.output).to(self.model.device)
        return Trunk(trunk.layer, with_stream(trunk.output, stream))

    def _edited(self, trunk: Trunk | None, affine: Affine, group: Group) -> Trunk | None:
        if trunk is None or not self._takes_trunks:
            return None
        stream = _function(affine, group)(stream_of(trunk.output))
        assert stream is not None
        return _on_disk(Trunk(trunk.layer, with_stream(trunk.output, stream)))


def _on_disk(trunk: Trunk) -> Trunk:
    return Trunk(trunk.layer, with_stream(trunk.output, copy_to_disk(stream_of(trunk.output))))


def _function(affine: Affine, group: Group) -> SiteFunction:
    def edit(resid: Tensor) -> Tensor:
        here = affine.to(resid.device)
        return ops.add(resid, here(resid), group.weight.to(resid.device)).to(resid.dtype)

    return edit
