"""Good files to bad ones: bytes turned, cut, doubled and spliced, and structures gone wrong.

Blind changes of bytes seldom pass a checksum or a parser's first lines. So JSON is also changed as
a tree, archives inside their members, and a vector file is sealed again after the change.
"""

from __future__ import annotations

import contextlib
import json
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from random import Random
from typing import Any

import msgspec
import numpy as np

from steer.vectors.metadata import decode, encode
from steer.vectors.vector import SteeringVector, tensor_shapes

#: No input is longer: most defects show in small ones, and small ones are fast.
MOST_BYTES = 16_384

WORDS = [0, 1, 2**7, 2**15, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]
PIECES = [
    b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\xf0\x9f\x98\x80", b"\x1b[2J", b"\\ud800",
    b"\xe2\x80\xae", b"NaN", b"Infinity", b"-1", b"1e999", b"1e-999", b"9" * 400, b"9" * 5000, b"[",
    b"{", b"[" * 3000, b'{"a":' * 3000, b"]", b"}", b",", b":", b'"', b"'", b"/", b"\\", b"@", b"=",
    b"..", b"../", b"a" * 300, b"::", b"://", b"%", b"<", b">", b"not-", b"auto", b"all", b"null",
    b"true", b"\n", b"\r", b"#", b'"""', b"0x1", b"1_0", b"\xd9\xa1", b"1979-05-27", b"__import__",
    b"direction.0", b"direction.99999", b"layer.1", b"__metadata__", b"<f8", b"|O", b"(3,)",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**18, 10**400, 1.5, -0.0, 1e308, 1e-320, float("nan"),
    float("inf"), "", "x", "resid_post", "\ud800", "\x1b]0;x\x07", "a" * 300, "../x", "1", "9",
    [], {}, [[]], [0.5] * 8, [None], {"": None}, {"0": [1.0]}, "mean", "layer.0", "add", 4, 8,
]  # fmt: skip
KEYS = ["", "0", "00", "1", "-1", "10000", "layer", "name", "__metadata__", "\ud800", "v", "x" * 90]

Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]


def mutated(rng: Random, data: bytes, seeds: Sequence[bytes], kind: str) -> bytes:
    """One to four changes, some of which know what such files look like."""
    structured = STRUCTURED.get(kind)
    for _ in range(rng.choice([1, 1, 2, 4])):
        change = structured if structured and rng.random() < 0.6 else scrambled
        # What is broken already has no structure any more.
        with contextlib.suppress(Exception):
            data = change(rng, data, seeds)
    return data[:MOST_BYTES]


