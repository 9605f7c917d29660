"""Held-out records: nothing like them is left, and the same split comes again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from test_cli import failed, steer

from steer.base.errors import InputError, UsageError
from steer.cli.main import app
from steer.contrasts.duplicates import near_duplicates
from steer.contrasts.split import split

WORDS = st.sampled_from(["sea", "hill", "dog", "song", "boat", "road"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=5).map(" ".join), min_size=8, max_size=30)


@given(TEXTS, st.integers(0, 3), st.sampled_from([0.2, 0.25, 0.5]))
def test_nothing_like_what_is_held_out_is_left(texts: list[str], seed: int, share: float) -> None:
    records = [(f"f:{n}", {"text": text, "n": n}) for n, text in enumerate(texts)]
    try:
        kept, held = split(records, share, seed=seed)
    except InputError:
        return
    assert (kept, held) == split(records, share, seed=seed)
    assert sorted(record["n"] for record in kept + held) == list(range(len(texts)))
    assert 0 < len(held) <= round(share * len(texts))
    sides = {record["n"]: record in held for record in kept + held}
    assert all(sides[a] == sides[b] for a, b in near_duplicates(texts))


def test_prompts_stay_together_where_there_are_enough() -> None:
    rows = [{"prompt": f"Q{n % 10}", "positive": f"a{n}", "negative": f"b{n}"} for n in range(40)]
    kept, held = split([("f", row) for row in rows], 0.25)
    assert len(held) == 8
    assert not {row["prompt"] for row in kept} & {row["prompt"] for row in held}
    records = [("f", row | {"prompt": "Q"}) for row in rows]
    assert len(split(records, 0.25)[1]) == 10
    assert split(records, 0.25)[1] != split(records, 0.25, seed=1)[1]


def test_what_cannot_be_split() -> None:
    same = [("f", "the same text")] * 9
    with pytest.raises(InputError, match="cannot be divided"):
        split(same, 0.3)
    with pytest.raises(UsageError):
        split(same, 1.5)
    with pytest.raises(InputError, match="one object"):
        split([("f", {"positive": ["a", "b"], "negative": ["c"]})], 0.5)


def test_split_on_the_command_line() -> None:
    rows = [{"positive": f"w{n} ü", "negative": f"x{n}"} for n in range(20)]
    Path("all.csv").write_text(
        "positive,negative\n" + "".join(f"{row['positive']},{row['negative']}\n" for row in rows)
    )
    words = ["contrasts", "split", "all.csv", "-o", "train.jsonl", "held.jsonl"]
    assert steer(*words).exit_code == 0
    parts = [
        [json.loads(line) for line in Path(name).read_text().splitlines()]
        for name in ("train.jsonl", "held.jsonl")
    ]
    assert [len(part) for part in parts] == [15, 5]
    assert sorted(map(str, parts[0] + parts[1])) == sorted(map(str, rows))
    failed(steer(*words), 1, "train.jsonl exists")
    failed(steer(*words[:4], "a", "a"), 2, "named twice")


def takes_text(parameter: Any) -> bool:
    described = getattr(parameter, "type_descriptor", None)  # by the release of typer
    if described is None:
        return bool(parameter.type.name in ("text", "path"))
    return described.annotation in (str, list[str], Path, list[Path])


def test_texts_that_are_not_utf8_are_refused_by_every_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each text and path of each command, with a byte of Latin-1."""
    latin = os.fsdecode("café".encode("latin-1"))
    tried = 0
    root: Any = typer.main.get_command(app)
    todo: list[Any] = [((), root)]
    while todo:
        path, command = todo.pop()
        if commands := getattr(command, "commands", None):
            todo += [((*path, name), command) for name, command in commands.items()]
            continue
        for parameter in command.params:
            if not takes_text(parameter):
                continue
            words: list[str] = []
            for other in command.params:
                if other is not parameter and not other.required:
                    continue
                value = latin if other is parameter else "1"
                values = [value] * max(1, other.nargs)
                is_option = other.param_type_name == "option"
                words += [other.opts[0], *values] if is_option else values
            code = root.main([*path, *words], prog_name="steer", standalone_mode=False)
            assert (code, "is not UTF-8" in capsys.readouterr().err) == (2, True), (path, words)
            tried += 1
    assert tried > 120
    Path(latin).write_text('{"positive": "a", "negative": "b"}\n')
    assert steer("contrasts", "check", latin).exit_code == 0
