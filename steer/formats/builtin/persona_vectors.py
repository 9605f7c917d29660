"""persona_vectors' `TRAIT_response_avg_diff.pt`: rows of the embeddings and each block."""

from __future__ import annotations

import re

import numpy as np

from steer.base.errors import VectorError
from steer.formats.imported import ImportedVector, checked_directions
from steer.formats.registry import Format
from steer.formats.source import Options, Source

_NAME = re.compile(r".*_(prompt_avg|response_avg|prompt_last)_diff\.pt")


def _detect(source: Source) -> bool:
    return bool(_NAME.fullmatch(source.name)) and isinstance(source.pickled(), np.ndarray)


def _read(source: Source, options: Options) -> ImportedVector:
    subject, content = str(source), source.pickled()
    if not isinstance(content, np.ndarray) or content.ndim != 2 or len(content) < 2:
        raise VectorError(f"{subject} is not [layers + 1, d_model]")
    return ImportedVector(
        checked_directions([(n, content[n]) for n in range(1, len(content))], subject),
        shift=-1,
        convention="row N was measured at the output of block N-1, where persona_vectors adds it",
        notes=(
            "row 0, of the embeddings, is left out",
            f"row {len(content) - 1} was measured after the final norm, but layer"
            f" {len(content) - 2} is before it: prefer another layer",
        ),
    )


FORMAT = Format(
    name="persona-vectors",
    title="persona_vectors",
    help="TRAIT_response_avg_diff.pt: [layers + 1, d_model]",
    suffixes=(".pt",),
    read=_read,
    detect=_detect,
)
