"""Remember the folders of local models, which vector files identify only by their weights.

The user's cache has a small file for each model: its name is the fingerprint of the weights, its
content the path.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path

from steer.base.errors import SteerError
from steer.base.files import cache_folder, read_bytes, read_cached, write_cached
from steer.vectors.provenance import ModelIdentity

_FINGERPRINT = re.compile(r"[0-9a-f]{8,64}")
#: Bytes of a path and of a configuration at most.
_LONGEST, _LARGEST = 10_000, 100_000_000
#: Names that configurations use for a model's width and for its number of layers.
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth")


def remember(fingerprint: str, path: Path) -> None:
    """Note where a model lies; without a cache that can be written, nothing is noted."""
    entry = _entry(fingerprint)
    path = path.absolute()
    if entry is not None and find(fingerprint) != path:
        with suppress(SteerError, OSError):
            write_cached(entry, os.fsencode(path))


def find(fingerprint: str) -> Path | None:
    """The folder or file that a model of this fingerprint was loaded from, if it is still there."""
    entry = _entry(fingerprint)
    if entry is None:
        return None
    with suppress(SteerError, OSError, ValueError):
        data = read_cached(entry, limit=_LONGEST)
        path = Path(os.fsdecode(data or b""))
        return path if path.is_absolute() and path.exists() else None
    return None


def contradicts(folder: Path, made_on: ModelIdentity) -> str:
    """The difference between the configuration in a model's folder and the model that a vector was
    made on; empty if there is none, or the configuration does not say."""
    try:
        config = json.loads(read_bytes(folder / "config.json", limit=_LARGEST))
    except (SteerError, ValueError):
        return ""
    if not isinstance(config, dict):
        return ""
    inner = config.get("text_config")
    sizes = inner if isinstance(inner, dict) else config
    for dimension, names, theirs in (
        ("width", _WIDTHS, made_on.d_model),
        ("layers", _LAYERS, made_on.n_layers),
    ):
        ours = next((sizes[name] for name in names if isinstance(sizes.get(name), int)), theirs)
        if ours != theirs:
            return f"{dimension} {theirs}, and this model has {dimension} {ours}"
    return ""


def _entry(fingerprint: str) -> Path | None:
    return cache_folder("models") / fingerprint if _FINGERPRINT.fullmatch(fingerprint) else None
