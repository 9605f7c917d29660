"""Evaluations, sweeps and suites are typed objects, of which everything else is a view."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from rich.console import Console
from test_cli import steer
from test_evaluate import HELD_OUT

from steer.base.errors import InputError, SteerError, UsageError
from steer.base.progress import Advance
from steer.contrasts.heldout import HeldOut
from steer.contrasts.overlap import sketch
from steer.evaluation import evaluate, suite, sweep
from steer.evaluation.data import chosen_on
from steer.measures import measures
from steer.models.model import Model
from steer.vectors import store
from steer.vectors.metadata import decode, encode

FEW: dict[str, Any] = {"samples": 4, "max_tokens": 6, "warn": lambda text: None}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model("llama")


def plain(result: Any) -> Any:
    """What JSON makes of a result: it has nothing but plain values."""
    return json.loads(json.dumps(result.to_dict(), allow_nan=False))


def views_agree(result: Any) -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(result)
    lines = [piece for piece in result.view(200) if isinstance(piece, str) and piece]
    assert lines and all(line.strip() in captured.get() for line in lines)
    assert "<pre" in result._repr_html_()
    assert result.plot().axes
    frame = pytest.importorskip("pandas") and result.to_pandas()
    assert len(frame) > 0


def test_an_evaluation_is_a_typed_object_and_prints_nothing(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    shares: list[float] = []

    @contextmanager
    def progress(phase: str, total: int) -> Iterator[Advance]:
        yield lambda count, note=None, picture=None: shares.append(count / total)

    result = evaluate(
        model, tiny.steer(model, 2.0), HELD_OUT, condition="w50", progress=progress, **FEW
    )
    assert capsys.readouterr() == ("", "")
    assert sum(shares) == pytest.approx(1)
    row = result.row("vector")
    assert row.measures["preference"].value == pytest.approx(row.shifts.mean())  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="no row"):
        result.row("nothing")
    fields = plain(result)
    assert [row["kind"] for row in fields["rows"]][:2] == ["unsteered", "vector"]
    for row_fields, typed in zip(fields["rows"], result.rows, strict=True):
        for name in measures():
            assert (row_fields[name] is None) == (name not in typed.measures)
    views_agree(result)
    result.finish()


def test_the_model_is_loaded_only_when_all_else_is_right(model: Model) -> None:
    def never() -> Model:
        pytest.fail("loaded")

    vector = tiny.vector(model)
    for run in (evaluate, sweep):
        with pytest.raises(InputError, match="no data to measure an effect on"):
            run(never, vector)
        with pytest.raises(SteerError, match=r"none\.jsonl"):
            run(never, vector, "none.jsonl")
    with pytest.raises(UsageError, match="has no"):
        suite(never, tags=["happy"])
    with pytest.raises(UsageError, match="not a rule"):
        sweep(never, vector, HELD_OUT, rule="best")


def records(start: int, n: int = 12) -> list[dict[str, str]]:
    return [
        {"prompt": f"w{i} ", "positive": f"w{i + 3}", "negative": f"w{i + 7}"}
        for i in range(start, start + n)
    ]


@pytest.fixture(scope="module")
def swept(model: Model) -> Any:
    return sweep(
        model, tiny.vector(model, layers=(0, 1)), records(20), coefficients=["20%", "-20%"],
        max_kl=10, max_nats=10, **FEW,
    )  # fmt: skip


def test_a_sweep_is_a_typed_object(swept: Any) -> None:
    fields = plain(swept)
    assert len(fields["cells"]) == len(fields["rows"]) * 2
    assert (swept.recommended is None) == (not fields["recommended"])
    assert swept.reason == fields["reason"]
    views_agree(swept)
    assert "<html" in swept.report()
    with pytest.raises(ValueError, match="read-only"):
        swept.verdict.scores.effect[0, 0, 0] = 1.0


def test_records_a_file_and_a_contrast_set_are_the_same_data(model: Model, tmp_path: Path) -> None:
    rows = records(20, 4)
    path = tmp_path / "held.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"coefficients": "20%", "layers": [1], **FEW}
    vector = tiny.vector(model)
    first, second = (plain(sweep(model, vector, texts, **settings)) for texts in (rows, path))
    assert first == second


def test_the_command_prints_what_the_library_gives(tmp_path: Path) -> None:
    from steer.models.loading import load
    from steer.models.source import ModelSource

    folder = tiny.save(tmp_path / "tiny-llama")
    model = load(ModelSource(str(folder)))
    store.write(Path("x.safetensors"), tiny.vector(model))
    Path("held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records(30, 9)))
    words = ["-m", folder, "-v", "./x.safetensors", "--texts", "held.jsonl", "--samples", 4]
    shown = json.loads(steer("eval", *words, "--max-tokens", 6, "--json").stdout)
    library = plain(
        evaluate(model, "./x.safetensors", "held.jsonl", command=shown["command"], **FEW)
    )
    assert library == shown


def with_choice(model: Model, texts: list[str]) -> Any:
    vector = tiny.vector(model)
    recommended = msgspec.structs.replace(vector.metadata.recommended, chosen_on=sketch(texts))
    return tiny.renamed(vector, recommended=recommended)


def test_texts_that_a_sweep_chose_on_are_named(model: Model) -> None:
    held_out = HeldOut(HELD_OUT)
    texts = held_out.all_texts
    vector = with_choice(model, texts[:5])
    assert chosen_on([vector.metadata], held_out) == {vector.name: 5}
    assert chosen_on([tiny.vector(model).metadata], held_out) == {}
    warnings: list[str] = []
    result = evaluate(model, vector, HELD_OUT, **(FEW | {"warn": warnings.append}))
    assert any(f"chosen on 5 of these {len(texts)}" in text for text in warnings)
    assert result.to_dict()["chosen_on"] == {vector.name: 5}
    assert any("chosen on 5" in str(piece) for piece in result.view(200))


def test_a_choice_keeps_the_hashes_of_its_texts_and_old_files_their_bytes(
    model: Model, swept: Any
) -> None:
    assert swept.chosen_on is not None
    old = tiny.vector(model).metadata
    assert "chosen_on" not in encode(old)
    new = with_choice(model, ["a", "b"]).metadata
    assert decode(encode(new), "x").recommended.chosen_on == sketch(["b", "a"])
    if swept.recommended is not None:
        assert swept.recommended_vector().metadata.recommended.chosen_on == swept.chosen_on


def test_a_grid_of_one_cell_is_not_called_stable(model: Model) -> None:
    vector = tiny.vector(model)
    for coefficient in ("20%", "-20%"):
        result = sweep(
            model, vector, records(20), layers="1", coefficients=coefficient, max_kl=100,
            max_nats=100, **FEW,
        )  # fmt: skip
        assert result.verdict.stable is None
        assert "stable: each half" not in "\n".join(map(str, result.view(200)))


def test_a_suite_is_a_typed_object(model: Model) -> None:
    texts = [f"w{i} w{i + 3} w{i + 5}" for i in range(3, 25)]
    result = suite(
        model, ["w50 w51"], texts, prompts=["w3 w4", "w9"], methods=["mean_diff"], samples=4,
        max_tokens=6,
    )  # fmt: skip
    fields = plain(result)
    assert {row["method"] for row in fields["rows"]} >= {"unsteered", "mean_diff", "the prompt"}
    assert fields["summary"][0]["n"] == 1
    views_agree(result)
    assert np.isfinite(fields["rows"][-1].get("kl", {"value": 0.0})["value"])
