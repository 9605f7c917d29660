"""Find the parameters of a network for each edit, and the changes that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steer.baking.edits import Add, Edits, Project, Writer
from steer.baking.families import IN_OUT, Family, family_of
from steer.base.errors import ModelError, SteerError
from steer.models.model import Model

#: The renamings of a checkpoint's weights.
Weights = Mapping[str, Tensor]


@dataclass(slots=True)
class Matrix:
    """A matrix that writes to the stream: its name and d_model axis. norm: the one after it."""

    name: str
    axis: int
    norm: str | None = None


@dataclass(slots=True)
class Placement:
    """The parameters for all edits.

    biases: the bias of each writer with a constant. matrices: those of each writer with a
    projection. changes: to the configuration. model_type: another type, if that has the parameters.
    untied: whether the embedding and the LM head are separated. approximations: how the result
    differs from the hooks, and why; empty if it is exact.
    """

    biases: dict[Writer, str] = field(default_factory=dict)
    matrices: dict[Writer, list[Matrix]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    model_type: str | None = None
    untied: bool = False
    approximations: list[str] = field(default_factory=list)


def place(model: Model, edits: Edits, *, approximate: bool) -> Placement:
    """Place the edits in this model.

    Raises:
        ModelError: the architecture has no place for an edit or, with `approximate`, not even for
            an approximation.
    """
    return _EditPlacer(model, approximate).placed(edits)


class _EditPlacer:
    """Places the edits in one model."""

    def __init__(self, model: Model, approximate: bool) -> None:
        self.name = model.hooks.architecture
        self.family: Family = family_of(self.name)
        self.config = model.network.config
        self.names = set(model.network.state_dict())
        self.tied = bool(self.config.tie_word_embeddings)
        self.approximate = approximate
        self.placement = Placement()

    def placed(self, edits: Edits) -> Placement:
        if getattr(self.config, "quantization_config", None) is not None:
            raise ModelError(
                "quantised weights cannot be edited",
                hint="bake the model that it was made from, then quantise the result",
            )
        if getattr(self.config, "do_layer_norm_before", True) is False:
            self._refuse("its norms follow what its layers write")
        for writer, steps in edits.items():
            if any(isinstance(step, Project) for step in steps):
                self.placement.matrices[writer] = self._matrices(writer)
            if any(isinstance(step, Add) for step in steps):
                self.placement.biases[writer] = self._bias(writer)
        if self.tied and any(writer.part == "embedding" for writer in edits):
            # The LM head stays unchanged.
            self.placement.changes["tie_word_embeddings"] = False
            self.placement.untied = True
        return self.placement

    def _matrices(self, writer: Writer) -> list[Matrix]:
        """The matrices of a writer; in a post-norm family, the edit is approximate."""
        family, layer = self.family, f"{self.family.blocks}.{writer.layer}."
        if writer.part == "embedding":
            matrices = [Matrix(f"{path}.weight", IN_OUT) for path in family.embeddings]
            if (
                not matrices
                or f"{family.blocks.rpartition('.')[0]}.project_in.weight" in self.names
            ):
                self._refuse("something stands between its embedding and the residual stream")
        elif writer.part == "attention":
            matrices = [Matrix(f"{layer}{family.attention}.weight", family.attention_axis)]
        else:
            paths = [f"{layer}{path}" for path in family.mlp]
            matrices = [Matrix(path, family.axis) for path in paths]  # a parameter of experts
            matrices += [Matrix(f"{path}.weight", family.axis) for path in paths]
        matrices = [matrix for matrix in matrices if matrix.name in self.names]
        if not matrices:
            self._refuse(f"none of the matrices that its {_named(writer)} writes with is known")
        if family.post_norms is not None and writer.part != "embedding":
            norm = family.post_norms[0 if writer.part == "attention" else 1]
            for matrix in matrices:
                matrix.norm = f"{layer}{norm}.weight"
            self._approximate(
                "a norm follows what its layers write, so the direction is taken out before it,"
                " where that leaves other lengths"
            )
        return matrices

    def _bias(self, writer: Writer) -> str:
        """The parameter that a constant is added to."""
        family = self.family
        if writer.part == "embedding":
            matrices = self._matrices(writer)
            return matrices[0].name
        if family.post_norms is not None:
            self._refuse(
                f"a norm follows its {_named(writer)}'s output projection, so that a bias there is"
                " no constant"
            )
        places = {"mlp": family.mlp_bias, "attention": family.attention_bias}
        part = writer.part
        other = "attention" if part == "mlp" else "mlp"
        if places[part] is None and family.parallel:
            part = other  # type: ignore[assignment]  # both write to the same sum
        if places[part] is None and part == "mlp" and places["attention"] is not None:
            self._approximate(
                f"its MLP has no bias, so the constant is a bias of attention in the same layer,"
                f" where MLP {writer.layer} reads it too",
                "a vector that was read at attn_out (`steer extract --site=attn_out`) is exact",
            )
            part = "attention"
        changes = places[part]
        if changes is None:
            part_name = "experts have" if family.experts and part == "mlp" else f"{part} has"
            self._refuse(f"its {part_name} no bias, and none that a configuration could ask for")
        self.placement.changes |= changes or {}
        if family.as_llama:
            self._as_llama()
        layer = f"{family.blocks}.{writer.layer}."
        path = family.attention if part == "attention" else family.mlp[0]
        return layer + path + ("_bias" if family.experts and part == "mlp" else ".bias")

    def _as_llama(self) -> None:
        """Save the model as a Llama; without sliding windows it is a special case of one."""
        self.placement.model_type = "llama"
        # In Llama one switch gives all four projections of attention a bias.
        if any(name.endswith("q_proj.bias") for name in self.names):
            self.placement.changes["attention_bias"] = True
        window = getattr(self.config, "sliding_window", None)
        if window is not None and window < self.config.max_position_embeddings:
            self._approximate(
                f"written as a Llama, it has no window of {window:,} tokens: exact up to that"
                " length, and not beyond"
            )

    def _approximate(self, approximation: str, nearest: str | None = None) -> None:
        """Note an approximation, if the user allows it."""
        if not self.approximate:
            hint = "--approximate bakes what comes nearest, and says so"
            raise ModelError(
                f"{self.name} cannot be baked exactly: {approximation}",
                hint=f"{hint}; {nearest}" if nearest else hint,
            )
        if approximation not in self.placement.approximations:
            self.placement.approximations.append(approximation)

    def _refuse(self, reason: str) -> None:
        raise _refusal(self.name, reason)


def _refusal(name: str, reason: str) -> SteerError:
    return ModelError(
        f"{name} has no place for this: {reason}",
        hint="`steer apply` steers it with hooks",
    )


def _named(writer: Writer) -> str:
    return "embedding" if writer.part == "embedding" else writer.part
