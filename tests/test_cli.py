"""The commands, as a user types them: what goes where, and how they fail."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import tiny
from conftest import make_vector
from typer.main import get_command
from typer.testing import CliRunner, Result

from steer.base.errors import SteerError
from steer.cli.command import _MODULES, COMMANDS, GROUPS
from steer.cli.main import app
from steer.generate.batch import Batch
from steer.ops.registry import ops
from steer.steering.generation import Generation
from steer.steering.scope import Schedule
from steer.steering.spec import parse, parse_threshold
from steer.vectors import store

PAIRS = [
    {"positive": f"w{i} w{i + 7} w{i + 9}", "negative": f"w{i} w{i + 20}"} for i in range(3, 15)
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-qwen", "qwen3")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "joyful.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return path


@pytest.fixture
def joyful(folder: Path, pairs: Path) -> Path:
    (Path("vectors")).mkdir()
    assert steer("extract", pairs, "-m", folder).exit_code == 0
    return Path("vectors/joyful.safetensors")


def steer(*words: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def failed(result: Result, code: int, *messages: str) -> None:
    """It failed as it should: nothing on stdout, the reason on stderr, no traceback."""
    assert result.exit_code == code, result.output + repr(result.exception)
    assert result.stdout == ""
    for message in messages:
        assert message in result.stderr
    assert "Traceback" not in result.output


def test_extract_writes_a_file_that_the_others_read(joyful: Path, folder: Path) -> None:
    shown = steer("show", "joyful")
    assert "mean_diff of 12 pairs" in shown.stdout
    assert shown.stderr == ""
    assert "joyful  tiny-llama" in steer("list").stdout
    verified = steer("verify", "joyful", "-m", folder)
    assert verified.exit_code == 0
    assert "whole and unaltered, fits tiny-llama" in verified.stdout


@pytest.mark.parametrize("group", [[], ["contrasts"], ["recipe"]])
def test_help_says_each_command_in_a_line(group: list[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = steer(*group, "--help").stdout
    first = "Commands:\n" if group else f"{next(iter(COMMANDS))}:\n"
    listed = [line for line in shown.partition(first)[2].splitlines() if line.startswith("  ")]
    assert listed
    for line in listed:
        assert line.endswith(".") or line.endswith("?"), line
        assert not line.endswith("...") and len(line) <= 80, line


def every_command() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command and group with the words that name it."""
    left: list[tuple[tuple[str, ...], Any]] = [((), get_command(app))]
    while left:
        words, command = left.pop()
        yield words, command
        left += [((*words, name), item) for name, item in getattr(command, "commands", {}).items()]


