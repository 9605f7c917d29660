"""repsteer's folders: `manifest.json`, `tensors.safetensors` and `checksums.json`."""

from __future__ import annotations

import hashlib
from typing import Any

from steer.base.errors import VectorError
from steer.formats.imported import ImportedVector, checked_directions, shortened
from steer.formats.registry import Format
from steer.formats.source import FOLDER, Options, Source
from steer.vectors.sites import STREAM_SITES, SiteName

_MANIFEST, _TENSORS, _CHECKSUMS = "manifest.json", "tensors.safetensors", "checksums.json"
#: Which tensor of an artifact is a direction.
_DIRECTIONS = {
    "direction": "direction",
    "probe": "weight",
    "sae_feature": "decoder_direction",
}


def _detect(source: Source) -> bool:
    if not (source.has(_MANIFEST) and source.has(_TENSORS)):
        return False
    manifest = source.json(_MANIFEST)
    return isinstance(manifest, dict) and "artifact_type" in manifest


def _read(source: Source, options: Options) -> ImportedVector:
    subject = str(source)
    _verify(source)
    manifest = source.json(_MANIFEST)
    if not isinstance(manifest, dict):
        raise VectorError(f"{subject} has no manifest")
    version = manifest.get("schema_version")
    if not isinstance(version, str) or version.partition(".")[0] != "1":
        raise VectorError(f"{subject} has repsteer's schema {shortened(version)}; 1.x is read")
    kind = manifest.get("artifact_type")
    if kind not in _DIRECTIONS:
        raise VectorError(
            f"{subject} is a {shortened(kind)} of repsteer, which is not a single direction",
            hint=f"steer reads {', '.join(_DIRECTIONS)}",
        )
    name = _DIRECTIONS[kind]
    row = source.tensors(_TENSORS).arrays.get(name)
    if row is None:
        raise VectorError(f"{subject} has no tensor {name!r}")
    if kind == "probe" and row.ndim == 2 and len(row) == 1:
        row = row[0]
    layer, site = _layer_and_site(manifest.get("site"), subject)
    model = manifest.get("model")
    stated = model.get("id") if isinstance(model, dict) else None
    return ImportedVector(
        checked_directions([(layer, row)], subject),
        convention=f"its site is {site} of block {layer}",
        site=site,
        model=shortened(stated) if isinstance(stated, str) else "",
        notes=("the file has neither op nor strength: coefficient 1, added, is assumed",),
    )


def _verify(source: Source) -> None:
    """Check the files against their checksums.

    Raises:
        VectorError: a file was altered, or its checksum is missing.
    """
    if not source.has(_CHECKSUMS):
        raise VectorError(f"{source} has no {_CHECKSUMS}, which repsteer writes")
    stated = source.json(_CHECKSUMS)
    files = stated.get("files") if isinstance(stated, dict) else None
    if not isinstance(files, dict) or stated.get("algorithm") != "sha256":
        raise VectorError(f"{source} has no sha256 checksums")
    for name in (_MANIFEST, _TENSORS):
        digest = str(files.get(name)).removeprefix("sha256:")
        if hashlib.sha256(source.content(name)).hexdigest() != digest:
            raise VectorError(
                f"{source.subject(name)} was altered: it does not match its checksum",
                hint="get the folder again from where it came",
            )


def _layer_and_site(site: Any, subject: str) -> tuple[int, SiteName]:
    if not isinstance(site, dict):
        raise VectorError(f"{subject} has no site")
    component, layer = site.get("component"), site.get("layer")
    at_output = site.get("io", "output") == "output"
    is_whole_output = site.get("unit") is None and not site.get("tensor_path")
    language = site.get("stream", "language") == "language"
    if component not in STREAM_SITES or not (at_output and is_whole_output and language):
        raise VectorError(f"{subject} acts at {shortened(site)}, where steer has no site")
    if type(layer) is not int:
        raise VectorError(f"{subject} has no layer")
    return layer, component


FORMAT = Format(
    name="repsteer",
    title="repsteer",
    help="a folder of manifest.json, tensors.safetensors and checksums.json",
    suffixes=(FOLDER,),
    read=_read,
    detect=_detect,
)
