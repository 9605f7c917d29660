"""Every op that is known: those of `steer.ops.builtin`, and those of other packages.

Another package names its own under the entry points `steer.ops`. The grammar of `-v`, the help, the
hooks, the docs and the tests read this registry; nothing else lists ops.
"""

from __future__ import annotations

from functools import cache

from steer.base.extensions import Registry, load
from steer.ops.op import Op

GROUP = "steer.ops"


@cache
def ops() -> Registry[Op]:
    """All ops. Another package's cannot take the place of one of ours."""
    return load(Op, noun="op", group=GROUP, own="steer.ops.builtin", attribute="OP")
