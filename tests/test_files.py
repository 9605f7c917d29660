"""Reading what a stranger names: regular files only, bounded, and never a wait."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_vector

from steer.base import files
from steer.base.errors import InputError, SteerError
from steer.fitting import activations
from steer.fitting.activations import Recording
from steer.vectors import store
from steer.vectors.provenance import Read
from steer.vectors.sites import Site

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")


def special(folder: Path) -> dict[str, Path]:
    """Everything that has a name and is no file, by what the error must call it."""
    pipe, end, place = folder / "pipe", folder / "socket", folder / "folder"
    os.mkfifo(pipe)
    place.mkdir()
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(end))
    return {
        "a pipe": pipe,
        "a socket": end,
        "a folder": place,
        "a device": Path("/dev/zero"),
    }


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("reader", [files.read_bytes, files.read_typed])
def test_only_regular_files_are_read(tmp_path: Path, reader: object, linked: bool) -> None:
    """Also behind a link, and at once: nobody writes into the pipe."""
    for kind, path in special(tmp_path).items():
        named = path
        if linked:
            named = tmp_path / f"link to {path.name}"
            named.symlink_to(path)
        with pytest.raises(SteerError, match=f"is {kind}, not a file"):
            reader(named, limit=10)  # type: ignore[operator]


def test_a_vector_that_is_no_file_is_not_said_to_be_missing(tmp_path: Path) -> None:
    for path in special(tmp_path).values():
        with pytest.raises(SteerError, match=r"is (a folder|no regular file)"):
            store.find(str(path))
    with pytest.raises(SteerError, match="there is no file"):
        store.find(str(tmp_path / "missing.safetensors"))


def test_a_path_that_becomes_a_pipe_after_the_check_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    regular = Path(__file__).stat()
    monkeypatch.setattr(Path, "stat", lambda self: regular)
    with pytest.raises(SteerError, match="is a pipe"):
        files.read_bytes(path, limit=10)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 5_000])
def test_at_most_the_limit_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * size)
    if size <= 10:
        assert files.read_bytes(path, limit=10) == b"x" * size
    else:
        with pytest.raises(SteerError, match="more than 10 bytes"):
            files.read_bytes(path, limit=10)


def test_a_file_whose_size_is_not_known_is_bounded_too() -> None:
    path = Path("/proc/self/maps")  # regular, of size 0 until it is read
    if not path.exists():
        pytest.skip("has no /proc")
    assert path.stat().st_size == 0
    assert files.read_bytes(path, limit=10_000_000)
    with pytest.raises(SteerError, match="more than 10 bytes"):
        files.read_bytes(path, limit=10)


def test_a_link_is_refused_where_it_could_lead_out_of_a_shared_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"secret")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    assert files.read_bytes(link, limit=10) == b"secret"
    with pytest.raises(SteerError, match="is a link, not a file"):
        files.read_bytes(link, limit=10, follow_links=False)


def run(code: str, *, stdin: bytes = b"", descriptor: int | None = None) -> bytes:
    code = f"import sys; from pathlib import Path; from steer.base import files\n{code}"
    words = [sys.executable, "-c", code]
    kept = () if descriptor is None else (descriptor,)
    return subprocess.run(
        words, input=stdin, capture_output=True, check=True, pass_fds=kept, timeout=60
    ).stdout


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
def test_typed_streams_are_read(name: str) -> None:
    if name != "-" and not Path(name).exists():
        pytest.skip(f"has no {name}")
    code = f"sys.stdout.buffer.write(files.read_typed(Path({name!r}), limit=10))"
    assert run(code, stdin=b"some text") == b"some text"


def test_typed_streams_are_bounded() -> None:
    code = """
try:
    files.read_typed(Path("-"), limit=3)
except files.SteerError as error:
    print(error)
"""
    assert b"stdin has more than 3 bytes" in run(code, stdin=b"some text")


def test_process_substitution_is_read_where_it_was_typed_and_not_where_a_file_names_it() -> None:
    if not Path("/dev/fd").exists():
        pytest.skip("has no /dev/fd")
    reader, writer = os.pipe()
    os.write(writer, b"some text")
    os.close(writer)
    path = f"/dev/fd/{reader}"
    code = f"""
try:
    files.read_bytes(Path({path!r}), limit=10)
except files.SteerError as error:
    print(error)
sys.stdout.flush()
sys.stdout.buffer.write(files.read_typed(Path({path!r}), limit=10))
"""
    run_result = run(code, descriptor=reader)
    os.close(reader)
    assert b"is a pipe" in run_result and run_result.endswith(b"some text")


def test_a_cached_file_is_private_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "kind" / "a"
    assert files.read_cached(path, limit=10) is None
    files.write_cached(path, b"kept")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert files.read_cached(path, limit=10) == b"kept"


@pytest.mark.parametrize("kind", ["writable", "link", "pipe", "another owner"])
def test_a_cached_file_that_somebody_else_can_have_written_is_not_there(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "link":
        (tmp_path / "b").write_bytes(b"kept")
        (tmp_path / "b").chmod(0o600)
        path.symlink_to(tmp_path / "b")
    else:
        path.write_bytes(b"kept")
        path.chmod(0o602 if kind == "writable" else 0o600)
    if kind == "another owner":
        if os.geteuid() == 0:
            os.chown(path, 12_345, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    assert files.read_cached(path, limit=10) is None


def test_nothing_but_a_file_is_replaced(tmp_path: Path) -> None:
    for kind, path in special(tmp_path).items():
        before = path.stat()
        with pytest.raises(SteerError, match=f"is {kind}|not writable"):
            files.write_atomic(path, b"x", force=True)
        assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Kept activations, complete."""
    metadata = make_vector().metadata
    kept = Recording(
        model=metadata.model,
        contrast=metadata.contrast,
        reads=(Read(positions="mean"),),
        sites=(Site(0),),
        n_positive=1,
        n_negative=1,
        paired=True,
    )
    with activations.resume(tmp_path / "acts", kept) as file:
        file.put(range(2), np.ones((2, 1, 8), np.float32), np.ones((2, 1), np.float32))
    return tmp_path / "acts"


@pytest.mark.parametrize(
    ("old", "new", "because"),
    [
        (b'\\"format\\":1', b'\\"format\\":3', "format 3; this steer reads 2"),
        (b'\\"paired\\":true', b'\\"format\\":1   ', "holds no recorded activations"),
        (b'"lengths"', b'"resid_p"', "header differs"),
    ],
)
def test_kept_activations_are_what_they_say(
    recording: Path, old: bytes, new: bytes, because: str
) -> None:
    """A later format, a key that stands twice, other names: nothing is read as something else."""
    with activations.open_kept(recording) as kept:
        assert kept.side(0, 0).shape == (1, 8)
    data = recording.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    recording.write_bytes(data.replace(old, new))
    with pytest.raises(InputError, match=because):
        activations.open_kept(recording)


def test_activations_are_not_recorded_into_what_is_no_file(tmp_path: Path, recording: Path) -> None:
    with activations.open_kept(recording) as kept:
        for kind, path in special(tmp_path).items():
            with pytest.raises(SteerError, match=f"is {kind}"):
                activations.resume(path, kept.recording)
            with pytest.raises(SteerError, match=f"is {kind}"):
                activations.open_kept(path)
