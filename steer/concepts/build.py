"""Build a pack: a folder with the vectors of all its concepts for one model, and an index.

The index, `pack.json`, is written after each concept. It has a key for everything that the numbers
of a concept depend on, so the same build can be resumed, and a concept whose definition, settings
or model changed is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steer.base.errors import SteerError
from steer.base.files import check_writable, reported, write_atomic
from steer.base.progress import Progress, silent
from steer.concepts.concept import Concept
from steer.concepts.index import INDEX, BuiltPack, IndexRow, read
from steer.concepts.make import ConceptVector, is_chat, make
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
    on_made: Callable[[IndexRow, bool], None] = lambda row, is_new: None,
) -> BuiltPack:
    """Make all vectors of a pack, or resume an interrupted build.

    The folder gets a file for each concept that works, and the index. on_made: called with the row
    of each concept, and whether it was made in this run.

    Raises:
        SteerError: the folder cannot be written, or it has a vector with the name of a concept
            that is not in the index (unless force).
    """
    settings = settings or MakeSettings()
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder / INDEX, force=True)
    known = {row.name: row for row in read(folder).rows} if (folder / INDEX).exists() else {}
    run = run_key(model, _plain(settings), is_chat(model, settings))
    keys = {entry.concept.name: _key(run, entry.concept) for entry in pack.entries}
    done = {name: row for name, row in known.items() if _is_done(row, keys.get(name), folder)}
    if not force:
        _check_free(pack.entries, known, folder)
    todo = [entry for entry in pack.entries if entry.concept.name not in done]
    for entry in pack.entries:
        if entry.concept.name in done:
            on_made(done[entry.concept.name], False)
    packs = {entry.concept.name: entry.pack for entry in pack.entries}
    rows: dict[str, IndexRow] = dict(done)
    if not todo:
        _write_index(_built(folder, pack, model, rows, known))
    with progress("making concepts", len(todo)) as advance:
        for result in make(model, [entry.concept for entry in todo], settings):
            row = _keep(result, packs, keys, folder)
            rows[row.name] = row
            _write_index(_built(folder, pack, model, rows, known))
            on_made(row, True)
            advance(1, row.name)
    return _built(folder, pack, model, rows, known)


def _keep(
    result: ConceptVector, packs: dict[str, str], keys: dict[str, str], folder: Path
) -> IndexRow:
    """Write the vector of a concept if it works, and else delete an earlier one."""
    name = result.report.concept.name
    path = folder / f"{name}{store.SUFFIX}"
    if result.report.works and result.vector is not None:
        store.write(path, result.vector, force=True)
    else:
        with reported(path):
            path.unlink(missing_ok=True)
    values = {**result.report.to_dict(), "pack": packs[name], "key": keys[name]}
    values["synonyms"] = list(result.report.concept.synonyms)
    values["description"] = result.report.concept.description
    return IndexRow(values)


def _built(
    folder: Path, pack: Pack, model: Model, rows: dict[str, IndexRow], known: dict[str, IndexRow]
) -> BuiltPack:
    """The rows in the pack's order, and then those of other builds in the folder."""
    order = [concept.name for concept in pack.concepts if concept.name in rows]
    others = [name for name in known if name not in rows]
    every = [rows[name] for name in order] + [known[name] for name in others]
    return BuiltPack(folder, pack.name, pack.title, model.identity.id, tuple(every), model.identity)


def _write_index(built: BuiltPack) -> None:
    text = json.dumps(built.to_dict(), ensure_ascii=False, indent=1)
    write_atomic(built.folder / INDEX, (text + "\n").encode("utf-8", "surrogatepass"), force=True)


def _is_done(row: IndexRow, key: str | None, folder: Path) -> bool:
    if key is None or row.key != key:
        return False
    return not row.works or (folder / f"{row.name}{store.SUFFIX}").is_file()


def _check_free(entries: Sequence[Entry], known: dict[str, IndexRow], folder: Path) -> None:
    for entry in entries:
        path = folder / f"{entry.concept.name}{store.SUFFIX}"
        if entry.concept.name not in known and path.exists():
            raise SteerError(
                f"{path} exists, but not in the index of this pack",
                hint="use another folder, or --force to replace it",
            )


def _key(run: str, concept: Concept) -> str:
    text = json.dumps([run, asdict(concept)], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _plain(settings: MakeSettings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name != "license"}
