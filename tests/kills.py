"""`kill -9` at random moments of the commands that write: `python tests/kills.py N [--remote]`.

Each command runs N times and is killed: every other time just after one of the things that it does
to files, else at any time. What then stands under a final name has to be, byte for byte, what stood
there before or what the whole command puts there; and the same command, run again, has to end well.

One process imports everything, and what is killed are forks of it: they begin at once, and do what
the command line does. With --remote servers of the hub, of S3 and of SFTP run beside it.
"""

from __future__ import annotations

import argparse
import io
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

os.environ.update(TOKENIZERS_PARALLELISM="false", NO_COLOR="1")
os.environ.pop("STEER_MODEL", None)

import numpy as np
import servers
import tiny
import torch
from conftest import make_vector

from steer.base.urls import is_url
from steer.cli.main import app
from steer.sharing.address import parse_folder, parse_vector
from steer.sharing.opening import open_place
from steer.sharing.pull import pull
from steer.vectors import signing, store

PAIRS = "".join(
    f'{{"positive": "w{i} w{i + 7} w{i + 9}", "negative": "w{i} w{i + 20} w{i + 3}"}}\n'
    for i in range(3, 9)
)
#: Python tells of these before they happen.
_EVENTS = {"os.rename", "os.link", "os.remove", "os.chmod", "os.mkdir", "os.truncate"}
State = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A command in a folder, and what it writes to: names there, or a place elsewhere."""

    name: str
    words: tuple[str, ...]
    to: str

    def at(self, n: object) -> tuple[tuple[str, ...], str]:
        """Its words and place for one run, so that runs do not see each other."""
        return tuple(word.replace("{n}", str(n)) for word in self.words), self.to.format(n=n)


def local_cases() -> list[Case]:
    commands = {
        "extract": ("extract", "pairs.jsonl", "-m", "../model", "-o"),
        "combine": ("combine", "a.safetensors", "b.safetensors", "-o"),
        "convert": ("convert", "row.npy", "--layer", "1"),
    }
    cases = []
    for name, words in commands.items():
        cases.append(Case(name, (*words, "new.safetensors"), "."))
        cases.append(Case(f"{name} --force", (*words, "old.safetensors", "--force"), "."))
    for team in ("new", "old"):
        force = ("--force",) if team == "old" else ()
        name = " ".join(("{}", *force))
        cases.append(Case(name.format("push"), ("push", "a.safetensors", team, *force), team))
        pulled = ("pull", "there/a", "-o", team, *force)
        cases.append(Case(name.format("pull"), pulled, team))
    fit = ("fit", "acts.safetensors", "-o")
    cases.append(Case("fit", (*fit, "new.safetensors"), "."))
    cases.append(Case("fit --force", (*fit, "old.safetensors", "--force"), "."))
    bake = ("bake", "-m", "../model", "-v", "./small.safetensors:2@1", "--approximate", "-o")
    cases.append(Case("bake", (*bake, "new"), "new"))
    cases.append(Case("bake --force", (*bake, "baked", "--force"), "baked"))
    cases.append(Case("sign", ("sign", "b.safetensors", "--key", "k.pem"), "."))
    known = ("--public-key", "k.pub")
    cases.append(Case("pull signed", ("pull", "signed/a", "-o", "new", *known), "new"))
    cases.append(Case("pull successor", ("pull", "signed/a", "-o", "held", "--force"), "held"))
    cases.append(Case("push signed", ("push", "signed/a.safetensors", "new"), "new"))
    return cases


def remote_cases(addresses: dict[str, str], folder: Path) -> list[Case]:
    """A place for each run to push to, and one to pull from."""
    import huggingface_hub.hf_api  # noqa: F401
    import paramiko  # noqa: F401
    import s3fs

    places = {
        "hub": "hf://team/v{n}",
        "s3": "s3://team/{n}",
        "sftp": f"{addresses['sftp']}{folder}/far/{{n}}",
    }
    make = forked(lambda: s3fs.S3FileSystem().mkdir("team"), folder)
    assert done(make)
    for place in places.values():
        there = command(("push", "a.safetensors", place.replace("{n}", "there")))
        assert done(forked(there, folder / "template"))
    cases = []
    for kind, place in places.items():
        cases.append(Case(f"push {kind}", ("push", "a.safetensors", place), place))
        cases.append(
            Case(f"pull {kind}", ("pull", place.replace("{n}", "there") + "/a"), "vectors")
        )
    return cases


def prepare(folder: Path) -> None:
    """What the commands find, and what those with --force replace."""
    for name in ("there", "old"):
        (folder / name).mkdir(parents=True)
    (folder / "pairs.jsonl").write_text(PAIRS)
    np.save(folder / "row.npy", np.linspace(-1, 1, 500_000, dtype=np.float32))
    for seed, path in enumerate(("a", "b", "old", "there/a", "old/a")):
        vector = make_vector(name=path[-1], layers=(1, 2), seed=seed)
        store.write(folder / f"{path}.safetensors", vector)
    _prepare_signed(folder)
    _prepare_model(folder)


def _prepare_model(folder: Path) -> None:
    """A vector of the model, what it was fitted to, and a model that was baked before."""
    model = ("-m", "../model")
    extract = ("extract", "pairs.jsonl", *model, "--keep", "acts.safetensors")
    bake = ("bake", *model, "--approximate", "-v", "./small.safetensors:1@0", "-o", "baked")
    for words in ((*extract, "-o", "small.safetensors"), bake):
        assert done(forked(command(words), folder)), f"{' '.join(words)} fails"


def _prepare_signed(folder: Path) -> None:
    """A signed vector in `signed`, and in `held` the one before it, pulled and signed as well."""
    key = folder / "k.pem"
    public = signing.make_keys(key)
    for seed in (7, 8):
        path = folder / "signed/a.safetensors"
        path.parent.mkdir(exist_ok=True)
        vector = store.write(path, make_vector(name="a", layers=(1, 2), seed=seed), force=True)
        signing.sign(path, store.to_bytes(vector), key)
        if seed == 7:
            here = Path.cwd()
            os.chdir(folder)
            pull(parse_vector("signed/a"), Path("held"), public_key=public)
            os.chdir(here)


def forked(work: Callable[[], object], folder: Path) -> int:
    """A child that does it in the folder, silently; its exit status says whether it could."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.chdir(folder)
        silent = os.open(os.devnull, os.O_RDWR)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        work()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)


