"""Read a file of another tool as a steering vector: detect its format, place its layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from steer.base.errors import ModelError, UsageError, VectorError
from steer.base.files import reported
from steer.fitting.fitting import rounded
from steer.formats.imported import MAX_COEFFICIENT, ImportedVector, checked_directions, norm
from steer.formats.registry import Format, others_code, registry
from steer.formats.source import FOLDER, Options, Source, Unpickle
from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation, Spread
from steer.vectors.provenance import ContrastSummary, Import, Method, ModelIdentity, Read
from steer.vectors.sites import format_layers, listed
from steer.vectors.vector import SteeringVector

_PICKLES = (".pkl", ".pickle")
#: A hint with the code that exports a pickle as safetensors, for the user to run.
EXPORT_HINT = """if you trust it, export it where it was made, with the library that made it:
  import torch, safetensors.torch; v = torch.load("{name}", weights_only=False)
  safetensors.torch.save_file({{f"layer.{{n}}": t.contiguous() for n, t in \
v.layer_activations.items()}}, "{stem}.safetensors")"""


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """The contents of a file, its format, the hash of its files, and the offset of its layers."""

    format: Format
    imported: ImportedVector
    sha256: str
    offset: int

    @property
    def assumed(self) -> str:
        """One line for the user: the assumption about layers, and the op of the file."""
        layers = f"layer here = number there {self.offset:+d}" if self.offset else "same numbers"
        same = self.offset == self.imported.shift
        basis = self.imported.convention if same else "--layer-offset"
        does = "" if self.imported.op == "add" else f"; {self._does}"
        return f"read as {self.format.name}: {basis} ({layers}){does}"

    @property
    def _does(self) -> str:
        """The effect of `-v NAME`, if it is not a plain addition."""
        share = self.imported.coefficient
        factor = "" if share == 1 else f" ×{share:g}"
        return f"-v NAME is to {self.imported.op}{factor} at {self.imported.site}"


def check(path: Path, options: Options) -> None:
    """Check a path and options before anything is read.

    Raises:
        UsageError: an unknown format, or one that does not come in such files.
        VectorError: no such file, a pickle, or an unknown kind of file.
    """
    named = None if options.format is None else registry().named(options.format)
    if named is not None and named.read is None:
        raise UsageError(f"{named.name} files can be written, but not read")
    with reported(path):
        if not path.exists():
            raise VectorError(f"there is no file {path}")
        suffix = FOLDER if path.is_dir() else path.suffix.lower()
    if suffix in _PICKLES:
        raise VectorError(
            f"{path} is a pickle: reading it could run any code, so steer refuses it",
            hint=EXPORT_HINT.format(name=path.name, stem=path.stem),
        )
    if not registry().readers(suffix):
        raise VectorError(
            f"{path}: no format reads vectors from {suffix or 'such'} files",
            hint=f"use {listed(registry().suffixes())}, or a folder; --help lists the formats",
        )
    if named is not None and suffix not in named.suffixes:
        kind = "folders" if suffix == FOLDER else f"{suffix} files"
        raise UsageError(f"{named.name} does not come in {kind}", hint=f"it comes in {named.kinds}")


def read(path: Path, options: Options, unpickle: Unpickle) -> ForeignFile:
    """Read a file or folder in the format that the user names, or that is detected.

    unpickle: reads torch's pickles.

    Raises:
        VectorError: damaged, unknown, or not in the format.
        UsageError: the options do not fit the file, or more are needed.
    """
    check(path, options)
    source = Source(path, unpickle)
    each = _format(source, options)
    _check_options(each, options)
    source.restart()
    imported = _read(each, source, options)
    if "layers" not in each.options and options.layers is not None:
        imported = _chosen(imported, options.layers, str(source))
    if not abs(imported.coefficient) <= MAX_COEFFICIENT:
        raise VectorError(f"{source}: its coefficient is {imported.coefficient!r}")
    offset = imported.shift if options.offset is None else options.offset
    lowest = min(imported.directions)
    if lowest + offset < 0:
        raise UsageError(
            f"number {lowest} with an offset of {offset} would be layer {lowest + offset}",
            hint="pass --layer-offset, which is added to the numbers in the file",
        )
    return ForeignFile(each, imported, source.sha256, offset)


def _format(source: Source, options: Options) -> Format:
    """The format that the user names, the only one that detects the file, or the fallback.

    Raises:
        VectorError: no format detects the file.
        UsageError: several do.
    """
    if options.format is not None:
        return registry().named(options.format)
    known = registry().readers(source.suffix)
    matching = [each for each in known if each.detect is not None and _detects(each, source)]
    matching = matching or [each for each in known if each.fallback]
    if len(matching) == 1:
        return matching[0]
    names = [each.name for each in matching or known]
    if not matching:
        raise VectorError(
            f"{source} matches no known format of"
            f" {'folders' if source.is_folder else f'{source.suffix} files'}",
            hint=f"name one with --format: {listed(names)}",
        )
    raise UsageError(f"{source} may be {' or '.join(names)}", hint="choose with --format")


def _detects(each: Format, source: Source) -> bool:
    assert each.detect is not None
    with others_code(each, f"to look at {source}"):
        return bool(each.detect(source))


def _read(each: Format, source: Source, options: Options) -> ImportedVector:
    assert each.read is not None
    with others_code(each, f"to read {source}"):
        imported = each.read(source, options)
        directions = checked_directions(imported.directions.items(), str(source))
        return replace(imported, directions=directions)


def _check_options(each: Format, options: Options) -> None:
    for name, value, word in (
        ("row", options.row, "--row"),
        ("pick", options.pick, "--pick"),
        ("minus", options.minus, "--minus"),
        ("encoder", options.encoder or None, "--encoder"),
    ):
        if value is not None and name not in each.options:
            raise UsageError(f"{each.name} does not use {word}", hint="leave it out")


def _chosen(imported: ImportedVector, layers: tuple[int, ...], subject: str) -> ImportedVector:
    """Only these layers, by their numbers in the file."""
    missing = set(layers) - set(imported.directions)
    if missing:
        raise UsageError(
            f"{subject} has no layer {format_layers(missing)}",
            hint=f"it has {format_layers(imported.directions)}; --layer chooses among them",
        )
    return replace(
        imported,
        directions={number: imported.directions[number] for number in layers},
        factors={number: imported.factors[number] for number in layers if imported.factors},
        recommended=tuple(number for number in imported.recommended if number in layers),
    )


def steering_vector(
    file: ForeignFile,
    model: ModelIdentity | None,
    *,
    name: str,
    description: str = "",
    license: str = "",
) -> SteeringVector:
    """A steering vector from a file's contents, for `model` or, if that is None, unbound.

    Raises:
        ModelError: the model has another width, or fewer layers.
    """
    imported = file.imported
    layers = tuple(number + file.offset for number in imported.directions)
    directions = np.stack(list(imported.directions.values())).astype(np.float32)
    down = up = None
    if imported.factors:
        down, up = (
            np.stack([imported.factors[number][side] for number in imported.directions])
            for side in (0, 1)
        )
    unbound = ModelIdentity(
        id=imported.model or "unknown",
        architecture="",
        d_model=directions.shape[1],
        n_layers=layers[-1] + 1,
        fingerprint="",
    )
    statistics = tuple(
        LayerStatistics(
            layer=layer,
            norm=rounded(_effect(imported, number)),
            resid_norm=None,
            negative=_side(imported, number, 0),
            positive=_side(imported, number, 1),
        )
        for layer, number in zip(layers, imported.directions, strict=True)
    )
    source = Import(
        format=file.format.name,
        sha256=file.sha256,
        convention=imported.convention,
        offset=file.offset,
        model=imported.model,
    )
    recommended = tuple(number + file.offset for number in imported.recommended) or layers
    metadata = Metadata(
        name=name,
        description=description,
        license=license,
        model=unbound,
        site=imported.site,
        layers=layers,
        rank=0 if down is None else down.shape[1],
        method=Method(name="import", source=source),
        read=Read(positions="unknown"),
        contrast=ContrastSummary(kind="unknown", n=0, sha256=""),
        statistics=statistics,
        recommended=Recommendation(
            layers=recommended,
            coefficient=imported.coefficient,
            op=imported.op,
            evidence=f"as in the {file.format.name} file; no sweep was run",
        ),
    )
    vector = SteeringVector(metadata, directions, down, up)
    return vector if model is None else bind(vector, model)


def _side(imported: ImportedVector, number: int, side: int) -> Spread | None:
    """The projection of one side: side 0 is at 0 and side 1 at 1 in the units of the file, if it
    has units; the standard deviation of both is half a unit."""
    if number not in imported.sides:
        return None
    sides = imported.sides[number]
    return Spread(mean=sides[side], std=abs(sides[1] - sides[0]) / 2)


def _effect(imported: ImportedVector, number: int) -> float:
    """The length of a direction; for a low-rank edit, the most it adds to a unit activation."""
    if number not in imported.factors:
        return norm(imported.directions[number])
    down, up = (factor.astype(np.float64) for factor in imported.factors[number])
    return float(np.linalg.norm(up @ np.linalg.qr(down.T)[1].T, ord=2))


def bind(vector: SteeringVector, model: ModelIdentity) -> SteeringVector:
    """Bind an unbound vector to the model that it was made on, according to the user.

    Raises:
        VectorError: it is bound already.
        ModelError: the model has another width, or fewer layers.
    """
    metadata = vector.metadata
    made_on = metadata.model
    if made_on.bound:
        raise VectorError(f"vector {vector.name!r} was made on {made_on.id}, and stays bound to it")
    if made_on.d_model != model.d_model or metadata.layers[-1] >= model.n_layers:
        raise ModelError(
            f"vector {vector.name!r} has width {made_on.d_model} and layers"
            f" {format_layers(metadata.layers)}; {model.id} has width {model.d_model} and layers"
            f" 0-{model.n_layers - 1}",
            hint="check the model and --layer-offset",
        )
    return SteeringVector(
        msgspec.structs.replace(metadata, model=model, sha256=""),
        vector.directions,
        vector.down,
        vector.up,
    )
