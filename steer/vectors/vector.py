"""A steering vector: tensors and metadata. Immutable, and validated once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.vectors.metadata import Metadata, encode
from steer.vectors.parts import Part
from steer.vectors.sites import listed

Directions = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Raw (not normalised) vectors for one site at one or more layers, or low-rank edits.

    directions: float32 [n_layers_stored, width], in activation units; row i belongs to layer
        `metadata.layers[i]`. The width is d_model, except at `heads` and `router`. Coefficient 1
        moves the negative side's mean to the positive side's.
    down, up: float32 [n_layers_stored, k, d_model] and [n_layers_stored, d_model, k] if
        `metadata.rank` is k > 0, else None. The edit is h + up (down h) + direction.

    Of a learned token of K embeddings, directions are [K, d_model]: the embeddings themselves or,
    where it was trained for a range of coefficients, what each unit of the coefficient adds to
    `origin` [K, d_model].

    Raises:
        VectorError: a wrong shape, or numbers that are not finite.
    """

    metadata: Metadata
    directions: Directions
    down: Directions | None = None
    up: Directions | None = None
    origin: Directions | None = None

    def __post_init__(self) -> None:
        shapes = tensor_shapes(self.metadata)
        if set(self.tensors) != set(shapes):
            raise VectorError(
                f"vector {self.name!r} of rank {self.metadata.rank} has {listed(self.tensors)}"
            )
        for name, tensor in self.tensors.items():
            if tensor.dtype != np.float32 or tensor.shape != shapes[name]:
                raise VectorError(
                    f"vector {self.name!r}: {name} are {tensor.dtype}"
                    f" {list(tensor.shape)}, not float32 {list(shapes[name])}"
                )
            if not np.isfinite(tensor).all():
                raise VectorError(f"vector {self.name!r}: some numbers are not finite")
            tensor.setflags(write=False)

    @property
    def tensors(self) -> dict[str, Directions]:
        """The stored tensors by name, in the order of the file."""
        named = {
            "directions": self.directions,
            "down": self.down,
            "up": self.up,
            "origin": self.origin,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def name(self) -> str:
        return self.metadata.name

    def direction(self, layer: int) -> Directions:
        """The raw vector of one layer, float32 [d_model].

        Raises:
            VectorError: the vector has no such layer, or is a learned token.
        """
        _ = self.metadata.activation_site
        self.metadata.at(layer)
        return np.asarray(self.directions[self.metadata.layers.index(layer)])

    @property
    def kept_parts(self) -> tuple[Part, ...]:
        """The heads or experts that are not zero; none of a vector in the residual stream."""
        parts = self.metadata.parts
        if parts is None:
            return ()
        used = self.directions.reshape(-1, parts.n, parts.width).any(-1)
        return tuple(
            Part(self.metadata.layers[row], int(number)) for row, number in np.argwhere(used)
        )

    def low_rank(self, layer: int) -> tuple[Directions, Directions] | None:
        """`down` [k, d_model] and `up` [d_model, k] of one layer; None for a plain vector.

        Raises:
            VectorError: the vector has no such layer.
        """
        self.metadata.at(layer)
        if self.down is None or self.up is None:
            return None
        row = self.metadata.layers.index(layer)
        return np.asarray(self.down[row]), np.asarray(self.up[row])

    def embeddings(self, coefficient: float = 1.0) -> Directions:
        """The embeddings of a learned token at a coefficient, float32 [K, d_model].

        Raises:
            VectorError: it is no learned token.
        """
        if not self.metadata.tokens:
            raise VectorError(f"vector {self.name!r} is no learned token")
        if self.origin is None:
            return self.directions
        return np.asarray(self.origin + np.float32(coefficient) * self.directions)

    def only(self, layers: Sequence[int]) -> SteeringVector:
        """The same vector with some of its layers, in rising order.

        The recommendation keeps those of its layers that remain; its evidence is still that of all.

        Raises:
            VectorError: the vector has no such layer, or is a learned token.
        """
        _ = self.metadata.activation_site
        statistics = tuple(self.metadata.at(layer) for layer in layers)
        rows = [self.metadata.layers.index(layer) for layer in layers]
        recommended = self.metadata.recommended
        remaining = tuple(layer for layer in recommended.layers if layer in layers) or tuple(layers)
        metadata = msgspec.structs.replace(
            self.metadata,
            layers=tuple(layers),
            statistics=statistics,
            recommended=msgspec.structs.replace(recommended, layers=remaining),
            sha256="",
        )
        parts = {name: np.array(tensor[rows]) for name, tensor in self.tensors.items()}
        return SteeringVector(metadata, **parts)

    def renamed(self, name: str, description: str | None = None) -> SteeringVector:
        """The same vector with another name, and another description if one is given."""
        metadata = msgspec.structs.replace(
            self.metadata,
            name=name,
            description=self.metadata.description if description is None else description,
            sha256="",
        )
        return replace(self, metadata=metadata)

    @property
    def sha256(self) -> str:
        """Hash of the metadata (without this hash) and the tensors."""
        unsigned = encode(msgspec.structs.replace(self.metadata, sha256=""))
        digest = hashlib.sha256(unsigned.encode() + b"\0")
        for tensor in self.tensors.values():
            digest.update(np.ascontiguousarray(tensor, dtype="<f4").tobytes())
        return digest.hexdigest()

    def sealed(self) -> SteeringVector:
        """The same vector with its hash in its metadata."""
        sealed = msgspec.structs.replace(self.metadata, sha256=self.sha256)
        return replace(self, metadata=sealed)


def tensor_shapes(metadata: Metadata) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors in a file with these metadata, in order."""
    n, width, rank = len(metadata.layers), metadata.width, metadata.rank
    if metadata.tokens:
        parts = ("directions",) if metadata.coefficients is None else ("directions", "origin")
        return dict.fromkeys(parts, (metadata.tokens, width))
    shapes: dict[str, tuple[int, ...]] = {"directions": (n, width)}
    if rank:
        shapes |= {"down": (n, rank, width), "up": (n, width, rank)}
    return shapes