def command(words: tuple[str, ...], tell: int | None = None) -> Callable[[], object]:
    """A command as typed. tell: where a byte is written for each thing that it does to a file."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in _EVENTS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and not str(arguments[0]).startswith("/dev"):
            os.write(tell, b".")  # type: ignore[arg-type]

    def work() -> None:
        if tell is not None:
            sys.addaudithook(hook)
        app([str(word) for word in words])

    return work


def done(child: int) -> bool:
    return os.waitpid(child, 0)[1] == 0


def seen(folder: Path, to: str) -> State:
    """The files of a place by name, without those that are hidden or unfinished by their names."""
    if is_url(to):
        shutil.rmtree(folder / ".seen", ignore_errors=True)
        assert done(forked(lambda: _copy(parse_folder(to), Path(".seen")), folder))
        to = ".seen"
    files = [path for path in (folder / to).glob("*") if path.is_file()]
    return {path.name: path.read_bytes() for path in files if _final(path.name)}


def _copy(address: Any, to: Path) -> None:
    place = open_place(address)
    to.mkdir()
    for name, size in place.files().items():
        (to / name).write_bytes(place.read(name, 0, size))


def _final(name: str) -> bool:
    return not name.startswith(".") and not name.endswith((".part", ".tmp"))


def killed(words: tuple[str, ...], folder: Path, rng: Random, usual: tuple[int, float]) -> int:
    """Run a command and kill it; returns how many things it had done to files."""
    n_events, seconds = usual
    after = rng.randint(1, n_events) if n_events and rng.random() < 0.5 else n_events + 1
    stop = time.monotonic() + rng.uniform(0, seconds)
    reader, writer = os.pipe()
    child = forked(command(words, writer), folder)
    os.close(writer)
    count = 0
    while count < after:
        left = stop - time.monotonic() if after > n_events else 60
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            break
        n_bytes = len(os.read(reader, 1))
        if not n_bytes:
            break
        count += n_bytes
    if after <= n_events:
        time.sleep(rng.choice([0, 0, 1e-4, 1e-3]))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    return count


def measured(words: tuple[str, ...], folder: Path) -> tuple[int, float]:
    """How many things a whole command does to files, and how long it takes."""
    reader, writer = os.pipe()
    start = time.monotonic()
    child = forked(command(words, writer), folder)
    os.close(writer)
    count = 0
    while n_bytes := len(os.read(reader, 4096)):
        count += n_bytes
    assert done(child), f"{' '.join(words)} fails"
    os.close(reader)
    return count, time.monotonic() - start


def tried(case: Case, n: int, template: Path, seed: int) -> tuple[Counter[str], list[str]]:
    """Kill one command n times: how far it had come, and what was wrong."""
    rng, folder, states, wrong = Random(seed), template.parent / "run", Counter[str](), []
    for number in range(-1, n):
        shutil.copytree(template, folder)
        words, to = case.at(f"{seed}-{number + 1}")
        if number < 0:
            usual = measured(words, folder)
        else:
            before = seen(folder, to)
            killed(words, folder, rng, usual)
            then = seen(folder, to)
            again = done(forked(command(words), folder))
            after = seen(folder, to)
            state = "before" if then == before else "done" if then == after else "between"
            half = [path for path in folder.rglob(".*.tmp") if path.is_file()]
            states["in a temporary file" if half else state] += 1
            # What was written whole is refused the second time, without --force.
            if not again and not (then == after and then != before):
                wrong.append(f"{case.name} {number}: it does not go on")
            wrong += [
                f"{case.name} {number}: {name} is neither old nor new"
                for name in sorted({*before, *then})
                if then.get(name) not in (before.get(name), after.get(name))
            ]
        shutil.rmtree(folder)
    return states, wrong


def warm(case: Case, template: Path) -> None:
    """Have what the command imports imported here: forks are to begin at once."""
    folder = template.parent / "warm"
    shutil.copytree(template, folder)
    here = Path.cwd()
    os.chdir(folder)
    silent = io.StringIO()
    with redirect_stdout(silent), redirect_stderr(silent), suppress(SystemExit):
        app(list(case.at("warm")[0]))
    os.chdir(here)
    shutil.rmtree(folder)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("n", type=int)
    options.add_argument("--remote", action="store_true")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    torch.set_num_threads(1)  # a fork has no other threads
    warnings.simplefilter("ignore")
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = f"{scratch}/cache"
        os.environ["HF_HOME"] = f"{scratch}/hf"
        template = Path(scratch) / "template"
        tiny.save(Path(scratch) / "model")
        prepare(template)
        kinds = tuple(servers.KINDS) if args.remote else ()
        with servers.processes(Path(scratch), *kinds) as addresses:
            cases = remote_cases(addresses, Path(scratch)) if args.remote else local_cases()
            for case in cases:
                if not args.remote:
                    warm(case, template)
                states, wrong = tried(case, args.n, template, args.seed)
                summary = ", ".join(f"{state} {count}" for state, count in sorted(states.items()))
                sys.stdout.write(f"{case.name:16} {args.n} kills: {summary}\n")
                sys.stdout.flush()
                failed += wrong
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
