"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from steer.cli import output

if TYPE_CHECKING:
    from steer.activations import Activations
    from steer.fitting import FitSettings
    from steer.model import Model
    from steer.provenance import FitMethod
    from steer.source import ModelSource
    from steer.vector import SteeringVector

Command = TypeVar("Command", bound=Callable[..., Any])

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]


MethodOption = Annotated[str, typer.Option(help="mean_diff, pca, probe or lda.")]

_MODEL_HELP = "pocket (the embedded model), a folder, or a Hugging Face id."
#: Options that say which model and how to load it; together they make a `ModelSource`.
_MODEL_OPTIONS: dict[str, Any] = {
    "model": Annotated[
        str | None, typer.Option("-m", "--model", envvar="STEER_MODEL", help=_MODEL_HELP)
    ],
    "revision": Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")],
    "device": Annotated[
        str | None,
        typer.Option(envvar="STEER_DEVICE", help="cpu, cuda, cuda:1, mps. Default: the fastest."),
    ],
    "dtype": Annotated[
        str | None,
        typer.Option(help="float32, float16, bfloat16. Default: float32 on a CPU, else as saved."),
    ],
    "device_map": Annotated[
        str | None, typer.Option(help="Spread a big model over devices: auto, balanced, ...")
    ],
    "trust_remote_code": Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ],
}


def with_model(*, default: str | None) -> Callable[[Command], Command]:
    """Give a command the model options in place of its parameter `source: ModelSource | None`.

    `default` is the model where none is named; None means that the command can do without.
    """

    def decorate(command: Command) -> Command:
        own = dict(inspect.signature(command, eval_str=True).parameters)
        del own["source"]

        @functools.wraps(command)
        def wrapper(**values: Any) -> Any:
            from steer.source import ModelSource

            chosen = {name: values.pop(name) for name in _MODEL_OPTIONS}
            name = chosen.pop("model") or default
            return command(source=name and ModelSource(name, **chosen), **values)

        added = {
            name: inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if name == "trust_remote_code" else None,
                annotation=annotation,
            )
            for name, annotation in _MODEL_OPTIONS.items()
        }
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in [*own.values(), *added.values()]
        ]
        signature = inspect.Signature(parameters)
        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        del wrapper.__wrapped__  # typer would look through it at the undecorated command
        return cast(Command, wrapper)

    return decorate


def load_model(source: ModelSource) -> Model:
    """Load a model, saying so where somebody waits.

    Raises:
        ModelError: it cannot be loaded.
    """
    with output.status(f"loading {source.name}"):
        from steer.model import load

        return load(source)


def method_name(text: str) -> FitMethod:
    """A method by its name.

    Raises:
        UsageError: there is none of this name.
    """
    from typing import get_args

    from steer.errors import UsageError
    from steer.provenance import FitMethod
    from steer.sites import listed

    if text not in get_args(FitMethod):
        raise UsageError(f"{text!r} is not a method", hint=f"use {listed(get_args(FitMethod))}")
    return cast("FitMethod", text)


def fitted(found: Activations, settings: FitSettings) -> SteeringVector:
    """Fit a recording, with a bar and the warnings that the result deserves."""
    from steer.fitting import fit_vector, warnings

    with output.progress("fitting", len(found.recording.sites)) as advance:
        vector = fit_vector(found, settings, advance)
    for text in warnings(vector):
        output.warning(text)
    return vector


def report_vector(path: Path, vector: SteeringVector, *, described: str, json: bool) -> None:
    """What was made, for `extract` and `fit`."""
    from steer.cli.show import layer_table
    from steer.metadata import to_json

    metadata = vector.metadata
    if json:
        output.as_json({"path": str(path), **to_json(metadata)})
        return
    output.note(
        f"{described} · {metadata.contrast.n} {metadata.contrast.kind} ·"
        f" {metadata.method.name} of {metadata.site}, {metadata.read.positions} position"
    )
    layer_table(metadata)
    output.note(f'wrote {path}; try: steer apply "One day" -v {path} --compare')


def read_input(path: Path) -> tuple[bytes, str]:
    """The bytes of a file, or of stdin for `-`, and its name for messages.

    Raises:
        SteerError: it cannot be read.
    """
    import sys

    from steer.files import read_bytes

    if str(path) == "-":
        return sys.stdin.buffer.read(), "stdin"
    return read_bytes(path, limit=2_000_000_000), str(path)
