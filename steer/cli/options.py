"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args

import typer

from steer.cli import output

if TYPE_CHECKING:
    from steer.contrasts.source import ModelSource
    from steer.fitting.activations import Activations
    from steer.fitting.fitting import FitSettings
    from steer.models.model import Model
    from steer.sites import SiteName
    from steer.vectors.provenance import FitMethod
    from steer.vectors.vector import SteeringVector

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
    "tensor_parallel": Annotated[
        bool, typer.Option("--tp", help="Spread each matrix over processes; under torchrun.")
    ],
    "trust_remote_code": Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ],
}


def with_model(*, default: str | None) -> Callable[[Command], Command]:
    """Give a command the model options in place of its parameter `source: ModelSource | None`.

    `default` is the model where none is named; None means that the command can do without.
    """

    def make(**chosen: Any) -> ModelSource | None:
        from steer.contrasts.source import ModelSource

        name = chosen.pop("model") or default
        return ModelSource(name, **chosen) if name else None

    return with_options("source", _MODEL_OPTIONS, make)


def with_options(
    parameter: str, added: dict[str, Any], make: Callable[..., Any], *, first: bool = False
) -> Callable[[Command], Command]:
    """Give a command options in place of one parameter, which gets what `make` makes of them.

    added: name to annotation, after the command's own or `first`; an option that is absent is None
    or, a flag, False.
    """

    def decorate(command: Command) -> Command:
        own = dict(inspect.signature(command, eval_str=True).parameters)
        del own[parameter]

        @functools.wraps(command)
        def wrapper(**values: Any) -> Any:
            made = make(**{name: values.pop(name) for name in added})
            return command(**{parameter: made}, **values)

        extra = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if get_args(annotation)[0] is bool else None,
                annotation=annotation,
            )
            for name, annotation in added.items()
        ]
        named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.values()]
        parameters = extra + named if first else named + extra
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
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
        from steer.models.model import load

        return load(source)


def find(reference: str) -> Path:
    """The file of a name, a path or an address, which is fetched, saying so.

    Raises:
        SteerError: it cannot be had.
    """
    from steer.sharing import fetch

    with output.status(f"looking for {reference}"):
        return fetch.find(reference, output.note)


def method_name(text: str) -> FitMethod:
    """A method by its name.

    Raises:
        UsageError: there is none of this name.
    """
    from steer.errors import UsageError
    from steer.sites import listed
    from steer.vectors.provenance import FitMethod

    if text not in get_args(FitMethod):
        raise UsageError(f"{text!r} is not a method", hint=f"use {listed(get_args(FitMethod))}")
    return cast("FitMethod", text)


def site_names(text: str) -> tuple[SiteName, ...]:
    """Site names with commas between.

    Raises:
        UsageError: one is none, or stands there twice.
    """
    from steer.errors import UsageError
    from steer.sites import site_name

    names = tuple(site_name(part.strip()) for part in text.split(","))
    if len(set(names)) < len(names):
        raise UsageError(f"{text!r} names a site twice")
    return names


def fitted(found: Activations, settings: FitSettings) -> list[SteeringVector]:
    """Fit a recording, with a bar: the vector to start from, and then all that were compared."""
    from steer.fitting.fitting import best, fit_vectors

    with output.progress("fitting", len(found.recording.columns)) as advance:
        vectors = fit_vectors(found, settings, advance)
    return [best(vectors), *vectors]


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
