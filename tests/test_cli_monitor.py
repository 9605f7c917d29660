"""`steer monitor` and `steer doctor`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_cli import failed, folder, joyful, pairs, steer  # noqa: F401  (fixtures)

from steer.vectors import store


def test_monitor_prints_tables_json_and_a_page(joyful: Path, folder: Path) -> None:  # noqa: F811
    words = ["monitor", "w3 w4 w5", "-v", "joyful@0-1", "-m", folder]
    result = steer(*words)
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows[1:5]] == ["'<s>'", "'w3'", "'", "'"]
    printed = json.loads(steer(*words, "--json").stdout)
    assert [vector["layer"] for vector in printed["vectors"]] == [0, 1]
    (text,) = printed["texts"]
    assert [token["special"] for token in text["tokens"]] == [True, False, False, False]
    counted = [token["values"][1] for token in text["tokens"][1:]]
    assert text["summaries"][1]["mean"] == pytest.approx(np.mean(counted))
    piped = steer(*words[:1], *words[2:], "--json", stdin="w3 w4 w5\n")
    assert json.loads(piped.stdout) == printed
    page_result = steer(*words, "--html", "page.html")
    assert "wrote page.html" in page_result.stderr
    assert "joyful@0" in Path("page.html").read_text()
    failed(steer(*words, "--html", "page.html"), 1, "exists", "--force")


def test_texts_from_a_file(joyful: Path, folder: Path) -> None:  # noqa: F811
    Path("texts.jsonl").write_text('{"text": "w3 w4"}\n{"text": "w5"}\n')
    Path("texts.txt").write_text("w3 w4\n\nw5\n")
    first, second = (
        json.loads(steer("monitor", "--texts", name, "-v", "joyful", "-m", folder, "--json").stdout)
        for name in ("texts.jsonl", "texts.txt")
    )
    assert first == second
    assert [text["text"] for text in first["texts"]] == ["w3 w4", "w5"]
    printed = steer("monitor", "--texts", "texts.txt", "-v", "joyful", "-m", folder).stdout
    # Each token, then each text, with the number of its text.
    assert [line.split()[0] for line in printed.splitlines() if line] == [
        "text", "1", "1", "1", "2", "2", "text", "1", "2",
    ]  # fmt: skip


def test_monitor_watch_and_gates_read_the_same(joyful: Path, folder: Path) -> None:  # noqa: F811
    words = ["w3 w4", "-m", folder, "--json"]
    (text,) = json.loads(steer("monitor", *words, "-v", "joyful@all").stdout)["texts"]
    at_last = text["tokens"][-1]["values"]
    for layer, value in enumerate(at_last):
        gate = ["-v", "joyful", "--when", f"joyful@{layer}>99/last"]
        result = steer("apply", *words, "--watch", f"joyful@{layer}", *gate)
        (result,) = json.loads(result.stdout)["results"]
        # The first new token is written where the last one of the prompt is read.
        assert result["watched"][f"joyful@{layer}"][0] == pytest.approx(value, abs=1e-4)
        assert result["gates"][0]["value"] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["w3"], 2, "name one with -v"),
        (["w3", "-v", "joyful:2"], 2, "write -v joyful"),
        (["w3", "-v", "joyful@1/prompt"], 2, "write -v joyful@1"),
        (["w3", "-v", "joyfull"], 1, "did you mean 'joyful'?"),
        (["w3", "-v", "joyful@9"], 1, "no layer 9"),
        (["w3", "--texts", "x.txt", "-v", "joyful"], 2, "not both"),
        (["--texts", "x.txt", "-v", "joyful"], 1, "x.txt"),
        (["", "-v", "joyful"], 1, "no tokens of its own"),
        (["w3", "--chat", "-v", "joyful"], 1, "no chat template"),
        (["w3", "-v", "joyful", "--html", "none/page.html"], 1, "mkdir"),
    ],
)
def test_what_is_wrong_is_said(
    joyful: Path,  # noqa: F811
    folder: Path,  # noqa: F811
    words: list[str],
    code: int,
    message: str,
) -> None:
    failed(steer("monitor", *words, "-m", folder), code, message)


def test_doctor_prints_a_report(folder: Path) -> None:  # noqa: F811
    result = steer("doctor", "-m", folder)
    assert (result.exit_code, result.stderr.strip()) == (0, "all is well")
    rows = [line.split(maxsplit=1)[0] for line in result.stdout.splitlines()]
    assert rows[:3] == ["steer", "python", "platform"]
    assert rows[-7:] == ["ok"] * 7
    printed = json.loads(steer("doctor", "-m", folder, "--json").stdout)
    assert printed["passed"] is True
    assert str(folder) not in json.dumps(printed)


def test_doctor_fails_where_a_check_does(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((folder / "config.json").read_text())
    result = steer("doctor", "-m", "broken")
    assert result.exit_code == 1
    assert "FAILED  model loads: the folder broken holds no weights" in result.stdout
    assert "1 of 3 checks failed" in result.stderr
    printed = json.loads(steer("doctor", "-m", "broken", "--json").stdout)
    assert printed["passed"] is False
    assert printed["checks"][-1]["advice"]


def test_every_vector_is_held_against_the_model(joyful: Path, folder: Path) -> None:  # noqa: F811
    vector = store.read(joyful)
    changed = tiny.msgspec.structs.replace(vector.metadata.model, fingerprint="f" * 16)
    store.write(Path("tuned.safetensors"), tiny.renamed(vector, model=changed))
    words = ["monitor", "w3", "-m", folder]
    # Of the same name, and made on other weights.
    for vectors in (["joyful", "./tuned.safetensors"], ["./tuned.safetensors", "joyful"]):
        named = [word for vector in vectors for word in ("-v", vector)]
        failed(steer(*words, *named), 1, "the weights of tiny-llama are others")
        allowed = steer(*words, *named, "--allow-other-model")
        assert allowed.exit_code == 0
        assert "warning: vector" in allowed.stderr
