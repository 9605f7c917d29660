"""Where the work on a model is done: in this process, or in workers that each hold the model.

A command cuts its work into items and says how a model does one; what comes back goes to the item's
own place, so neither the number of workers nor their order changes a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from steer.models.loading import outline
from steer.models.model import Model
from steer.models.source import ModelSource

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Makes, of a model, what does one item; it keeps between items what they have in common.
Job = Callable[[Model], Callable[[Item], Result]]


class Workers(Protocol):
    """Those who have the model."""

    def map(self, job: Job[Item, Result], items: Iterable[Item]) -> Iterator[tuple[int, Result]]:
        """Do every item; yields each one's number and result as it is done.

        Raises:
            SteerError: as the job does, or because no worker is left.
        """


@dataclass(frozen=True, slots=True)
class InProcess:
    """The one worker that there is without a cluster."""

    model: Model

    def map(self, job: Job[Item, Result], items: Iterable[Item]) -> Iterator[tuple[int, Result]]:
        do = job(self.model)
        for number, item in enumerate(items):
            yield number, do(item)


def once(workers: Workers, task: Callable[[Model], Result]) -> Result:
    """Have one worker do one thing."""
    [(_, result)] = workers.map(lambda model: lambda _: task(model), [None])
    return result


@dataclass(frozen=True)
class Elsewhere(Model):
    """A model whose weights its workers have. Here are its tokenizer and its shape."""

    workers: Workers
    described: str

    def describe(self) -> str:
        """`pocket · cpu float32`, as a worker has it."""
        return self.described


def elsewhere(workers: Workers, source: ModelSource) -> Elsewhere:
    """The model of some workers, without loading it here.

    Raises:
        ModelError: the model's own files cannot be read here.
    """
    shape = outline(source)
    identity, described = once(workers, lambda model: (model.identity, model.describe()))
    return Elsewhere(shape.network, shape.tokenizer, identity, shape.hooks, workers, described)


def workers_of(model: Model) -> Workers:
    """Those who have the model's weights."""
    return model.workers if isinstance(model, Elsewhere) else InProcess(model)
