"""Packs: TOML files of concepts, which can include other files of their folder.

    title = "My concepts"
    include = ["moods.toml", "steer:registers"]

    [[concept]]
    name = "patient"
    poles = ["patient", "impatient"]
    description = "takes the time that it takes"
    synonyms = ["unhurried"]
    questions = ["My train is late."]
    words = ["slowly"]

There are one or two `poles`, as for `steer extract`. `steer:NAME` is a pack that comes with steer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from steer.base.errors import InputError, SteerError
from steer.base.files import read_bytes, safe_name
from steer.base.toml import load_toml
from steer.concepts.concept import Concept, slug
from steer.contrasts.records import decoded

#: The prefix of the name of a pack that comes with steer.
BUNDLED = "steer:"
_FOLDER = Path(__file__).parent / "packs"
_MAX_BYTES = 2_000_000
_MOST_FILES = 200
_MOST_CONCEPTS = 10_000
_HINT = "docs/packs.md has the keys of a pack"
_HEADER = re.compile(r"^\s*\[\[\s*[\"']?concept[\"']?\s*\]\]", re.MULTILINE)


_TYPES = {"array": 'a list, such as ["calm"]', "str": "text in quotes", "object": "a table"}


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    poles: tuple[str, ...] = ()
    description: str = ""
    synonyms: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str = ""
    description: str = ""
    license: str = ""
    include: tuple[str, ...] = ()
    concept: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A concept, its pack, and its place: `moods.toml:12`."""

    concept: Concept
    pack: str
    where: str


