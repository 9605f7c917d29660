"""A steer: a vector, how much of it, at which layers and positions. Data, not yet hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steer.errors import ModelError, SiteError, VectorError
from steer.provenance import ModelIdentity
from steer.sites import Site, format_layers
from steer.spec import EVERYWHERE, Coefficient, Scope, SteerSpec
from steer.vector import Directions, SteeringVector


@dataclass(frozen=True, slots=True)
class Edit:
    """What happens to activations h at one site: h + delta + up (down h).

    delta: float32 [d_model], in activation units. down, up: float32 [k, d_model] and [d_model, k],
    where something of low rank is among it.
    """

    delta: Directions
    down: Directions | None = None
    up: Directions | None = None


@dataclass(frozen=True, slots=True)
class Steer:
    """Add `coefficient` times the vector (or low-rank edit) at `layers`, where `scope` says.

    Raises:
        VectorError: the vector has no direction at one of the layers, or is of low rank, and the
            coefficient a share of the activations' length.
    """

    vector: SteeringVector
    coefficient: Coefficient
    layers: tuple[int, ...]
    scope: Scope = EVERYWHERE

    def __post_init__(self) -> None:
        for layer in self.layers:
            self.vector.metadata.at(layer)
        if self.coefficient.unit == "residual" and self.vector.metadata.rank:
            raise VectorError(
                f"vector {self.vector.name!r} is a low-rank edit: what it adds has no one length",
                hint="use a multiple of it, such as 1 or 0.5, not a percentage",
            )

    def sites(self) -> dict[Site, int]:
        """Where it acts, and the layer whose numbers it takes there."""
        name = self.vector.metadata.site
        return {Site(layer, name).canonical: layer for layer in self.layers}

    def deltas(self) -> dict[Site, Directions]:
        """The vector that is added at each site, float32 [d_model], in activation units."""
        return {site: self.delta(layer) for site, layer in self.sites().items()}

    def delta(self, layer: int) -> Directions:
        """What is added at `layer`, float32 [d_model], in activation units.

        Raises:
            VectorError: a share of the activations' length of a vector that is zero.
        """
        factor = self.coefficient.value
        if self.coefficient.unit == "residual":
            statistics = self.vector.metadata.at(layer)
            if not statistics.norm:
                raise VectorError(
                    f"vector {self.vector.name!r} is zero at layer {layer}",
                    hint="a share of the activations' length needs a direction",
                )
            factor *= statistics.resid_norm / statistics.norm
        return np.asarray(factor * self.vector.direction(layer), dtype=np.float32)

    def __str__(self) -> str:
        scope = "" if self.scope.kind == "all" else f" {self.scope}"
        site = f"{self.vector.metadata.site} {format_layers(self.layers)}"
        return f"{self.vector.name} ×{self.coefficient} @ {site}{scope}"


def resolve(spec: SteerSpec, vector: SteeringVector) -> Steer:
    """What was typed, completed by what the file recommends.

    What was distilled to act on the response does so, unless a part of the text is named.

    Raises:
        VectorError: the vector has none of the layers that were asked for.
    """
    recommended = vector.metadata.recommended
    scope = spec.scope
    if scope == EVERYWHERE and vector.metadata.read.positions == "response":
        scope = Scope("response")
    return Steer(
        vector,
        spec.coefficient or Coefficient(recommended.coefficient, recommended.unit),
        spec.layers if spec.layers is not None else recommended.layers,
        scope,
    )


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
    subject = f"vector {vector.name!r} was made on {made_on.id}"
    for what, theirs, ours in (
        ("architecture", made_on.architecture, model.architecture),
        ("width", made_on.d_model, model.d_model),
    ):
        if theirs != ours:
            raise ModelError(
                f"{subject} ({what} {theirs}); {model.id} has {what} {ours}",
                hint=f"run it with -m {made_on.id}, or extract it again on {model.id}",
            )
    if vector.metadata.layers[-1] >= model.n_layers:
        raise SiteError(
            f"{subject} with {made_on.n_layers} layers; {model.id} has {model.n_layers}"
        )
    warnings = []
    if made_on.fingerprint != model.fingerprint:
        fact = f"{subject}; the weights of {model.id} are others"
        if not allow_other_model:
            raise ModelError(
                fact, hint="pass --allow-other-model to try it all the same (on a finetune, say)"
            )
        warnings.append(fact)
    if made_on.tokenizer != model.tokenizer:
        warnings.append(f"{subject}, with another tokenizer than {model.id} has now")
    if made_on.chat_template != model.chat_template:
        warnings.append(f"{subject}, with another chat template than {model.id} has now")
    return warnings


def total_edits(steers: Sequence[Steer]) -> dict[Site, dict[Scope, Edit]]:
    """All steers summed by site and scope: one edit, of the same h, that does what all of them do.

    Vectors are summed in float64, so that their order does not show.
    """
    placed: dict[Site, dict[Scope, list[Steer]]] = {}
    for steer in steers:
        for site in steer.sites():
            placed.setdefault(site, {}).setdefault(steer.scope, []).append(steer)
    return {
        site: {scope: _sum(together, site) for scope, together in scopes.items()}
        for site, scopes in placed.items()
    }


def _sum(steers: Sequence[Steer], site: Site) -> Edit:
    delta = np.sum([steer.deltas()[site].astype(np.float64) for steer in steers], axis=0)
    # By vector, so that one and its negative leave nothing at all.
    factors: dict[tuple[SteeringVector, int], float] = {}
    for steer in steers:
        key = steer.vector, steer.sites()[site]
        factors[key] = factors.get(key, 0.0) + steer.coefficient.value
    parts = [
        (pair[0], factor * pair[1])
        for (vector, layer), factor in factors.items()
        if factor and (pair := vector.low_rank(layer)) is not None
    ]
    if not parts:
        return Edit(delta.astype(np.float32))
    # Side by side: up (down h) is then the sum over the parts.
    down = np.concatenate([down for down, _ in parts])
    up = np.concatenate([up for _, up in parts], axis=1)
    return Edit(delta.astype(np.float32), down, up.astype(np.float32))
