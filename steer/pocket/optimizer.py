"""An optimizer that needs fewer steps than Adam, for the training of the pocket model."""

from __future__ import annotations

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for the matrices between the embeddings.

    U S V' of the momentum becomes about U V' by five steps of a Newton-Schulz iteration (Jordan et
    al. 2024, "Muon"), scaled to the size of an Adam step (Liu et al. 2025, arXiv 2502.16982,
    section 2.2). It needs about half of Adam's steps here. PyTorch's own works in bfloat16, which
    a CPU without it does slowly.
    """

    def __init__(self, parameters: list[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix once."""
        for group in self.param_groups:
            for parameter in group["params"]:
                memory = self.state[parameter]
                average = memory.setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = torch.lerp(parameter.grad, average, group["momentum"])
                size = 0.2 * max(parameter.shape) ** 0.5
                parameter.sub_(orthogonal(ahead), alpha=group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix with orthonormal rows or columns."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    result: Tensor = x.T if tall else x
    return result