def test_what_lists_a_command_is_the_first_line_of_its_help() -> None:
    listed = {name: text for section in COMMANDS.values() for name, text in section.items()}
    assert len(listed) == sum(map(len, COMMANDS.values()))  # each stands in one section
    for words, command in every_command():
        if len(words) == 1:
            assert command.help.partition("\n")[0] == listed[words[0]]


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from steer.cli.main import app
assert CliRunner().invoke(app, {{words!r}}).exit_code == 0
names = {[_MODULES.get(name, name) for section in COMMANDS.values() for name in section]!r}
print(*[name for name in names if f"steer.cli.{{{{name}}}}" in sys.modules])
"""
    for words, imported in (["--help"], ""), (["fit", "--help"], "fit"):
        script = [sys.executable, "-c", code.format(words=words)]
        run = subprocess.run(script, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == imported


def test_every_help_fits_80_columns_and_a_screen_and_a_half(monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words, _ in every_command():
        lines = steer(*words, "--help").stdout.splitlines()
        assert len(lines) <= 84, (words, len(lines))
        for line in lines:
            assert len(line) <= 80, (words, line)


def test_every_help_begins_with_examples_and_groups_every_option(monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words, command in every_command():
        if hasattr(command, "commands"):
            continue
        help_text = steer(*words, "--help").stdout
        assert help_text.split("\n\n")[2].strip().startswith(f"steer {' '.join(words)}"), words
        assert "Options:" not in help_text
        headings = re.findall(r"^(\S.*):$", help_text, re.MULTILINE)
        groups = [heading for heading in headings if heading in GROUPS]
        assert groups == [name for name in GROUPS if name in groups]
        for parameter in command.params:
            named = parameter.opts[-1] if parameter.param_type_name == "option" else ""
            assert named in help_text, (words, named)


def test_every_option_that_a_group_lists_exists() -> None:
    known = {param.name for _, command in every_command() for param in command.params}
    assert {name for order in GROUPS.values() for name in order} <= known


def test_help_shows_every_form_and_what_it_shows_is_read() -> None:
    help_text = steer("apply", "--help").stdout
    for form in re.findall(
        r"^ *-v ([a-z]\S*)", help_text.partition("What it works on:")[0], re.MULTILINE
    ):
        parse(form)
    scopes = ("/response", "/prompt", "response=0-4", "4-9", "/4-:", "/not-4-9", "/skip-special")
    for word in (*ops().names, "norm=keep", "=writes", *scopes):
        assert word in help_text, word
    for course in get_args(get_type_hints(Schedule)["kind"]):
        assert course == "constant" or f"{course}=" in help_text
    conditions = re.findall(r"(?:--when|--guard) '([^']*)'", help_text)
    assert {parse_threshold(condition).pooling for condition in conditions} == {None, "last"}


def test_extract_says_what_it_did_on_stderr_and_shows_layers_on_stdout(
    folder: Path, pairs: Path
) -> None:
    result = steer("extract", pairs, "-m", folder, "-o", "x.safetensors")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["layer", "0", "1", "2"]
    assert "12 pairs · mean_diff of resid_post, mean position" in result.stderr
    assert "wrote x.safetensors" in result.stderr


def test_json_is_one_object_and_nothing_else(joyful: Path, folder: Path, pairs: Path) -> None:
    for words in (
        ["extract", pairs, "-m", folder, "-o", "y.safetensors"],
        ["show", "joyful"],
        ["list"],
        ["verify", "joyful"],
        ["apply", "w3 w4", "-m", folder, "-v", "joyful", "--compare"],
    ):
        result = steer(*words, "--json")
        assert result.exit_code == 0
        assert isinstance(json.loads(result.stdout), dict)


def test_the_same_command_gives_the_same_bytes(folder: Path, pairs: Path) -> None:
    for name in ("a", "b"):
        steer("extract", pairs, "-m", folder, "-o", f"{name}.safetensors", "--name", "same")
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


def test_contrasts_from_stdin_and_conditions(folder: Path, pairs: Path) -> None:
    steer("extract", pairs, "-m", folder, "-o", "a.safetensors", "--name", "same")
    piped = steer("extract", "-", "-m", folder, "-o", "b.safetensors", "--name", "same",
                  stdin=pairs.read_bytes())  # fmt: skip
    assert piped.exit_code == 0
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    Path("texts.jsonl").write_text('{"text": "w5 w6 w7"}\n"w9 w8"\n')
    result = steer("extract", "-m", folder, "-o", "c.safetensors", "--texts", "texts.jsonl",
                   "--positive", "w30 w31", "--negative", "w40")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    contrast = store.read(Path("c.safetensors")).metadata.contrast
    assert (contrast.kind, contrast.n) == ("conditions", 2)
    assert (contrast.positive, contrast.negative) == ("w30 w31", "w40")


def test_fields_can_be_named(folder: Path) -> None:
    rows = [{"question": "w3", "yes": " w4", "no": " w5", "extra": 1}] * 2
    Path("evals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = steer("extract", "evals.jsonl", "-m", folder, "-o", "e.safetensors",
                   "--map", "positive=yes", "--map", "negative=no")  # fmt: skip
    assert result.exit_code == 0, result.stderr


def test_apply_streams_text_alone_to_stdout(joyful: Path, folder: Path) -> None:
    result = steer("apply", "w3 w4", "-m", folder, "-v", "joyful:2", "--max-tokens", 5)
    assert result.exit_code == 0
    assert len(result.stdout.split()) <= 5
    assert all(word.startswith("w") for word in result.stdout.split())
    assert "joyful ×2 @ resid_post" in result.stderr
    piped = steer("apply", "-m", folder, "-v", "joyful:2", "--max-tokens", 5, stdin="w3 w4\n")
    assert piped.stdout == result.stdout


def test_compare_shows_the_baseline_of_the_same_seed(joyful: Path, folder: Path) -> None:
    words = ["apply", "w3 w4", "-m", folder, "--max-tokens", 5]
    baseline = steer(*words).stdout.strip()
    steered = steer(*words, "-v", "joyful:4").stdout.strip()
    compared = steer(*words, "-v", "joyful:4", "--compare", "--json")
    (result,) = json.loads(compared.stdout)["results"]
    assert (result["unsteered"].strip(), result["text"].strip()) == (baseline, steered)
    assert "unsteered" in steer(*words, "-v", "joyful:4", "--compare").stdout


def test_prompts_from_a_file_become_json_lines(joyful: Path, folder: Path) -> None:
    Path("prompts.txt").write_text("w3 w4\nw9\n")
    result = steer("apply", "--prompts", "prompts.txt", "-m", folder, "-v", "joyful", "-n", 2,
                   "-o", "out.jsonl", "--max-tokens", 4)  # fmt: skip
    assert result.stdout == ""
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["sample"]) for row in rows] == [
        ("w3 w4", 0), ("w3 w4", 1), ("w9", 0), ("w9", 1),
    ]  # fmt: skip


def test_what_a_command_says_to_try_runs(folder: Path, pairs: Path) -> None:
    """Of a model that is not the default, with names that a shell would take apart."""
    model = folder.rename(folder.with_name("tiny & llama"))
    distil = ["--rank", 1, "--steps", 2, "--samples", 4, "--held-out", 4, "--max-tokens", 6]
    np.save("row.npy", np.linspace(-1, 1, 32, dtype=np.float32))
    try:
        for words in (
            ["extract", pairs, "-m", model, "-o", "a b.safetensors", "--keep", "a b.acts"],
            ["fit", "a b.acts", "-o", "c d.safetensors"],
            ["combine", "a b.safetensors", "c d.safetensors", "-o", "e f.safetensors"],
            ["distill", "--condition", "w5 w6", "-m", model, "-o", "g h.safetensors", *distil],
            ["convert", "row.npy", "i j.safetensors", "--layer", 1, "-m", model],
            ["convert", "row.npy", "k l.safetensors", "--layer", 1],
            ["bake", "-v", "a b.safetensors:1@1", "-m", model, "-o", "m n"],
        ):
            result = steer(*words)
            assert result.exit_code == 0, result.output
            commands = re.findall(r"try: steer (.*)", result.stderr)
            assert commands, result.stderr
            for text in commands:
                tried = [str(model) if word == "MODEL" else word for word in shlex.split(text)]
                assert steer(*tried).exit_code == 0, (text, steer(*tried).output)
    finally:
        model.rename(folder)


@pytest.mark.parametrize("stopped", [KeyboardInterrupt(), SteerError("the disk is full")])
@pytest.mark.parametrize("words", [[], ["--compare"], ["--json"], ["-o", "o.jsonl"]])
def test_what_was_finished_of_a_batch_that_stops_is_there(
    joyful: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str],
    stopped: BaseException,
) -> None:  # fmt: skip
    Path("prompts.txt").write_text("w3 w4\nw9\nw5\n")
    command = ["apply", "--prompts", "prompts.txt", "-m", folder, "-v", "joyful", "-n", 2,
             "--batch-size", 2, "--max-tokens", 4, *words]  # fmt: skip
    complete = steer(*command)
    lines = Path("o.jsonl").read_text().splitlines() if "-o" in words else []
    assert complete.exit_code == 0
    assert not Path("o.jsonl.part").exists()
    Path("o.jsonl").unlink(missing_ok=True)
    original, n_left = Batch.generations, 4 if "--compare" in words else 2

    def stopping(batch: Batch) -> list[Generation]:
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise stopped
        return original(batch)

    monkeypatch.setattr(Batch, "generations", stopping)
    result = steer(*command)
    assert result.exit_code == (130 if isinstance(stopped, KeyboardInterrupt) else 1)
    assert "4 of 6 texts were finished" in result.stderr
    assert not Path("o.jsonl").exists()
    assert complete.stdout.startswith(result.stdout)
    assert bool(result.stdout) == (words in ([], ["--compare"]))
    assert ("with -o FILE" in result.stderr) == ("--json" in words)
    if lines:
        assert "in o.jsonl.part" in result.stderr
        assert Path("o.jsonl.part").read_text().splitlines() == lines[:4]


def test_coefficient_0_is_the_baseline(joyful: Path, folder: Path) -> None:
    words = ["apply", "w3 w4", "-m", folder]
    assert steer(*words, "-v", "joyful:0").stdout == steer(*words).stdout


@pytest.mark.parametrize(
    ("spec", "code", "messages"),
    [
        ("joyful:", 2, ["nothing follows the colon"]),
        ("joyful:x", 2, ["'x' is not a number"]),
        ("joyful@5-2", 2, ["run backwards"]),
        ("joyful@99", 1, ["no layer 99", "layers 0-2"]),
        ("joyfull", 1, ["no vector named 'joyfull'", "did you mean 'joyful'?"]),
        ("./none.safetensors", 1, ["no file"]),
        ("/", 1, ["/ is a folder"]),
        ("./vectors", 1, ["./vectors is a folder"]),
        ("joyful/response", 1, ["no file", "joyful:recommended/response"]),
        ("joyful:1e308", 1, ["beyond float32", "smaller"]),
    ],
)
def test_specs_that_are_wrong(
    joyful: Path, folder: Path, spec: str, code: int, messages: list[str]
) -> None:
    failed(steer("apply", "w3", "-m", folder, "-v", spec), code, *messages)


@pytest.mark.parametrize(
    ("words", "code", "messages"),
    [
        (["-v", "joyful:abblate"], 2, ["not a number or an op", "did you mean ablate?"]),
        (["-v", "joyful:clamp"], 2, ["clamp needs a value"]),
        (["-v", "joyful:2/somewhere"], 2, ["'somewhere' is not a scope"]),
        (["-v", "joyful", "--when", "joyful"], 2, ["not a threshold"]),
        (["-v", "joyful", "--when", "joyful>high"], 2, ["not a threshold"]),
        (["-v", "joyful", "--when", "none>0.5"], 1, ["no vector named 'none'"]),
        (["--when", "joyful>0.5"], 2, ["no steer to gate"]),
        (["-v", "joyful@0", "--when", "joyful@2>0.5/token"], 1, ["behind", "resid_post 0"]),
        (["--guard", "joyful>0.5/mean"], 2, ["checks new tokens"]),
        (["--guard", "joyful>0.5", "--on-trip", "cry"], 2, ["stop, error or ablate"]),
        (["--on-trip", "stop"], 2, ["--on-trip needs --guard"]),
        (["--watch", "joyful@9"], 1, ["no layer 9"]),
        (["--watch", "both"], 1, ["does not say where its two sides lie", "use a vector from"]),
        (["-v", "both:clamp=pos"], 1, ["does not say where its two", "a number in place of pos"]),
        (["-v", "joyful", "--when", "nosuch>0.4"], 1, ["the gate 'nosuch>0.4': no vector named"]),
        (["-v", "joyful", "--when", "joyful>1/often"], 2, ["'often' is not mean", "/token"]),
        (["--beams", 2], 2, ["does not sample", "--temperature 0"]),
        (["--beams", 2, "-t", 0, "--watch", "joyful"], 2, ["--beams cannot be combined"]),
        (
            ["--beams", 2, "-t", 0, "-v", "joyful", "--when", "joyful@0>9/token"],
            2,
            ["excludes gates that read"],
        ),
        (["--beams", 2, "-t", 0, "-n", 3], 2, ["cannot end in 3 texts"]),
    ],
)
def test_ops_and_conditions_that_are_wrong_are_found_before_the_model_loads(
    joyful: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], code: int,
    messages: list[str],
) -> None:  # fmt: skip
    assert steer("combine", "joyful", "joyful", "-o", "vectors/both.safetensors").exit_code == 0
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pytest.fail("loaded"))
    failed(steer("apply", "w3", *words), code, *messages)


def test_a_guard_that_is_an_error_exits_with_3(joyful: Path, folder: Path) -> None:
    words = ["apply", "w3 w4", "-m", folder, "--max-tokens", 5, "--guard", "joyful>-999"]
    tripped = steer(*words, "--on-trip", "error")
    assert tripped.exit_code == 3
    assert "guard joyful@" in tripped.stderr
    assert "at new token 0, 'w" in tripped.stderr
    assert tripped.stdout == ""
    failed(steer(*words, "--on-trip", "error", "--json"), 3, "tripped")
    stopped = steer(*words)
    assert (stopped.exit_code, stopped.stdout) == (0, "")
    assert "the text ends before" in stopped.stderr
    calm = steer(*words[:-1], "joyful>999", "--on-trip", "error")
    assert (calm.exit_code, calm.stdout) == (0, steer(*words[:-2]).stdout)


def test_watched_values_are_beside_their_tokens(joyful: Path, folder: Path) -> None:
    words = ["apply", "w3 w4", "-m", folder, "-v", "joyful:3", "--watch", "joyful@1"]
    words += ["--max-tokens", 6]
    shown = steer(*words)
    assert shown.stdout == steer(*words[:-4], "--max-tokens", 6).stdout
    assert "joyful@1: mean" in shown.stderr
    (row,) = json.loads(steer(*words, "--json").stdout)["results"]
    assert len(row["watched"]["joyful@1"]) == len(row["tokens"]) == row["n_tokens"]
    assert row["tokens"] == row["text"].split()
    for token, value in zip(row["tokens"], row["watched"]["joyful@1"], strict=True):
        assert f"{token.strip()} {value:.2f}" in shown.stderr
    both = json.loads(steer(*words, "--compare", "--json").stdout)["results"][0]
    assert both["watched"] == row["watched"]
    assert both["unsteered_watched"] != row["watched"]


def test_a_closed_gate_is_never_left_unsaid(joyful: Path, folder: Path) -> None:
    words = ["apply", "w3 w4", "-m", folder, "--max-tokens", 5]
    closed = steer(*words, "-v", "joyful:4", "--when", "joyful>999")
    assert closed.stdout == steer(*words).stdout
    assert "warning: gate joyful@" in closed.stderr
    assert "nothing was steered" in closed.stderr
    opened = steer(*words, "-v", "joyful:4", "--when", "joyful>-999")
    assert opened.stdout == steer(*words, "-v", "joyful:4").stdout
    assert "warning" not in opened.stderr
    Path("prompts.txt").write_text("w3 w4\nw9\n")
    several = steer("apply", "--prompts", "prompts.txt", "-m", folder, "-v", "joyful:4",
                    "--when", "joyful>auto/token", "--json")  # fmt: skip
    for row in json.loads(several.stdout)["results"]:
        (gate,) = row["gates"]
        assert 0 <= gate["share"] <= 1


@pytest.mark.parametrize("scope", ["response=50-60", "200-", "after=50"])
def test_what_finds_nothing_to_act_on_is_never_left_unsaid(
    joyful: Path, folder: Path, scope: str
) -> None:
    words = ["apply", "w3 w4", "-m", folder, "--max-tokens", 5]
    failed(steer(*words, "-v", f"joyful:4/{scope}"), 1, "would act nowhere", "--allow-idle")
    idle = steer(*words, "-v", f"joyful:4/{scope}", "--allow-idle")
    assert idle.stdout == steer(*words).stdout
    assert "changed nothing in the text" in idle.stderr
    assert "changed nothing" not in steer(*words, "-v", "joyful:4/response").stderr


def test_an_idle_row_of_a_batch_is_named(joyful: Path, folder: Path) -> None:
    Path("prompts.txt").write_text("w3 w4 w5 w6 w7 w8\nw9\nw3 w4 w5 w6 w7 w9\n")
    words = ["apply", "--prompts", "prompts.txt", "-m", folder, "--max-tokens", 2]
    result = steer(*words, "-v", "joyful:4/5-", "--json")
    assert result.exit_code == 0
    assert "changed nothing in 1 of 3 texts: number 2" in result.stderr
    assert ["idle" in entry for entry in json.loads(result.stdout)["results"]] == [
        False,
        True,
        False,
    ]


def test_beams_give_the_best_of_a_search(joyful: Path, folder: Path) -> None:
    words = ["apply", "w3 w4", "-m", folder, "-v", "joyful", "-t", 0, "--beams", 3, "-n", 2]
    rows = json.loads(steer(*words, "--json").stdout)["results"]
    assert [row["sample"] for row in rows] == [0, 1]
    assert rows[0]["text"] != rows[1]["text"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["apply", "w3", "--temperature", "-1"], 2, "--temperature"),
        (["apply", "w3", "--top-p", "0"], 2, "--top-p"),
        (["apply", "w3", "-n", "0"], 2, "--samples"),
        (["apply", "w3", "-n", "100000000"], 2, "at most 1,000,000"),
        (["apply", "w3", "--max-tokens", "100000000"], 2, "at most 1,000,000"),
        (["apply", "w3", "--batch-size", "100000000"], 2, "at most 4,096"),
        (["apply", "w3", "-t", "0", "--beams", "100000000"], 2, "at most 1,024"),
        (["apply", "w3", "--compare"], 2, "nothing to compare"),
        (["apply", "w3", "--system", "x"], 2, "--system needs --chat"),
        (["apply", "w3", "--chat"], 1, "no chat template"),
        (["apply", "w3", "--dtype", "float8"], 2, "not a dtype"),
        (["apply", "w3", "--device", "warp"], 1, "cannot load"),
        (["apply", "w3", "--prompts", "x"], 2, "not both"),
        (["apply", "--prompts", "none.txt"], 1, "No such file"),
        (["extract"], 2, "name contrasts in one way"),
        (["extract", "none.jsonl"], 1, "No such file"),
        (["extract", "none.jsonl", "-o", "no/x.safetensors"], 1, "does not exist"),
        (["extract", "none.jsonl", "-o", "x.gguf"], 1, "end in .safetensors"),
        (["extract", "-"], 2, "no name"),
        (["extract", "x.jsonl", "--layers", "b"], 2, "not a list of layers"),
        (["extract", "x.jsonl", "--site", "middle"], 2, "not a site"),
        (["extract", "x.jsonl", "--positions", "third"], 2, "not a position"),
        (["extract", "--positive", "x", "-o", "x.safetensors"], 2, "--texts"),
        (["show", "nothing"], 1, "no vector named"),
        (["list", "nowhere"], 1, "No such file"),
        (["extract", "none.jsonl", "-o", "n o/x.safetensors"], 1, "mkdir -p 'n o'"),
        (
            ["extract", "x.jsonl", "-o", "x.safetensors", "--keep", "./x.safetensors"],
            2,
            "named twice",
        ),
        (["distill", "--condition", "x", "-o", "x.safetensors", "--steps", "0"], 2, "--steps"),
        (["distill", "--condition", "x", "-o", "x.safetensors", "--samples", "200000"], 2, "most"),
        (["eval", "-v", "x", "--samples", "200000"], 2, "--samples"),
        (["suite", "--samples", "200000"], 2, "--samples"),
        (["suite", "--max-tokens", "0"], 2, "--max-tokens"),
        (["sweep", "-v", "x", "--max-kl", "nan"], 2, "--max-kl"),
        (["sweep", "-v", "x", "--plot", "a.png", "--report", "a.png"], 2, "named twice"),
        (["check-server", "http://x", "-v", "x", "--max-tokens", "0"], 2, "--max-tokens"),
        (["demo", "--samples", "0"], 2, "--samples"),
        (["demo", "--samples", "2000"], 2, "--samples"),
        (["eval", "-v", "x", "--lm-eval-limit", "5"], 2, "needs --lm-eval"),
        (["apply", "w3", "--device", "warp"], 1, "--device takes cpu"),
        (["apply", "w3", "--device-map", "warp"], 1, "--device-map auto"),
    ],
)
def test_commands_that_are_wrong(folder: Path, words: list[str], code: int, message: str) -> None:
    model = [] if words[0] in ("show", "list", "demo") else ["-m", str(folder)]
    failed(steer(*words, *model), code, message)


def test_more_texts_than_a_machine_holds_are_refused(folder: Path) -> None:
    Path("prompts.txt").write_text("w3\nw4\nw5\n")
    many = steer("apply", "--prompts", "prompts.txt", "-n", 500_000, "-m", folder)
    failed(many, 2, "500,000 texts after each of 3 prompts", "-n")


def test_models_that_are_not_there() -> None:
    failed(steer("apply", "x", "-m", "./none"), 1, "no model folder ./none")
    Path("empty").mkdir()
    failed(steer("apply", "x", "-m", "empty"), 1, "no config.json")
    failed(steer("apply", "x", "-m", "nobody/nothing"), 1, "nobody/nothing is not in its cache")
    Path("empty/config.json").write_text('{"model_type": "llama"}')
    failed(steer("apply", "x", "-m", "empty"), 1, "the folder empty holds no weights")


def test_weights_that_are_missing_are_not_made_up(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    failed(steer("apply", "w3", "-m", broken), 1, "weights are missing", "down_proj")


def test_a_vector_of_another_model_is_refused(joyful: Path, other: Path, folder: Path) -> None:
    failed(steer("apply", "w3", "-m", other, "-v", "joyful"), 1, "LlamaForCausalLM", "tiny-llama")
    identity = store.read(joyful).metadata.model
    store.write(Path("vectors/narrow.safetensors"), make_vector(tiny.msgspec.structs.replace(
        identity, d_model=8, n_layers=3)))  # fmt: skip
    failed(steer("apply", "w3", "-m", folder, "-v", "narrow"), 1, "width 8", "width 32")


def test_a_finetune_needs_a_word_and_brings_a_warning(joyful: Path, folder: Path) -> None:
    vector = store.read(joyful)
    changed = tiny.msgspec.structs.replace(vector.metadata.model, fingerprint="f" * 16)
    store.write(Path("vectors/tuned.safetensors"), tiny.renamed(vector, model=changed))
    words = ["apply", "w3", "-m", folder, "-v", "tuned", "--max-tokens", 3]
    failed(steer(*words), 1, "the weights of tiny-llama are others", "--allow-other-model")
    allowed = steer(*words, "--allow-other-model")
    assert allowed.exit_code == 0
    assert "warning: vector" in allowed.stderr


def test_a_damaged_file_is_named(joyful: Path) -> None:
    data = bytearray(joyful.read_bytes())
    data[-3] ^= 1
    joyful.write_bytes(data)
    failed(steer("verify", "joyful"), 1, "vectors/joyful.safetensors was altered")
    Path("vectors/junk.safetensors").write_bytes(b"junk")
    listed = steer("list")
    assert listed.exit_code == 0
    assert "junk.safetensors is not a safetensors file" in listed.stderr
    Path("vectors/gone.safetensors").symlink_to("nowhere")
    listed = steer("list")
    assert (listed.exit_code, "gone.safetensors: No such file" in listed.stderr) == (0, True)


def test_nothing_is_overwritten_without_force(joyful: Path, folder: Path, pairs: Path) -> None:
    before = joyful.read_bytes()
    failed(steer("extract", pairs, "-m", folder), 1, "exists", "--force")
    assert joyful.read_bytes() == before
    assert steer("extract", pairs, "-m", folder, "--force").exit_code == 0


def test_bad_contrasts_are_found_before_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pytest.fail("loaded"))
    Path("bad.jsonl").write_text('{"positive": "a", "negative": "b"}\n{"positive": 1}\n')
    failed(steer("extract", "bad.jsonl", "-o", "x.safetensors"), 1, "bad.jsonl:2")


def test_control_sequences_do_not_reach_the_terminal(folder: Path) -> None:
    vector = make_vector(name="x")
    metadata = tiny.msgspec.structs.replace(vector.metadata, description="\x1b[2Jgone\x07")
    store.write(Path("evil.safetensors"), type(vector)(metadata, vector.directions))
    for words in (
        ["show", "evil.safetensors"],
        ["list", "."],
        ["apply", "\x1b[2J", "-v", "\x1b:x"],
    ):
        result = steer(*words)
        assert "\x1b" not in result.stderr
        if words[0] != "apply":
            assert "\x1b" not in result.stdout


#: Says when Python itself is up.
COMMAND = """
import sys
from steer.__main__ import main

