"""Words and packs on the command line and from Python, on the pocket model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

import steer as library
from steer.base.errors import InputError, SteerError, UsageError, VectorError
from steer.cli.main import app
from steer.concepts import index
from steer.concepts.concept import Concept
from steer.concepts.geometry import geometry, nearest
from steer.concepts.unembedding import from_tokens
from steer.concepts.writing import Pair, _balanced, _distinct, _even
from steer.contrasts.check import WORD
from steer.monitoring.lens import lens
from steer.vectors import store

PACK = """
title = "Two moods"
license = "CC0-1.0"

[[concept]]
name = "joy"
poles = ["[mood: joyful]", "[mood: gloomy]"]
description = "bright words"
synonyms = ["gladness"]

[[concept]]
name = "order"
poles = ["[LONG", "[mood: gloomy]"]

[[concept]]
name = "formal"
poles = ["[style: formal]", "[style: casual]"]
"""


def steer(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `pack build` made of `PACK`."""
    folder = tmp_path_factory.mktemp("pack")
    (folder / "moods.toml").write_text(PACK.replace("LONG", "x" * 1500), encoding="utf-8")
    result = steer("pack", "build", folder / "moods.toml", "-o", folder / "out", "--no-chat",
                   "--layers", "3", "--thorough", "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert {row["name"] for row in json.loads(result.stdout)["concepts"]} == {
        "joy", "order", "formal",
    }  # fmt: skip
    return folder / "out"


def test_a_pack_becomes_a_folder_with_an_index(built: Path) -> None:
    rows = {row.name: row for row in index.read(built).rows}
    assert rows["joy"].works, rows["joy"].reason
    assert not rows["order"].works
    assert "takes 512" in rows["order"].reason
    assert not (built / "order.safetensors").exists()
    vector = store.read(built / "joy.safetensors")
    assert (vector.metadata.description, vector.metadata.license) == ("bright words", "CC0-1.0")
    assert vector.metadata.recommended.coefficient == rows["joy"].number("coefficient")
    listed = steer("list", built)
    assert "joy" in listed.stdout and "concepts of Two moods" in listed.stderr
    assert json.loads(steer("list", built, "--json").stdout)["packs"][0]["pack"] == "moods"


