"""Add the vector."""

from __future__ import annotations

from steer.ops.op import Op

OP = Op(
    name="add",
    title="addition",
    help="add the vector; the default",
    formula="h + c v",
    example="1.5",
    order=1,
    signed=True,
)
