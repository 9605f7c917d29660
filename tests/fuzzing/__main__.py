"""Hostile input to every reader: `python tests/fuzzing N [--only READER] [--seed SEED]`.

N inputs are spread over the readers, each in a process of its own: by atheris, which is led by what
code an input reaches, where it is installed, else by mutation alone. An input that is a defect is
kept in `fuzzed/`, and the exit status is 1 if there was one.

    crash     anything but a result or a SteerError
    hang      more than 10 seconds
    memory    more than 200 MB beyond what the process had
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))
#: In memory, where there is such a folder: every input is a file.
SCRATCH = Path("/dev/shm")

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["steer"]) if atheris else contextlib.nullcontext():
    from fuzzing.limits import Tally
    from fuzzing.mutations import mutated
    from fuzzing.readers import Target, targets


def fuzz(name: str, target: Target, n: int, seed: int, folder: Path, crashes: Path) -> None:
    """Give one reader `n` inputs, and end the process."""
    tally = Tally(target, folder)
    start = time.monotonic()

    def run_input(data: bytes) -> None:
        defect = tally.add(data)
        if defect:
            keep(crashes / name, data, defect)
        if tally.n >= n:
            spent = f"{time.monotonic() - start:.0f} s, {tally.most_memory / 1e6:.0f} MB at most"
            print(f"{name:12} {tally.n:7,} inputs, {tally.n_read:6,} read, {spent}", flush=True)
            os._exit(0)

    if atheris is None:
        rng = Random(seed)
        while True:
            run_input(mutated(rng, rng.choice(target.seeds), target.seeds, target.kind or name))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(data)

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        base = data if rng.random() < 0.4 else rng.choice(target.seeds)
        return mutated(rng, base, target.seeds, target.kind or name)[:most]

    words = [sys.argv[0], f"-seed={seed + 1}", "-max_len=16384", "-timeout=600", "-rss_limit_mb=0"]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libFuzzer says of itself
    atheris.Setup([*words, str(corpus)], run_input, custom_mutator=mutator)
    atheris.Fuzz()


def keep(folder: Path, data: bytes, defect: BaseException) -> None:
    """The first input of each kind of defect."""
    where = traceback.extract_tb(defect.__traceback__)[-1]
    kind = f"{type(defect).__name__}-{Path(where.filename).stem}-{where.lineno}"
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob(f"{kind}-*")):
        (folder / f"{kind}-{hashlib.sha256(data).hexdigest()[:8]}").write_bytes(data)
        traceback.print_exception(defect, file=sys.stdout)
        sys.stdout.flush()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("n", type=int)
    options.add_argument("--only", nargs="*")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--found", type=Path, default=Path("fuzzed"))
    args = options.parse_args()
    failed = []
    with tempfile.TemporaryDirectory(dir=SCRATCH if SCRATCH.is_dir() else None) as scratch:
        folder_path = Path(scratch)
        every = targets(folder_path)
        names = args.only or list(every)
        how = "by what code an input reaches (atheris)" if atheris else "by mutation"
        print(f"{args.n:,} inputs to {len(names)} readers, {how}", flush=True)
        for name in names:
            folder = folder_path / f"in-{name}"
            folder.mkdir()
            child = os.fork()
            if not child:
                os.chdir(folder)
                n = -(-args.n // len(names))
                fuzz(name, every[name], n, args.seed, folder, args.found.resolve())
            if os.waitpid(child, 0)[1]:
                failed.append(name)
    failed += [str(path) for path in sorted(args.found.glob("*/*"))]
    if failed:
        sys.exit(f"defects: {', '.join(failed)}")


main()
