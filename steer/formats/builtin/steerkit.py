"""steerkit's `*.probe.safetensors`: unit directions of one layer by several methods."""

from __future__ import annotations

from steer.base.errors import UsageError, VectorError
from steer.formats.choosing import choose
from steer.formats.imported import (
    ImportedVector,
    checked_directions,
    checked_row,
    coefficient_of,
    shortened,
    unit,
)
from steer.formats.registry import Format
from steer.formats.source import Options, Source
from steer.vectors.sites import STREAM_SITES, SiteName

_SCHEMAS = ("1", "2", "3")
_PREFIX = "direction."


def _detect(source: Source) -> bool:
    texts = source.tensors().texts
    return "schema_version" in texts and "n_total_layers" in texts and "hook_site" in texts


def _read(source: Source, options: Options) -> ImportedVector:
    file, subject = source.tensors(), str(source)
    texts = file.texts
    if texts.get("schema_version") not in _SCHEMAS:
        stated = shortened(texts.get("schema_version"))
        raise VectorError(
            f"{subject} has steerkit's schema {stated}; {', '.join(_SCHEMAS)} are read"
        )
    layer, n_layers = (
        _whole(texts.get("layer"), subject),
        _whole(texts.get("n_total_layers"), subject),
    )
    if not -1 <= layer <= n_layers:
        raise VectorError(f"{subject} has layer {layer} of {n_layers}")
    if layer == n_layers:
        raise VectorError(
            f"{subject} was measured after the final norm, where steer has no site",
            hint="fit it at an earlier layer",
        )
    site = texts.get("hook_site", "")
    if site not in STREAM_SITES:
        raise VectorError(f"{subject} was measured at {shortened(site)!r}, where steer has no site")
    name, row = _direction(source, options)
    stated = texts.get("auto_alpha", "")
    # The output of the embeddings is the input of block 0.
    place: SiteName = "resid_pre" if layer < 0 else site
    return ImportedVector(
        checked_directions([(max(layer, 0), row)], subject),
        convention=f"layer {layer} is "
        + ("the embeddings, the input of block 0" if layer < 0 else f"{place} of that block"),
        site=place,
        coefficient=_alpha(stated, subject),
        model=shortened(texts.get("model_id", "")),
        notes=(
            f"the direction is that of {shortened(name)}",
            *(() if stated else ("it has no calibrated strength: 1 is assumed",)),
        ),
    )


def _direction(source: Source, options: Options) -> tuple[str, object]:
    """One of the methods' directions, or one class of a multinomial probe."""
    file, subject = source.tensors(), str(source)
    if file.texts.get("kind") == "multinomial":
        weights = file.arrays.get("weights")
        if weights is None or weights.ndim != 2:
            raise VectorError(f"{subject} has no table of weights")
        if options.row is None:
            raise UsageError(
                f"{subject} has a row for each of {len(weights)} classes", hint="choose with --row"
            )
        if not 0 <= options.row < len(weights):
            raise UsageError(f"{subject} has no row {options.row}")
        row = checked_row(weights[options.row], subject)
        return f"class {options.row}, of length 1", unit(row, f"{subject}, row {options.row}")
    directions = {
        name.removeprefix(_PREFIX): array
        for name, array in file.arrays.items()
        if name.startswith(_PREFIX)
    }
    if not directions:
        raise VectorError(f"{subject} has no directions")
    default = file.texts.get("default_method")
    if options.pick is None and default in directions:
        return default, directions[default]
    name = choose(sorted(directions), options, subject, "methods")
    return name, directions[name]


def _whole(text: str | None, subject: str) -> int:
    digits = (text or "").removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 6):
        raise VectorError(f"{subject}: {shortened(text)!r} is not a layer")
    return int(text or "")


def _alpha(text: str, subject: str) -> float:
    if not text:
        return 1.0
    try:
        return coefficient_of(float(text), subject, "auto_alpha")
    except ValueError:
        raise VectorError(f"{subject}: its auto_alpha is {shortened(text)!r}") from None


FORMAT = Format(
    name="steerkit",
    title="steerkit",
    help="NAME.probe.safetensors; choose the method with --pick, the class with --row",
    suffixes=(".safetensors",),
    read=_read,
    detect=_detect,
    options=("pick", "row"),
)
