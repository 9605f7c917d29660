"""Workers on a Ray cluster: actors that load the model once each.

The job goes to every worker once, and pooled results come back to the driver; weights and whole
activations are never sent. If a worker is lost, another one does its item. The driver stores
results as they arrive, so an interrupted run can be resumed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steer import __version__
from steer.base.errors import SteerError
from steer.models.source import POCKET, ModelSource
from steer.workers import Item, Job, Result

INSTALL = "pip install 'steer-activations[ray]'"


@contextmanager
def on_cluster(source: ModelSource, address: str, count: int | None) -> Iterator[RayWorkers]:
    """Workers on the cluster at `address`: `local` starts one on this machine, `auto` finds the one
    that this machine is part of. By default there is one worker per GPU (with a device map, one per
    node with GPUs) or, without GPUs, one per node. CPU cores are divided evenly.

    Raises:
        SteerError: Ray is not installed, or the cluster cannot be reached or is too small.
        ModelError: a worker cannot load the model.
    """
    if find_spec("ray") is None:
        raise SteerError("Ray is not installed here", hint=INSTALL)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The future default of Ray; without it, Ray warns.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SteerError(
            f"there is no Ray cluster at {address}: {reason}",
            hint="start one with `ray start --head`, or use --ray local, which needs none",
        ) from error
    try:
        yield RayWorkers(_started(source, count))
    finally:
        ray.shutdown()


@dataclass
class RayWorkers:
    """Workers that are Ray actors. Lost actors are removed from `actors`."""

    actors: list[Any]

    def map(self, job: Job[Item, Result], items: Iterable[Item]) -> Iterator[tuple[int, Result]]:
        """Run the job on every item. Yields index and result of each item as it finishes.

        Raises:
            SteerError: from the job, or because no worker is left.
        """
        import ray

        shared = ray.put(job)
        ahead = enumerate(items)
        again: list[tuple[int, Item]] = []  # items of lost workers
        idle: list[Any] = []
        #: The actor of each running call, and its indexed item, or None while it gets the job.
        running: dict[Any, tuple[Any, Any]] = {
            actor.begin.remote(shared): (actor, None) for actor in self.actors
        }
        waiting = next(ahead, None)
        while waiting or any(task for _, task in running.values()):
            while waiting and idle:
                actor = idle.pop()
                running[actor.do.remote(waiting[1])] = actor, waiting
                waiting = again.pop() if again else next(ahead, None)
            if not running:
                raise SteerError(
                    "every worker was lost", hint="run the same command again to resume"
                )
            [ready], _ = ray.wait(list(running))
            actor, task = running.pop(ready)
            try:
                result = _result(ready)
            except ray.exceptions.RayError:  # the worker, its node or its result was lost
                self.actors.remove(actor)
                again.extend([task] if task else [])
                waiting = waiting or (again.pop() if again else None)
                continue
            idle.append(actor)
            if task:
                yield task[0], result


class _Worker:
    """An actor: a process that holds the model."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(max(threads, 1))

    def load(self, source: ModelSource) -> str:
        from steer.models.loading import load

        self.model = load(source)
        return __version__

    def begin(self, job: Job[Any, Any]) -> None:
        self.run = job(self.model)

    def do(self, item: Any) -> Any:
        return self.run(item)


def _started(source: ModelSource, count: int | None) -> list[Any]:
    """Start actors. Each loads the model."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    n, cpus, gpus = places(nodes, count, whole_nodes=source.device_map is not None)
    folder = Path(source.name).expanduser()
    if source.name != POCKET and folder.is_dir():
        # An absolute path, since workers run in another folder. Pocket is part of their steer.
        source = replace(source, name=str(folder.resolve()))
    kind = ray.remote(_Worker).options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy="SPREAD")
    actors = [kind.remote(cpus) for _ in range(n)]
    try:
        versions = [_result(loaded) for loaded in [actor.load.remote(source) for actor in actors]]
    except ray.exceptions.RayError as error:
        raise SteerError(
            f"a worker was lost while it loaded {source.name}",
            hint="check that each node has enough memory, and the same steer and torch",
        ) from error
    if others := set(versions) - {__version__}:
        raise SteerError(
            f"workers have steer {', '.join(sorted(others))}, but this is {__version__}",
            hint="install the same version on every node",
        )
    return actors


def places(
    nodes: Sequence[Mapping[str, float]], count: int | None, *, whole_nodes: bool
) -> tuple[int, int, int]:
    """The number of workers, and the CPU cores and GPUs of each.

    Raises:
        SteerError: the cluster is too small.
    """
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    used = with_gpus or [node for node in nodes if node.get("CPU", 0) >= 1]
    if not used:
        raise SteerError(
            "the Ray cluster has no CPU cores", hint="check that a node has joined: ray status"
        )
    gpus = 0
    if with_gpus:
        gpus = int(min(node["GPU"] for node in used)) if whole_nodes else 1

    def room(cpus: int) -> int:
        """How many workers with this many cores fit on the nodes."""
        return sum(
            min(
                int(node.get(kind, 0)) // each
                for kind, each in (("CPU", cpus), ("GPU", gpus))
                if each
            )
            for node in used
        )

    least = 0 if gpus else 1
    n_workers = count or (room(least) if gpus else len(used))
    if n_workers > room(least):
        raise SteerError(
            f"{n_workers} workers do not fit: the Ray cluster has room for {room(least)}",
            hint="ask for fewer with --workers",
        )
    most = max(int(node.get("CPU", 0)) for node in used)
    cpus = next(cpus for cpus in range(most, least - 1, -1) if room(cpus) >= n_workers)
    return n_workers, cpus, gpus


def _result(reference: Any) -> Any:
    """The result of a call to an actor; raises the worker's own SteerError."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SteerError):
            raise error.cause from None
        raise RuntimeError(f"a worker failed: {error}") from error
