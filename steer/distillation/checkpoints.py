"""Checkpoints of descents in the cache folder, so that an interrupted fit can be resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from steer.base.files import cache_folder, read_cached, write_cached
from steer.base.journal import Journal

#: The most bytes of a checkpoint. Larger states would fill the disk; their steps run again.
LARGEST = 200_000_000


class Checkpoint:
    """The last state of one descent. path: None stores nothing."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def read(self, like: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The stored tensors; None if there are none with the names, shapes and types of `like`.

        The shape of a one-dimensional tensor may differ.

        Raises:
            SteerError: the disk fails.
        """
        data = None if self._path is None else read_cached(self._path, limit=2 * LARGEST)
        if data is None:
            return None
        with suppress(SafetensorError):
            kept = load(data)
            if {name: _form(tensor) for name, tensor in kept.items()} == {
                name: _form(tensor) for name, tensor in like.items()
            }:
                return kept
        return None

    def write(self, state: Mapping[str, Tensor]) -> None:
        """Store a state in place of the last one.

        Raises:
            SteerError: it cannot be written.
        """
        size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        if self._path is not None and size <= LARGEST:
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            write_cached(self._path, save(plain))


def _form(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.dtype, tensor.shape if tensor.ndim > 1 else ())


class Checkpoints:
    """The checkpoints of the descents of one run, in a folder. folder: None stores nothing."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @classmethod
    def of(cls, journal: Journal | None) -> Checkpoints:
        """The checkpoints of a journal's run."""
        path = None if journal is None else journal.path
        return cls() if path is None else cls(cache_folder("descents") / path.stem)

    def checkpoint(self, *parts: object) -> Checkpoint:
        """The checkpoint of one descent. parts: everything that the descent depends on besides the
        key of the run."""
        if self._folder is None:
            return Checkpoint()
        name = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        return Checkpoint(self._folder / f"{name}.safetensors")

    def finish(self) -> None:
        """Remove the checkpoints, once the run is done."""
        if self._folder is None or not self._folder.is_dir():
            return
        for path in self._folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # another process may have written there
            self._folder.rmdir()
