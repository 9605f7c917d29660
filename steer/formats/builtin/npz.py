"""numpy's `.npz`: `directions`, `layers` and `site` as steer writes them, or arrays by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import UsageError, VectorError
from steer.formats import arrays, bare
from steer.formats.imported import ImportedVector, checked_directions, shortened
from steer.formats.registry import FileContents, Format, Writer
from steer.formats.source import Options, Source
from steer.vectors.sites import STREAM_SITES, SiteName

_MEMBERS = {"directions", "layers", "site"}


def _read(source: Source, options: Options) -> ImportedVector:
    named, subject = source.npz(), str(source)
    if set(named) == _MEMBERS:
        if options.row is not None or options.pick is not None:
            raise UsageError(f"{subject} has nothing to choose from", hint="leave --row out")
        return _ours(named, subject, options)
    return bare.tree(dict(named), subject, options)


def _ours(named: Mapping[str, NDArray[Any]], subject: str, options: Options) -> ImportedVector:
    layers, directions = named["layers"], named["directions"]
    if layers.ndim != 1 or layers.dtype.kind not in "iu" or directions.ndim != 2:
        raise VectorError(f"{subject}: layers must be [n] integers, directions [n, d_model]")
    if directions.dtype.kind == "U" or len(layers) != len(directions):
        raise VectorError(f"{subject} has {len(layers)} layers and {len(directions)} directions")
    if options.layers is not None:
        raise UsageError(f"{subject} records its own layers", hint="leave --layer out")
    return ImportedVector(
        checked_directions(zip(layers.tolist(), directions, strict=True), subject),
        convention="layers are blocks, counted from 0",
        site=_site(str(named["site"]), subject),
    )


def _site(text: str, subject: str) -> SiteName:
    for name in STREAM_SITES:
        if name == text:
            return name
    raise VectorError(f"{subject}: {shortened(text)!r} is not a site")


def _write(outgoing: FileContents) -> bytes:
    layers = sorted(outgoing.directions)
    return arrays.build_npz(
        {
            "directions": np.stack([outgoing.directions[n] for n in layers]).astype("<f4"),
            "layers": np.array(layers, dtype="<i8"),
            "site": np.array(outgoing.site),
        }
    )


FORMAT = Format(
    name="npz",
    title="numpy.savez",
    help="directions, layers and site, or arrays by layer, hook or module name",
    suffixes=(".npz",),
    read=_read,
    fallback=True,
    options=("layers", "row", "pick"),
    writer=Writer(_write, sites=STREAM_SITES, use="numpy.load('OUT')"),
)
