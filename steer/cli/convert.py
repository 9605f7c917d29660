"""`steer convert`: convert vector files from and to the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options, output
from steer.cli.command import SteerCommand
from steer.cli.tables import length
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.formats.reading import ForeignFile
    from steer.formats.source import Options, Pickled
    from steer.models.model import Model
    from steer.steering.steers import Steer
    from steer.vectors.vector import SteeringVector


class ConvertCommand(SteerCommand):
    """A command whose help lists the formats below the options."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the names of the formats by file suffix; `--formats` says more of each."""
        from steer.formats.registry import registry
        from steer.formats.source import FOLDER

        known = registry()
        with formatter.section("Formats (* is written too; more: --formats)"):
            formatter.write_dl(
                [
                    (
                        "folders" if suffix == FOLDER else suffix,
                        ", ".join(
                            each.name + ("*" if each.writer else "")
                            for each in known
                            if suffix in each.suffixes
                        ),
                    )
                    for suffix in dict.fromkeys(s for each in known for s in sorted(each.suffixes))
                ]
            )
            for broken in known.broken:
                formatter.write_text(str(broken))


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("convert", cls=ConvertCommand)(convert)


def _print_formats(is_set: bool) -> None:
    if not is_set:
        return
    from steer.formats.registry import registry

    known = registry()
    output.table(
        ["format", "files", "of", "", "what"],
        [
            [
                each.name,
                each.kinds,
                each.title,
                {(True, True): "read, written", (True, False): "read"}.get(
                    (each.read is not None, each.writer is not None), "written"
                ),
                each.help,
            ]
            for each in known
        ],
    )
    for broken in known.broken:
        output.warning(str(broken))
    raise typer.Exit


