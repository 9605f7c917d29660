"""llama.cpp: scales of the control vectors that its server was started with.

    GET  /cvectors    [{"id", "path", "scale"}]
    POST /cvectors    [{"id", "scale"}]

As of November 2026 this is proposed (pull request 24740), not in a release. The server loads files
only at its start, so the steers have to be a combination of the files that it has. This driver
reads the files, and finds the scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from steer.base.errors import SteerError, UsageError
from steer.base.files import read_bytes, write_atomic
from steer.engines.drivers.ik_llama_cpp import CACHED, control_vector, lists_vectors, loaded
from steer.engines.driving import Driver, Outcome, Steering
from steer.engines.endpoint import Server
from steer.formats.builtin.llama_cpp import numbered
from steer.formats.gguf import parse
from steer.vectors.vector import Directions

_ROOT = "/cvectors"
_LARGEST = 1_000_000_000
#: The largest difference of a combination from what it should be, as a share of the largest number.
_CLOSE = 1e-4


def _steer(server: Server, steering: Steering) -> Outcome:
    listing = loaded(server, _ROOT)
    if steering.file is not None:
        write_atomic(steering.file, control_vector(dict(steering.everywhere)), force=True)
    files = [_directions(str(vector.get("path"))) for vector in listing]
    scales = combination(steering.everywhere, files)
    if scales is None:
        written = steering.file or "FILE.gguf"
        how = "" if steering.file else f"write the vector with --out {written}, "
        raise SteerError(
            f"{server.url} cannot be steered so with the control vectors that it was started with"
            f" ({', '.join(str(vector.get('path')) for vector in listing) or 'none'})",
            hint=f"{how}start llama-server with --control-vector {written}, and drive it again",
        )
    _set(server, [float(scale) for scale in scales])
    return Outcome(notes=(CACHED,))


def _clear(server: Server) -> Outcome:
    _set(server, [0.0] * len(loaded(server, _ROOT)))
    return Outcome(notes=(CACHED,))


def _set(server: Server, scales: Sequence[float]) -> None:
    listing = loaded(server, _ROOT)
    body = [
        {"id": vector["id"], "scale": scale} for vector, scale in zip(listing, scales, strict=True)
    ]
    server.ask("POST", _ROOT, body)
    now = [vector.get("scale") for vector in loaded(server, _ROOT)]
    if not np.allclose([float(scale or 0) for scale in now], scales, rtol=1e-3, atol=1e-6):
        raise SteerError(f"{server.url} was to scale its vectors by {scales}, and has {now}")


def combination(
    wanted: Mapping[int, Directions], files: Sequence[Mapping[int, Directions]]
) -> list[float] | None:
    """The scales of `files` whose sum is `wanted`; None if there are none.

    All are float32 [d_model] by layer; a layer that is missing is zero.
    """
    layers = sorted({layer for rows in (wanted, *files) for layer in rows})
    width = len(next(iter(wanted.values())))

    def flat(rows: Mapping[int, Directions]) -> np.ndarray:
        zero = np.zeros(width, np.float32)
        return np.concatenate([rows.get(layer, zero) for layer in layers]).astype(np.float64)

    usable = [
        number
        for number, rows in enumerate(files)
        if all(len(row) == width for row in rows.values())
    ]
    if not usable:
        return None
    table, target = np.stack([flat(files[number]) for number in usable], axis=1), flat(wanted)
    weights = np.linalg.lstsq(table, target, rcond=None)[0]
    if np.abs(table @ weights - target).max() > _CLOSE * np.abs(target).max():
        return None
    scales = [0.0] * len(files)
    for number, scale in zip(usable, weights, strict=True):
        scales[number] = float(scale)
    return scales


def _directions(path: str) -> Mapping[int, Directions]:
    """The control vector in a file of the server.

    Raises:
        SteerError: the file is not there for us, or damaged.
    """
    try:
        data = read_bytes(Path(path), limit=_LARGEST)
    except SteerError as error:
        raise UsageError(
            f"the server's control vector {path} cannot be read here: {error}",
            hint="run this on the server's machine, in the folder that it was started in",
        ) from None
    return numbered(parse(data, path), path)


DRIVER = Driver(
    name="llama.cpp",
    title="llama.cpp",
    help="llama-server with the endpoint /cvectors, started with --control-vector FILE",
    steer=_steer,
    clear=_clear,
    detect=lambda server: lists_vectors(_ROOT, server),
    first_layer=1,
    reads_file=True,
    limits=("vectors that it was not started with",),
)
