"""Recorded activations in a file: written in place during the recording, read back by site.

The file is a valid safetensors file from the start; its tensors are filled in later. `lengths`,
float32 [n_passages, n_columns]: the mean length of the activations. For each site, `SITE.LAYER` (or
`SITE.LAYER@POSITION` if there are several positions), float32 [n_passages, d_model]. The first
`n_positive` rows are the positive side. Rows with length 0 have not been recorded yet, so an
interrupted run can be resumed. Under its final name the file is complete.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from steer.base.errors import InputError, SteerError
from steer.base.files import check_writable, open_descriptor, reported
from steer.base.strict_json import load_strict_json
from steer.vectors.parts import Parts
from steer.vectors.provenance import ContrastSummary, ModelIdentity, Read
from steer.vectors.sites import Site
from steer.vectors.sources import record_numbers

Rows = NDArray[np.float32]

#: How many rows are read at once.
CHUNK = 1_024
#: The latest format that is read. Files are written in format 1 where no record has several
#: passages, so that earlier releases read them.
FORMAT = 2
_MAX_HEADER = 4_000_000


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The description of a recording: enough to make a vector, and to identify the recording.

    reads: one for each position; all sites were read at each. dtype: of the model's computation,
    such as `bfloat16`. run: the key of everything that the numbers depend on
    (`steer.resuming.run_key`). Earlier files have neither of the two. records: which passages of a
    side share a record, as `steer.vectors.sources` has it; unset if none do. parts: of activations
    at `heads` or `router`; unset at sites as wide as the model.
    """

    model: ModelIdentity
    contrast: ContrastSummary
    reads: tuple[Read, ...]
    sites: tuple[Site, ...]
    n_positive: int
    n_negative: int
    paired: bool
    dtype: str | msgspec.UnsetType = msgspec.UNSET
    run: str | msgspec.UnsetType = msgspec.UNSET
    records: int | tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    parts: Parts | msgspec.UnsetType = msgspec.UNSET
    format: int = 1

    def __post_init__(self) -> None:
        if self.format != (1 if self.records is msgspec.UNSET else 2):
            raise ValueError("records are said in format 2, and no other")
        if not _fits(self.records, self.n_positive, self.n_negative):
            raise ValueError("records are of other passages")
        if min(self.n_positive, self.n_negative) < 1 or not self.sites or not self.reads:
            raise ValueError("a recording has passages of both sides, sites and positions")
        if self.paired and self.n_positive != self.n_negative:
            raise ValueError("pairs have as many positive sides as negative")

    @property
    def width(self) -> int:
        """The number of numbers in each activation."""
        return self.model.d_model if self.parts is msgspec.UNSET else self.parts.total

    @property
    def n_passages(self) -> int:
        return self.n_positive + self.n_negative

    def record_numbers(self, side: int) -> NDArray[np.int64]:
        """The number of the record that each passage of a side (0 is positive) is of."""
        records = None if self.records is msgspec.UNSET else self.records
        return record_numbers(records, self.n_negative if side else self.n_positive)

    @property
    def columns(self) -> list[tuple[Read, Site]]:
        """The positions and sites of each passage, in the order of the file."""
        return [(read, site) for read in self.reads for site in self.sites]


def _fits(records: object, n_positive: int, n_negative: int) -> bool:
    """Whether records can be those of so many passages of each side."""
    if isinstance(records, tuple):
        return min(records, default=0) > 0 and {sum(records)} == {n_positive, n_negative}
    return not isinstance(records, int) or 0 < records <= min(n_positive, n_negative)


@dataclass(frozen=True)
class Activations:
    """An open recording. `offset` is where its first tensor begins, in bytes."""

    recording: Recording
    path: Path
    descriptor: int
    offset: int

    def done(self) -> NDArray[np.bool_]:
        """Which passages have been recorded, [n_passages]."""
        return np.asarray((self.lengths() > 0).all(1))

    def lengths(self) -> Rows:
        """Mean lengths of the activations, float32 [n_passages, n_columns]."""
        return self._read(0, self.recording.n_passages, len(self.recording.columns))

    def put(self, passages: Sequence[int], activations: Rows, lengths: Rows) -> None:
        """Write the activations of some passages.

        activations: float32 [n, n_columns, d_model]; lengths: float32 [n, n_columns].

        Raises:
            SteerError: writing fails.
        """
        width = self.recording.width
        # A length of exactly 0, as from a pruned layer, must not look like a missing row.
        lengths = np.maximum(lengths, np.finfo(np.float32).tiny).astype("<f4")
        activations = np.ascontiguousarray(activations, "<f4")
        with reported(self.path, hint="make room, and run the same command again to resume"):
            for column in range(len(self.recording.columns)):
                for row, passage in enumerate(passages):
                    self._write(self._start(column) + passage * width * 4, activations[row, column])
            # Lengths last, since they mark a row as complete.
            for row, passage in enumerate(passages):
                self._write(passage * lengths.shape[1] * 4, lengths[row])

    def chunks(self, column: int, side: int) -> Iterator[tuple[slice, Rows]]:
        """The activations of one column and side (0 is positive), `CHUNK` rows at a time.

        Gives the range of rows in that side, and the rows, float32 [n, d_model].
        """
        first, stop = self._side(side)
        width = self.recording.width
        for start in range(first, stop, CHUNK):
            count = min(CHUNK, stop - start)
            rows = self._read(self._start(column) + start * width * 4, count, width)
            yield slice(start - first, start - first + count), rows

    def side(self, column: int, side: int) -> Rows:
        """All activations of one column and side, float32 [n, d_model]."""
        return np.concatenate([rows for _, rows in self.chunks(column, side)])

    def __enter__(self) -> Activations:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def _side(self, side: int) -> tuple[int, int]:
        n_positive = self.recording.n_positive
        return (0, n_positive) if side == 0 else (n_positive, self.recording.n_passages)

    def _start(self, column: int) -> int:
        n_passages, n_columns = self.recording.n_passages, len(self.recording.columns)
        return n_passages * n_columns * 4 + column * n_passages * self.recording.width * 4

    def _read(self, start: int, rows: int, columns: int) -> Rows:
        with reported(self.path):
            data = os.pread(self.descriptor, rows * columns * 4, self.offset + start)
        if len(data) < rows * columns * 4:
            raise InputError(f"{self.path} is cut off")
        read = np.frombuffer(data, "<f4").reshape(rows, columns)
        if not np.isfinite(read).all():
            raise InputError(
                f"{self.path} holds activations that are NaN or infinite",
                hint="remove it, and record it again with `steer extract --keep`",
            )
        return read

    def _write(self, start: int, row: Rows) -> None:
        if os.pwrite(self.descriptor, row.data, self.offset + start) < row.nbytes:
            raise OSError(28, "No space left on device")


