"""Compute the residual stream below the first edit once, for all steps of a descent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steer.base.files import reported
from steer.distillation.lessons import Lesson
from steer.hooks.trunk import Trunk, takes_trunks, trunk_at
from steer.models.model import Model

#: Texts that run together.
TOGETHER = 32


def copy_to_disk(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, in a temporary memory-mapped file, so that memory does not
    grow with the texts.

    Raises:
        SteerError: the disk is full.
    """
    if not tensor.numel():
        return tensor.detach().cpu().clone()
    folder = Path(tempfile.gettempdir())
    data = tensor.detach().cpu().contiguous()
    with reported(folder), tempfile.NamedTemporaryFile(prefix="steer-", dir=folder) as file:
        # Written before it is mapped, so that a full disk is an error here, not a crash later.
        data.view(torch.uint8).numpy().tofile(file)
        file.flush()
        kept = torch.from_file(file.name, shared=True, size=data.numel(), dtype=data.dtype)
    return kept.view(tensor.shape)


def by_length(lessons: Sequence[Lesson], size: int = TOGETHER) -> list[list[Lesson]]:
    """Lessons in groups of similar length, which need little padding."""
    ordered = sorted(lessons, key=lambda lesson: len(lesson.baseline))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


@dataclass
class BlockOutputs:
    """The unedited output of block `layer` for the baseline rows of lessons.

    While `trunk(lessons)` is replayed (`steer.hooks.trunk.replayed`), a forward of their padded
    rows computes only the blocks above.
    """

    model: Model
    layer: int
    _streams: dict[Lesson, Tensor] = field(default_factory=dict)
    _output: Any = None

    @classmethod
    def of(
        cls,
        model: Model,
        lessons: Sequence[Lesson],
        layer: int,
        on_done: Callable[[int], None] = lambda n_texts: None,
    ) -> BlockOutputs | None:
        """Run the lessons up to a layer; None for a model without trunks (`takes_trunks`)."""
        if not takes_trunks(model):
            return None
        below = cls(model, layer)
        for group in by_length(list(dict.fromkeys(lessons))):
            ids, _ = model.padded([lesson.baseline for lesson in group], left=False)
            below._output = trunk_at(model, ids, layer, None).output
            stream = stream_of(below._output)
            for row, lesson in zip(stream, group, strict=True):
                below._streams[lesson] = copy_to_disk(row[: len(lesson.baseline)])
            on_done(len(group))
        return below

    def has(self, lessons: Sequence[Lesson]) -> bool:
        """Whether all of these lessons are stored."""
        return all(lesson in self._streams for lesson in lessons)

    def trunk(self, lessons: Sequence[Lesson]) -> Trunk:
        """The trunk of these lessons' rows, padded on the right."""
        first = stream_of(self._output)
        longest = max(len(lesson.baseline) for lesson in lessons)
        stream = first.new_zeros((len(lessons), longest, first.shape[-1]))
        for row, lesson in zip(stream, lessons, strict=True):
            row[: len(lesson.baseline)] = self._streams[lesson].to(stream.device)
        return Trunk(self.layer, with_stream(self._output, stream))


def stream_of(output: Any) -> Tensor:
    """The activations in a block's output, [row, position, d_model]."""
    return output if isinstance(output, Tensor) else torch.as_tensor(output[0])


def with_stream(output: Any, stream: Tensor) -> Any:
    """A block's output with other activations."""
    return stream if isinstance(output, Tensor) else type(output)((stream, *output[1:]))
