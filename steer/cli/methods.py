"""The list of methods in the help of commands with `--method`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steer.cli.command import SteerCommand

if TYPE_CHECKING:
    from collections.abc import Iterable

    from steer.base.extensions import Registry
    from steer.methods.method import Method


class FitCommand(SteerCommand):
    """A command whose help lists the methods that fit a vector to recorded activations."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the methods and their options, below the options of the command."""
        from steer.methods.registry import fit_methods

        _write(formatter, fit_methods())


class DistillCommand(SteerCommand):
    """A command whose help lists the methods of distillation."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the methods and their options, below the options of the command."""
        from steer.methods.registry import distill_methods

        _write(formatter, distill_methods())


def _write(formatter: Any, known: Registry[Any]) -> None:
    with formatter.section("Methods"):
        formatter.write_dl(list(_rows(known)))
        for broken in known.broken:
            formatter.write_text(str(broken))


def _rows(methods: Iterable[Method]) -> Iterable[tuple[str, str]]:
    for method in methods:
        yield method.name, method.help
        for option in method.options:
            yield f"  {option.name}", f"{option.help} [default: {option.default}]"
