"""Run work on a model in this process, or in workers that each hold the model.

A command divides its work into items and gives a function that does one. Results are stored by
item, so neither the number of workers nor their order changes them.
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
#: Gives, for a model, the function that does one item, and can share state between items.
Job = Callable[[Model], Callable[[Item], Result]]


class Workers(Protocol):
    """Workers that hold a model."""

    def map(self, job: Job[Item, Result], items: Iterable[Item]) -> Iterator[tuple[int, Result]]:
        """Run the job on every item. Yields index and result of each item as it finishes.

        Raises:
            SteerError: from the job, or because no worker is left.
        """


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """A single worker in this process."""

    model: Model

    def map(self, job: Job[Item, Result], items: Iterable[Item]) -> Iterator[tuple[int, Result]]:
        do = job(self.model)
        for number, item in enumerate(items):
            yield number, do(item)


def once(workers: Workers, task: Callable[[Model], Result]) -> Result:
    """Run one task on one worker."""
    [(_, result)] = workers.map(lambda model: lambda _: task(model), [None])
    return result


@dataclass(frozen=True)
class RemoteModel(Model):
    """A model whose weights are with its workers; only its tokenizer and configuration are here."""

    workers: Workers
    described: str

    def describe(self) -> str:
        """`pocket · cpu float32`, from a worker."""
        return self.described


def elsewhere(workers: Workers, source: ModelSource) -> RemoteModel:
    """The model of some workers, without loading it here.

    Raises:
        ModelError: the model's own files cannot be read here.
    """
    shape = outline(source)
    identity, described = once(workers, lambda model: (model.identity, model.describe()))
    return RemoteModel(
        shape.network,
        shape.tokenizer,
        identity,
        shape.hooks,
        workers,
        described,
        template_settings=source.template,
    )


def workers_of(model: Model) -> Workers:
    """The workers that hold the model's weights."""
    return model.workers if isinstance(model, RemoteModel) else LocalWorker(model)
