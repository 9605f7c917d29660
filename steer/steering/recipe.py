"""Recipes: steers, gates and generation settings as a TOML file that can include others.

    description = "A sea captain, in good form"
    include = ["seafarer.toml"]
    when = "sea>0.2"
    steers = ["formal:1.5@2", { vector = "./gloomy.safetensors:-1", sha256 = "9f86d0..." }]

    [generation]
    temperature = 0.5
    system = "You are a captain."

`steers` use the grammar of `-v`. Paths of vectors and included files are relative to the file that
names them; vectors' names are looked up as usual. An address means a vector that was pulled before:
a recipe never causes a download. Included files come first. All steers act (those of a file that is
included twice, twice); of settings, the last one counts.

`when` uses the grammar of `--when`, and is a gate for all steers of the file and of those that it
includes; a single steer has its own with `{ vector = "formal", when = "sea>0.2" }`. No steer can
have two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from steer.base.errors import InputError, SteerError, UsageError
from steer.base.files import read_bytes, read_typed
from steer.base.toml import load_toml
from steer.contrasts.records import decoded
from steer.steering.generation import Sampling
from steer.steering.named import NamedSteer, condition_with_path, gated, with_paths
from steer.vectors.record import Record
from steer.vectors.sites import listed

#: The most bytes of one file, and of all included ones.
_MAX_BYTES = 1_000_000
_MAX_TOTAL_BYTES = 20_000_000
#: The most inclusions and steers in all, since nested includes multiply.
_MOST_FILES = 10_000
_MOST_STEERS = 10_000
#: The most characters of a path; each nested include makes it longer.
_MOST_CHARACTERS = 4_096
_HASH_LENGTH = 64


class Settings(Record, frozen=True, omit_defaults=True):
    """Settings of `steer apply`; None leaves one to its option."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] | None = None
    samples: int | None = None
    beams: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: int | None = None
    chat: bool | None = None
    system: str | None = None


_SETTINGS = Settings.__struct_fields__


class _Entry(Record, frozen=True):
    vector: str
    sha256: str | None = None
    when: str | None = None


