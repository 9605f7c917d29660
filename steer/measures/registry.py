"""Every measure that is known: those of `steer.measures.builtin`, and those of other packages.

Another package names its own under the entry points `steer.measures` (docs/extending.md). Tables,
JSON, cards and pictures read `measures()`; nothing else lists measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from steer.base.errors import SteerError
from steer.base.extensions import Registry, load
from steer.measures.measure import Measure

GROUP = "steer.measures"


def measures() -> Mapping[str, Measure]:
    """Every measure by its name: those of steer, then those of other packages.

    Raises:
        SteerError: a package offers something else, or a name that is taken. A table without a
            measure that was installed for it would be taken for one in which it does not apply.
    """
    known = registry()
    for broken in known.broken:
        raise SteerError(str(broken), hint="fix that package, or remove it")
    return known.items


@cache
def registry() -> Registry[Measure]:
    """All measures, and the packages' measures that could not be loaded."""
    return load(
        Measure, noun="measure", group=GROUP, own="steer.measures.builtin", attribute="MEASURE"
    )
