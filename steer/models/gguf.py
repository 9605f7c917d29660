"""Check a GGUF file before transformers loads it as a model.

The format (github.com/ggml-org/ggml, docs/gguf.md): a header of typed key-value pairs, then a name,
a shape, a type and an offset for each tensor, then their bytes.
"""

from __future__ import annotations

import importlib.util
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.base.errors import ModelError
from steer.base.files import open_regular, reported

#: struct's letter for each type of number. Texts and arrays have types of their own.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_NUMBERS[12] = "d"
_STRING, _ARRAY = 8, 9
_MOST = {"tensors": 1_000_000, "values": 100_000, "dimensions": 4}
INSTALL = "pip install 'gguf>=0.10' 'accelerate>=1'"


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a GGUF file.

    architecture: llama.cpp's name. types: ggml's type numbers of the tensors. n_numbers: in all
    tensors together.
    """

    architecture: str
    types: frozenset[int]
    n_numbers: int


class _Reader:
    """Reads a memory-mapped file from front to back, never past its end."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data, self._name, self._at = data, name, 0

    def skip(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        if length < 0 or self._at > len(self._data):
            raise self.error("is cut off: it ends within its header")
        return b"" if length > 1 << 20 else self._data[start : self._at]

    def number(self, letter: str) -> Any:
        form = struct.Struct("<" + letter)
        return form.unpack(self.skip(form.size))[0]

    def count(self, noun: str, letter: str = "Q") -> int:
        n = int(self.number(letter))
        if n > _MOST[noun]:
            raise self.error(f"has {n:,} {noun}, more than {_MOST[noun]:,}")
        return n

    def text(self) -> str:
        return self.skip(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> str | None:
        """Read a value; give its text, or None for other types."""
        if kind in _NUMBERS:
            self.number(_NUMBERS[kind])
        elif kind == _STRING:
            return self.text()
        elif kind == _ARRAY:
            of, length = self.number("I"), self.number("Q")
            if of in _NUMBERS:
                self.skip(length * struct.calcsize("<" + _NUMBERS[of]))
            elif of == _STRING:
                for _ in range(length):
                    self.skip(self.number("Q"))
            else:
                raise self.error(f"has an array of type {of} in its header")
        else:
            raise self.error(f"has a value of type {kind} in its header")
        return None

    def error(self, fact: str) -> ModelError:
        return ModelError(f"{self._name} {fact}", hint="is it whole? does llama.cpp load it?")


def read_header(path: Path, name: str) -> Header:
    """The header of a GGUF file.

    Raises:
        ModelError: the file is not GGUF, or truncated.
    """
    with open_regular(path) as file, reported(path):
        if file.read(4) != b"GGUF":
            raise ModelError(f"{name} is not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data, name)
            reader.skip(4)
            version = reader.number("I")
            if version not in (2, 3):
                raise reader.error(f"is GGUF version {version}; only 2 and 3 can be read")
            n_tensors, n_values = reader.count("tensors"), reader.count("values")
            texts: dict[str, str | None] = {}
            for _ in range(n_values):
                key = reader.text()
                texts[key] = reader.value(reader.number("I"))
            types, total = set(), 0
            for _ in range(n_tensors):
                reader.text()
                dimensions = [reader.number("Q") for _ in range(reader.count("dimensions", "I"))]
                types.add(int(reader.number("I")))
                reader.number("Q")
                total += math.prod(dimensions)
            if total > 8 * len(data):  # every type has at least one bit per number
                raise reader.error(f"is cut off: {total:,} numbers in {len(data):,} bytes")
    return Header(texts.get("general.architecture") or "", frozenset(types), total)


def check(path: Path, name: str) -> None:
    """Refuse a file that transformers cannot load, before anything is loaded.

    Raises:
        ModelError: not a GGUF file; a control vector; an architecture or a quantisation that cannot
            be read; or a package is missing.
    """
    header = read_header(path, name)
    if header.architecture == "controlvector":
        raise ModelError(
            f"{name} is a control vector, not a model",
            hint=f"steer convert {name} OUT.safetensors",
        )
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = {str(name).replace("_", "").replace("-", "") for name in GGUF_SUPPORTED_ARCHITECTURES}
    if header.architecture.replace("_", "").replace("-", "") not in known:
        raise ModelError(
            f"{name} is of the architecture {header.architecture!r}, which transformers cannot read"
            " from GGUF",
            hint="use the original model, a folder or a hub id",
        )
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(f"GGUF models need the package {package}", hint=INSTALL)
    if unreadable := [_type_name(kind) for kind in sorted(header.types) if not _can_read(kind)]:
        raise ModelError(
            f"{name} is quantised as {', '.join(unreadable)}, which cannot be read",
            hint="use a file in Q4_K_M, Q8_0 or F16, or the original model",
        )


def _can_read(kind: int) -> bool:
    """Whether the gguf package can dequantise a ggml type; tries it on a block of zeros."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    try:
        block = GGMLQuantizationType(kind)
        dequantize(np.zeros((1, GGML_QUANT_SIZES[block][1]), np.uint8), block)
    except (ValueError, NotImplementedError, KeyError):
        return False
    return True


def _type_name(kind: int) -> str:
    from gguf import GGMLQuantizationType

    try:
        return str(GGMLQuantizationType(kind).name)
    except ValueError:
        return f"ggml type {kind}"


def forget_quantisation(network: Any) -> None:
    """Remove the mark "quantised" from a network whose weights were dequantised on loading.

    Raises:
        ModelError: some weights are still packed.
    """
    packed = next((n for n, p in network.named_parameters() if not p.is_floating_point()), None)
    if packed is not None:
        raise ModelError(f"{packed} is still quantised after loading", hint="use a file in F16")
    if getattr(network.config, "quantization_config", None) is not None:
        del network.config.quantization_config
    network.hf_quantizer = None
    network.is_quantized = False
