"""Arrays and plain values from torch's pickle files, by torch's own restricted reader.

`weights_only=True` builds tensors and containers and runs nothing else that a pickle names. It is
still a pickle reader, so `steer convert` alone comes here, and says so before.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.base.files import read_bytes
from steer.formats.reading import EXPORT_HINT
from steer.formats.source import Pickled

Array = NDArray[Any]

#: AxBench keeps the vectors of 16,000 concepts in one file.
MAX_BYTES = 400_000_000
#: Numbers in containers of tensors, which may share what is stored once: a vector a layer.
_MAX_NUMBERS = 25_000_000
#: Entries in all containers together, each seen where it stands: containers may be shared too.
_MAX_ENTRIES = 100_000
_MAX_DEPTH = 8
_MAX_TEXT = 10_000


def read(path: Path) -> Pickled:
    """An array, or dictionaries and lists of arrays, numbers and texts; keys become texts.

    Raises:
        VectorError: not a file that `torch.save` wrote in the last years, one that holds other
            things, or too much.
    """
    data = read_bytes(path, limit=MAX_BYTES)
    _check(data, path)
    try:
        with warnings.catch_warnings():  # torch's own doubts are of no use to who converts a file
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if isinstance(loaded, torch.Tensor):
            return _array(loaded, path)
        return _Reader(path, len(data)).plain(loaded, 0)
    except VectorError:
        raise
    # The unpickler of a broken or hostile file raises whatever it trips over.
    except Exception as error:
        raise _refused(path, data, error) from None


def _check(data: bytes, path: Path) -> None:
    """Refuse what is no zip archive of its own size: older files are bare pickles."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(info.file_size for info in archive.infolist())
    except Exception as error:  # zipfile's errors have no common root
        raise _refused(path, data, error) from None
    if size > len(data):  # torch packs nothing
        raise VectorError(f"{path} has {len(data):,} bytes, and unpacks to {size:,}")


def _refused(path: Path, data: bytes, error: Exception) -> VectorError:
    if b"steering_vectors" in data:
        return VectorError(
            f"{path} is a pickle of the steering-vectors library, and could run any code",
            hint=EXPORT_HINT.format(name=path.name, stem=path.stem),
        )
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return VectorError(
        f"{path} is not a torch file of tensors alone: {reason[:200]}",
        hint="save the tensors again as safetensors where the file was made",
    )


class _Reader:
    """Turns what was loaded into arrays and plain values, and counts them."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.n_entries = self.n_numbers = self.n_bytes = 0

    def plain(self, value: Any, depth: int) -> Pickled:
        """The value without torch's types.

        Raises:
            VectorError: another type, or too much.
        """
        self.n_entries += 1
        if self.n_entries > _MAX_ENTRIES or depth > _MAX_DEPTH:
            raise VectorError(f"{self.path} holds too many values, or too deep ones")
        if isinstance(value, torch.Tensor):
            self.n_numbers += value.numel()
            self.n_bytes += value.numel() * value.element_size()
            # Weights of an autoencoder are many, and each in the file; what is shared is not.
            if self.n_numbers > _MAX_NUMBERS and self.n_bytes > self.size:
                raise VectorError(f"{self.path} holds more than {_MAX_NUMBERS:,} numbers")
            return _array(value, self.path)
        if isinstance(value, dict):
            return {
                str(key)[:_MAX_TEXT]: self.plain(each, depth + 1) for key, each in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.plain(each, depth + 1) for each in value]
        if value is None or type(value) in (bool, int, float):
            return value
        if isinstance(value, str):
            return value[:_MAX_TEXT]
        raise VectorError(f"{self.path} holds a {type(value).__name__} among its tensors")


def _array(value: torch.Tensor, path: Path) -> Array:
    # Before a copy is made: a tensor may be a view that repeats one number without end.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise VectorError(
            f"{path} holds a tensor of {value.numel():,} numbers, which are not there"
        )
    return np.asarray(value.detach().to(torch.float32).contiguous().numpy())
