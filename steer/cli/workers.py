"""`--ray`: who reads and scores in place of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.errors import UsageError

if TYPE_CHECKING:
    from steer.contrasts.source import ModelSource
    from steer.models.model import Model
    from steer.workers import Workers

RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on a Ray cluster: auto, local or HOST:PORT. The result is the same.",
    ),
]
CountOption = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="With --ray. Default: one a GPU; without GPUs one a node."
    ),
]


def check(
    source: ModelSource, ray: str | None, count: int | None, *others: tuple[str, object]
) -> None:
    """Refuse options that mean nothing together; `others`, by name, exclude `--ray`.

    Raises:
        UsageError: as said.
    """
    if count is not None and ray is None:
        raise UsageError("--workers needs --ray", hint="such as --ray local")
    for name, value in (("--tp", source.tensor_parallel), *others):
        if ray is not None and value:
            raise UsageError(f"--ray and {name} exclude each other", hint="leave one of them out")


@contextmanager
def workers(source: ModelSource, ray: str | None, count: int | None) -> Iterator[Workers]:
    """This process with the model, or a cluster's workers, each with the model.

    Raises:
        SteerError: the cluster cannot be had.
        ModelError: the model cannot be loaded.
    """
    if ray is None:
        from steer.workers import InProcess

        yield InProcess(options.load_model(source))
        return
    from steer.engines.ray_workers import on_cluster

    with ExitStack() as stack:
        with output.status(f"starting workers with {source.name}"):
            found = stack.enter_context(on_cluster(source, ray, count))
        n = len(found.actors)
        output.note(f"Ray: {n} worker{'s' if n > 1 else ''}")
        yield found


def model(context: typer.Context, source: ModelSource, ray: str | None, count: int | None) -> Model:
    """The model, here or, until the command ends, with a cluster's workers.

    Raises:
        SteerError: the cluster cannot be had.
        ModelError: the model cannot be loaded.
    """
    if ray is None:
        return options.load_model(source)
    from steer.workers import elsewhere

    found = context.with_resource(workers(source, ray, count))
    return elsewhere(found, source)
