"""`--ray`: read and score on the workers of a Ray cluster instead of in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from steer.base.errors import UsageError
from steer.cli import options, output

if TYPE_CHECKING:
    from steer.models.model import Model
    from steer.models.source import ModelSource
    from steer.workers import Workers


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and the number of its workers; None: one for each GPU."""

    address: str
    workers: int | None


def with_cluster(command: options.Command) -> options.Command:
    """Add the options `--ray` and `--workers`; the command gets them as `cluster`, None without
    them."""
    return options.with_options("cluster", _cluster)(command)


def _cluster(
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Work on a Ray cluster: auto, local, HOST:PORT.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Ray workers. Default: one for each GPU."),
    ] = None,
) -> Cluster | None:
    if ray is not None:
        return Cluster(ray, workers)
    if workers is not None:
        raise UsageError("--workers needs --ray", hint="such as --ray local")
    return None


def check(cluster: Cluster | None, source: ModelSource, *others: tuple[str, object]) -> None:
    """Refuse `--ray` together with `--tp` or with any of `others`, options with their values.

    Raises:
        UsageError: two options exclude each other.
    """
    for name, value in (("--tp", source.tensor_parallel), *others):
        if cluster is not None and value:
            raise UsageError(f"--ray and {name} exclude each other", hint="leave one of them out")


@contextmanager
def workers(cluster: Cluster | None, source: ModelSource) -> Iterator[Workers]:
    """The workers of a cluster, each with the model; without a cluster, this process.

    Raises:
        SteerError: the cluster cannot be reached.
        ModelError: the model cannot be loaded.
    """
    if cluster is None:
        from steer.workers import LocalWorker

        yield LocalWorker(options.load_model(source))
        return
    from steer.engines.ray_workers import on_cluster

    with ExitStack() as stack:
        with output.status(f"starting workers with {source.name}"):
            running = stack.enter_context(on_cluster(source, cluster.address, cluster.workers))
        n = len(running.actors)
        output.note(f"Ray: {n} worker{'s' if n > 1 else ''}")
        yield running


def model(context: typer.Context, cluster: Cluster | None, source: ModelSource) -> Model:
    """The model, in this process or, until the command ends, on the workers of a cluster.

    Raises:
        SteerError: the cluster cannot be reached.
        ModelError: the model cannot be loaded.
    """
    if cluster is None:
        return options.load_model(source)
    from steer.workers import elsewhere

    started = context.with_resource(workers(cluster, source))
    return elsewhere(started, source)