def resume(path: Path, recording: Recording) -> Activations:
    """Open the file at `path` for a recording, and continue it if it is the same one.

    The file is locked until it is closed.

    Raises:
        SteerError: the file cannot be written, or another process is recording into it.
    """
    header = _header(recording)
    check_writable(path, force=True)
    with reported(path):
        descriptor = open_descriptor(path, os.O_RDWR | os.O_CREAT)
        _take(descriptor, path)
        if os.pread(descriptor, len(header), 0) != header:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, header, 0)
        os.ftruncate(descriptor, len(header) + _n_bytes(recording))
    return Activations(recording, path, descriptor, len(header))


def _take(descriptor: int, path: Path) -> None:
    """Lock a file against other recordings until it is closed."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SteerError(
            f"another process is recording into {path}", hint="name another file, or wait for it"
        ) from error
    except (ImportError, OSError):  # some systems and file systems have no locks
        pass


def open_kept(path: Path) -> Activations:
    """Open a complete recording for reading.

    Raises:
        InputError: the file is not a recording, is incomplete, or of a later format.
    """
    descriptor = open_descriptor(path, os.O_RDONLY)
    try:
        with reported(path):
            start = os.pread(descriptor, 8 + _MAX_HEADER, 0)
            size = os.fstat(descriptor).st_size
        recording = _parse(start, str(path))
        header = _header(recording)
        if size != len(header) + _n_bytes(recording) or not start.startswith(header):
            raise InputError(
                f"{path} is damaged: it is not as long as it says, or its header differs"
            )
        activations = Activations(recording, path, descriptor, len(header))
        if not activations.done().all():
            raise InputError(f"{path} is not complete", hint="run the same `steer extract` again")
    except BaseException:
        os.close(descriptor)
        raise
    return activations


def discard(path: Path) -> None:
    """Remove a recording that nobody asked to keep."""
    with suppress(FileNotFoundError):
        path.unlink()


def _n_bytes(recording: Recording) -> int:
    n_columns = len(recording.columns)
    return 4 * recording.n_passages * n_columns * (1 + recording.width)


def _header(recording: Recording) -> bytes:
    """A safetensors header for the tensors in their order, padded as by safetensors itself."""
    shapes = {"lengths": [recording.n_passages, len(recording.columns)]}
    for read, site in recording.columns:
        position = f"@{read.positions}" if len(recording.reads) > 1 else ""
        name = f"{site.name}.{site.layer}{position}"
        shapes[name] = [recording.n_passages, recording.width]
    entries: dict[str, object] = {
        "__metadata__": {"activations": msgspec.json.encode(recording, order="sorted").decode()}
    }
    start = 0
    for name, shape in shapes.items():
        stop = start + 4 * shape[0] * shape[1]
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _parse(data: bytes, subject: str) -> Recording:
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = load_strict_json(data[8 : 8 + min(length, _MAX_HEADER)].decode(), subject)
        raw = load_strict_json(msgspec.convert(header["__metadata__"]["activations"], str), subject)
        if isinstance(raw, dict) and type(raw.get("format")) is int and raw["format"] > FORMAT:
            raise InputError(
                f"{subject} has activations of format {raw['format']}; this steer reads {FORMAT}",
                hint="upgrade steer, or record them again",
            )
        return msgspec.convert(raw, Recording)
    except InputError:
        raise
    except (struct.error, ValueError, KeyError, TypeError, SteerError) as error:
        raise InputError(
            f"{subject} holds no recorded activations",
            hint="`steer extract --keep FILE` writes them",
        ) from error
