"""A recording that was cut short, however and whenever, goes on to the bytes of a whole one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import killing
import numpy as np
import pytest
import tiny
import torch
from killed import PAIRS
from recorded import pairs
from test_cli import failed, folder, steer  # noqa: F401  (fixtures)
from test_cli import pairs as pairs_file  # noqa: F401

from steer.base.errors import SteerError
from steer.extraction import ReadSettings, plan, record_contrasts
from steer.fitting.activations import resume
from steer.vectors.positions import Position
from steer.workers import LocalWorker

DTYPES = (torch.bfloat16, torch.float32)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_kill_9_at_any_moment_leaves_no_trace(tmp_path: Path) -> None:
    n = 4
    rounds = killing.rounds_of("killed.py", tmp_path, n)
    assert all(held == sorted(held) for held in rounds), "what was recorded was lost"
    counts = [count for held in rounds for count in held]
    assert any(0 < count < 2 * len(PAIRS) for count in counts), "no run was killed in its midst"
    expected = (tmp_path / "whole").read_bytes()
    assert all((tmp_path / f"killed-{number}").read_bytes() == expected for number in range(n))


class Disk:
    """`os.pwrite` that fails, with half of the bytes written, once `room` bytes are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room, self.written, self.real = 1 << 60, 0, os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, descriptor: int, row: bytes | np.ndarray, offset: int) -> int:
        data = bytes(row)
        if self.written + len(data) > self.room:
            self.real(descriptor, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.written += len(data)
        return self.real(descriptor, data, offset)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_disk_that_fills_up_costs_nothing_but_time(
    folder: Path,  # noqa: F811
    pairs_file: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    keep: bool,
    share: float,
) -> None:
    monkeypatch.setattr("steer.hooks.record.token_budget", lambda model: 8)
    disk = Disk(monkeypatch)
    words = ["extract", pairs_file, "-m", folder, "--name", "x", "-o"]
    assert steer(*words, "a.safetensors", "--keep", "a.acts").exit_code == 0
    n_written = disk.written
    disk.room, disk.written = int(share * n_written), 0
    words += ["b.safetensors", *(["--keep", "b.acts"] if keep else [])]
    failed(steer(*words), 1, "No space left on device", "to resume")
    (part,) = Path().glob("b.*")
    assert part.name == ("b.acts.part" if keep else "b.safetensors.part")
    disk.room, disk.written = 1 << 60, 0
    again = steer(*words)
    assert again.exit_code == 0, again.stderr
    assert disk.written <= (1.2 - share) * n_written, "it began anew"
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    assert not part.exists()
    assert not keep or Path("a.acts").read_bytes() == Path("b.acts").read_bytes()


def test_what_is_exactly_zero_has_been_recorded(tmp_path: Path) -> None:
    model = tiny.model("llama")
    planned = plan(model, pairs(("w3", "w4")), ReadSettings(layers=(0,)))
    with resume(tmp_path / "a", planned.recording) as kept:
        kept.put([0], np.zeros((1, 1, 32), np.float32), np.zeros((1, 1), np.float32))
        assert kept.done().tolist() == [True, False]
    with record_contrasts(LocalWorker(model), planned, tmp_path / "a") as kept:
        assert kept.done().all()


def test_what_another_precision_began_is_not_gone_on_with(tmp_path: Path) -> None:
    half, full = (tiny.wrapped(tiny.build("llama").to(dtype), "same") for dtype in DTYPES)
    assert half.identity == full.identity, "the file alone has to tell them apart"
    plans = [
        plan(model, pairs(("w3", "w4")), ReadSettings(positions=(Position("last"),)))
        for model in (half, full)
    ]
    with resume(tmp_path / "begun", plans[0].recording) as kept:
        kept.put([0, 1], np.ones((2, 3, 32), np.float32), np.ones((2, 3), np.float32))
    with record_contrasts(LocalWorker(full), plans[1], tmp_path / "begun"):
        pass
    with record_contrasts(LocalWorker(full), plans[1], tmp_path / "anew"):
        pass
    assert (tmp_path / "begun").read_bytes() == (tmp_path / "anew").read_bytes()


def test_two_do_not_record_into_one_file(tmp_path: Path) -> None:
    model = tiny.model("llama")
    first, second = (
        plan(model, pairs(words), ReadSettings(layers=(0,))).recording
        for words in (("w3", "w4"), ("w5", "w6"))
    )
    with resume(tmp_path / "a", first) as kept:
        for other in (first, second):
            with pytest.raises(SteerError, match="another process"):
                resume(tmp_path / "a", other)
        kept.put([0, 1], np.ones((2, 1, 32), np.float32), np.ones((2, 1), np.float32))
        assert (kept.side(0, 0) == 1).all() and kept.done().all()
    with resume(tmp_path / "a", second) as kept:
        assert not kept.done().any()


def test_a_command_leaves_alone_what_another_is_recording(
    folder: Path,  # noqa: F811
    pairs_file: Path,  # noqa: F811
) -> None:
    model = tiny.model("llama")
    recording = plan(model, pairs(("w3", "w4")), ReadSettings()).recording
    words = ["extract", pairs_file, "-m", folder, "-o", "a.safetensors"]
    with resume(Path("a.safetensors.part"), recording):
        begun = Path("a.safetensors.part").read_bytes()
        failed(steer(*words), 1, "another process is recording")
        assert Path("a.safetensors.part").read_bytes() == begun
    assert steer(*words).exit_code == 0
