"""Any file of another tool to a steering vector: its format, its layers, and its model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from steer.base.errors import ModelError, UsageError, VectorError
from steer.base.files import reported
from steer.fitting.fitting import rounded
from steer.formats.imported import MAX_COEFFICIENT, Imported, checked_directions, norm
from steer.formats.registry import Format, others_code, registry
from steer.formats.source import FOLDER, Options, Source, Unpickle
from steer.vectors.metadata import LayerStatistics, Metadata, Recommended, Spread
from steer.vectors.provenance import ContrastSummary, Import, Method, ModelIdentity, Read
from steer.vectors.sites import format_layers, listed
from steer.vectors.vector import SteeringVector

_PICKLES = (".pkl", ".pickle")
#: What pickles hold, in the two lines that a user can run where the file came from.
EXPORT_HINT = """if you trust it, export it where it was made, with the library that made it:
  import torch, safetensors.torch; v = torch.load("{name}", weights_only=False)
  safetensors.torch.save_file({{f"layer.{{n}}": t.contiguous() for n, t in \
v.layer_activations.items()}}, "{stem}.safetensors")"""


@dataclass(frozen=True, slots=True)
class Found:
    """What was read, in which format, the hash of the files, and where layers lie."""

    format: Format
    imported: Imported
    sha256: str
    offset: int

    @property
    def assumed(self) -> str:
        """One line for the user: what was assumed about layers, and what the file asks for."""
        here = f"layer here = number there {self.offset:+d}" if self.offset else "same numbers"
        same = self.offset == self.imported.shift
        why = self.imported.convention if same else "--layer-offset"
        does = "" if self.imported.op == "add" else f"; {self._does}"
        return f"read as {self.format.name}: {why} ({here}){does}"

    @property
    def _does(self) -> str:
        """What -v NAME does, where it is no plain addition."""
        share = self.imported.coefficient
        much = "" if share == 1 else f" ×{share:g}"
        return f"-v NAME is to {self.imported.op}{much} at {self.imported.site}"


def check(path: Path, options: Options) -> None:
    """Refuse what no format takes, before anything is read.

    Raises:
        UsageError: a format that is none, or is not in such files; options that it has no use for.
        VectorError: no such file, a pickle, or a kind of file that is not known.
    """
    named = None if options.format is None else registry().named(options.format)
    if named is not None and named.read is None:
        raise UsageError(f"{named.name} is written, and not read")
    with reported(path):
        if not path.exists():
            raise VectorError(f"there is no file {path}")
        suffix = FOLDER if path.is_dir() else path.suffix.lower()
    if suffix in _PICKLES:
        raise VectorError(
            f"{path} is a pickle: reading it could run any code, so this does not",
            hint=EXPORT_HINT.format(name=path.name, stem=path.stem),
        )
    if not registry().reading(suffix):
        raise VectorError(
            f"{path}: vectors are not read from {suffix or 'such'} files",
            hint=f"from {listed(registry().suffixes())}, and folders; --help lists the formats",
        )
    if named is not None and suffix not in named.suffixes:
        kind = "folders" if suffix == FOLDER else f"{suffix} files"
        raise UsageError(f"{named.name} does not come in {kind}", hint=f"but in {named.kinds}")


def read(path: Path, options: Options, unpickle: Unpickle) -> Found:
    """A file or folder in the format that is named, or whose marks it bears.

    unpickle: reads torch's pickles.

    Raises:
        VectorError: damaged, unknown, or not of the format.
        UsageError: what the options say does not fit it, or is not enough.
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
            hint="say --layer-offset, which is added to the numbers in the file",
        )
    return Found(each, imported, source.sha256, offset)


def _format(source: Source, options: Options) -> Format:
    """The format that is named, the only one whose marks a file bears, or the fallback.

    Raises:
        VectorError: none.
        UsageError: several.
    """
    if options.format is not None:
        return registry().named(options.format)
    known = registry().reading(source.suffix)
    found = [each for each in known if each.detect is not None and _detects(each, source)]
    found = found or [each for each in known if each.fallback]
    if len(found) == 1:
        return found[0]
    names = [each.name for each in found or known]
    if not found:
        raise VectorError(
            f"{source} bears the marks of no format that is read from"
            f" {'folders' if source.is_folder else f'{source.suffix} files'}",
            hint=f"name it, with --format: {listed(names)}",
        )
    raise UsageError(f"{source} may be {' or '.join(names)}", hint="say which, with --format")


def _detects(each: Format, source: Source) -> bool:
    assert each.detect is not None
    with others_code(each, f"to look at {source}"):
        return bool(each.detect(source))


def _read(each: Format, source: Source, options: Options) -> Imported:
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
            raise UsageError(f"{each.name} has no use for {word}", hint="leave it out")


def _chosen(imported: Imported, layers: tuple[int, ...], subject: str) -> Imported:
    """Only the layers that are named, by their numbers in the file."""
    missing = set(layers) - set(imported.directions)
    if missing:
        raise UsageError(
            f"{subject} has no layer {min(missing)}",
            hint=f"it has {format_layers(imported.directions)}; --layer chooses among them",
        )
    return replace(
        imported,
        directions={number: imported.directions[number] for number in layers},
        factors={number: imported.factors[number] for number in layers if imported.factors},
        recommended=tuple(number for number in imported.recommended if number in layers),
    )


def steering_vector(
    found: Found,
    model: ModelIdentity | None,
    *,
    name: str,
    description: str = "",
    license: str = "",
) -> SteeringVector:
    """What was read as a vector of `model`, or of none that is known.

    Raises:
        ModelError: the model has another width, or fewer layers.
    """
    imported = found.imported
    layers = tuple(number + found.offset for number in imported.directions)
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
        format=found.format.name,
        sha256=found.sha256,
        convention=imported.convention,
        offset=found.offset,
        model=imported.model,
    )
    recommended = tuple(number + found.offset for number in imported.recommended) or layers
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
        recommended=Recommended(
            layers=recommended,
            coefficient=imported.coefficient,
            op=imported.op,
            evidence=f"as in the {found.format.name} file; no sweep was run",
        ),
    )
    vector = SteeringVector(metadata, directions, down, up)
    return vector if model is None else bind(vector, model)


def _side(imported: Imported, number: int, which: int) -> Spread | None:
    """Where the file's own units are 0 (the negative side) or 1, if it has such; half a unit is the
    spread of either."""
    if number not in imported.sides:
        return None
    sides = imported.sides[number]
    return Spread(mean=sides[which], std=abs(sides[1] - sides[0]) / 2)


def _effect(imported: Imported, number: int) -> float:
    """The length of a direction; of a low-rank edit, what it adds at most to a unit activation."""
    if number not in imported.factors:
        return norm(imported.directions[number])
    down, up = (factor.astype(np.float64) for factor in imported.factors[number])
    return float(np.linalg.norm(up @ np.linalg.qr(down.T)[1].T, ord=2))


def bind(vector: SteeringVector, model: ModelIdentity) -> SteeringVector:
    """An unbound vector as one of `model`: the user knows that it was made there.

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
            hint="is it this model, and the layer offset right?",
        )
    return SteeringVector(
        msgspec.structs.replace(metadata, model=model, sha256=""),
        vector.directions,
        vector.down,
        vector.up,
    )
