"""The examples of docs/extending.md, installed as a user would have them."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_ops
import tiny
import torch
from serving_here import post
from test_cli import steer

import steer as library
from steer.base.errors import SteerError
from steer.formats.registry import registry
from steer.measures import measures
from steer.measures.registry import registry as measure_registry
from steer.methods.registry import methods
from steer.models.loading import load
from steer.models.source import ModelSource
from steer.ops.registry import ops
from steer.sharing import evidence
from steer.vectors import store

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"


def blocks(title: str) -> dict[str, str]:
    """The code of a section, by its language."""
    section = re.split(r"^## ", DOCS.read_text(), flags=re.MULTILINE)
    [text] = [part for part in section if part.startswith(f"{title}\n")]
    return dict(re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL))


def install(site: Path, name: str, code: str, project: str) -> None:
    """Put a distribution into a folder, as pip does it."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    entries = re.findall(r'entry-points\."([\w.]+)"\]\n((?:\w+ = .*\n)+)', project)
    lines = [f"[{group}]\n{points.replace(chr(34), '')}" for group, points in entries]
    (info / "entry_points.txt").write_text("\n".join(lines))
    importlib.invalidate_caches()


@pytest.mark.parametrize("title", ["A method", "An op", "A format", "A measure"])
def test_every_example_is_a_package_that_can_be_installed(title: str) -> None:
    project = tomllib.loads(blocks(title)["toml"])["project"]
    [(group, entries)] = project["entry-points"].items()
    [target] = entries.values()
    module, _, attribute = target.partition(":")
    assert project["name"] == module
    assert f"\n{attribute} = " in blocks(title)["python"]
    assert f"`{module}.py`" in DOCS.read_text()
    lines = [line for line in blocks(title)["python"].splitlines() if line.strip()]
    assert len(lines) <= 23
    assert group in {f"steer.{noun}s" for noun in ("method", "op", "format", "measure")}


def forget() -> None:
    """Look for the extensions of other packages again."""
    for known in (methods, ops, registry, measure_registry):
        known.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    forget()
    yield tmp_path / "site"
    forget()
    for name in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save(tmp_path / "tiny-llama")


