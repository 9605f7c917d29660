"""Recipes: steers and generation settings as a TOML file that can include others.

    description = "A sea captain, in good form"
    include = ["seafarer.toml"]
    steers = ["formal:1.5@2", { vector = "./gloomy.safetensors:-1", sha256 = "9f86d0..." }]

    [generation]
    temperature = 0.5
    system = "You are a captain."

`steers` are what `-v` takes. A vector's path and an included file's are relative to the file that
names them; a vector's name is looked up as everywhere. What is included comes first: all steers
add up, those of a file that is included twice twice, and of settings the last one counts.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from steer import spec, store
from steer.errors import InputError, SteerError, UsageError, VectorError
from steer.files import read_bytes
from steer.generation import Sampling
from steer.provenance import Record
from steer.records import decoded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 1_000_000
#: Inclusions in all: includes of includes multiply.
_MOST_FILES = 10_000
_HASH_LENGTH = 64


class Generation(Record, frozen=True, omit_defaults=True):
    """Settings of `steer apply`, as its options have them; None leaves one open."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] | None = None
    samples: int | None = None
    seed: int | None = None
    chat: bool | None = None
    system: str | None = None


class _Pinned(Record, frozen=True):
    vector: str
    sha256: str | None = None


class _File(Record, frozen=True):
    description: str = ""
    include: tuple[str, ...] = ()
    steers: tuple[str | _Pinned, ...] = ()
    generation: Generation = Generation()


@dataclass(frozen=True, slots=True)
class RecipeSteer:
    """A steer as `-v` takes it, which file it stands in, and the hash that its vector must have."""

    vector: str
    file: Path
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe with everything that it includes. generation: the settings that are made."""

    path: Path
    description: str
    steers: tuple[RecipeSteer, ...]
    generation: dict[str, Any]


def read(path: Path) -> Recipe:
    """A recipe, flattened.

    Raises:
        InputError: it, or one that it includes, is no recipe, or includes itself.
        SteerError: a file cannot be read.
    """
    steers: list[RecipeSteer] = []
    generation: dict[str, Any] = {}
    files: dict[Path, _File] = {}
    # From the recipe to the file at hand, by where they really are. A stack, not recursion, so
    # that no depth is too deep.
    chain: dict[Path, Path] = {}
    todo = [(path, False)]
    n_files = 0
    while todo:
        here, included = todo.pop()
        key = here.resolve()
        if included:
            del chain[key]
            steers += _steers(files[key], here)
            generation |= msgspec.to_builtins(files[key].generation)
            continue
        if key in chain:
            raise _cycle([*chain.values(), here], list(chain).index(key))
        n_files += 1
        if n_files > _MOST_FILES:
            raise InputError(f"{path} includes more than {_MOST_FILES:,} files")
        if key not in files:
            files[key] = _parse(here, chain)
        chain[key] = here
        todo.append((here, True))
        todo += [(here.parent / other, False) for other in reversed(files[key].include)]
    return Recipe(path, files[path.resolve()].description, tuple(steers), generation)


def specs(recipe: Recipe) -> list[str]:
    """The steers as `-v` takes them, each vector found, and the one that is meant.

    Raises:
        VectorError: a vector is missing, or is another one than its hash says.
    """
    for steer in recipe.steers:
        reference = spec.parse(steer.vector).reference
        if "://" in reference:
            raise VectorError(
                f"{steer.file}: the vector {reference} is not on this machine",
                hint="download it, and name the file's path in its place",
            )
        found = store.find(reference)
        if steer.sha256 is None:
            continue
        actual = store.read(found).sha256
        if actual != steer.sha256:
            raise VectorError(
                f"{steer.file}: {found} is not the vector that the recipe means: its sha256 is"
                f" {actual[:12]}..., not {steer.sha256[:12]}...",
                hint="get the file from where the recipe came, or correct the recipe",
            )
    return [steer.vector for steer in recipe.steers]


def placed(text: str, path: Path) -> str:
    """A spec as a recipe at `path` has to write it, so that it means what it means here."""
    reference = spec.parse(text).reference
    if _is_name(reference):
        return text
    here = Path(os.path.relpath(reference, path.parent))
    # Without a folder it would be a name.
    folder = "./" if here.parent == Path() else ""
    return f"{folder}{here}{text.strip()[len(reference) :]}"


def to_toml(
    steers: Sequence[RecipeSteer], generation: dict[str, Any], *, description: str = ""
) -> str:
    """A recipe that includes nothing, as the text of a file."""
    lines = [f"description = {_toml(description)}\n"] if description else []
    lines.append("steers = [")
    for steer in steers:
        value = _toml(steer.vector)
        if steer.sha256 is not None:
            value = f"{{ vector = {value}, sha256 = {_toml(steer.sha256)} }}"
        lines.append(f"    {value},")
    lines.append("]")
    if generation:
        lines.append("\n[generation]")
        lines += [f"{name} = {_toml(value)}" for name, value in generation.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A text, number, truth value or list; TOML writes them as JSON does, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _parse(path: Path, chain: dict[Path, Path]) -> _File:
    try:
        text = decoded(read_bytes(path, limit=_MAX_BYTES), str(path))
    except SteerError as error:
        by = f" (included by {list(chain.values())[-1]})" if chain else ""
        raise InputError(f"{error}{by}") from None
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    try:
        made = msgspec.convert(raw, _File)
        Sampling(**_sampling(made.generation))
    except (msgspec.ValidationError, UsageError) as error:
        raise InputError(
            f"{path}: {error}",
            hint="a recipe has description, include, steers and [generation]",
        ) from None
    return made


def _sampling(generation: Generation) -> dict[str, Any]:
    plain = msgspec.to_builtins(generation)
    return {name: value for name, value in plain.items() if name not in ("chat", "system")}


def _steers(file: _File, path: Path) -> list[RecipeSteer]:
    made = []
    for one in file.steers:
        pinned = one if isinstance(one, _Pinned) else _Pinned(vector=one)
        digest = pinned.sha256
        if digest is not None and (
            len(digest) != _HASH_LENGTH or not set(digest) <= set("0123456789abcdef")
        ):
            raise InputError(
                f"{path}: {digest!r} is not a sha256", hint="`steer show` prints a vector's"
            )
        made.append(RecipeSteer(_resolved(pinned.vector, path), path, digest))
    return made


def _resolved(text: str, path: Path) -> str:
    """A spec whose vector, if it is a path, is relative to where we are, not to the recipe.

    What follows the reference is left as it was written.
    """
    text = text.strip()
    try:
        reference = spec.parse(text).reference
    except UsageError as error:
        raise InputError(f"{path}: {error}", hint=error.hint) from None
    if _is_name(reference):
        return text
    return f"{path.parent / reference}{text[len(reference) :]}"


def _is_name(reference: str) -> bool:
    """Whether it means the same wherever it is written: a vector's name, or an address."""
    here = Path(reference)
    return "://" in reference or (here.suffix != store.SUFFIX and here.parent == Path())


def _cycle(chain: Sequence[Path], start: int) -> InputError:
    named = " -> ".join(str(path) for path in chain[start:])
    return InputError(f"a recipe includes itself: {named}", hint="take one of the includes out")
