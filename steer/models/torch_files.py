"""Read arrays and plain values from torch's pickle files, with torch's own restricted reader.

`weights_only=True` builds only tensors and containers and runs no code that a pickle names. It is
still a pickle reader, so only `steer convert` uses it, and announces it.
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
#: The most numbers in containers of tensors, which may share one storage.
_MAX_NUMBERS = 25_000_000
#: The most entries in all containers together; a shared container counts wherever it occurs.
_MAX_ENTRIES = 100_000
_MAX_DEPTH = 8
_MAX_TEXT = 10_000


def read(path: Path) -> Pickled:
    """Read an array, or dictionaries and lists of arrays, numbers and texts. Keys become texts.

    Raises:
        VectorError: the file is not in the zip format of `torch.save`, holds other types, or too
            much.
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
    # A broken or hostile file can make the unpickler raise anything.
    except Exception as error:
        raise _refused(path, data, error) from None


def _check(data: bytes, path: Path) -> None:
    """Refuse anything but an uncompressed zip archive; older files are bare pickles."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(info.file_size for info in archive.infolist())
    except Exception as error:  # zipfile's exceptions have no common base class
        raise _refused(path, data, error) from None
    if size > len(data):  # torch never compresses
        raise VectorError(f"{path} has {len(data):,} bytes, and unpacks to {size:,}")


def _refused(path: Path, data: bytes, error: Exception) -> VectorError:
    if b"steering_vectors" in data:
        return VectorError(
            f"{path} is a pickle of the steering-vectors library, and could run any code",
            hint=EXPORT_HINT.format(name=path.name, stem=path.stem),
        )
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return VectorError(
        f"{path} is not a torch file of only tensors: {reason[:200]}",
        hint="load the file with the tool that wrote it, and save the tensors as safetensors",
    )


class _Reader:
    """Turns loaded objects into arrays and plain values, within limits."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.n_entries = self.n_numbers = self.n_bytes = 0

    def plain(self, value: Any, depth: int) -> Pickled:
        """Convert a value to arrays and plain values.

        Raises:
            VectorError: a value of another type, or too many values.
        """
        self.n_entries += 1
        if self.n_entries > _MAX_ENTRIES or depth > _MAX_DEPTH:
            raise VectorError(f"{self.path} holds too many values, or nests them too deeply")
        if isinstance(value, torch.Tensor):
            self.n_numbers += value.numel()
            self.n_bytes += value.numel() * value.element_size()
            # The many weights of an autoencoder are all in the file; shared ones are not.
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
    # Checked before copying: a tensor may be a view that repeats one number endlessly.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise VectorError(
            f"{path} holds a tensor of {value.numel():,} numbers, which are not there"
        )
    return np.asarray(value.detach().to(torch.float32).contiguous().numpy())
