"""A steer: a vector, how much of it, what is done with it, where and when. Data, not yet hooks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from steer.base.errors import ModelError, SiteError, UsageError, VectorError
from steer.steering.operation import ADD, Coefficient, Operation, parse_operation
from steer.steering.projection import Gate, level, most_separable, unit_directions
from steer.steering.scope import CONSTANT, EVERYWHERE, Schedule, Scope, parse_scope
from steer.steering.spec import SteerSpec
from steer.vectors.metadata import Metadata
from steer.vectors.provenance import ModelIdentity
from steer.vectors.sites import Site, format_layers
from steer.vectors.vector import Directions, SteeringVector


class Timing(NamedTuple):
    """At which positions a steer acts, and with which share of its coefficient."""

    scope: Scope = EVERYWHERE
    schedule: Schedule = CONSTANT
    gate: Gate | None = None


ALWAYS = Timing()


@dataclass(frozen=True, slots=True)
class Steer:
    """An intervention: `op` with `coefficient` times the vector, at `layers`, on the positions of
    `scope`.

    schedule: multiplies the coefficient at each new token. gate: where it is closed, the
    coefficient is 0. `ablate=writes` uses the vector of the one layer in `layers` at every write to
    the residual stream.

    Raises:
        VectorError: the vector has no direction at one of the layers, or is unsuitable for the op:
            a low-rank edit can only be added, and a level needs statistics.
        SiteError: a token gate reads at a deeper site than the steer's first.
    """

    vector: SteeringVector
    coefficient: Coefficient
    layers: tuple[int, ...]
    scope: Scope = EVERYWHERE
    op: Operation = ADD
    schedule: Schedule = CONSTANT
    gate: Gate | None = None

    def __post_init__(self) -> None:
        if self.is_token:
            self._check_token()
            return
        self.vector.metadata.check_layers(self.layers)
        self._check_rank()
        for layer in self.layers:
            if not self.op.op.adds:
                self.level(layer)
                unit_directions(self.vector, layer)
        if self.op.writes and len(self.layers) != 1:
            raise VectorError(
                f"{self.op} takes the vector of one layer to every write,"
                f" not those of {format_layers(self.layers)}",
                hint=f"name one: {self.vector.name}:{self.op}@{self.layers[0]}",
            )
        if self.coefficient.unit == "residual" and not self.op.op.adds:
            raise VectorError(
                f"a percentage is a length to add, and {self.op} adds none",
                hint="use a share of the edit, such as 0.5",
            )
        self._check_gate()

    @property
    def is_token(self) -> bool:
        """Whether it is a learned token, which stands in the prompt and edits no activation."""
        return self.vector.metadata.tokens > 0

    def _check_token(self) -> None:
        name, learned = self.vector.name, self.vector.metadata.coefficients
        subject = f"{name!r} is a learned token"
        if self.op != ADD or self.coefficient.unit == "residual":
            raise VectorError(
                f"{subject}: it has no direction for {self.op}"
                if self.op != ADD
                else f"{subject}: a percentage of it means nothing",
                hint=f"write {name}, or {name}:0 for none",
            )
        if self.scope != EVERYWHERE or self.schedule != CONSTANT or self.gate is not None:
            raise VectorError(
                f"{subject}: it stands in the prompt, and has no scope, schedule or gate",
                hint=f"write {name} alone, or <|{name}|> where it is to stand in the prompt",
            )
        value = self.coefficient.value
        if learned is None and value not in (0.0, 1.0):
            raise VectorError(
                f"{subject} that was trained for the coefficient 1 alone, not {value:g}",
                hint="train it for a range: steer distill --as token --scalar",
            )
        if learned is not None and value and not learned[0] <= value <= learned[1]:
            raise VectorError(
                f"{subject} that was trained for coefficients from {learned[0]:g} to"
                f" {learned[1]:g}, not {value:g}",
                hint="use a coefficient in that range",
            )

    def _check_rank(self) -> None:
        if not self.vector.metadata.rank:
            return
        subject = f"vector {self.vector.name!r} is a low-rank edit"
        if not self.op.op.adds and self.op.op.linear is None:
            raise VectorError(
                f"{subject}: it has no one direction to {self.op.name}",
                hint="add it, ablate it, or use a vector that extract or fit made",
            )
        if self.coefficient.unit == "residual" and self.op.op.adds:
            raise VectorError(
                f"{subject}: what it adds has no one length",
                hint="use a multiple of it, such as 1 or 0.5, not a percentage",
            )

    def _check_gate(self) -> None:
        if self.gate is None or self.gate.pooling != "token":
            return
        first = self.first_site
        if self.gate.site.depth > first.depth:
            raise SiteError(
                f"the gate {self.gate} reads {self.gate.site}, behind {first}, where"
                f" {self.vector.name!r} acts",
                hint="read an earlier layer, NAME@LAYER>VALUE, or the prompt, with /mean or /last",
            )

    @property
    def vectors(self) -> tuple[SteeringVector, ...]:
        """The vector of the steer, and that of its gate."""
        return (self.vector, self.gate.threshold.projection.vector) if self.gate else (self.vector,)

    @property
    def timing(self) -> Timing:
        """The scope, schedule and gate together."""
        return Timing(self.scope, self.schedule, self.gate)

    def sites(self) -> dict[Site, int]:
        """The sites at which the steer acts, each with the layer of the vector that it uses there
        (not for ops at every write)."""
        name = self.vector.metadata.activation_site
        return {Site(layer, name).canonical: layer for layer in self.layers}

    @property
    def first_site(self) -> Site:
        """The first place where a forward is edited."""
        if self.op.writes:
            return Site(0, "resid_pre")
        return min(self.sites(), key=lambda site: site.depth)

    def delta(self, layer: int) -> Directions:
        """The vector that is added at `layer`, float32 [d_model], in activation units.

        Raises:
            VectorError: the coefficient is a percentage, and the vector is zero or its file does
                not store the mean activation norm; or the result overflows float32.
        """
        factor = self.coefficient.value
        if self.coefficient.unit == "residual":
            statistics = self.vector.metadata.at(layer)
            if not statistics.norm:
                raise VectorError(
                    f"vector {self.vector.name!r} is zero at layer {layer}",
                    hint="a share of the activations' length needs a direction",
                )
            if not statistics.resid_norm:
                raise VectorError(
                    f"vector {self.vector.name!r} does not say how long activations are at layer"
                    f" {layer}, so a percentage of it means nothing",
                    hint=f"use a multiple of the vector, such as {self.vector.name}:1",
                )
            factor *= statistics.resid_norm / statistics.norm
        with np.errstate(over="ignore"):
            delta = np.asarray(factor * self.vector.direction(layer), dtype=np.float32)
        if not np.isfinite(delta).all():
            raise VectorError(
                f"{self.vector.name!r} ×{self.coefficient} at layer {layer} is beyond float32",
                hint="use a smaller coefficient",
            )
        return delta

    def level(self, layer: int) -> float:
        """The op's value at `layer`: a projection in activation units, or degrees; else 0.

        Raises:
            VectorError: the value is named after a side, and the file does not say where it lies.
        """
        return 0.0 if self.op.value is None else level(self.vector, layer, self.op.value)

    def __str__(self) -> str:
        parts = [self.vector.name]
        if self.is_token:
            return f"{self.vector.name} ×{self.coefficient} @ prompt"
        site = f"{self.vector.metadata.site} {format_layers(self.layers)}"
        if self.op.op.adds or self.coefficient != Coefficient(1.0):
            parts.append(f"×{self.coefficient}")
        if self.op != ADD:
            parts.append(str(self.op))
        parts += [
            "@",
            site,
            *(str(part) for part in (self.scope, self.schedule) if part not in _USUAL),
        ]
        return " ".join(parts + ([f"when {self.gate}"] if self.gate else []))


_USUAL = (EVERYWHERE, CONSTANT)


def usual_scope(metadata: Metadata, op: Operation = ADD) -> Scope:
    """The default scope of a vector with `op`: the one that the file recommends for the op; else
    the response if the vector was distilled for responses; else all positions."""
    recommended = metadata.recommended
    if recommended.scope is not None and op.name == recommended.op_name:
        return parse_scope(recommended.scope)
    return Scope("response") if metadata.read.positions == "response" else EVERYWHERE


def resolve(spec: SteerSpec, vector: SteeringVector, gate: Gate | None = None) -> Steer:
    """The steer for a spec; the file's recommendation fills in the omitted parts.

    Without layers, the coefficient multiplies the one that the file recommends for the op, so -1 is
    the opposite of the recommendation. With layers, it multiplies the stored vector.

    Raises:
        VectorError: the vector lacks the layers, does not suit the op, or recommends a coefficient
            of 0 and the spec has none.
        SiteError: the gate reads at a later site than the vector acts at.
    """
    metadata = vector.metadata
    recommended = metadata.recommended
    op = spec.op or recommended_operation(metadata)
    scope = spec.scope or replace(usual_scope(metadata, op), skip_special=spec.skip_special)
    usual = Coefficient(1.0)
    if op.name == recommended.op_name:
        usual = Coefficient(recommended.coefficient, recommended.unit)
        if spec.coefficient is None and not usual.value:
            raise VectorError(
                f"vector {vector.name!r} recommends a coefficient of 0: it would steer nothing",
                hint=f"name one, such as {spec.reference}:1",
            )
    if metadata.tokens and spec.layers is not None:
        raise VectorError(
            f"{vector.name!r} is a learned token: it stands in the prompt, at no layer",
            hint=f"write {spec.reference} without @",
        )
    coefficient = spec.coefficient or usual
    if spec.coefficient and spec.coefficient.unit == "vector" and spec.layers is None:
        coefficient = multiplied(spec.coefficient.value, usual)
    layers = metadata.layers if spec.layers == "all" else spec.layers
    if layers is None:
        layers = recommended.layers
        if op.writes:
            layers = (most_separable(metadata, layers),)
    return Steer(vector, coefficient, layers, scope, op, spec.schedule, gate)


def multiplied(number: float, usual: Coefficient) -> Coefficient:
    """`number` times a recommended coefficient; a recommended 0 counts as 1 of the vector."""
    if not usual.value:
        return Coefficient(number)
    # Shares are decimals, and stay such: twice 10.1 % is 20.2 %.
    value = float(Decimal(repr(number)) * Decimal(repr(usual.value)))
    return Coefficient(value, usual.unit)


def recommended_operation(metadata: Metadata) -> Operation:
    """The op that a vector's file recommends.

    Raises:
        VectorError: this version does not know it.
    """
    op = metadata.recommended.op
    try:
        return parse_operation(op, op)
    except UsageError:
        raise VectorError(
            f"vector {metadata.name!r} recommends the op {op!r}, which this steer does not know",
            hint="install a later version, or the package that has the op; or say what to do:"
            f" {metadata.name}:add",
        ) from None


def check_fits(
    vector: SteeringVector, model: ModelIdentity, *, allow_other_model: bool = False
) -> list[str]:
    """Warnings about using a vector on a model, none if it is the one it was made on.

    Raises:
        ModelError: another architecture or width; another set of weights, unless
            `allow_other_model`, which turns that into a warning.
        SiteError: the model has fewer layers than the vector needs.
    """
    made_on = vector.metadata.model
    if not made_on.bound:
        return _unbound(vector, model, allow_other_model=allow_other_model)
    subject = f"vector {vector.name!r} was made on {made_on.id}"
    for attribute, theirs, ours in (
        ("architecture", made_on.architecture, model.architecture),
        ("width", made_on.d_model, model.d_model),
    ):
        if theirs != ours:
            raise ModelError(
                f"{subject} ({attribute} {theirs}); {model.id} has {attribute} {ours}",
                hint=f"run it with {_named(made_on.id)}, or extract it again on {model.id}",
            )
    if vector.metadata.layers[-1] >= model.n_layers:
        raise SiteError(
            f"{subject} with {made_on.n_layers} layers; {model.id} has {model.n_layers}"
        )
    warnings = []
    if vector.metadata.tokens and made_on.tokenizer != model.tokenizer and not allow_other_model:
        raise ModelError(
            f"{subject}, with another tokenizer than {model.id} has now: the prompts round a token"
            " would be others",
            hint="distill it again on this model, or pass --allow-other-model to try it",
        )
    if made_on.fingerprint != model.fingerprint:
        fact = f"{subject}; the weights of {model.id} are others"
        if not allow_other_model:
            raise ModelError(
                fact, hint="a finetune, or in float16? pass --allow-other-model to try it"
            )
        warnings.append(fact)
    if made_on.tokenizer != model.tokenizer:
        warnings.append(f"{subject}, with another tokenizer than {model.id} has now")
    if made_on.chat_template != model.chat_template:
        warnings.append(f"{subject}, with another chat template than {model.id} has now")
    return warnings


def _named(model_id: str) -> str:
    """A model in messages. The id of a local model is only the name of its folder."""
    loadable = "/" in model_id or model_id == "pocket"
    return f"--model={model_id}" if loadable else f"the folder of {model_id} as --model"


def _unbound(vector: SteeringVector, model: ModelIdentity, *, allow_other_model: bool) -> list[str]:
    """`check_fits` of a vector whose model is not known: by its width and layers alone."""
    subject = f"vector {vector.name!r} came from another tool and is not bound to a model"
    width, last = vector.metadata.model.d_model, vector.metadata.layers[-1]
    if width != model.d_model or last >= model.n_layers:
        raise ModelError(
            f"{subject}; it has width {width} and goes up to layer {last}; {model.id} has width"
            f" {model.d_model} and layers 0-{model.n_layers - 1}"
        )
    if not allow_other_model:
        raise ModelError(
            subject,
            hint=f"bind it if it was made on {model.id}: steer convert FILE"
            f" NEW.safetensors -m {model.id}; or pass --allow-other-model",
        )
    return [subject]


def check_all_fit(
    vectors: Iterable[SteeringVector], model: ModelIdentity, *, allow_other_model: bool = False
) -> list[str]:
    """`check_fits` for several vectors; each warning once.

    Raises:
        ModelError, SiteError: as `check_fits`.
    """
    warnings = (
        text
        for vector in dict.fromkeys(vectors)
        for text in check_fits(vector, model, allow_other_model=allow_other_model)
    )
    return list(dict.fromkeys(warnings))
