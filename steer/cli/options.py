"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args

import typer

from steer.cli import output

if TYPE_CHECKING:
    from steer.activations import Activations
    from steer.fitting import FitSettings
    from steer.metadata import Metadata
    from steer.model import Model
    from steer.provenance import FitMethod
    from steer.sites import SiteName
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

    def make(**chosen: Any) -> ModelSource | None:
        from steer.source import ModelSource

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
        from steer.model import load

        return load(source)


def method_name(text: str) -> FitMethod:
    """A method by its name.

    Raises:
        UsageError: there is none of this name.
    """
    from steer.errors import UsageError
    from steer.provenance import FitMethod
    from steer.sites import listed

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
    from steer.fitting import best, fit_vectors

    with output.progress("fitting", len(found.recording.columns)) as advance:
        vectors = fit_vectors(found, settings, advance)
    return [best(vectors), *vectors]


def report_vector(
    path: Path,
    vectors: list[SteeringVector],
    *,
    described: str,
    json: bool,
    told: Sequence[str] = (),
    **more: Any,
) -> None:
    """What was made, for `extract` and `fit`: vectors as from `fitted`, the first as written.

    told: warnings about the data. more: what else goes into the JSON.
    """
    from steer.cli.show import layer_table, where_read
    from steer.fitting import warnings
    from steer.metadata import to_json

    metadata, compared = vectors[0].metadata, [vector.metadata for vector in vectors[1:]]
    found = [*told, *warnings(vectors[0])]
    for text in found:
        output.warning(text)
    if json:
        rows = [_compared_row(one) for one in compared]
        more |= {"compared": rows} if len(rows) > 1 else {}
        output.as_json({"path": str(path), **to_json(metadata), "warnings": found, **more})
        return
    output.note(
        f"{described} · {metadata.contrast} · {metadata.method.name} of {metadata.site},"
        f" {where_read(metadata.read)}"
    )
    if len(compared) > 1:
        _comparison(metadata, compared)
        output.line()
    layer_table(metadata)
    layers = ", ".join(map(str, metadata.recommended.layers))
    output.note(f"recommended layer {layers}: {metadata.recommended.evidence}")
    prompt = '"How are you?" --chat' if metadata.read.chat else '"One day"'
    output.note(f"wrote {path}; try: steer apply {prompt} -v {path} --compare")


def _compared_row(metadata: Metadata) -> dict[str, Any]:
    """A site and position at the layer that is recommended there."""
    row = metadata.at(metadata.recommended.layers[0])
    return {
        "site": metadata.site,
        "positions": metadata.read.positions,
        "layer": row.layer,
        "share": row.share,
        "separability": row.separability,
        "coherence": row.coherence,
    }


def _comparison(chosen: Metadata, compared: Sequence[Metadata]) -> None:
    rows = []
    for metadata in compared:
        row = _compared_row(metadata)
        is_chosen = (metadata.site, metadata.read) == (chosen.site, chosen.read)
        numbers = [row["separability"], *([row["coherence"]] if chosen.contrast.paired else [])]
        rows.append(
            [
                row["site"],
                row["positions"] + (" *" if is_chosen else ""),
                str(row["layer"]),
                f"{row['share']:.0%}",
                *("–" if number is None else f"{number:.2f}" for number in numbers),
            ]
        )
    columns = ["site", "position", "best layer", "of residual", "separability", "coherence"]
    output.table(columns[: len(rows[0])], rows, left=2)


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