def scrambled(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """One change that knows nothing of the format."""
    mutated = bytearray(data)
    at, to = sorted(rng.randint(0, len(mutated)) for _ in range(2))
    other = rng.choice(seeds)
    change = rng.randrange(9)
    if change == 0 and mutated:
        mutated[at - 1] ^= 1 << rng.randrange(8)
    elif change == 1 and mutated:
        mutated[at - 1] = rng.randrange(256)
    elif change == 2:
        size = rng.choice([2, 4, 8])
        mutated[at : at + size] = struct.pack("<Q", rng.choice(WORDS))[:size]
    elif change == 3:
        del mutated[at:]
    elif change == 4:
        del mutated[at:to]
    elif change == 5:
        mutated[at:at] = mutated[at:to] * rng.choice([1, 1, 2, 50])
    elif change == 6:
        mutated[at:at] = rng.choice(PIECES)
    elif change == 7:
        mutated[at:to] = rng.choice(PIECES)
    else:
        mutated[at:] = other[rng.randint(0, len(other)) :]
    return bytes(mutated)


def tree(rng: Random, value: Any) -> Any:
    """JSON with one node replaced, removed, doubled, moved or grown."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        change = rng.randrange(8)
        if change == 0:
            return {other: pair for other, pair in value.items() if other != key}
        if change == 1:
            return value | {rng.choice(KEYS): rng.choice(VALUES)}
        if change == 2:
            return {
                rng.choice(KEYS) if other == key else other: pair for other, pair in value.items()
            }
        return value | {key: tree(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        change = rng.randrange(5)
        if change == 0:
            return value[:at] + value[at + 1 :]
        if change == 1:
            return value[:at] + value[at:] * rng.choice([2, 2, 40])
        return [*value[:at], tree(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and rng.random() < 0.4:
        return value + rng.choice([-1, 1, 2**31, 2**63])
    if rng.random() < 0.1:
        for _ in range(rng.choice([3, 900, 5000])):
            value = [value]
        return value
    return rng.choice(VALUES)


def text_of(rng: Random, value: Any) -> bytes:
    """JSON as text, now and then with a key that stands twice."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1 and ":" in text:
        first = text.partition(",")[0].lstrip("{")
        text = text.replace("{", "{" + first + ",", 1)
    return text.encode("utf-8", "surrogatepass")


def json_tree(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    return text_of(rng, tree(rng, json.loads(data)))


def json_lines(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json_tree(rng, lines[at], seeds)
    return b"\n".join(lines)


def header(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A safetensors header, or the JSON in it, changed as a tree, after its right length."""
    (length,) = struct.unpack("<Q", data[:8])
    raw, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    texts = raw.get("__metadata__")
    if isinstance(texts, dict) and texts and rng.random() < 0.7:
        key = rng.choice(list(texts))
        texts[key] = text_of(rng, tree(rng, json.loads(texts[key]))).decode("utf-8", "ignore")
    else:
        raw = tree(rng, raw)
    return _safetensors(text_of(rng, raw), body)


def sealed(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A vector file whose header was changed, made to agree with itself again where it can."""
    data = header(rng, data, seeds)
    if rng.random() < 0.2:
        return data
    (length,) = struct.unpack("<Q", data[:8])
    raw, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = decode(raw["__metadata__"]["steer"], "mutated")
    shapes = tensor_shapes(metadata)
    sizes = [4 * int(np.prod(shape)) for shape in shapes.values()]
    body = (body * (1 + sum(sizes) // max(len(body), 1)))[: min(sum(sizes), MOST_BYTES)]
    tensors, entries, start = {}, {}, 0
    for (name, shape), size in zip(shapes.items(), sizes, strict=True):
        tensors[name] = np.frombuffer(body[start : start + size], "<f4").reshape(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, start + size]}
        start += size
    digest = SteeringVector(metadata, **tensors).sha256
    text = encode(msgspec.structs.replace(metadata, sha256=digest))
    mutated = {"__metadata__": {"steer": text}, **entries}
    return _safetensors(json.dumps(mutated).encode(), body)


def _safetensors(text: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + body


def archive(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A zip archive with one member changed, renamed, left out or there twice; checksums hold."""
    with zipfile.ZipFile(BytesIO(data)) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    at = rng.randrange(len(members))
    name, inside = members[at]
    change = rng.randrange(8)
    if change == 0:
        del members[at]
    elif change == 1:
        members.append(members[at])
    elif change == 2:
        members[at] = (name + rng.choice([".npy", "x", "/../x", "\0"]), inside)
    else:
        members[at] = (name, scrambled(rng, inside, [inside]))
    buffer = BytesIO()
    packed = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", packed) as new:
        warnings.simplefilter("ignore")  # of names that stand twice
        for name, inside in members:
            new.writestr(zipfile.ZipInfo(name), inside, packed)
    return buffer.getvalue()


STRUCTURED: dict[str, Mutation] = {
    "vector": sealed,
    "json": json_tree,
    "lock": json_tree,
    "evidence": json_tree,
    "contrasts": json_lines,
    "journal": json_lines,
    "map": json_tree,
    "safetensors": header,
    "activations": header,
    "archive": archive,
}
