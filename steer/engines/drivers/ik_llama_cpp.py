"""ik_llama.cpp: control vectors that its server loads and unloads while it runs.

    GET  /control-vectors         [{"id", "path", "scale", "layer_start", "layer_end", "applied"}]
    POST /control-vectors/load    {"path", "scale", "layer_start", "layer_end"}
    POST /control-vectors/unload  {"id"}

The server reads the file itself, when it is loaded; a path that is loaded already is not read
again. Of several vectors it sums all layers of each within one range for all, so all steers are
sent as one vector. Ids are places in the list, so the last is unloaded first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steer.base.errors import SteerError
from steer.base.files import write_atomic
from steer.engines.driving import Driver, Outcome, Steering
from steer.engines.endpoint import RefusedError, Server
from steer.formats.gguf import build
from steer.vectors.vector import Directions

#: What llama.cpp's servers keep of prompts that they have seen.
CACHED = (
    "prompts that the server has cached keep the steering that they were read with: send"
    ' "cache_prompt": false, or ask other prompts'
)
_ROOT = "/control-vectors"


def control_vector(additions: dict[int, Directions]) -> bytes:
    """A control vector in GGUF: `direction.N` is added at the output of block N."""
    values: dict[str, str | int | float | bool] = {
        "general.architecture": "controlvector",
        "controlvector.layer_count": len(additions),
    }
    return build(values, {f"direction.{layer}": additions[layer] for layer in sorted(additions)})


def loaded(server: Server, path: str) -> list[dict[str, Any]]:
    """The control vectors that a server lists at `path`.

    Raises:
        SteerError: it does not list them.
    """
    listing = server.ask("GET", path)
    if not isinstance(listing, list) or not all(
        isinstance(vector, dict) and isinstance(vector.get("id"), int) for vector in listing
    ):
        raise SteerError(f"{server.url}{path} lists no control vectors")
    return listing


def lists_vectors(path: str, server: Server) -> bool:
    """Whether a server answers a GET of `path` with a list."""
    status, content = server.peek(path)
    return status == 200 and isinstance(content, list)


def _steer(server: Server, steering: Steering) -> Outcome:
    additions = dict(steering.everywhere)
    replaced = _unload(server)
    with _file(steering.file) as path:
        write_atomic(path, control_vector(additions), force=True)
        body = {
            "path": str(path.resolve()),
            "scale": 1.0,
            "layer_start": min(additions),
            "layer_end": max(additions),
        }
        try:
            server.ask("POST", f"{_ROOT}/load", body)
        except RefusedError as error:
            raise SteerError(
                str(error),
                hint="the server reads the file itself: name one that it can read with --out",
            ) from None
    listing = loaded(server, _ROOT)
    if [vector.get("applied") for vector in listing] != [True]:
        raise SteerError(f"{server.url} has loaded the vector, but does not apply it: {listing}")
    return Outcome(notes=(*replaced, CACHED))


def _clear(server: Server) -> Outcome:
    return Outcome(notes=(*_unload(server), CACHED))


def _unload(server: Server) -> tuple[str, ...]:
    """Unload all vectors; returns a note that names them."""
    listing = loaded(server, _ROOT)
    for index in reversed(range(len(listing))):
        server.ask("POST", f"{_ROOT}/unload", {"id": index})
    names = ", ".join(str(vector.get("path")) for vector in listing)
    return (f"unloaded: {names}",) if listing else ()


@contextmanager
def _file(path: Path | None) -> Iterator[Path]:
    """The file, or one that is there until it has been loaded."""
    if path is not None:
        yield path
        return
    with TemporaryDirectory(prefix="steer-") as folder:
        # The server tells vectors apart by their paths, and this one's name is never used again.
        yield Path(folder) / f"{Path(folder).name}.gguf"


DRIVER = Driver(
    name="ik_llama.cpp",
    title="ik_llama.cpp",
    help="llama-server of ik_llama.cpp, on this machine or with a folder in common",
    steer=_steer,
    clear=_clear,
    detect=lambda server: lists_vectors(_ROOT, server),
    first_layer=1,
    reads_file=True,
)
