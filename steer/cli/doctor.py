"""`steer doctor`: check the installation, and steering on a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from steer.cli import options, output
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.base.diagnosis import Check


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("doctor")(doctor)


@options.with_model(default="pocket")
def doctor(source: ModelSource, json: options.Json = False) -> None:
    """Check the installation, and steering on a model.

    Exit status 1 if a check fails. The report says what to do; include it in bug reports.

    \b
    steer doctor
    steer doctor -m Qwen/Qwen2.5-0.5B-Instruct
    steer doctor -m ./my-model --dtype bfloat16 --json > report.json
    """
    from steer.library import checks

    if not json:
        for name, value in checks.versions().items():
            output.line(f"{name:<17} {value}")

    def show(check: Check) -> None:
        output.line(f"{'ok' if check.passed else 'FAILED':<7} {check.name}: {check.detail}")
        if check.advice:
            output.line(f"        {check.advice}")

    diagnosis = checks.doctor(
        lambda: options.load_model(source), on_check=(lambda check: None) if json else show
    )
    if json:
        output.as_json(diagnosis.to_dict())
    elif diagnosis.passed:
        output.note("all is well")
    if not diagnosis.passed:
        failed = sum(not check.passed for check in diagnosis.checks)
        output.error(f"{failed} of {len(diagnosis.checks)} checks failed")
        raise typer.Exit(1)