class _File(Record, frozen=True):
    description: str = ""
    include: tuple[str, ...] = ()
    when: str | None = None
    steers: tuple[str | _Entry, ...] = ()
    generation: Settings = Settings()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe with everything that it includes. generation: settings of `steer apply`."""

    path: Path
    description: str
    steers: tuple[NamedSteer, ...]
    generation: dict[str, Any]

    def fill(
        self, settings: Mapping[str, Any], explicit: Collection[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Settings with the recipe's own where none is explicit, and the names of the recipe's
        settings that have no place among them."""
        filled = {
            name: value if name in explicit else self.generation.get(name, value)
            for name, value in settings.items()
        }
        unused = [name for name in self.generation if name not in settings and name != "chat"]
        return filled, unused

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `steer recipe show --json`."""
        steers = [asdict(steer) | {"file": str(steer.file)} for steer in self.steers]
        return {
            "path": str(self.path),
            "description": self.description,
            "steers": steers,
            "generation": self.generation,
        }

    def to_toml(self) -> str:
        """The text of a recipe file that includes nothing."""
        return to_toml(self.steers, self.generation, description=self.description)


def read(path: Path) -> Recipe:
    """Read a recipe that the user named, with all its includes.

    Raises:
        InputError: a file is not a recipe or includes itself, or there are too many.
        SteerError: a file cannot be read.
    """
    steers: list[NamedSteer] = []
    generation: dict[str, Any] = {}
    files: dict[Path, _File] = {}
    # From the recipe to the file at hand, by where they really are, and how many steers there were
    # before each. A stack, not recursion, so that no depth is too deep.
    chain: dict[Path, Path] = {}
    before: list[int] = []
    todo = [(path, False)]
    n_files = n_bytes = 0
    while todo:
        current, included = todo.pop()
        key = current.resolve()
        if included:
            del chain[key]
            start = before.pop()
            if len(steers) + len(files[key].steers) > _MOST_STEERS:
                raise InputError(f"{path} has more than {_MOST_STEERS:,} steers in all")
            steers[start:] = _with_own_steers(steers[start:], files[key], current)
            generation |= msgspec.to_builtins(files[key].generation)
            continue
        if key in chain:
            raise _cycle([*chain.values(), current], list(chain).index(key))
        n_files += 1
        if n_files > _MOST_FILES:
            raise InputError(f"{path} includes more than {_MOST_FILES:,} files")
        if key not in files:
            data = _read(current, chain)
            n_bytes += len(data)
            if n_bytes > _MAX_TOTAL_BYTES:
                raise InputError(f"{path} includes more than {_MAX_TOTAL_BYTES:,} bytes")
            files[key] = _parse(data, current)
        chain[key] = current
        before.append(len(steers))
        todo.append((current, True))
        todo += [(_beside(current, other), False) for other in reversed(files[key].include)]
    # In a fixed order, whichever file comes first.
    settings = {name: generation[name] for name in _SETTINGS if name in generation}
    return Recipe(path, files[path.resolve()].description, tuple(steers), settings)


def placed(steer: NamedSteer, path: Path) -> NamedSteer:
    """A steer with its paths made relative to a recipe at `path`."""

    def moved(reference: str) -> str:
        relative = Path(os.path.relpath(reference, path.parent))
        # A path without a folder would be read as a name.
        return f"./{relative}" if relative.parent == Path() else str(relative)

    return with_paths(replace(steer, file=path), moved)


def to_toml(
    steers: Sequence[NamedSteer], generation: dict[str, Any], *, description: str = ""
) -> str:
    """A recipe that includes nothing, as the text of a file."""
    lines = [f"description = {_toml(description)}\n"] if description else []
    lines.append("steers = [")
    for steer in steers:
        value = _toml(steer.vector)
        more = [
            f"{name} = {_toml(text)}"
            for name, text in (("sha256", steer.sha256), ("when", steer.when))
            if text is not None
        ]
        if more:
            value = f"{{ vector = {value}, {', '.join(more)} }}"
        lines.append(f"    {value},")
    lines.append("]")
    if generation:
        lines.append("\n[generation]")
        lines += [f"{name} = {_toml(value)}" for name, value in generation.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A text, number, truth value or list as TOML, which is like JSON but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read(path: Path, chain: dict[Path, Path]) -> bytes:
    """The bytes of a recipe. chain: the files that include it; the user typed the first one."""
    try:
        return (read_bytes if chain else read_typed)(path, limit=_MAX_BYTES)
    except SteerError as error:
        by = f" (included by {list(chain.values())[-1]})" if chain else ""
        raise InputError(f"{error}{by}", hint=error.hint) from None


def _parse(data: bytes, path: Path) -> _File:
    raw = load_toml(
        decoded(data, str(path)),
        str(path),
        hint="`steer recipe show --help` has an example of a recipe",
    )
    try:
        recipe = msgspec.convert(raw, _File)
        Sampling(**_sampling(recipe.generation))
    except (msgspec.ValidationError, UsageError) as error:
        raise InputError(
            f"{path}: {error}",
            hint=f"[generation] has {listed(_SETTINGS)}"
            if "$.generation" in str(error)
            else "a recipe has description, include, when, steers and [generation]",
        ) from None
    return recipe


def _beside(path: Path, reference: str) -> Path:
    """The path of a reference in the file at `path`.

    Raises:
        InputError: the path is too long.
    """
    joined = path.parent / reference
    if len(str(joined)) > _MOST_CHARACTERS:
        raise InputError(
            f"{str(path)[:80]}: a path of {len(str(joined)):,} characters; {_MOST_CHARACTERS:,} are"
            " the most"
        )
    return joined


def _sampling(generation: Settings) -> dict[str, Any]:
    """The settings that can be checked in one file by itself; beams depend on other files."""
    plain = msgspec.to_builtins(generation)
    others = ("chat", "system", "beams")
    return {name: value for name, value in plain.items() if name not in others}


def _own_steers(file: _File, path: Path) -> list[NamedSteer]:
    """The steers of a file itself, as written in it."""
    steers = []
    for item in file.steers:
        entry = item if isinstance(item, _Entry) else _Entry(vector=item)
        digest = entry.sha256
        if digest is not None and (
            len(digest) != _HASH_LENGTH or not set(digest) <= set("0123456789abcdef")
        ):
            raise InputError(
                f"{path}: {digest!r} is not a sha256", hint="`steer show` prints a vector's"
            )
        steers.append(NamedSteer(entry.vector, path, digest, entry.when))
    return steers


def _with_own_steers(
    included: Sequence[NamedSteer], file: _File, path: Path
) -> Sequence[NamedSteer]:
    """The included steers and then the file's own, all with the file's gate if it has one."""

    def beside(reference: str) -> str:
        return str(_beside(path, reference))

    try:
        steers = [*included, *(with_paths(steer, beside) for steer in _own_steers(file, path))]
        when = None if file.when is None else condition_with_path(file.when, beside)
        return gated(steers, when, "when")
    except UsageError as error:
        raise InputError(f"{path}: {error}", hint=error.hint) from None


def _cycle(chain: Sequence[Path], start: int) -> InputError:
    named = " -> ".join(str(path) for path in chain[start:])
    return InputError(f"a recipe includes itself: {named}", hint="remove one of the includes")
