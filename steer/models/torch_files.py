"""Numbers from torch's pickle files, by torch's own restricted reader.

`weights_only=True` builds tensors and containers and runs nothing else that a pickle names. It is
still a pickle reader, so `steer convert` alone comes here, and says so before.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.base.files import read_bytes
from steer.formats.foreign import MAX_LAYERS
from steer.formats.pickled import EXPORT_HINT, Loaded

Array = NDArray[Any]

#: AxBench keeps the vectors of 16,000 concepts in one file.
MAX_BYTES = 400_000_000
#: Numbers in a dictionary of tensors, which may share what is stored once: a vector a layer.
_MOST = 25_000_000


def read(path: Path) -> Loaded:
    """One tensor, or tensors by name.

    Raises:
        VectorError: not a file that `torch.save` wrote in the last years, one that holds other
            things than tensors, or too much.
    """
    data = read_bytes(path, limit=MAX_BYTES)
    _check(data, path)
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return _arrays(loaded, path)
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


def _arrays(loaded: Any, path: Path) -> Loaded:
    if isinstance(loaded, torch.Tensor):
        return _array(loaded, path)
    if isinstance(loaded, dict) and 0 < len(loaded) <= MAX_LAYERS:
        if sum(one.numel() for one in loaded.values() if isinstance(one, torch.Tensor)) > _MOST:
            raise VectorError(f"{path} holds more than {_MOST:,} numbers")
        return {str(key): _array(value, path) for key, value in loaded.items()}
    raise VectorError(f"{path} holds a {type(loaded).__name__}, not tensors")


def _array(value: Any, path: Path) -> Array:
    if not isinstance(value, torch.Tensor):
        raise VectorError(f"{path} holds a {type(value).__name__} among its tensors")
    # Before a copy is made: a tensor may be a view that repeats one number without end.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise VectorError(
            f"{path} holds a tensor of {value.numel():,} numbers, which are not there"
        )
    return np.asarray(value.detach().to(torch.float32).contiguous().numpy())
