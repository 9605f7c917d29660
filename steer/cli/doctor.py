"""`steer doctor`: does everything work here, and on this model?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from steer.cli import options, output
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.base.diagnosis import Check
    from steer.models.model import Model


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("doctor")(doctor)


@options.with_model(default="pocket")
def doctor(source: ModelSource, json: options.Json = False) -> None:
    """Check the installation, and steering on a model.

    Exit status 1 where a check fails; the report says what to do, and is what a bug report needs.

    \b
    steer doctor
    steer doctor -m Qwen/Qwen2.5-0.5B-Instruct
    steer doctor -m ./my-model --dtype bfloat16 --json > report.json
    """
    from dataclasses import asdict

    from steer.base.diagnosis import versions

    facts = versions()
    if not json:
        for name, value in facts.items():
            output.line(f"{name:<17} {value}")
    done: list[Check] = []
    for one in _checks(source):
        done.append(one)
        if not json:
            output.line(f"{'ok' if one.passed else 'FAILED':<7} {one.name}: {one.detail}")
            if one.advice:
                output.line(f"        {one.advice}")
    passed = all(one.passed for one in done)
    if json:
        output.as_json({"passed": passed, **facts, "checks": [asdict(one) for one in done]})
    elif passed:
        output.note("all is well")
    if not passed:
        failed = sum(not one.passed for one in done)
        output.error(f"{failed} of {len(done)} checks failed")
        raise typer.Exit(1)


def _checks(source: ModelSource) -> Iterator[Check]:
    """Every check as it is done; where the model does not load, none after that."""
    from steer.base.diagnosis import check, packages

    yield packages()
    loaded: list[Model] = []

    def load() -> str:
        loaded.append(options.load_model(source))
        (model,) = loaded
        hooks = model.hooks
        shape = f"{hooks.architecture}, {hooks.n_layers} layers, width {hooks.d_model}"
        return f"{model.describe()} ({shape})"

    def devices() -> str:
        from steer.doctor import devices

        return devices()

    yield check("devices", devices, "python -m pip install --force-reinstall torch")
    yield check("model loads", load, "try -m pocket, which needs no network")
    if loaded:
        from steer.doctor import examine

        yield from examine(loaded[0])
