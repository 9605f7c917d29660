"""All vectors of a pack for one model: a folder of files, and an index that says how good each is.

The index, `pack.json`, is written after each concept, and has the key of everything that a
concept's numbers depend on: the same build goes on where it stopped, and a concept whose
definition, settings or model have changed is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steer.base.errors import SteerError
from steer.base.files import check_writable, reported, write_atomic
from steer.base.progress import Progress, silent
from steer.concepts.concept import Concept
from steer.concepts.index import INDEX, Built, Row, read
from steer.concepts.make import Made, is_chat, make
from steer.concepts.pack import Entry, Pack
from steer.concepts.settings import MakeSettings
from steer.models.model import Model
from steer.resuming import run_key
from steer.vectors import store


def build(
    model: Model,
    pack: Pack,
    folder: Path,
    settings: MakeSettings | None = None,
    *,
    force: bool = False,
    progress: Progress = silent,
    on_made: Callable[[Row, bool], None] = lambda row, is_new: None,
) -> Built:
    """Make all vectors of a pack in one run, going on where an equal one stopped.

    The folder gets a file for each concept that works, and the index. on_made: hears of each
    concept, and whether it was made now.

    Raises:
        SteerError: the folder cannot be written, or a vector of a concept's name is there that no
            index names (see force).
    """
    settings = settings or MakeSettings()
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder / INDEX, force=True)
    known = {row.name: row for row in read(folder).rows} if (folder / INDEX).exists() else {}
    whole = run_key(model, _plain(settings), is_chat(model, settings))
    keys = {entry.concept.name: _key(whole, entry.concept) for entry in pack.entries}
    done = {name: row for name, row in known.items() if _is_done(row, keys.get(name), folder)}
    if not force:
        _check_free(pack.entries, known, folder)
    todo = [entry for entry in pack.entries if entry.concept.name not in done]
    for entry in pack.entries:
        if entry.concept.name in done:
            on_made(done[entry.concept.name], False)
    packs = {entry.concept.name: entry.pack for entry in pack.entries}
    made: dict[str, Row] = dict(done)
    if not todo:
        _write_index(_built(folder, pack, model, made, known))
    with progress("making concepts", len(todo)) as advance:
        for one in _made(model, todo, settings):
            row = _keep(one, packs, keys, folder)
            made[row.name] = row
            _write_index(_built(folder, pack, model, made, known))
            on_made(row, True)
            advance(1, row.name)
    return _built(folder, pack, model, made, known)


def _made(model: Model, entries: Sequence[Entry], settings: MakeSettings) -> Iterator[Made]:
    return make(model, [entry.concept for entry in entries], settings)


def _keep(made: Made, packs: dict[str, str], keys: dict[str, str], folder: Path) -> Row:
    """Write the vector of a concept that works, and take away one that does not any more."""
    name = made.report.concept.name
    path = folder / f"{name}{store.SUFFIX}"
    if made.report.works and made.vector is not None:
        store.write(path, made.vector, force=True)
    else:
        with reported(path):
            path.unlink(missing_ok=True)
    values = {**made.report.to_dict(), "pack": packs[name], "key": keys[name]}
    values["synonyms"] = list(made.report.concept.synonyms)
    values["description"] = made.report.concept.description
    return Row(values)


def _built(
    folder: Path, pack: Pack, model: Model, made: dict[str, Row], known: dict[str, Row]
) -> Built:
    """In the pack's order; then what other builds have put into the folder."""
    order = [one.name for one in pack.concepts if one.name in made]
    others = [name for name in known if name not in made]
    rows = [made[name] for name in order] + [known[name] for name in others]
    return Built(folder, pack.name, pack.title, model.identity.id, tuple(rows))


def _write_index(built: Built) -> None:
    text = json.dumps(built.to_dict(), ensure_ascii=False, indent=1)
    write_atomic(built.folder / INDEX, (text + "\n").encode("utf-8", "surrogatepass"), force=True)


def _is_done(row: Row, key: str | None, folder: Path) -> bool:
    if key is None or row.key != key:
        return False
    return not row.works or (folder / f"{row.name}{store.SUFFIX}").is_file()


def _check_free(entries: Sequence[Entry], known: dict[str, Row], folder: Path) -> None:
    for entry in entries:
        path = folder / f"{entry.concept.name}{store.SUFFIX}"
        if entry.concept.name not in known and path.exists():
            raise SteerError(
                f"{path} exists, and is not of this pack",
                hint="name another folder, or pass --force to replace it",
            )


def _key(whole: str, concept: Concept) -> str:
    text = json.dumps([whole, asdict(concept)], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _plain(settings: MakeSettings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name != "license"}
