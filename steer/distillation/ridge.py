"""Reduced-rank ridge regression of one activation on another, from running sums.

With x the activations without the condition, y the difference that the condition makes, mu and m
their weighted means, G the covariance of x and C that of x and y:

    W = (G + r I)^-1 C,    predicted y = m + W^T (x - mu),    r = ridge * mean diagonal of G

reduced to rank k by the singular vectors of the fitted values (Izenman 1975, reduced-rank
regression; with the ridge as in Mukherjee and Zhu 2011). The sums take d_model^2 numbers for any
number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steer.base.errors import InputError, ModelError

#: The least deviation of an entry of an activation, as a share of that of all entries.
LEAST_DEVIATION = 0.03


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation of each entry of activations, float32 [d_model]."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, mean: Tensor, variance: Tensor) -> Spread:
        """Entries that hardly vary get a share of the deviation of all."""
        deviation = variance.clamp_min(0).sqrt()
        least = LEAST_DEVIATION * deviation.square().mean().sqrt()
        floor = max(float(least), torch.finfo(torch.float32).tiny)
        return cls(mean.float(), deviation.clamp_min(floor).float())


@dataclass(frozen=True, slots=True)
class Affine:
    """y = bias + up (down x): bias float32 [d_model], down [k, d_model], up [d_model, k].

    spread: of the x that it was fitted to, over which each entry of `down x` has a variance of 1.
    """

    bias: Tensor
    down: Tensor
    up: Tensor
    spread: Spread

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., d_model] of any float type; float32 of the same shape."""
        return self.bias + (x.float() @ self.down.T) @ self.up.T

    @property
    def rank(self) -> int:
        return len(self.down)

    def to(self, device: torch.device) -> Affine:
        """The same map for activations on a device."""
        return Affine(self.bias.to(device), self.down.to(device), self.up.to(device), self.spread)


class Moments:
    """Weighted first and second moments of x and y over tokens.

    The means of the first batch are subtracted, products are float32 and sums float64, so that
    entries a thousand times as large as others do not reduce the precision.
    """

    def __init__(self, width: int) -> None:
        self.weight = 0.0
        self._shift: tuple[Tensor, Tensor] | None = None
        self._sums = [torch.zeros(width, dtype=torch.float64) for _ in range(2)]
        self._products = [torch.zeros((width, width), dtype=torch.float64) for _ in range(2)]

    def add(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Add tokens: x, y [token, d_model]; weights [token], by default 1."""
        x, y = x.float(), y.float()
        if not len(x):
            return
        if self._shift is None:
            self._shift = x.mean(0), y.mean(0)
        x, y = x - self._shift[0], y - self._shift[1]
        weighted = x if weights is None else weights[:, None] * x
        self.weight += len(x) if weights is None else float(weights.double().sum())
        self._sums[0] += weighted.sum(0).double().cpu()
        self._sums[1] += (y if weights is None else weights[:, None] * y).sum(0).double().cpu()
        self._products[0] += (weighted.T @ x).double().cpu()
        self._products[1] += (weighted.T @ y).double().cpu()

    def _central(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """mu, m, G, C; float64."""
        if self._shift is None or self.weight <= 0:
            raise InputError("there are no tokens to fit an edit to")
        if not all(bool(array.isfinite().all()) for array in (*self._sums, *self._products)):
            raise ModelError(
                "activations under the condition, or without it, are NaN or infinite",
                hint="the weights are broken, or too large for their type: try --dtype=float32",
            )
        means = [total / self.weight for total in self._sums]
        covariances = [
            product / self.weight - torch.outer(means[0], mean)
            for product, mean in zip(self._products, means, strict=True)
        ]
        mu, m = (
            mean + shift.double().cpu() for mean, shift in zip(means, self._shift, strict=True)
        )
        return mu, m, covariances[0], covariances[1]

    def spectrum(self) -> Spectrum:
        """The decomposition that all ridges and ranks share.

        Raises:
            InputError: there are no tokens.
        """
        mu, m, g, c = self._central()
        values, vectors = torch.linalg.eigh(g)
        return Spectrum(mu, m, values.clamp_min(0), vectors, vectors.T @ c)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Means, eigenvalues and eigenvectors of G, and C in their basis."""

    mu: Tensor
    m: Tensor
    values: Tensor
    vectors: Tensor
    cross: Tensor

    def solve(self, ridge: float, rank: int) -> Affine:
        """The regression of one rank; 0 for only the mean difference.

        ridge: added to the diagonal of G, as a share of its mean.

        Raises:
            InputError: the rank is above the width.
        """
        width = len(self.mu)
        spread = Spread.of(self.mu, self.vectors.square() @ self.values)
        if not 0 <= rank <= width:
            raise InputError(f"a rank of {rank} is outside 0-{width}, the width of the activations")
        if rank == 0:
            return Affine(self.m.float(), torch.zeros(0, width), torch.zeros(width, 0), spread)
        floor = torch.finfo(torch.float64).eps * float(self.values.max())
        values = self.values + ridge * float(self.values.mean())
        roots = values.clamp_min(max(floor, 1e-300)).sqrt()
        # Rows are the fitted values in a basis in which ridge regression becomes least squares.
        scaled = self.cross / roots[:, None]
        _, vectors = torch.linalg.eigh(scaled.T @ scaled)
        up = vectors[:, -rank:].flip(1)
        coordinates = (scaled @ up) / roots[:, None]  # of down, in the eigenvectors of G
        down = (self.vectors @ coordinates).T
        # Each entry of down x gets a variance of 1; its size is then in `up`.
        deviations = (self.values[:, None] * coordinates.square()).sum(0).sqrt()
        deviations = deviations.clamp_min(torch.finfo(torch.float32).tiny)
        down, up = down / deviations[:, None], up * deviations
        bias = self.m - up @ (down @ self.mu)
        return Affine(bias.float(), down.float().contiguous(), up.float().contiguous(), spread)