@dataclass(frozen=True, slots=True)
class Pack:
    """The concepts of a pack and of its included files, in order."""

    name: str
    title: str
    license: str
    entries: tuple[Entry, ...]

    @property
    def concepts(self) -> tuple[Concept, ...]:
        return tuple(entry.concept for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def only(self, names: Sequence[str]) -> Pack:
        """The pack with only these concepts.

        Raises:
            InputError: the pack has no concept of this name.
        """
        known = {entry.concept.name: entry for entry in self.entries}
        for name in names:
            if name not in known:
                near = [other for other in known if name in other or other in name][:5]
                raise InputError(
                    f"{self.name} has no concept {name!r}",
                    hint=f"do you mean {', '.join(near)}?" if near else "see `steer pack check`",
                )
        return Pack(self.name, self.title, self.license, tuple(known[name] for name in names))


def bundled() -> list[str]:
    """The names of the packs that come with steer."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read(reference: str) -> Pack:
    """Read a pack: a file, or the name of one that comes with steer ("emotions", "steer:emotions").

    A file that is included twice counts once.

    Raises:
        InputError: the file is not a pack, a name occurs twice, a concept has no poles, a key is
            unknown, or an include is outside the folder. The message has file and line.
        SteerError: the file does not exist.
    """
    path = _path(reference)
    root = path.parent.resolve()
    entries: list[Entry] = []
    done: set[Path] = set()
    parsed = _File()
    # Files to read, each with the place that includes it and all files around it.
    todo: list[tuple[Path, str, tuple[Path, ...]]] = [(path, "", ())]
    first: _File | None = None
    while todo:
        here, by, chain = todo.pop()
        key = here.resolve()
        if key in chain:
            raise InputError(f"{by}: a pack includes itself: {here.name}", hint="take it out")
        if key in done:
            continue
        done.add(key)
        if len(done) > _MOST_FILES:
            raise InputError(f"{path} includes more than {_MOST_FILES:,} files")
        try:
            data = read_bytes(here, limit=_MAX_BYTES, follow_links=not chain)
        except SteerError as error:
            raise InputError(f"{by}: {error}" if by else str(error), hint=error.hint) from None
        text = decoded(data, str(here))
        parsed = _parse(text, here)
        first = first or parsed
        includes = []
        for name in parsed.include:
            line = _line_of(text, rf"include\b.*?{re.escape(name)}")
            where = f"{here}:{line}"
            includes.append((_included(name, here, root, where), where, (*chain, key)))
        todo += reversed(includes)
        entries += _entries(parsed, text, here)
        if len(entries) > _MOST_CONCEPTS:
            raise InputError(f"{path} has more than {_MOST_CONCEPTS:,} concepts")
    _check_names(entries)
    assert first is not None
    if not entries:
        raise InputError(f"{path} has no concepts", hint='write [[concept]] and poles = ["calm"]')
    return Pack(path.stem, first.title or path.stem, first.license, tuple(entries))


def pack_of(concepts: Sequence[Concept], name: str = "concepts") -> Pack:
    """A pack of concepts that come from no file.

    Raises:
        InputError: two have the same name, or a name is not valid for a file.
    """
    for concept in concepts:
        if not safe_name(concept.name):
            raise InputError(f"{concept.name[:60]!r} is not a name for a file")
    entries = tuple(Entry(concept, name, f"concept {n}") for n, concept in enumerate(concepts, 1))
    _check_names(entries)
    return Pack(name, name, "", entries)


def everything() -> list[Entry]:
    """The concepts of all packs that come with steer."""
    return [entry for name in bundled() for entry in read(BUNDLED + name).entries]


def _path(reference: str) -> Path:
    name = reference.removeprefix(BUNDLED)
    path = Path(reference)
    if reference.startswith(BUNDLED) or (not path.exists() and safe_name(name)):
        if name in bundled():
            return _FOLDER / f"{name}.toml"
        if reference.startswith(BUNDLED) or path.suffix != ".toml":
            raise InputError(
                f"there is no pack {name!r}",
                hint=f"a file, or one of steer's own: {', '.join(bundled())}",
            )
    return path


def _included(name: str, here: Path, root: Path, where: str) -> Path:
    """The path of an included file, in the folder of the first pack or below it.

    Raises:
        InputError: it is elsewhere.
    """
    if name.startswith(BUNDLED):
        return _path(name)
    parts = PurePosixPath(name.replace("\\", "/"))
    target = here.parent / name
    inside = not parts.is_absolute() and not Path(name).is_absolute() and ".." not in parts.parts
    base = root if here.resolve().is_relative_to(root) else here.parent.resolve()
    if not inside or not target.resolve().is_relative_to(base):
        raise InputError(
            f"{where}: the include {name!r} leaves the folder of the pack",
            hint="copy the file beside the pack, and include it by its name",
        )
    return target


def _parse(text: str, path: Path) -> _File:
    raw = load_toml(text, str(path), hint=_HINT)
    unknown = [key for key in raw if key not in _File.__struct_fields__]
    if unknown:
        line = _line_of(text, rf"^\s*\[*\s*[\"']?{re.escape(unknown[0])}\b")
        raise InputError(
            f"{path}:{line}: {unknown[0]!r} is not a key of a pack",
            hint=f"it has {', '.join(_File.__struct_fields__)}",
        )
    try:
        return msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {_of_type(error)}", hint=_HINT) from None


def _entries(parsed: _File, text: str, path: Path) -> Iterator[Entry]:
    starts = [match.start() for match in _HEADER.finditer(text)]
    for number, raw in enumerate(parsed.concept):
        start = starts[number] if len(starts) == len(parsed.concept) else 0
        stop = starts[number + 1] if start and number + 1 < len(starts) else len(text)
        yield _entry(raw, path, text, start, stop)


def _entry(raw: dict[str, Any], path: Path, text: str, start: int, stop: int) -> Entry:
    def at(key: str = "") -> str:
        """The file and line of this concept, or of one of its keys."""
        part = text[start:stop]
        match = re.search(rf"^\s*{re.escape(key)}\s*=", part, re.MULTILINE) if key else None
        offset = start if match is None else start + match.start() + len(match[0]) - 1
        skipped = len(text[offset:]) - len(text[offset:].lstrip())
        return f"{path}:{text.count(chr(10), 0, offset + skipped) + 1}"

    for key in raw:
        if key not in _Entry.__struct_fields__:
            raise InputError(
                f"{at(key)}: {key!r} is not a key of a concept",
                hint=f"it has {', '.join(_Entry.__struct_fields__)}",
            )
    try:
        entry = msgspec.convert(raw, _Entry)
    except msgspec.ValidationError as error:
        wrong = re.search(r"\$\.(\w+)", str(error))
        where = at(wrong[1] if wrong else "")
        raise InputError(f"{where}: {_of_type(error)}", hint=_HINT) from None
    poles = tuple(pole.strip() for pole in entry.poles)
    named = entry.name or (slug(poles[0]) if poles and poles[0] else "")
    if not poles:
        raise InputError(
            f"{at()}: the concept {named!r} has no poles",
            hint='write poles = ["patient", "impatient"], or one pole such as ["rhymes"]',
        )
    if len(poles) > 2 or not all(poles):
        raise InputError(
            f"{at('poles')}: the concept {named!r} has {len(poles)} poles, or an empty one",
            hint="one or two, each a word or a sentence",
        )
    if not safe_name(named):
        raise InputError(
            f"{at('name')}: {named[:60]!r} is not a name for a file",
            hint="letters, digits, hyphens and dots",
        )
    try:
        concept = Concept(
            named,
            poles[0],
            poles[1] if len(poles) > 1 else "",
            entry.description,
            entry.synonyms,
            entry.questions,
            entry.words,
        )
    except InputError as error:
        raise InputError(f"{at('poles')}: {error}", hint=error.hint) from None
    return Entry(concept, path.stem, at())


def _check_names(entries: Sequence[Entry]) -> None:
    """Refuse duplicate names, ignoring case as some file systems do."""
    known: dict[str, Entry] = {}
    for entry in entries:
        other = known.setdefault(entry.concept.name.lower(), entry)
        if other is not entry:
            raise InputError(
                f"{entry.where}: the name {entry.concept.name!r} is taken, by {other.where}",
                hint="give one of them another name",
            )


def _line_of(text: str, pattern: str) -> int:
    match = re.search(pattern, text, re.MULTILINE | re.DOTALL)
    if match is None:
        return 1
    end = match.end() - 1
    return text.count("\n", 0, end) + 1


def _of_type(error: msgspec.ValidationError) -> str:
    """Which key has a value of the wrong type, in plain words."""
    known = re.fullmatch(r"Expected `(\w+)`, got `\w+` - at `\$\.(\w+)(\[\.\.\.\])?`", str(error))
    if known is None or known[1] not in _TYPES:
        return str(error)
    return f"{'each of ' if known[3] else ''}{known[2]} has to be {_TYPES[known[1]]}"
