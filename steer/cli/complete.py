"""Shell completion of the values of options: names of vectors, and names from registries.

`VALUES` maps the name of an option or argument to a function from the incomplete word to complete
words. Nothing heavy is imported, and an unreadable folder completes to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from steer.base.shipped import SHIPPED

SUFFIX = ".safetensors"


def vectors(incomplete: str) -> list[str]:
    """Names of vectors; files, once the word contains a slash; ops, after a colon."""
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
    """The embedded model and folders. Ids of the hub are not completed."""
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
    """Names of methods that fit a vector."""
    from steer.methods.registry import fit_methods

    return _beginning(fit_methods().names, incomplete)


def sites(incomplete: str) -> list[str]:
    """Names of sites."""
    from steer.vectors.sites import SITE_NAMES

    return _beginning(SITE_NAMES, incomplete)


def distill_methods(incomplete: str) -> list[str]:
    """Names of methods that distil a prompt."""
    from steer.methods.registry import distill_methods as registry

    return _beginning(registry().names, incomplete)


def formats(incomplete: str) -> list[str]:
    """Names of the formats of other tools, including formats from other packages."""
    from steer.formats.registry import registry

    return _beginning((each.name for each in registry()), incomplete)


def of(*words: str) -> Callable[[str], list[str]]:
    """A function that completes one of a few words."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(words, incomplete)

    return complete


def several(complete: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """A function that completes the last of several words separated by commas."""

    def last(incomplete: str) -> list[str]:
        before, comma, word = incomplete.rpartition(",")
        return [f"{before}{comma}{each}" for each in complete(word)]

    return last


def _beginning(words: Iterable[str], begun: str) -> list[str]:
    return [word for word in words if word.startswith(begun)]


_POSITIONS = of("mean", "last", "first", "completion", "suffix", "after:")

#: Keys: names of options and arguments, after the name of the command where a command differs.
VALUES: dict[str, Callable[[str], list[str]]] = {
    "distill method": distill_methods,
    "drive engine": drivers,
    "vector": vectors,
    "vectors": vectors,
    "parts": vectors,
    "reference": vectors,
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