sys.argv[0] = "steer"
print("up", file=sys.stderr, flush=True)
main()
"""
#: Ctrl-C where a module is about to be imported.
AT_IMPORT = """
import signal, sys
from steer.__main__ import main

class Finder:
    def find_spec(self, name, *_):
        if name == "{module}":
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.meta_path.insert(0, Finder())
main()
"""


@pytest.mark.parametrize("module", ["steer.cli.main", "typer.main", "steer.vectors.store"])
def test_ctrl_c_is_heard_while_the_command_loads(module: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", AT_IMPORT.format(module=module), "list"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "interrupted\n")


def test_ctrl_c_leaves_no_half_file(folder: Path, tmp_path: Path) -> None:
    """At moments from start-up to the end of the work."""
    rows = "".join(json.dumps(pair) + "\n" for pair in PAIRS * 400)
    Path("many.jsonl").write_text(rows)
    for seconds in (0.1, 1.0, 4.0, 6.0):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "extract", "many.jsonl", "-m", str(folder),
             "-o", "many.safetensors"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
        )  # fmt: skip
        assert process.stderr and process.stderr.readline() == "up\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        left = [file.name for file in tmp_path.iterdir() if "many.s" in file.name]
        if process.returncode == 0:
            assert left == ["many.safetensors"]
            break
        if left:  # written just before: then it is whole
            assert left == ["many.safetensors"]
            store.read(Path("many.safetensors"))
            break
        assert process.returncode == 130
        assert "Traceback" not in stderr
