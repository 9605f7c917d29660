"""Check that weights can express steers, before a model is loaded. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from steer.base.errors import VectorError
from steer.steering.scope import CONSTANT
from steer.steering.steers import Steer, usual_scope


def check_bakeable(steers: Sequence[Steer]) -> None:
    """Refuse steers that weights cannot express.

    Raises:
        VectorError: with the nearest alternative as a hint.
    """
    if not steers:
        raise VectorError("there is nothing to bake", hint="name vectors with -v, or a recipe")
    for steer in steers:
        if steer.is_token:
            if not steer.coefficient.value:
                raise VectorError(
                    f"{steer} cannot be baked: the token stands nowhere at the coefficient 0",
                    hint=f"leave it out, or bake {steer.vector.name}:1",
                )
            continue
        reason, nearest = _obstacle(steer) or ("", "")
        if reason:
            raise VectorError(f"{steer} cannot be baked: {reason}", hint=nearest)


def _obstacle(steer: Steer) -> tuple[str, str] | None:
    """Why weights cannot express a steer, and the nearest alternative."""
    name, op = steer.vector.name, steer.op
    if steer.vector.metadata.parts is not None:
        return (
            f"only what is added to the residual stream can be, not {steer.vector.metadata.site}",
            "extract it at attn_out or mlp_out",
        )
    if steer.gate is not None:
        return "weights cannot have a gate", "leave --when out to bake it for every prompt"
    if str(steer.scope) != "all":
        if steer.scope == usual_scope(steer.vector.metadata, op):
            nearest = "it was made for these; `steer apply` does that, /all bakes it for all"
        else:
            nearest = f"leave /{steer.scope} out to bake it for every token"
        return f"weights act on every token, not on {steer.scope} alone", nearest
    if steer.schedule != CONSTANT:
        return (
            "weights do not change from token to token",
            f"leave /{steer.schedule} out to bake all of it",
        )
    if op.op.linear is not None and not op.writes:
        return (
            "earlier layers have written along the direction already, and one layer's weights do"
            " not see that",
            f"do it at every write: {name}:{op.name}=writes@{steer.layers[-1]}",
        )
    if not op.op.adds and op.op.linear is None:
        return (
            f"{op} depends on the activations",
            f"add a constant ({name}:1), or {name}:ablate=writes@{steer.layers[-1]}",
        )
    if op.keep_norm:
        return "keeping the length depends on the activations", "leave norm=keep out"
    if steer.vector.metadata.rank:
        return (
            "a low-rank edit depends on the activations",
            "distill with --rank 0, which makes a vector",
        )
    return None
