"""A steering vector: numbers and what is known about them. Frozen; checks itself once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from steer.errors import VectorError
from steer.metadata import Metadata, encode

Directions = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Raw (not normalised) vectors for one site at one or more layers.

    directions: float32 [n_layers_stored, d_model], in activation units; row i belongs to layer
        `metadata.layers[i]`, and added once (coefficient 1) moves the negative side's mean to the
        positive side's.

    Raises:
        VectorError: a wrong shape, or numbers that are not finite.
    """

    metadata: Metadata
    directions: Directions

    def __post_init__(self) -> None:
        expected = (len(self.metadata.layers), self.metadata.model.d_model)
        if self.directions.dtype != np.float32 or self.directions.shape != expected:
            raise VectorError(
                f"vector {self.name!r}: directions are {self.directions.dtype}"
                f" {list(self.directions.shape)}, not float32 {list(expected)}"
            )
        if not np.isfinite(self.directions).all():
            raise VectorError(f"vector {self.name!r}: some numbers are not finite")
        self.directions.setflags(write=False)

    @property
    def name(self) -> str:
        return self.metadata.name

    def direction(self, layer: int) -> Directions:
        """The raw vector of one layer, float32 [d_model].

        Raises:
            VectorError: the vector has no such layer.
        """
        self.metadata.at(layer)
        return np.asarray(self.directions[self.metadata.layers.index(layer)])

    @property
    def sha256(self) -> str:
        """Hash of everything that the file says: the metadata (but this hash) and the numbers."""
        unsigned = encode(msgspec.structs.replace(self.metadata, sha256=""))
        numbers = np.ascontiguousarray(self.directions, dtype="<f4").tobytes()
        return hashlib.sha256(unsigned.encode() + b"\0" + numbers).hexdigest()

    def sealed(self) -> SteeringVector:
        """The same vector with its hash in its metadata."""
        sealed = msgspec.structs.replace(self.metadata, sha256=self.sha256)
        return SteeringVector(sealed, self.directions)