def test_the_same_build_makes_nothing_again(built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    calls: list[tuple[str, bool]] = []
    model = library.load("pocket")
    pack = library.read_pack(built.parent / "moods.toml")
    options = {"chat": False, "layers": [3], "thorough": True}
    library.build_pack(model, pack, folder, on_made=lambda r, new: calls.append((r.name, new)),
                       **options)  # type: ignore[arg-type]  # fmt: skip
    assert calls == [("joy", False), ("order", False), ("formal", False)]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # One concept is defined otherwise, and one file is lost: these two are made again.
    (folder / "joy.safetensors").unlink()
    changed = [Concept("order", "[mood: calm]", "[mood: fearful]"), *pack.concepts[::2]]
    calls.clear()
    library.build_pack(model, changed, folder, on_made=lambda r, new: calls.append((r.name, new)),
                       **options)  # type: ignore[arg-type]  # fmt: skip
    assert {name for name, new in calls if new} == {"order", "joy"}
    [first, again] = (store.read(pack / "joy.safetensors") for pack in (built, folder))
    assert np.array_equal(first.directions, again.directions)


def test_a_vector_that_is_no_concepts_is_not_replaced(built: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    shutil.copy(built / "joy.safetensors", tmp_path / "out")
    result = steer("pack", "build", built.parent / "moods.toml", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "not in the index of this pack" in result.stderr


def test_the_report_is_a_page_with_everything_escaped(built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "out")
    index = json.loads((folder / "pack.json").read_text())
    index["title"] = "<script>alert(1)</script>"
    (folder / "pack.json").write_text(json.dumps(index))
    shown = steer("pack", "report", folder, "--html", "page.html")
    assert shown.exit_code == 0
    page = Path("page.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "http" not in page
    assert "does not work on this model" in steer("pack", "report", folder).stdout


@pytest.mark.parametrize(
    "text", ["{", '{"format": 1}', '{"format": 99}', '{"format": 1, "concepts": 3}']
)
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pack.json").write_text(text)
    result = steer("pack", "report", tmp_path)
    assert result.exit_code == 1 and "Traceback" not in result.output
    with pytest.raises(InputError, match="no pack index"):
        index.read(tmp_path / "nothing")


def test_check_lists_packs_and_concepts() -> None:
    assert "emotions" in steer("pack", "check").stdout
    assert "joyful" in steer("pack", "check", "emotions").stdout
    assert len(json.loads(steer("pack", "check", "topics", "--json").stdout)["concepts"]) >= 30
    wrong = steer("pack", "check", "no-such-pack")
    assert wrong.exit_code == 1 and "emotions" in wrong.stderr


def test_words_become_a_vector(tmp_path: Path) -> None:
    words = ["extract", "joyful", "gloomy", "--phrase", "[mood: {}]", "-o", "joyful.safetensors"]
    result = steer(*words, "--json")
    assert result.exit_code == 0, result.stderr
    assert "as two words" in result.stderr
    report = json.loads(result.stdout)
    assert report["concept"]["works"] and report["concept"]["effect"]["low"] > 0
    assert report["contrast"]["positive"] == "[mood: joyful]"
    applied = steer("apply", "Tell me a story.", "--chat", "-v", "./joyful.safetensors")
    assert applied.exit_code == 0, applied.stderr
    again = steer(*words)
    assert again.exit_code == 1 and "exists" in again.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["patient", "patient"], 1, "both poles are 'patient'"),
        (["", "patient"], 2, "a word is empty"),
        (["patient", ""], 2, "a word is empty"),
        (["pairs.jsonl", "patient"], 2, "is a file"),
        (["missing.jsonl"], 1, "missing.jsonl"),
        (["patient", "--template", "{text}"], 2, "--template applies to a file"),
        (["patient", "--positions", "last"], 2, "--positions applies to a file"),
        (["patient", "--phrase", "calm"], 2, "has no {}"),
        (["patient", "--site", "resid_post,attn_out"], 2, "one site"),
        (["missing.jsonl", "--allow-weak"], 2, "--allow-weak applies to words"),
    ],
)
def test_words_that_mean_nothing_are_refused_before_the_model_loads(
    words: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steer.cli.options.load_model", None)
    result = steer("extract", *words, "-o", "x.safetensors")
    assert result.exit_code == code, result.output
    assert message in result.stderr


def test_what_is_not_worth_keeping_is_refused_with_a_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["extract", "[mood: joyful]", "[mood: gloomy]", "-o", "x.safetensors"]
    monkeypatch.setattr("steer.concepts.make.LEAST_EFFECT", 100.0)
    weak = steer(*words)
    assert weak.exit_code == 1 and "--allow-weak" in weak.stderr
    assert not Path("x.safetensors").exists()
    kept = steer(*words, "--allow-weak")
    assert kept.exit_code == 0 and "does not work on this model" in kept.stderr
    assert store.read(Path("x.safetensors")).name
    monkeypatch.setattr("steer.concepts.make.LEAST_HEEDED", 100.0)
    result = steer(*words, "--force")
    assert result.exit_code == 1
    assert "ignores" in result.stderr and "hint:" in result.stderr


def test_a_file_of_that_name_is_a_file() -> None:
    Path("joyful").write_text('{"positive": "The day was bright.", "negative": "It was dark."}\n')
    result = steer("extract", "joyful", "-o", "x.safetensors")
    assert result.exit_code == 0, result.stderr
    assert store.read(Path("x.safetensors")).metadata.contrast.kind == "pairs"
    assert "as two words" not in result.stderr


def test_python_takes_words_too() -> None:
    model = library.load("pocket")
    vector = library.extract(model, "[mood: joyful]", "[mood: gloomy]", name="joy")
    assert vector.name == "joy"
    with pytest.raises(UsageError, match="positions"):
        library.extract(model, "joyful", "gloomy", positions="last")
    with pytest.raises(InputError, match="both poles"):
        library.extract(model, "joyful", "joyful")


def test_a_model_writes_a_contrast_set(tmp_path: Path) -> None:
    result = steer("contrasts", "write", "joyful", "--against", "gloomy", "--phrase", "[mood: {}]",
                   "-n", 16, "-o", "joyful.jsonl", "--max-tokens", 16, "--no-chat")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in Path("joyful.jsonl").read_text().splitlines()]
    assert 10 <= len(rows) <= 16
    for row in rows:
        sides = [len(WORD.findall(row[side])) for side in ("positive", "negative")]
        assert sides[0] == sides[1]
    assert len({(row["positive"], row["negative"]) for row in rows}) == len(rows)
    checked = steer("contrasts", "check", "joyful.jsonl", "--json")
    assert json.loads(checked.stdout)["length_auc"] == 0.5
    assert steer("extract", "joyful.jsonl", "-o", "j.safetensors").exit_code == 0


def test_pairs_are_even_distinct_and_balanced() -> None:
    assert _even("q", "one two three", "one two three four five") is None
    even = _even("q", "a b c d e f", "g h i j k")
    assert even == Pair("q", "a b c d e", "g h i j k")
    assert _even("q", "a b c d", "A B C D e") is None
    same = Pair("q", "a long walk by the sea and home", "a dull day in the rain and home")
    assert len(_distinct([same, same])) == 1
    pairs = [Pair("q", f"Oh a{n} b c", f"Well a{n} b c") for n in range(6)]
    pairs += [Pair("q", f"Well d{n} b c", f"Oh d{n} b c") for n in range(6)]
    firsts = [pair.positive.split()[0] for pair in _balanced(pairs, 8)]
    assert firsts.count("Oh") == firsts.count("Well") == 4


def test_a_vector_is_named_by_its_nearest_concept(built: Path) -> None:
    other = store.read(built / "joy.safetensors").renamed("unknown")
    store.write(Path("unknown.safetensors"), other)
    result = steer("describe", "unknown.safetensors", "--pack", built, "--json")
    assert result.exit_code == 0, result.stderr
    first = json.loads(result.stdout)["nearest"][0]
    assert first["name"] == "joy" and first["cosine"] == pytest.approx(1)
    opposite = library.Vector(other) * -1.0
    assert library.describe(opposite, built)[0].cosine == pytest.approx(-1)


def test_the_tree_has_every_concept_once(built: Path) -> None:
    vectors = index.read(built).vectors()
    vectors += [vector.renamed(f"{vector.name}-2") for vector in vectors]
    geometry_of_pack = geometry(vectors)
    assert sorted(geometry_of_pack.order) == list(range(len(vectors)))
    assert np.allclose(np.diag(geometry_of_pack.cosines), 1)
    assert np.allclose(geometry_of_pack.cosines, geometry_of_pack.cosines.T)
    lines = geometry_of_pack.lines()
    for vector in vectors:
        assert sum(line.endswith(f" {vector.name}") for line in lines) == 1
    # What is equal joins first.
    first = {
        geometry_of_pack.names[geometry_of_pack.tree[0][0]],
        geometry_of_pack.names[geometry_of_pack.tree[0][1]],
    }
    assert {name.removesuffix("-2") for name in first} in ({"joy"}, {"formal"})
    with pytest.raises(VectorError):
        geometry(vectors[:1])
    with pytest.raises(VectorError, match="compared"):
        nearest(vectors[0].only([0]), [vectors[1].only([1])])


def test_compare_shows_a_pack(built: Path) -> None:
    working = len(index.read(built).working_rows)
    result = steer("compare", "--pack", built, "--html", "map.html")
    if working < 2:
        assert result.exit_code == 1
        return
    assert result.exit_code == 0 and "joy" in result.stdout
    page = Path("map.html").read_text()
    assert page.count("<rect") == working**2 and "http" not in page
    assert steer("compare", "joy", "--pack", built).exit_code == 2
    assert steer("compare", "--html", "x.html").exit_code == 2


def test_without_takes_several(built: Path) -> None:
    for name in ("joy", "formal"):
        if (built / f"{name}.safetensors").exists():
            shutil.copy(built / f"{name}.safetensors", ".")
    shutil.copy(Path(__file__).parents[1] / "vectors/sea.safetensors", ".")
    result = steer("combine", "./joy.safetensors", "--without",
                   "./sea.safetensors,./sea.safetensors", "-o", "alone.safetensors")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    alone, sea = (store.read(Path(f"{name}.safetensors")) for name in ("alone", "sea"))
    layer = alone.metadata.layers[0]
    assert abs(float(alone.direction(layer) @ sea.direction(layer))) < 1e-3


def test_a_folder_that_cannot_be_written_stops_a_build(built: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    model = library.load("pocket")
    with pytest.raises(SteerError):
        library.build_pack(model, built.parent / "moods.toml", tmp_path / "file")


def test_directions_are_those_along_which_texts_vary(tmp_path: Path) -> None:
    moods = {"joyful": "The sunny day felt wonderful. {} cheered.",
             "gloomy": "The dreary day felt dismal. {} wept."}  # fmt: skip
    texts = [text.format(name) for name in ("Mara", "Tom", "Ada", "Leo", "Zoe", "Hugo")
             for text in moods.values()]  # fmt: skip
    Path("texts.txt").write_text("\n".join(texts))
    result = steer("discover", "texts.txt", "-k", 3, "-o", "found", "--no-chat", "--json")
    assert result.exit_code == 0, result.stderr
    directions = json.loads(result.stdout)["directions"]
    shares = [entry["share"] for entry in directions]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1
    ends = [{"wept" in text for text in directions[0][end]} for end in ("high", "low")]
    assert ends in ([{True}, {False}], [{False}, {True}])
    vectors = [store.read(Path("found") / f"{entry['name']}.safetensors") for entry in directions]
    units = np.stack(
        [vector.directions[0] / np.linalg.norm(vector.directions[0]) for vector in vectors]
    )
    assert np.allclose(units @ units.T, np.eye(3), atol=1e-4)
    first = vectors[0].metadata.statistics[0]
    assert first.positive is not None and first.negative is not None
    assert first.positive.mean - first.negative.mean == pytest.approx(first.norm, rel=1e-3)
    again = steer("discover", "texts.txt", "-k", 3, "-o", "found")
    assert again.exit_code == 1 and "--force" in again.stderr
    Path("few.txt").write_text("a\nb\n")
    assert "8 are the fewest" in steer("discover", "few.txt").stderr


def test_a_vector_of_tokens_raises_them(tmp_path: Path) -> None:
    result = steer("extract", "--raises", " joyful", "--lowers", " gloomy", "-o", "t.safetensors")
    assert result.exit_code == 0, result.stderr
    vector = store.read(Path("t.safetensors"))
    model = library.load("pocket").inner
    for row in lens(model, vector, top=3):
        assert " joyful" in {token.text for token in row.raised}
        assert " gloomy" in {token.text for token in row.lowered}
    assert vector.metadata.description == "raises ' joyful', lowers ' gloomy'"
    assert vector.metadata.contrast.positive is None  # a token is no condition of a prompt
    shares = [row.share for row in vector.metadata.statistics]
    assert shares == pytest.approx([0.1] * len(shares), rel=1e-3)
    reverse = from_tokens(model, [" gloomy"], [" joyful"], name="t")
    assert np.allclose(reverse.directions, -vector.directions, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--raises", " impatience"], 1, "tokens of pocket"),
        (["--raises", " joyful", "--lowers", " joyful"], 2, "raised and lowered"),
        (["pairs.jsonl", "--raises", " joyful"], 2, "without contrasts"),
        (["--raises", " joyful", "--positions", "last"], 2, "--positions applies to texts"),
    ],
)
def test_tokens_that_mean_nothing_are_refused(words: list[str], code: int, message: str) -> None:
    result = steer("extract", *words, "-o", "x.safetensors")
    assert result.exit_code == code, result.output
    assert message in result.stderr
