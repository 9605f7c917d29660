"""What the shell completes after an option: names of vectors, and names from registries.

`VALUES` has a function for the options and arguments of each name; it gets what was typed so far
and returns whole words. Nothing heavy is imported, and a broken folder completes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from steer.base.shipped import SHIPPED

SUFFIX = ".safetensors"


def vectors(incomplete: str) -> list[str]:
    """Vectors by name, or files where a path was begun; after a colon ops, after a slash scopes."""
    name, colon, rest = incomplete.partition(":")
    if colon and "/" not in name:
        op, at, _ = rest.partition("@")
        return [] if at else [f"{name}:{text}" for text in _ops() if text.startswith(op)]
    if "/" in incomplete or incomplete.startswith("."):
        return _paths(incomplete)
    return sorted({path.stem for folder in _folders() for path in _files(folder, incomplete)})


def _folders() -> list[Path]:
    named = os.environ.get("STEER_VECTORS", "").split(os.pathsep)
    return [Path("vectors"), *(Path(part) for part in named if part), SHIPPED]


def _files(folder: Path, begun: str) -> Iterator[Path]:
    try:
        yield from (
            path
            for path in folder.iterdir()
            if path.suffix == SUFFIX and path.name.startswith(begun)
        )
    except OSError:
        return


def drivers(incomplete: str) -> list[str]:
    """Engines that `steer drive` knows."""
    from steer.engines.driving import drivers

    return _beginning(drivers().names, incomplete)


def models(incomplete: str) -> list[str]:
    """The embedded model and folders; a hub id is typed."""
    return _beginning(["pocket"], incomplete) + [
        path for path in _paths(incomplete) if not path.endswith(SUFFIX)
    ]


def _paths(begun: str) -> list[str]:
    folder = Path(begun.rpartition("/")[0] or ("/" if begun.startswith("/") else "."))
    start = begun[: len(begun) - len(begun.rpartition("/")[2])]
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    names = [f"{start}{path.name}/" for path in entries if path.is_dir()]
    names += [f"{start}{path.name}" for path in entries if path.suffix == SUFFIX]
    return [name for name in names if name.startswith(begun)]


def _ops() -> list[str]:
    from steer.ops.registry import ops

    return list(ops().names)


def methods(incomplete: str) -> list[str]:
    """Methods that fit a vector."""
    from steer.methods.registry import fit_methods

    return _beginning(fit_methods().names, incomplete)


def sites(incomplete: str) -> list[str]:
    """Sites of a layer."""
    from steer.vectors.sites import SITE_NAMES

    return _beginning(SITE_NAMES, incomplete)


def distill_methods(incomplete: str) -> list[str]:
    """Methods that distil a prompt."""
    from steer.methods.registry import distill_methods as registry

    return _beginning(registry().names, incomplete)


def formats(incomplete: str) -> list[str]:
    """Formats of other tools, also those of other packages."""
    from steer.formats.registry import registry

    return _beginning((each.name for each in registry()), incomplete)


def of(*words: str) -> Callable[[str], list[str]]:
    """Completes one of a few words."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(words, incomplete)

    return complete


def several(complete: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """The same for words with commas between."""

    def last(incomplete: str) -> list[str]:
        before, comma, word = incomplete.rpartition(",")
        return [f"{before}{comma}{each}" for each in complete(word)]

    return last


def _beginning(words: Iterable[str], begun: str) -> list[str]:
    return [word for word in words if word.startswith(begun)]


_POSITIONS = of("mean", "last", "first", "completion", "suffix", "after:")

#: By the names of options and arguments; where one differs in a command, after the command's name.
VALUES: dict[str, Callable[[str], list[str]]] = {
    "distill method": distill_methods,
    "drive engine": drivers,
    "vector": vectors,
    "vectors": vectors,
    "parts": vectors,
    "given": vectors,
    "orthogonal_to": vectors,
    "watch": vectors,
    "guard": vectors,
    "when": vectors,
    "method": methods,
    "format": formats,
    "positions": several(_POSITIONS),
    "site": several(sites),
    "model": models,
    "concept": of("words:", "grammar:", "classifier:", "judge:"),
    "on_trip": of("stop", "error", "ablate"),
    "engine": of("vllm"),
    "dtype": of("float32", "float16", "bfloat16"),
    "device": of("cpu", "cuda", "mps"),
    "rule": of("budget", "refusal_direction"),
    "scope": of("all", "response"),
    "op": of("sum", "mean"),
    "lists": of("all", "first", "sets"),
}
