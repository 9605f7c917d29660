"""The streams as a shell gives them: closed, full, cut off, or of another encoding."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_vector
from typer.testing import CliRunner

from steer.cli.main import app
from steer.models.loading import load
from steer.models.source import ModelSource
from steer.vectors import store


@pytest.fixture(autouse=True)
def vectors() -> None:
    Path("vectors").mkdir()
    store.write(Path("vectors/calm.safetensors"), make_vector(name="ruhig \u2013 \U0001f30a"))


def in_shell(words: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    """A command line with its redirections."""
    return subprocess.run(
        f"{sys.executable} -m steer {words}", shell=True, capture_output=True, encoding=encoding,
        check=False, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("apply <&-", 1, "stdin is empty"),
        ("contrasts check - <&-", 1, "stdin is empty"),
        ("list >&-", 0, ""),
        ("list --json >&-", 0, ""),
        ("list 2>&-", 0, ""),
        ("show nothing 2>&-", 1, ""),
        ("list > /dev/full", 1, "error: stdout: No space left"),
        ("show calm --json > /dev/full", 1, "error: stdout: No space left"),
        ("compare calm calm | true", 0, ""),
    ],
)
def test_a_stream_that_is_closed_or_full_is_no_bug(words: str, code: int, message: str) -> None:
    run = in_shell(words)
    assert run.returncode == code, run.stderr
    assert run.stderr.startswith("error: ") if message else not run.stderr
    assert message in run.stderr
    assert run.stderr.count("\n") <= 2


@pytest.mark.parametrize("words", ["list --json", "show calm", "convert --help"])
def test_who_reads_no_more_is_no_bug(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-m", "steer", *words.split()], stdout=writer, stderr=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (run.returncode, run.stderr) == (128 + signal.SIGPIPE, "")


def test_a_process_that_is_asked_to_end_is_interrupted() -> None:
    """Here, while it waits for what to say."""
    command = [sys.executable, "-m", "steer", "chat", "-m", "pocket"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = [process.stderr.readline()]
    process.terminate()
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "interrupted" in rest
    assert "Traceback" not in "".join(lines) + rest


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(encoding: str) -> None:
    assert in_shell("compare calm calm", encoding).returncode == 0
    shown = in_shell("show calm", encoding)
    assert shown.returncode == 0
    assert ("\u2013" in shown.stdout) == (encoding in ("utf-8", "cp1252"))
    own, *_shipped = json.loads(in_shell("list --json", encoding).stdout)["vectors"]
    assert own["name"] == "ruhig \u2013 \U0001f30a"


@pytest.mark.parametrize(
    "words",
    [
        ["apply", "caf\udce9"],
        ["apply", "hello", "--system", "caf\udce9"],
        ["apply", "hello", "--stop=caf\udce9"],
        ["monitor", "caf\udce9", "-v", "calm"],
        ["monitor", "w1", "-v", "caf\udce9"],
        ["combine", "calm", "calm", "-o", "x.safetensors", "--description", "caf\udce9"],
        ["show", "caf\udce9"],
        ["push", "calm", "caf\udce9"],
    ],
)
def test_bytes_that_are_no_text_are_refused_at_the_edge(words: list[str]) -> None:
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 2
    assert "is not UTF-8" in run.stderr


def test_a_file_whose_name_is_no_text_can_be_named() -> None:
    path = Path(os.fsdecode(b"caf\xe9.safetensors"))
    store.write(path, make_vector())
    assert CliRunner().invoke(app, ["show", str(path)]).exit_code == 0


def test_a_folder_whose_name_a_library_cannot_write_is_an_error() -> None:
    path = Path(os.fsdecode(b"caf\xe9"))
    path.mkdir()
    run = CliRunner().invoke(app, ["bake", "-v", "joyful", "-o", str(path), "--force"])
    assert run.exit_code == 1 and "UTF-8" in run.stderr, run.stderr


#: Python's ways out of an ASCII locale are closed.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "words",
    [
        ["recipe", "show", "\u00e9.toml"],
        ["convert", "calm:1@2", "\u00e9.svec"],
    ],
)
def test_an_ascii_locale_changes_nothing(words: list[str]) -> None:
    Path("\u00e9.toml").write_text('description = "\u00e9"', encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONIOENCODING"}
    command = [sys.executable, "-m", "steer", *words]
    runs = []
    for more in ({"LC_ALL": "C.UTF-8"}, ASCII):
        folder = Path(f"run{len(runs)}")
        folder.mkdir()
        for name in ("vectors", "\u00e9.toml"):
            (folder / name).symlink_to(Path(name).absolute())
        runs.append(
            subprocess.run(
                command, capture_output=True, check=False, cwd=folder, env=environment | more
            )
        )
    assert runs[1].returncode == 0, runs[1].stderr
    assert runs[0].stdout == runs[1].stdout
    for path in Path("run0").iterdir():
        if path.is_file():
            assert path.read_bytes() == (Path("run1") / path.name).read_bytes()


#: Runs a command that can write no file longer than so many bytes, as on a full disk.
FULL = """
import resource, signal, sys
from pathlib import Path

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
sys.argv[0] = "steer"
from steer.cli.main import main

main()
"""


@pytest.mark.parametrize(
    ("words", "room"),
    [
        ("bake -v calm:1@2 -o baked", 100_000),
        ("sign calm --key k.pem --new-key", 0),
        ("sign calm --key k.pem --new-key", 115),  # for one of the two keys
        ("pull team/calm -o here", 100),
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing_half(words: str, room: int) -> None:
    pytest.importorskip("resource")
    identity = load(ModelSource("pocket", dtype="float32")).identity
    Path("team").mkdir()
    for folder in ("vectors", "team"):
        store.write(Path(f"{folder}/calm.safetensors"), make_vector(identity), force=True)
    before = sorted(path for path in Path().rglob("*") if path.is_file())
    command = [sys.executable, "-c", FULL, str(room), *words.split()]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr and "File too large" in run.stderr, run.stderr
    left = {path for path in Path().rglob("*") if path.is_file()} - set(before)
    assert {path for path in left if path.stat().st_size and path.suffix != ".guard"} == set()


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["texts", "json"])
@pytest.mark.parametrize("n_kept", [0, 1, 2])
def test_texts_are_where_the_message_says(n_kept: int, options: list[str]) -> None:
    pytest.importorskip("resource")
    words = ["apply", "One day", "-n", "3", "--max-tokens", "4", "--batch-size", "1", *options]
    assert CliRunner().invoke(app, [*words, "-o", "all"]).exit_code == 0
    lines = Path("all").read_bytes().splitlines(keepends=True)
    room = sum(map(len, lines[:n_kept])) + 5  # a part of the next line fits
    command = [sys.executable, "-c", FULL, str(room), *words, "-o", "texts"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "File too large" in run.stderr
    part = Path("texts.part")
    assert part.exists() == (n_kept > 0)
    assert not n_kept or part.read_bytes() == b"".join(lines[:n_kept])
    kept = f", {n_kept} of them in texts.part" if n_kept else ""
    assert f"{n_kept + 1} of 3 texts were finished{kept}\n" in run.stderr
    # A text that no file holds is printed.
    assert (json.loads(lines[n_kept])["text"].strip() in run.stdout) == (not options)
