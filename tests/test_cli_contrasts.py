"""Contrasts on the command line: `extract` and `fit` with every kind, `contrasts check`."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from test_cli import failed, steer

from steer.methods.registry import fit_methods
from steer.vectors import store


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny.save(tmp_path_factory.mktemp("models") / "tiny-chat")
    (path / "chat_template.jinja").write_text(tiny.CHAT_TEMPLATE)
    return path


def rows(path: str, *records: object) -> str:
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def unpaired() -> str:
    """Thirty texts a side; w20 is in all the positive ones."""
    return rows(
        "sets.jsonl",
        *({"text": f"w{i} w20 w{i + 5}", "label": 1} for i in range(3, 33)),
        *({"text": f"w{i} w{i + 7} w{i + 2}", "label": 0} for i in range(3, 33)),
    )


def metadata(path: str = "x.safetensors") -> store.Metadata:
    return store.read(Path(path)).metadata


def test_two_sets_make_a_vector_without_pretending_pairs(folder: Path, unpaired: str) -> None:
    result = steer("extract", unpaired, "-m", folder, "-o", "x.safetensors")
    assert result.exit_code == 0, result.stderr
    contrast = metadata().contrast
    assert (contrast.kind, contrast.n, contrast.n_negative) == ("unpaired", 30, 30)
    assert all(row.coherence is None for row in metadata().statistics)
    assert "coherence" not in result.stdout
    assert "30 and 30 unpaired texts" in result.stderr
    assert "recommended layer" in result.stderr and "no sweep was run" in result.stderr
    assert "30 and 30 unpaired texts" in steer("show", "./x.safetensors").stdout
    failed(steer("extract", unpaired, "-m", folder, "-o", "y.safetensors", "--method", "pca"),
           1, "these texts are not pairs", "mean_diff")  # fmt: skip


def test_two_files_give_what_labels_give(folder: Path, unpaired: str) -> None:
    records = [json.loads(line) for line in Path(unpaired).read_text().splitlines()]
    for name, label in (("p.txt", 1), ("n.txt", 0)):
        texts = [record["text"] for record in records if record["label"] == label]
        Path(name).write_text("\n".join(texts))
    steer("extract", unpaired, "-m", folder, "-o", "a.safetensors", "--name", "same")
    words = ["--positive-file", "p.txt", "--negative-file", "n.txt", "--name", "same"]
    assert steer("extract", *words, "-m", folder, "-o", "b.safetensors").exit_code == 0
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    paired = steer("extract", *words, "--paired", "-m", folder, "-o", "c.safetensors")
    assert paired.exit_code == 0
    assert metadata("c.safetensors").contrast.kind == "pairs"


def test_several_positions_and_sites_are_compared_and_one_is_written(
    folder: Path, unpaired: str
) -> None:
    words = ["extract", unpaired, "-m", folder, "--keep", "acts", "--force",
             "--positions", "first,last,mean", "--site", "resid_post,mlp_out"]  # fmt: skip
    result = steer(*words, "-o", "x.safetensors")
    assert result.exit_code == 0, result.stderr
    table = [line.split() for line in result.stdout.splitlines()[1:7]]
    assert [line[0] for line in table] == ["resid_post"] * 3 + ["mlp_out"] * 3
    assert sum("*" in line for line in table) == 1
    assert "6 sites and positions were compared" in metadata().recommended.evidence
    compared = json.loads(steer(*words, "-o", "x.safetensors", "--json").stdout)["compared"]
    assert len(compared) == 6
    best = max(row["separability"] for row in compared)
    chosen = (metadata().site, metadata().read.positions)
    row = next(row for row in compared if (row["site"], row["positions"]) == chosen)
    assert row["separability"] >= best - 0.02
    # Each of them can be had from what was kept, and is what it would have been alone.
    for site, position in (("resid_post", "last"), ("mlp_out", "mean")):
        options = ["--site", site, "--positions", position, "--name", "same"]
        assert steer("fit", "acts", "-o", "kept.safetensors", "--force", *options).exit_code == 0
        steer("extract", unpaired, "-m", folder, "-o", "alone.safetensors", "--force", *options)
        kept, alone = Path("kept.safetensors").read_bytes(), Path("alone.safetensors").read_bytes()
        assert kept == alone
    failed(steer("fit", "acts", "-o", "no.safetensors", "--positions", "-2:"), 1, "first, last and")
    Path("kept.acts.safetensors").write_bytes(Path("acts").read_bytes())
    same = ["kept.acts.safetensors", "-o", "kept.acts.safetensors", "--force"]
    failed(steer("fit", *same), 2, "named twice")
    assert Path("kept.acts.safetensors").read_bytes() == Path("acts").read_bytes()
    failed(steer("fit", "acts", "-o", "no.safetensors", "--site", "attn_out"), 1, "not recorded")


def test_the_suffix_of_a_chat_template_is_read_token_by_token(
    chatting: Path, unpaired: str
) -> None:
    words = ["extract", unpaired, "-m", chatting, "--chat", "--system", "w9", "--force"]
    result = steer(*words, "-o", "x.safetensors", "--positions", "suffix", "--json")
    assert result.exit_code == 0, result.stderr
    assert [row["positions"] for row in json.loads(result.stdout)["compared"]] == ["-2", "-1"]
    assert metadata().read.chat is True
    assert metadata().read.system == "w9"
    steer(*words, "-o", "x.safetensors")
    assert metadata().read.positions == "last"
    assert "in a chat" in steer("show", "./x.safetensors").stdout


def test_conditions_cross_with_texts(folder: Path) -> None:
    rows("texts.jsonl", "w5 w6", "w7 w8")
    result = steer("extract", "-m", folder, "--texts", "texts.jsonl", "-o", "x.safetensors",
                   "--positive", "w30", "--positive", "w31", "--negative", "w40")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    contrast = metadata().contrast
    assert (contrast.n, contrast.positive, contrast.negative) == (4, "w30 | w31", "w40")


def test_templates_are_recorded(folder: Path) -> None:
    rows("pairs.jsonl", {"positive": "w5", "negative": "w6"})
    words = ["extract", "pairs.jsonl", "-m", folder, "-o", "x.safetensors"]
    assert steer(*words, "--template", "w9\\nw8 {text} w7").exit_code == 0
    assert metadata().read.template == "w9\nw8 {text} w7"
    # What goes on after the text is where the model has made up its mind; a full stop is not.
    assert metadata().read.positions == "last"
    assert steer(*words, "--template", "w8 {text} .", "--force").exit_code == 0
    assert metadata().read.positions == "mean"
    failed(steer(*words, "--force", "--positions", "completion"), 1, "not completions")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--positions", "suffix"], 1, "they have no suffix"),
        (["--positions", "completion"], 1, "not completions"),
        (["--positions", "third"], 2, "not a position"),
        (["--positions", "-1,-1"], 2, "twice"),
        (["--positions", "9"], 1, "positive text 1 has no token at position 9: it has 3"),
        (["--positions", "after:w20"], 1, "has no token after 'w20'"),
        (["--site", "resid_post,resid_post"], 2, "twice"),
        (["--site", "resid_post,middle"], 2, "not a site"),
        (["--chat"], 1, "tiny-llama has no chat template"),
        (["--system", "x"], 2, "--system needs --chat"),
        (["--template", "{tekst}"], 2, "'tekst'"),
        (["--map", "text"], 2, "maps no field"),
        (["--map", "text=none"], 1, "no field 'none'; it has label, text"),
        (["--positive", "x"], 2, "one way"),
    ],
)
def test_what_cannot_be_extracted(
    folder: Path, unpaired: str, words: list[str], code: int, message: str
) -> None:
    failed(steer("extract", unpaired, "-m", folder, "-o", "x.safetensors", *words), code, message)
    assert not list(Path().glob("x.*"))


def test_faults_of_the_data_are_told_when_a_vector_is_made(folder: Path) -> None:
    records = [{"positive": f"w{i} w9 w9 w9", "negative": f"w{i + 1} w9"} for i in range(3, 33)]
    rows("pairs.jsonl", *records, records[0])
    words = ["extract", "pairs.jsonl", "-m", folder, "-o", "x.safetensors"]
    result = steer(*words)
    assert "warning: length alone separates the sides (AUC 1.00; median 4" in result.stderr
    assert "pairs repeat an earlier one" in result.stderr
    printed = json.loads(steer(*words, "--force", "--json").stdout)
    assert len(printed["warnings"]) >= 2
    assert printed["contrast"]["giveaways"]["length_auc"] == 1


def test_doubts_are_the_same_wherever_they_are_told(folder: Path) -> None:
    records = [{"positive": f"w{i} w9 w9 w9", "negative": f"w{i + 1} w9"} for i in range(3, 33)]
    rows("pairs.jsonl", *records, records[0])
    words = ["extract", "pairs.jsonl", "-m", folder, "--keep", "acts"]
    printed = steer(*words, "-o", "x.safetensors").stderr
    warnings = json.loads(steer(*words, "-o", "x.safetensors", "--force", "--json").stdout)[
        "warnings"
    ]
    assert len(warnings) >= 2
    assert [line for line in printed.splitlines() if "warning: " in line] == [
        f"warning: {text}" for text in warnings
    ]
    for again in (["show", "x.safetensors"], ["fit", "acts", "-o", "y.safetensors"]):
        assert json.loads(steer(*again, "--json").stdout)["warnings"] == warnings


def test_shuffled_labels_are_called_so(folder: Path) -> None:
    records = [{"text": f"w{3 + i * 7 % 50} w{3 + i * 11 % 53}", "label": i % 2} for i in range(60)]
    result = steer("extract", rows("f.jsonl", *records), "-m", folder, "-o", "x.safetensors")
    assert "no better than chance" in result.stderr


@pytest.mark.parametrize("kind", ["pairs", "choice", "unpaired"])
def test_sides_that_mean_nothing_are_called_so_by_every_method(folder: Path, kind: str) -> None:
    rng = random.Random(0)

    def text() -> str:
        return " ".join(f"w{rng.randint(3, 60)}" for _ in range(6))

    answers = ["answer_matching_behavior", "answer_not_matching_behavior"]
    records: list[dict[str, object]] = []
    for number in range(60):
        if kind == "choice":  # either answer as often on either side
            sides = zip(answers, rng.sample([" w5", " w6"], 2), strict=True)
            records.append({"question": text()} | dict(sides))
        elif kind == "pairs":
            records.append({"positive": text(), "negative": text()})
        else:
            records.append({"text": text(), "label": number % 2})
    words = ["extract", rows("f.jsonl", *records), "-m", folder, "-o", "x.safetensors"]
    assert steer(*words, "--keep", "acts").exit_code == 0
    for method in fit_methods().names:
        if (kind, method) != ("unpaired", "pca"):
            messages = steer(
                "fit", "acts", "--method", method, "-o", f"{method}.safetensors"
            ).stderr
            assert "no better than chance" in messages, method
            assert "length" not in messages.partition("recommended")[0], method


def test_check_reports_without_a_model(unpaired: str) -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from steer.cli.main import app

result = CliRunner().invoke(app, ["contrasts", "check", {unpaired!r}, "--json"])
assert result.exit_code == 0, result.output
sys.exit(", ".join({{"torch", "transformers"}} & set(sys.modules)) or 0)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_check_counts_tokens_with_a_tokenizer(folder: Path, chatting: Path, unpaired: str) -> None:
    in_words = steer("contrasts", "check", unpaired)
    assert in_words.exit_code == 0
    assert "words each" in in_words.stdout
    printed = json.loads(steer("contrasts", "check", unpaired, "-m", folder, "--json").stdout)
    assert (printed["kind"], printed["unit"], printed["n_negative"]) == ("unpaired", "tokens", 30)
    assert printed["positive"] == {"least": 3, "median": 3.0, "most": 3}
    chat = steer("contrasts", "check", unpaired, "--chat", "-m", chatting, "--json")
    assert json.loads(chat.stdout)["positive"] == printed["positive"]
    failed(steer("contrasts", "check", unpaired, "--chat", "-m", folder), 1, "no chat template")


def test_check_reads_stdin_and_says_what_is_left_out(unpaired: str) -> None:
    table = "text,label,id\nw3 w4,1,7\nw5,0,8\n"
    result = steer("contrasts", "check", "-", stdin=table)
    assert result.exit_code == 0, result.stderr
    assert "fields that are not read: id" in result.stderr
    failed(steer("contrasts", "check", "-", stdin=""), 1, "stdin is empty")
    failed(steer("contrasts", "check"), 2, "one way")
    failed(steer("contrasts", "check", "hf:a/b/c"), 2, "hf:OWNER/NAME")