def test_a_method_of_another_package_is_used_and_recorded(site: Path, folder: Path) -> None:
    code = blocks("A method")
    assert len([line for line in code["python"].splitlines() if line.strip()]) <= 20
    install(site, "plugin_trimmed", code["python"], code["toml"])
    assert "trimmed" in steer("extract", "--help").stdout
    pairs = [{"positive": f"w5 w{n} w7", "negative": f"w6 w{n} w7"} for n in range(10, 34)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    first, second = code["sh"].splitlines()
    result = steer(*shlex.split(first)[1:], "-m", folder)
    assert result.exit_code == 0, result.stderr
    assert "trimmed:share=0.2 of 24 pairs, by the package plugin_trimmed" in (
        steer(*shlex.split(second)[1:]).stdout
    )
    names = {"steer": library, "model": library.load(str(folder)), "pairs": pairs}
    exec(code["pycon"].replace(">>> ", ""), names)
    read = store.read(Path("warm.safetensors"))
    assert read.metadata.method.options == {"share": 0.2}
    np.testing.assert_array_equal(names["warm"].numpy(), read.directions)
    # Nothing left out is the mean difference.
    command = ("extract", "pairs.jsonl", "-m", folder, "-o", "a.safetensors", "--method")
    assert steer(*command, "trimmed:share=0").exit_code == 0
    assert steer(*command, "mean_diff", "--force").exit_code == 0
    wrong = steer(*command, "trimmed:share=0.7", "--force")
    assert wrong.exit_code == 2 and "at most 0.4" in wrong.stderr
    # The file needs no plugin.
    (site / "plugin_trimmed-1.0.dist-info" / "entry_points.txt").unlink()
    forget()
    used = steer("apply", "w4", "-m", folder, "-v", "./warm.safetensors:2@1", "--max-tokens", 2)
    assert used.exit_code == 0, used.stderr
    gone = steer(*command, "trimmed", "--force")
    assert gone.exit_code == 2 and "'trimmed' is not a method" in gone.stderr


def test_a_method_that_fails_or_cannot_be_loaded_is_named(site: Path, folder: Path) -> None:
    project = '[project.entry-points."steer.methods"]\nzero = "plugin_zero:METHOD"\n'
    code = (
        "from steer.methods import FitMethod\n"
        "METHOD = FitMethod(name='zero', help='x', compute=lambda p, n: 1 / 0)\n"
    )
    install(site, "plugin_zero", code, project)
    Path("pairs.jsonl").write_text('{"positive": "w5", "negative": "w6"}\n')
    words = ("extract", "pairs.jsonl", "-m", folder, "-o", "a.safetensors", "--method", "zero")
    failed = steer(*words)
    assert failed.exit_code == 1
    assert "the method zero of the package plugin_zero failed" in failed.stderr
    (site / "plugin_zero.py").write_text("import nothing_of_the_kind\n")
    sys.modules.pop("plugin_zero")
    forget()
    failed = steer(*words)
    assert failed.exit_code == 2 and "plugin_zero" in failed.stderr
    assert "No module named 'nothing_of_the_kind'" in failed.stderr


def test_a_method_of_distillation_of_another_package_is_used(site: Path, folder: Path) -> None:
    project = '[project.entry-points."steer.methods"]\nlow = "plugin_low:METHOD"\n'
    code = (
        "from steer.methods import DistillMethod, FittedEdit, Option\n"
        "def compute(task, settings, progress, rank):\n"
        "    from steer.distillation.regress import regress\n"
        "    edits, ridge = regress(task, settings, progress, ranks=(rank,))\n"
        "    return FittedEdit(edits, ridge=ridge) if rank > 1 else edits\n"
        "METHOD = DistillMethod(name='low', title='low', help='x', compute=compute,"
        " options=(Option('rank', 2, 'x'),))\n"
    )
    install(site, "plugin_low", code, project)
    assert "low" in steer("distill", "--help").stdout
    Path("prompts.txt").write_text("w4 w7\nw60 w3\n")
    words = ["distill", "--condition", "w5 w9 w33", "-m", folder, "--prompts", "prompts.txt"]
    words += ["--samples", 32, "--held-out", 16, "--max-tokens", 12, "--layers", "all"]
    result = steer(*words, "-o", "x.safetensors", "--method", "low:rank=3")
    assert result.exit_code == 0, result.stderr
    method = store.read(Path("x.safetensors")).metadata.method
    assert (method.name, method.options, method.package) == ("distill", {"rank": 3}, "plugin_low")
    assert method.distillation is not None
    assert (method.distillation.method, method.distillation.steps) == ("low", 0)
    assert store.read(Path("x.safetensors")).metadata.rank == 3
    assert "distilled by low:rank=3, over 32 texts" in steer("show", "x.safetensors").stdout
    wrong = steer(*words, "-o", "y.safetensors", "--method", "low:rank=1")
    assert wrong.exit_code == 1 and "not a Fitted" in wrong.stderr
    pairs = steer("distill", "--contrasts", "prompts.txt", "-o", "y.safetensors", "--method", "low")
    assert pairs.exit_code == 2 and "not from pairs" in pairs.stderr


@pytest.fixture
def reflect(site: Path, folder: Path) -> None:
    """The op of the manual, installed, and a vector `warm` beside held-out pairs."""
    code = blocks("An op")
    assert len([line for line in code["python"].splitlines() if line.strip()]) <= 20
    install(site, "plugin_reflect", code["python"], code["toml"])
    Path("vectors").mkdir()
    store.write(Path("vectors/warm.safetensors"), tiny.vector(library.load(folder).inner))
    rows = [{"positive": f"w{n} w{n + 7}", "negative": f"w{n} w{n + 20}"} for n in range(3, 15)]
    Path("held-out.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_help_lists_the_ops_that_are_there_when_it_is_shown(request: pytest.FixtureRequest) -> None:
    before = steer("apply", "--help").stdout
    assert "-v joyful:clamp" in before and "reflect" not in before
    request.getfixturevalue("reflect")
    assert "-v joyful:reflect" in steer("apply", "--help").stdout


@pytest.mark.usefixtures("reflect")
def test_an_op_of_another_package_works_in_every_command(folder: Path) -> None:
    assert "warm:reflect" not in steer("apply", "--help").stdout  # which names no vector of ours
    assert "-v joyful:reflect" in steer("apply", "--help").stdout
    few = {"sweep": ["--layers", 1, "--samples", 4, "--max-tokens", 4]}
    for line in blocks("An op")["sh"].splitlines():
        words = shlex.split(line)[1:]
        more = few.get(words[0], ["--max-tokens", 4] if words[0] == "apply" else [])
        result = steer(*words, "-m", folder, *more)
        # Of a random model's cells none may be worth recommending.
        assert result.exit_code == 0 or "nothing to recommend" in result.stderr, result.stderr
    Path("r.toml").write_text('steers = ["warm:reflect@1"]\n')
    measured = ["--texts", "held-out.jsonl", "--samples", 4, "--max-tokens", 4]
    for words in (
        ["apply", "w5", "--recipe", "r.toml", "--max-tokens", 4, "--json"],
        ["apply", "w5", "-v", "warm:0.5,reflect@1/response", "-n", 3, "--max-tokens", 4, "--json"],
        ["eval", "-v", "warm:reflect@1", *measured],
    ):
        result = steer(*words, "-m", folder)
        assert result.exit_code == 0, result.stderr
    refused = steer("convert", "warm:reflect@1", "x.gguf")
    assert refused.exit_code == 1 and "reflect" in refused.stderr
    wrong = steer("apply", "w5", "-m", folder, "-v", "warm:reflect=3@1")
    assert wrong.exit_code == 2 and "reflect=writes" in wrong.stderr


@pytest.mark.usefixtures("reflect")
def test_an_op_of_another_package_obeys_the_laws_of_ops(folder: Path) -> None:
    for law in (
        test_ops.test_weight_0_is_bit_for_bit_and_1_is_not,
        test_ops.test_what_an_op_says_of_itself_holds,
        test_ops.test_an_op_is_typed_as_its_example,
    ):
        law("reflect")
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        test_ops.test_ops_compute_in_float32_and_leave_their_input("reflect", dtype)
    model = library.load(folder)
    warm = library.read("warm")
    names = {"model": model, "warm": warm}
    exec(blocks("An op")["pycon"].replace(">>> ", "").replace("One day", "w5"), names)
    settings: dict[str, Any] = {"max_tokens": 6, "temperature": 0.0}

    def written(op: str, amount: float) -> str:
        return str(model.generate("w5 w9", warm(amount, op=op, layers=1), **settings))

    plain = str(model.generate("w5 w9", **settings))
    assert written("reflect", 0.0) == plain
    # Twice an ablation is the reflection, and half a reflection the ablation.
    logits = [
        _logits(model, warm(amount, op=op, layers=1))
        for op, amount in (("reflect", 1.0), ("ablate", 2.0), ("reflect", 0.5), ("ablate", 1.0))
    ]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[2], logits[3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits[0], logits[3])
    prompts = ["w5 w9", "w7 w8 w4", "w6"]
    steered = warm(op="reflect", layers=1)
    batch = model.generate_batch(prompts, steered, **settings)
    alone = [model.generate(prompt, steered, **settings) for prompt in prompts]
    assert [str(row) for row in batch] == [str(row) for row in alone]
    answer = post(
        model.inner,
        {"warm": warm.data},
        "/v1/completions",
        {"prompt": "w5 w9", "max_tokens": 6, "temperature": 0, "steer": "warm:reflect@1"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"].strip() == str(alone[0]).strip()


@pytest.mark.usefixtures("reflect")
def test_a_file_that_needs_an_op_which_is_gone_names_it(site: Path, folder: Path) -> None:
    vector = store.read(Path("vectors/warm.safetensors"))
    recommended = tiny.msgspec.structs.replace(vector.metadata.recommended, op="reflect")
    store.write(Path("vectors/mirror.safetensors"), tiny.renamed(vector, recommended=recommended))
    Path("r.toml").write_text('steers = ["warm:reflect@1"]\n')
    words = ["apply", "w5", "-m", folder, "--max-tokens", 3]
    assert steer(*words, "-v", "mirror").exit_code == 0
    (site / "plugin_reflect-1.0.dist-info" / "entry_points.txt").unlink()
    forget()
    for more, code in (
        (["-v", "mirror"], 1),
        (["-v", "warm:reflect@1"], 2),
        (["--recipe", "r.toml"], 1),
    ):
        gone = steer(*words, *more)
        assert gone.exit_code == code, gone.stderr
        assert "reflect" in gone.stderr and "install" in gone.stderr, gone.stderr
    # Without the op, the file says what else can be done, and does it.
    assert steer(*words, "-v", "mirror:2,add").exit_code == 0


@pytest.mark.parametrize("code", ["1 / 0", "h[..., :2]", "None"])
def test_an_op_that_fails_is_named(site: Path, folder: Path, code: str) -> None:
    project = '[project.entry-points."steer.ops"]\nzero = "plugin_zero:OP"\n'
    source = (
        f"from steer.ops import Op\nOP = Op(name='zero', formula='', apply=lambda h, *_: {code})\n"
    )
    install(site, "plugin_zero", source, project)
    store.write(Path("x.safetensors"), tiny.vector(library.load(folder).inner))
    failed = steer("apply", "w5", "-m", folder, "-v", "./x.safetensors:zero@1")
    assert failed.exit_code == 1
    assert "the op zero of the package plugin_zero" in failed.stderr


def _logits(model: Any, steered: Any) -> Any:
    inputs = model.tokenizer("w5 w9 w7", return_tensors="pt")
    with model.steered(steered), torch.no_grad():
        return model.hf(**inputs).logits


def evaluated(folder: Path, *words: object) -> Any:
    store.write(Path("x.safetensors"), tiny.vector(load(ModelSource(str(folder)))))
    few = ["--condition", "w50", "--samples", 4, "--max-tokens", 6]
    return steer("eval", "-m", folder, "-v", "./x.safetensors:2@1", *few, *words)


def test_a_measure_of_another_package_is_in_the_table_and_in_the_json(
    site: Path, folder: Path
) -> None:
    code = blocks("A measure")
    assert len([line for line in code["python"].splitlines() if line.strip()]) <= 20
    # The tiny model's words have no exclamation marks.
    install(site, "plugin_shouting", code["python"].replace('"!"', '"w"'), code["toml"])
    assert list(measures())[-1] == "shouting"
    report = evaluated(folder, "-o", "e.json")
    assert report.exit_code == 0, report.stderr
    assert "shouting: exclamation marks in a generated text" in report.stdout
    for row in json.loads(Path("e.json").read_text())["rows"]:
        share = row["shouting"]
        assert share["low"] <= share["value"] <= share["high"]
        assert 0 < share["value"] <= 6  # no more words than tokens
    [card] = evidence.read(Path("e.json")).values()
    assert "shouting" in card.columns


def test_a_measure_that_is_none_or_has_a_taken_name_is_named(site: Path) -> None:
    project = '[project.entry-points."steer.measures"]\nx = "plugin_wrong:wrong"\n'
    install(site, "plugin_wrong", "wrong = 3\n", project)
    taken = (
        "from steer.measures import Measure\n"
        "wrong = Measure(name='kl', unit='', format='', meaning='', compute=lambda *_: None)\n"
    )
    for code, reason in (
        ("wrong = 3\n", "is of type int, not Measure"),
        ("import nothing_of_the_kind\n", "No module named"),
        (taken, "the name 'kl' is taken"),
    ):
        (site / "plugin_wrong.py").write_text(code)
        sys.modules.pop("plugin_wrong", None)
        importlib.invalidate_caches()
        forget()
        with pytest.raises(SteerError, match=f"measure x of the package plugin_wrong.*{reason}"):
            measures()
