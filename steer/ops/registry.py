"""The registry of ops: those of `steer.ops.builtin` and those of other packages.

Other packages declare theirs as entry points of the group `steer.ops`. The grammar of `-v`, the
help, the hooks, the docs and the tests read this registry; nothing else lists ops.
"""

from __future__ import annotations

from functools import cache

from steer.base.extensions import Registry, load
from steer.ops.op import Op

GROUP = "steer.ops"


@cache
def ops() -> Registry[Op]:
    """All ops. Other packages cannot replace steer's own."""
    return load(Op, noun="op", group=GROUP, own="steer.ops.builtin", attribute="OP")
