"""What `test_racing.py` starts: two processes that write one name at the same time, N rounds each.

`python racing.py N`: into a folder as `steer extract --force` does, by `steer push --force` to a
folder and to a hub, and by `steer pull --force`; a third process looks all the while. Says how
often it looked, and how many different vectors it saw.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import servers
from conftest import make_vector

from steer.sharing.address import parse_folder, parse_vector
from steer.sharing.opening import open_place
from steer.sharing.places import contents
from steer.sharing.pull import pull
from steer.sharing.push import VectorUpload, push
from steer.vectors import lock, store
from steer.vectors.vector import SteeringVector

#: Of each of the two processes, vectors of one name and of different sizes.
VECTORS = [
    [make_vector(seed=10 * who + n, layers=tuple(range(n + 1))).sealed() for n in range(3)]
    for who in range(2)
]
KNOWN = {vector.sha256 for vectors in VECTORS for vector in vectors}
NAME = "calm.safetensors"


def write(vector: SteeringVector) -> None:
    store.write(Path("written") / NAME, vector, force=True)


def push_to(place: str) -> Callable[[SteeringVector], None]:
    def push_one(vector: SteeringVector) -> None:
        upload = VectorUpload("calm", store.to_bytes(vector), vector.metadata)
        push(parse_folder(place), [upload], {}, force=True)

    return push_one


def pull_it(vector: SteeringVector) -> None:
    """From a folder of one's own."""
    there = Path(f"of-{vector.sha256}")
    there.mkdir(exist_ok=True)
    store.write(there / NAME, vector, force=True)
    pull(parse_vector(f"{there}/calm"), Path("pulled"), force=True)


def complete_file(place: str) -> str | None:
    """The hash of what stands under the name, or None where nothing does; it is a whole vector."""
    data = contents(open_place(parse_folder(place)), NAME, store.MAX_BYTES)
    return None if data is None else store.from_bytes(data, place).sha256


def race(n: int, place: str, act: Callable[[SteeringVector], None]) -> tuple[int, set[str]]:
    """Two processes do it n times each; how often the place was looked at, and what was there."""
    children = []
    for vectors in VECTORS:
        child = os.fork()
        if not child:
            status = 1
            try:
                for number in range(n):
                    act(vectors[number % len(vectors)])
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    looks, seen = 0, set()
    while children:
        for child in list(children):
            pid, status = os.waitpid(child, os.WNOHANG)
            assert not status, f"a process failed at {place}"
            if pid:
                children.remove(child)
        seen.add(complete_file(place))
        looks += 1
        time.sleep(0.005)
    final = complete_file(place)
    assert final in KNOWN
    return looks, (seen | {final}) - {None}  # type: ignore[operator]


def main() -> None:
    n = int(sys.argv[1])
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        Path("written").mkdir()
        with servers.processes(Path(scratch), "hub"):
            acts = {
                "written": write,
                "pulled": pull_it,
                "team": push_to("team"),
                "hf://team/vectors": push_to("hf://team/vectors"),
            }
            for place, act in acts.items():
                looks, seen = race(n, place, act)
                assert seen <= KNOWN
                sys.stdout.write(f"{place}: {looks} looks, {len(seen)} vectors\n")
        assert not list(Path().rglob(".*.tmp"))
        assert lock.origins(Path("pulled"))["calm"].sha256 in KNOWN


if __name__ == "__main__":
    main()
