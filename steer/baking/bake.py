"""Edit a network's weights so that it steers without hooks.

For a write y = W x + b, adding a constant v gives the bias b + v, and ablating the fraction c of a
direction u gives

    W - c u (u^T W),   b - c u (u^T b)

(Arditi et al. 2024, arXiv 2406.11717, section 4.1 and appendix E, weight orthogonalisation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from steer.baking.check import TEXTS
from steer.baking.edits import Add, Edits, Project, Writer, edits_of
from steer.baking.families import Family, family_of
from steer.baking.places import Matrix, Placement, place
from steer.baking.tokens import AddedToken, extend
from steer.base.errors import ModelError
from steer.models.checkpoint import rebuilt
from steer.models.model import Model
from steer.steering.steers import Steer
from steer.steering.tokens import LearnedToken, separate


@dataclass(frozen=True, slots=True)
class BakedNetwork:
    """A network with steers in its weights, only for saving, and a summary of the edits.

    n_matrices: the number of edited matrices, counting each expert's. n_constants: the number of
    writes with a constant. added: its new learned tokens, which the tokenizer has too. untied:
    whether the embedding and the LM head had to be separated.
    """

    network: Any
    edits: Edits
    placement: Placement
    n_matrices: int
    n_constants: int
    tokenizer: Any
    added: tuple[AddedToken, ...] = ()
    untied: bool = False


def bake(
    model: Model, steers: Sequence[Steer], *, dtype: torch.dtype, approximate: bool = False
) -> BakedNetwork:
    """A network of `dtype` that does without hooks what `model` does under `steers`.

    The model is unchanged, and shares the unedited weights with the result.

    Raises:
        VectorError: weights cannot express a steer.
        ModelError: the architecture has no place for it, or is not supported.
    """
    tokens, editing = separate(steers)
    edits = edits_of(editing, model.hooks) if editing or not tokens else {}
    placement = place(model, edits, approximate=approximate) if edits else Placement()
    return _Baking(model, placement, dtype).baked(edits, tokens)


class _Baking:
    """The weights during editing."""

    def __init__(self, model: Model, placement: Placement, dtype: torch.dtype) -> None:
        self.model, self.placement, self.dtype = model, placement, dtype
        self.original: dict[str, Tensor] = dict(model.network.state_dict())
        self.edited: dict[str, Tensor] = {}
        self.n_matrices = 0

    @cached_property
    def family(self) -> Family:
        return family_of(self.model.hooks.architecture)

    def baked(self, edits: Edits, tokens: Sequence[LearnedToken]) -> BakedNetwork:
        if any(tensor.is_meta for tensor in self.original.values()):
            raise ModelError(
                "some weights are not in memory", hint="leave --device-map out, or use more memory"
            )
        constants: dict[Writer, Tensor] = {}
        for writer, steps in edits.items():
            constant = torch.zeros(self.model.identity.d_model, dtype=torch.float64)
            for step in steps:
                if isinstance(step, Add):
                    constant += torch.from_numpy(step.delta.copy())
                else:
                    self._project(writer, step)
                    unit = torch.from_numpy(step.direction.copy()).double()
                    constant = without(constant, unit, step.share, -1)
            constants[writer] = constant
        # Last, since one writer's constant may go into another's bias, which would be projected.
        for writer in self.placement.biases:
            self._add(writer, constants[writer])
        if self.placement.matrices and not self.n_matrices:
            raise ModelError("no matrix was found to ablate the direction from")
        if self.placement.untied:
            self._untie()
        weights, changes = self.original | self.edited, dict(self.placement.changes)
        tokenizer, untied = self.model.tokenizer, self.placement.untied
        added: tuple[AddedToken, ...] = ()
        if tokens:
            extended = extend(self.model, tokens, weights, TEXTS)
            weights, tokenizer, added = extended.weights, extended.tokenizer, extended.added
            changes |= extended.changes
            untied = untied or extended.untied
        network = rebuilt(
            self.model.network,
            {name: self._cast(tensor) for name, tensor in weights.items()},
            changes,
            model_type=self.placement.model_type,
        )
        n_constants = len(self.placement.biases)
        return BakedNetwork(
            network, edits, self.placement, self.n_matrices, n_constants, tokenizer, added, untied
        )

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _now(self, name: str) -> Tensor:
        """A parameter with its edits so far, in float64, so that it is only rounded once."""
        # On the CPU, since not every device has float64.
        return (self.edited if name in self.edited else self.original)[name].cpu().double()

    def _project(self, writer: Writer, step: Project) -> None:
        for matrix in self.placement.matrices[writer]:
            weight = self._now(matrix.name)
            unit = self._unit(step, matrix).to(weight.device)
            self.edited[matrix.name] = without(weight, unit, step.share, matrix.axis)
            self.n_matrices += weight.shape[0] if weight.ndim == 3 else 1
            for bias in _biases(matrix.name):
                if bias in self.original and writer.part != "embedding":
                    self.edited[bias] = without(self._now(bias), unit, step.share, -1)

    def _unit(self, step: Project, matrix: Matrix) -> Tensor:
        """The direction to ablate from a matrix, scaled by the norm that follows, if any."""
        unit = torch.from_numpy(step.direction.copy()).double()
        if matrix.norm is not None:
            gain = self.original[matrix.norm].cpu().double() + self.family.norm_offset
            unit = unit * gain
            unit = unit / unit.norm()
        return unit

    def _add(self, writer: Writer, constant: Tensor) -> None:
        """Add a constant. constant: float64 [d_model], in activation units, after all scales."""
        name = self.placement.biases[writer]
        if writer.part == "embedding":
            constant = constant / _embedding_scale(self.model)
        elif self.family.scale is not None:
            constant = constant / getattr(self.model.network.config, self.family.scale)
        known = name in self.original or name in self.edited
        now = self._now(name) if known else torch.zeros_like(constant)
        self.edited[name] = now + constant.to(now.device)

    def _untie(self) -> None:
        head = f"{self.model.hooks.unembed}.weight"
        if head not in self.original:
            raise ModelError(f"{head} is not among the weights, so it cannot be untied")
        self.edited[head] = self.original[head].clone()


def without(weight: Tensor, unit: Tensor, share: float, axis: int) -> Tensor:
    """`weight` without `share` of its projection on `unit` [d_model] along `axis`."""
    rows = weight.movedim(axis, -1)
    return (rows - share * (rows @ unit)[..., None] * unit).movedim(-1, axis).contiguous()


def _biases(matrix: str) -> tuple[str, str]:
    """The possible names of a matrix's bias, for a module and for experts."""
    return matrix.removesuffix(".weight") + ".bias", f"{matrix}_bias"


def _embedding_scale(model: Model) -> float:
    """The factor between the embedding and the residual stream."""
    module = model.network.get_input_embeddings()
    scale = float(getattr(module, "embed_scale", 1.0))
    return scale * float(getattr(model.network.config, "embedding_multiplier", 1.0))
