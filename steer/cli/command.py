"""What every command does before its own work: texts of the command line are UTF-8."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from steer.base.errors import UsageError

#: What Python makes of bytes of the command line that are not UTF-8.
_NOT_TEXT = re.compile("[\ud800-\udfff]")


class SteerCommand(TyperCommand):
    """Refuses texts that are not UTF-8, which would fail somewhere deep down."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for parameter in self.params:
            _check_text(parameter.opts[-1], ctx.params.get(str(parameter.name)))
        return super().invoke(ctx)


def _check_text(name: str, value: Any) -> None:
    """Refuse a text with bytes that are not UTF-8; the name of a file may have them.

    Raises:
        UsageError: naming the option or argument.
    """
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(one, str) and _NOT_TEXT.search(one) and not Path(one).exists():
            subject = name if name.startswith("-") else f"the argument {name.upper()}"
            raise UsageError(
                f"{subject} is not UTF-8: {one[:40]!r}",
                hint="write it in UTF-8, or put it into a file and save that as UTF-8",
            )
