"""Measure the subjects of a suite in several processes, each with one thread and its own model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from steer.base.errors import SteerError
from steer.evaluation.subjects import Subject
from steer.models.source import ModelSource

#: A function that measures a subject with the process's model.
Job = Callable[[Any, Subject], list[dict[str, Any]]]

_state: dict[str, Any] = {}


def measure(
    source: ModelSource, subjects: Sequence[Subject], job: Job, jobs: int
) -> Iterator[tuple[Subject, list[dict[str, Any]]]]:
    """Yield the results of each subject as soon as they are ready, in any order. job: must be
    picklable, such as a function of a module, or a partial of such a function.

    Raises:
        SteerError: from the job, or because a process was killed.
    """
    fresh = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(jobs, fresh, _begin, (source, dict(os.environ))) as pool:
        started = {pool.submit(_run, job, subject): subject for subject in subjects}
        try:
            for future in as_completed(started):
                yield started[future], future.result()
        except BrokenProcessPool:
            raise SteerError(
                "a measuring process was killed, perhaps for lack of memory",
                hint="run the same command again to resume; --jobs 1 needs less memory",
            ) from None
        except BaseException:
            # Otherwise the pool would wait for the running subjects, which takes minutes.
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise


def _begin(source: ModelSource, environment: Mapping[str, str]) -> None:
    # The parent handles interrupts and terminates its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update({**environment, "OMP_NUM_THREADS": "1"})
    import torch

    from steer.models.loading import load

    torch.set_num_threads(1)
    _state["model"] = load(source)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(job: Job, subject: Subject) -> list[dict[str, Any]]:
    return job(_state["model"], subject)