@options.with_model(default=None)
def convert(
    *,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="Another tool's file or folder; or ours, as after -v.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A .safetensors file, or another tool's."),
    ],
    format: Annotated[
        str | None,
        typer.Option(help="The other tool's format. Default: as the file says."),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="The layers of bare numbers, or to take: 3-5."),
    ] = None,
    row: Annotated[int | None, typer.Option(help="Which row of a table of vectors.")] = None,
    encoder: Annotated[
        bool, typer.Option("--encoder", help="The feature's encoder, for a gate; with --row.")
    ] = False,
    pick: Annotated[
        str | None,
        typer.Option(help="Which of several vectors: its name or its model's."),
    ] = None,
    minus: Annotated[
        Path | None,
        typer.Option(help="A baseline's file to subtract, where IN has none."),
    ] = None,
    layer_offset: Annotated[
        int | None,
        typer.Option(help="Layer here minus the file's number."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Default: OUT's name.")] = None,
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    license: Annotated[str, typer.Option(help="Licence, such as CC0-1.0.")] = "",
    force: options.Force = False,
    json: options.Json = False,
    list_formats: Annotated[
        bool,
        typer.Option(
            "--formats",
            callback=_print_formats,
            is_eager=True,
            help="List all formats.",
        ),
    ] = False,
    source: ModelSource | None,
) -> None:
    """Convert vector files from and to the formats of other tools.

    An imported file keeps its op, site and strength: -v NAME does what the other tool would do.
    What steer cannot do is refused by name. Assumptions about layers are printed.

    Name the model of an imported vector with -m. Without it the vector is not bound to a model, and
    apply refuses it unless --allow-other-model is passed. Pickles of torch are read with its
    restricted reader; other pickles are refused.

    An exported file does what -v would do: what the file recommends, or what you type. NAME:1@all
    exports all layers of the file unchanged.

    \b
    steer convert happy.gguf happy.safetensors -m MODEL
    steer convert vec_layer_14.pt calm.safetensors -m MODEL
    steer convert direction.npy calm.safetensors -m MODEL --layer 14
    steer convert joyful:2@2 joyful.gguf          # for llama.cpp
    steer convert joyful:ablate@3 ablated.gguf --format glp
    steer convert joyful:1@all joyful.npz
    """
    from steer.base.files import check_writable, reported, safe_name
    from steer.formats import reading, writing
    from steer.formats.registry import registry
    from steer.formats.source import Options
    from steer.vectors import store
    from steer.vectors.sites import parse_layers

    to_ours = out.suffix == store.SUFFIX
    path = Path(reference)
    with reported(path):
        foreign = path.is_dir() or path.suffix.lower() in _foreign_suffixes()
        foreign = foreign or (path.is_file() and not _is_ours(path))
    # --format names the format of the other tool's file, whether that is IN or OUT.
    read_as, write_as = (format, None) if foreign and to_ours else (None, format)
    chosen = Options(
        format=read_as,
        layers=None if layer is None else parse_layers(layer),
        row=row,
        pick=pick,
        minus=minus,
        encoder=encoder,
        offset=layer_offset,
        model=None if source is None else source.name,
    )
    if not to_ours:
        writing.check_path(out, write_as)
    check_writable(out, force=force)
    for broken in registry().broken:
        output.warning(str(broken))
    if not foreign:
        _check_ours(reference, chosen, read_as)
        if to_ours:
            vector = _unbound(reference, source)
        else:
            _export(_steer(reference), out, layer_offset or 0, write_as, force=force, json=json)
            return
    else:
        reading.check(path, chosen)
        read_file = reading.read(path, chosen, _unpickle)
        vector = reading.steering_vector(
            read_file,
            None,
            name=name or (out.stem if safe_name(out.stem) else "imported"),
            description=description,
            license=license,
        )
        output.note(read_file.assumed)
        for text in read_file.imported.notes:
            output.warning(text)
    if source is not None:
        model = options.load_model(source)
        vector = reading.bind(vector, model.identity)
        if foreign:
            _compare_models(read_file, model)
    if not to_ours:
        from steer.steering.spec import SteerSpec
        from steer.steering.steers import resolve

        steer = resolve(SteerSpec(reference), vector)
        _export(steer, out, 0, write_as, force=force, json=json)
        return
    _keep(vector, out, source, force=force, json=json)


def _foreign_suffixes() -> set[str]:
    from steer.formats.registry import registry
    from steer.vectors import store

    return {*registry().suffixes(), ".pkl", ".pickle"} - {store.SUFFIX}


def _is_ours(path: Path) -> bool:
    from steer.vectors import store

    return path.suffix == store.SUFFIX and store.is_vector(path)


def _check_ours(text: str, chosen: Options, format: str | None) -> None:
    """Refuse options that apply only to files of other tools.

    Raises:
        UsageError: an option is set; the message names it.
    """
    from steer.base.errors import UsageError

    values = {
        "--format": format,
        "--layer": chosen.layers,
        "--row": chosen.row,
        "--pick": chosen.pick,
        "--minus": chosen.minus,
        "--encoder": chosen.encoder or None,
    }
    needless = [option for option, value in values.items() if value is not None]
    if needless:
        raise UsageError(
            f"{text!r} is a vector file of steer's: {', '.join(needless)} applies only to files of"
            " other tools",
            hint="name layers after an @: NAME@3",
        )


def _steer(text: str) -> Steer:
    """The steer for a spec that names one of steer's own vector files."""
    from steer.steering import spec
    from steer.steering.steers import resolve
    from steer.vectors import store

    typed = spec.parse(text)
    return resolve(typed, store.read(store.find(typed.reference)))


def _unbound(text: str, source: ModelSource | None) -> SteeringVector:
    """Read an imported vector that `-m` is to bind to a model.

    Raises:
        VectorError: there is no such vector.
        UsageError: no model is named, so there is nothing to convert.
    """
    from steer.base.errors import UsageError

    vector = _steer(text).vector
    if source is None:
        raise UsageError(
            f"{text!r} is already a vector file of steer's, and so is the output",
            hint="-m binds an imported vector to a model; steer combine makes multiples and sums",
        )
    return vector


def _unpickle(path: Path) -> Pickled:
    output.warning(f"{path} is a pickle: read with torch's restricted reader, which runs no code")
    from steer.models import torch_files

    return torch_files.read(path)


def _compare_models(read_file: ForeignFile, model: Model) -> None:
    """Warn if the file names another model than the one that it is bound to."""
    from steer.formats.choosing import plain

    stated = read_file.imported.model
    config = model.network.config
    names = (model.identity.id, config.model_type, model.identity.architecture)
    if stated and plain(stated) not in map(plain, names):
        output.warning(f"the file says that its model is {stated!r}; bound to {model.identity.id}")


def _keep(
    vector: SteeringVector, out: Path, source: ModelSource | None, *, force: bool, json: bool
) -> None:
    from steer.cli.tables import layer_table, written
    from steer.vectors import store
    from steer.vectors.metadata import to_json

    metadata = store.write(out, vector, force=force).metadata
    if not metadata.model.bound:
        output.warning(
            f"{out} is not bound to a model: apply needs --allow-other-model to use it;"
            " convert with -m MODEL to bind it"
        )
    if json:
        output.as_json({"path": str(out), **to_json(metadata)})
        return
    layer_table(metadata)
    written(out, metadata, None if source is None else source.name)


def _export(
    steer: Steer, out: Path, offset: int, format: str | None, *, force: bool, json: bool
) -> None:
    from steer.base.files import write_atomic
    from steer.formats import writing

    written = writing.write(steer, out, offset=offset, format=format)
    if steer.scope.kind == "response":
        output.warning(
            f"{steer.vector.name} was made to act on the response; in this file it acts everywhere"
        )
    write_atomic(out, written.data, force=force)
    if json:
        output.as_json(
            {
                "path": str(out),
                "format": written.format.name,
                "for": written.format.title,
                "vector": steer.vector.name,
                "sha256": steer.vector.sha256,
                "op": str(steer.op),
                "layers": [{"number": n, "norm": norm} for n, norm in written.norms.items()],
            }
        )
        return
    output.table(
        ["number in the file", "norm"],
        [[str(number), length(norm)] for number, norm in written.norms.items()],
    )
    use = written.use(out)
    note = f"wrote {out}, {steer}, for {written.format.title}"
    output.note(f"{note}; {use}" if use else note)
