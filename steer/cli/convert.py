"""`steer convert`: other tools' vector files to ours, and ours to theirs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.cli.tables import length
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.formats.pickled import Loaded
    from steer.formats.reading import Found, Told
    from steer.models.model import Model
    from steer.steering.steers import Steer
    from steer.vectors.vector import Directions, SteeringVector


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("convert")(convert)


@options.with_model(default=None)
def convert(
    *,
    given: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="Another tool's file or folder; or a vector of ours as after -v:"
            " NAME[:COEFFICIENT][@LAYERS].",
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Ends in .safetensors, .gguf, .svec, .json or .npz."),
    ],
    format: Annotated[
        str | None, typer.Option(help="IN's format, where it looks like another; see below.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Where bare numbers belong: 14, or a layer for each row.")
    ] = None,
    row: Annotated[int | None, typer.Option(help="Which row of a table of vectors.")] = None,
    layer_offset: Annotated[
        int | None,
        typer.Option(help="Layer here less the number in the file. Default: as the format means."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Default: OUT's name.")] = None,
    description: Annotated[str, typer.Option(help="What it does, for those who get it.")] = "",
    license: Annotated[str, typer.Option(help="Under which it may be passed on.")] = "",
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource | None,
) -> None:
    """Read other tools' vector files, and write files that they read.

    Imported vectors need the model that they were made on, with -m: without it they are not bound
    to one, and apply refuses them unless --allow-other-model is passed. It is said which layers
    were assumed. Pickles of torch are read with its restricted reader; other pickles are refused.

    Exported is what `-v` would add: as the file recommends, or as you say; NAME:1@all is the whole
    file as it is.

    Formats: repeng, dialz, easysteer, cvector-generator, jukofyork (.gguf); ibm-svec, aisteer360
    (.svec); ster (.json); caa, refusal-direction, persona-vectors, axbench, pt (.pt); safetensors,
    npy, npz.

    \b
    steer convert happy.gguf happy.safetensors -m MODEL
    steer convert vec_layer_14.pt calm.safetensors -m MODEL
    steer convert direction.npy calm.safetensors -m MODEL --layer 14
    steer convert joyful joyful.gguf              # for llama.cpp, as recommended
    steer convert joyful:1@all joyful.npz
    """
    from steer.base.files import check_writable, reported, safe_name
    from steer.formats import reading, writing
    from steer.formats.reading import Told
    from steer.vectors import store
    from steer.vectors.sites import parse_layers

    layers = None if layer is None else parse_layers(layer)
    told = Told(format=format, layers=layers, row=row, offset=layer_offset)
    to_ours = out.suffix == store.SUFFIX
    if not to_ours:
        writing.check_path(out)
    check_writable(out, force=force)
    named = name or (out.stem if safe_name(out.stem) else "imported")
    path = Path(given)
    with reported(path):
        foreign = path.is_dir() or path.suffix.lower() in _foreign_suffixes()
        foreign = foreign or (path.is_file() and not _is_ours(path))
    if not foreign:
        if to_ours:
            vector = _unbound(given, source, told)
        else:
            steer = _steer(given, told)
            _export(steer, out, layer_offset or 0, force=force, json=json)
            return
    else:
        reading.check(path, told)
        found = reading.read(path, told, _unpickle)
        vector = reading.steering_vector(
            found, None, name=named, description=description, license=license
        )
        output.note(found.assumed)
        for text in found.foreign.notes:
            output.warning(text)
    if source is not None:
        model = options.load_model(source)
        vector = reading.bind(vector, model.identity)
        if foreign:
            _compare_models(found, model)
    if not to_ours:
        from steer.steering.spec import SteerSpec
        from steer.steering.steers import resolve

        _export(resolve(SteerSpec(given), vector), out, 0, force=force, json=json)
        return
    _keep(vector, out, source, force=force, json=json)


def _foreign_suffixes() -> set[str]:
    from steer.formats.reading import FORMATS
    from steer.vectors import store

    suffixes = {suffix for each in FORMATS.values() for suffix in each} | {".pkl", ".pickle"}
    return suffixes - {store.SUFFIX}


def _is_ours(path: Path) -> bool:
    from steer.vectors import store

    return path.suffix == store.SUFFIX and store.is_vector(path)


def _steer(text: str, told: Told) -> Steer:
    """A vector of ours as typed.

    Raises:
        UsageError: options that only other tools' files need.
    """
    from steer.base.errors import UsageError
    from steer.steering import spec
    from steer.steering.steers import resolve
    from steer.vectors import store

    if told.format is not None or told.layers is not None or told.row is not None:
        raise UsageError(f"{text!r} is a vector of ours: it needs no --format, --layer or --row")
    typed = spec.parse(text)
    return resolve(typed, store.read(store.find(typed.reference)))


def _unbound(text: str, source: ModelSource | None, told: Told) -> SteeringVector:
    """A vector of ours that is to be bound to a model.

    Raises:
        UsageError: there is nothing to convert.
    """
    from steer.base.errors import UsageError

    if source is None:
        raise UsageError(
            f"{text!r} to a vector of ours is no conversion",
            hint="-m binds an imported vector to a model; steer combine makes multiples and sums",
        )
    return _steer(text, told).vector


def _unpickle(path: Path) -> Loaded:
    output.warning(f"{path} is a pickle: read with torch's restricted reader, which runs no code")
    from steer.models import torch_files

    return torch_files.read(path)


def _compare_models(found: Found, model: Model) -> None:
    """Say so where a file names another model than it is bound to."""
    said = found.foreign.model
    config = model.network.config
    known = (model.identity.id, config.model_type, model.identity.architecture)
    if said and _plain(said) not in map(_plain, known):
        output.warning(f"the file says that its model is {said!r}; bound to {model.identity.id}")


def _plain(text: str) -> str:
    return text.lower().replace("_", "").replace("-", "")


def _keep(
    vector: SteeringVector, out: Path, source: ModelSource | None, *, force: bool, json: bool
) -> None:
    from steer.cli.tables import layer_table, written
    from steer.vectors import store
    from steer.vectors.metadata import to_json

    metadata = store.write(out, vector, force=force).metadata
    if not metadata.model.bound:
        output.warning(
            f"{out} is not bound to a model: apply takes it with --allow-other-model alone;"
            " convert with -m MODEL to bind it"
        )
    if json:
        output.as_json({"path": str(out), **to_json(metadata)})
        return
    layer_table(metadata)
    written(out, metadata, None if source is None else source.name)


def _export(steer: Steer, out: Path, offset: int, *, force: bool, json: bool) -> None:
    import numpy as np

    from steer.base.files import write_atomic
    from steer.formats import writing

    data, rows = writing.write(steer, out, offset=offset)
    if steer.scope.kind == "response":
        output.warning(
            f"{steer.vector.name} was made to act on the response; in this file it acts everywhere"
        )
    write_atomic(out, data, force=force)
    norms = {number: float(np.linalg.norm(row.astype(np.float64))) for number, row in rows.items()}
    if json:
        told = {"vector": steer.vector.name, "sha256": steer.vector.sha256}
        output.as_json(
            {"path": str(out), "for": writing.WRITTEN[out.suffix], **told}
            | {"layers": [{"number": number, "norm": norm} for number, norm in norms.items()]}
        )
        return
    output.table(
        ["number in the file", "norm"], [[str(key), length(norm)] for key, norm in norms.items()]
    )
    output.note(f"wrote {out}, {steer}, for {writing.WRITTEN[out.suffix]}{_use(out, rows)}")


def _use(out: Path, rows: dict[int, Directions]) -> str:
    if out.suffix == ".gguf":
        return f"; try: llama-cli -m MODEL.gguf --control-vector {out}"
    if out.suffix == ".json":
        return "; merge it into the body of a completion request"
    return ""
