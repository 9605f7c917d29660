"""Subjects in processes of their own, each with the model and one thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from steer.contrasts.source import ModelSource
from steer.suite.subjects import Subject

#: What is done with a subject in a process that has the model.
Work = Callable[[Any, Subject], list[dict[str, Any]]]

_here: dict[str, Any] = {}


def done(
    source: ModelSource, subjects: Sequence[Subject], work: Work, jobs: int
) -> Iterator[tuple[Subject, list[dict[str, Any]]]]:
    """Each subject as it is done, in whatever order.

    work: goes to other processes, so it is a function of a module, or a partial of one.

    Raises:
        SteerError: as the work does.
    """
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, fresh, _begin, (source, dict(os.environ))) as pool:
        started = {pool.submit(_do, work, subject): subject for subject in subjects}
        try:
            for future in as_completed(started):
                yield started[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(source: ModelSource, environment: Mapping[str, str]) -> None:
    # The parent reports an interrupt; a child has nothing to add.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    os.environ.update({**environment, "OMP_NUM_THREADS": "1"})
    import torch

    from steer.models.model import load

    torch.set_num_threads(1)
    _here["model"] = load(source)


def _do(work: Work, subject: Subject) -> list[dict[str, Any]]:
    return work(_here["model"], subject)
