"""Recipes: what is included comes out flat, whatever its depth; what is wrong is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st
from test_cli import failed, folder, joyful, pairs, steer  # noqa: F401  (fixtures)

from steer.base.errors import InputError, VectorError
from steer.steering.named import NamedSteer, resolved
from steer.steering.recipe import read, to_toml
from steer.vectors import lock, store


def write(path: str, *, include: list[str] | None = None, steers: list[str] | None = None) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"include = {json.dumps(include or [])}\nsteers = {json.dumps(steers or [])}\n")
    return file


def vectors(path: Path) -> list[str]:
    return [named.vector for named in read(path).steers]


def test_what_is_included_comes_first_and_in_order() -> None:
    write("a.toml", include=["sub/b.toml", "sub/c.toml"], steers=["joyful:2@1"])
    write("sub/b.toml", include=["c.toml"], steers=["calm"])
    write("sub/c.toml", steers=["sea:15%@1-2/response"])
    loaded = read(Path("a.toml"))
    steers = ["sea:15%@1-2/response", "calm", "sea:15%@1-2/response", "joyful:2@1"]
    assert [named.vector for named in loaded.steers] == steers
    assert [named.file.name for named in loaded.steers] == [
        "c.toml",
        "b.toml",
        "c.toml",
        "a.toml",
    ]


def test_paths_are_relative_to_the_file_that_names_them() -> None:
    write("a/one.toml", include=["../b/two.toml"], steers=["./x.safetensors:2@1", "name"])
    write("b/two.toml", steers=["y.safetensors/prompt", "deep/z:1", "/far/v.safetensors:-1"])
    assert vectors(Path("a/one.toml")) == [
        "a/../b/y.safetensors/prompt",
        "a/../b/deep/z:1",
        "/far/v.safetensors:-1",
        "a/x.safetensors:2@1",
        "name",
    ]


def test_no_depth_is_too_deep() -> None:
    depth = 1_500
    for level in range(depth):
        write(f"{level}.toml", include=[f"{level + 1}.toml"], steers=[f"v{level}"])
    write(f"{depth}.toml", steers=["last"])
    assert vectors(Path("0.toml"))[0] == "last"
    assert len(vectors(Path("0.toml"))) == depth + 1


def test_includes_that_multiply_are_stopped() -> None:
    for level in range(30):
        write(f"{level}.toml", include=[f"{level + 1}.toml"] * 2)
    write("30.toml")
    with pytest.raises(InputError, match="more than 10,000 files"):
        read(Path("0.toml"))


def test_steers_that_multiply_are_stopped() -> None:
    """9,000 includes of a file of 45,000 steers."""
    write("many.toml", steers=["v"] * 45_000)
    write("a.toml", include=["many.toml"] * 9_000)
    with pytest.raises(InputError, match="more than 10,000 steers in all"):
        read(Path("a.toml"))
    write("few.toml", steers=["v"] * 9)
    write("b.toml", include=["few.toml"] * 1_200)
    with pytest.raises(InputError, match="more than 10,000 steers in all"):
        read(Path("b.toml"))


def test_files_that_are_large_together_are_stopped() -> None:
    for number in range(25):
        Path(f"{number}.toml").write_text("#" * 900_000)
    write("a.toml", include=[f"{number}.toml" for number in range(25)])
    with pytest.raises(InputError, match="more than 20,000,000 bytes"):
        read(Path("a.toml"))


def test_paths_that_grow_with_each_include_are_stopped() -> None:
    Path("sub").mkdir()
    for level in range(2_000):
        Path(f"sub/{level}.toml").write_text(
            f'include = ["../sub/{level + 1}.toml"]\nsteers=["./v"]'
        )
    with pytest.raises(InputError, match="4,096 are the most"):
        read(Path("sub/0.toml"))


@pytest.mark.parametrize(
    "text",
    [
        "a" + ".a" * 400_000 + " = 1",
        "[" + "a." * 400_000 + "a]",
        "b = {" + "a . " * 200_000 + "a = 1}",
        '"a"' + "." + "'b'" + ". c" * 200_000 + " = 1",
        '"""' + '\\"""' * 150_000,
        "'''" * 300_000,
        '"' * 900_000,
        ("x" * 800_000) + " = 1",
    ],
)
def test_keys_take_no_longer_than_they_are_long(text: str) -> None:
    Path("a.toml").write_text(text)
    start = time.process_time()
    with pytest.raises(InputError):
        read(Path("a.toml"))
    assert time.process_time() - start < 5


def test_dots_in_texts_are_no_names() -> None:
    system = "One. " * 20 + "1.2.3.4.5.6.7.8.9.10.11"
    text = f'description = "{system}" # {system}\n[generation]\nsystem = """{system}\n"""\n'
    Path("a.toml").write_text(text)
    assert read(Path("a.toml")).description == system


@pytest.mark.parametrize("kind", ["/dev/zero", "/dev/stdin", "/dev/fd/0", "pipe", "."])
def test_what_is_no_file_is_not_included(kind: str) -> None:
    os.mkfifo("pipe")
    code = """
import os, sys
from pathlib import Path
from steer.steering.recipe import read

try:
    read(Path("a.toml"))
except Exception as error:
    print(type(error).__name__, error)
"""
    write("a.toml", include=[kind])
    words = [sys.executable, "-c", code]
    run = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        printed = run.stdout.read()  # its stdin stays open: nothing waits for it
    assert "InputError" in printed and "not a file (included by a.toml)" in printed


def test_a_recipe_that_was_typed_can_be_a_stream() -> None:
    reader, writer = os.pipe()
    os.write(writer, b'steers = ["calm"]\n')
    os.close(writer)
    assert vectors(Path(f"/dev/fd/{reader}")) == ["calm"]
    os.close(reader)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cycle_is_shown_whole(length: int) -> None:
    Path("link").symlink_to(".")  # the same file by another name
    write("start.toml", include=["0.toml"])
    for level in range(length):
        write(f"{level}.toml", include=[f"link/{(level + 1) % length}.toml"])
    with pytest.raises(InputError, match="includes itself") as caught:
        read(Path("start.toml"))
    chain = str(caught.value).partition(": ")[2].split(" -> ")
    assert [Path(name).name for name in chain] == [f"{n}.toml" for n in [*range(length), 0]]


def test_of_settings_the_last_counts() -> None:
    Path("a.toml").write_text('include = ["b.toml"]\n[generation]\ntemperature = 0.5\n')
    Path("b.toml").write_text('[generation]\ntemperature = 1\nseed = 3\nstop = ["x"]\n')
    assert read(Path("a.toml")).generation == {"temperature": 0.5, "seed": 3, "stop": ["x"]}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(texts.filter(lambda text: text.strip() and "/" not in text), max_size=4),
    texts,
    st.lists(texts, max_size=3),
)
def test_what_is_written_reads_back(names: list[str], system: str, stop: list[str]) -> None:
    file = Path("written.toml")
    generation: dict[str, Any] = {"temperature": 0.25, "chat": True, "system": system}
    if "" not in stop:
        generation["stop"] = stop
    steers = [
        NamedSteer(
            f"v{index}", file, *((None, None), ("ab" * 32, None), (None, "w>0.5"))[index % 3]
        )
        for index, _ in enumerate(names)
    ]
    file.write_text(to_toml(steers, generation, description=system), encoding="utf-8", newline="")
    loaded = read(file)
    assert loaded.steers == tuple(steers)
    assert loaded.generation == generation
    assert loaded.description == system


def test_what_is_shown_shows_the_same_again() -> None:
    Path("in.toml").write_text("[generation]\ntemperature = 0.5\nseed = 3\n")
    Path("out.toml").write_text('include = ["in.toml"]\n[generation]\nmax_tokens = 9\n')
    shown = []
    for path in (Path("out.toml"), Path("flat.toml")):
        loaded = read(path)
        shown.append(to_toml(loaded.steers, loaded.generation))
        Path("flat.toml").write_text(shown[0])
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steers = [", "bad.toml: not TOML"),
        ('steer = ["x"]', "bad.toml: Object contains unknown field `steer`"),
        ("steers = [3]", "bad.toml: Expected"),
        ('steers = ["joyful:x"]', "bad.toml: 'joyful:x': 'x' is not a number"),
        ('steers = [{ vector = "x", sha = "y" }]', "unknown field `sha`"),
        ('steers = [{ vector = "x", sha256 = "12" }]', "'12' is not a sha256"),
        ('steers = [{ vector = "x", when = "y" }]', "bad.toml: 'y' is not a threshold"),
        ('steers = ["x"]\nwhen = "y>z"', "bad.toml: 'y>z': 'z' is not a threshold"),
        ('when = "y>0"', "bad.toml: when has no steer to gate"),
        ('when = "y>0"\nsteers = [{ vector = "x", when = "z>0" }]', "has the gate 'z>0' already"),
        ("[generation]\ntemperature = -1", "temperature is 0 or more"),
        ("[generation]\ntemperature = \"hot\"", "Expected"),
        ("[generation]\nheat = 1", "unknown field `heat`"),
        ("[generation]\nbeams = 0", "Expected `int` >= 1"),
        ('include = ["none.toml"]', r"none.toml: .* \(included by bad.toml\)"),
        ("a = " + "[" * 5_000, "bad.toml: not TOML"),
        ("\ufeffsteers = []\ntitle = \"\"", "unknown field `title`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_file(text: str, message: str) -> None:
    Path("bad.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        read(Path("bad.toml"))


def test_a_vector_is_the_one_that_is_meant() -> None:
    sealed = store.write(Path("calm.safetensors"), make_vector())
    for digest, message in ((sealed.sha256, None), ("0" * 64, "not the vector that the recipe")):
        pinned = f'{{ vector = "calm.safetensors:2", sha256 = "{digest}" }}'
        Path("a.toml").write_text(f"steers = [{pinned}]")
        if message is None:
            (named,) = resolved(read(Path("a.toml")).steers)
            assert named.vector.sha256 == digest
        else:
            with pytest.raises(VectorError, match=message):
                resolved(read(Path("a.toml")).steers)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ("nobody", "no vector named 'nobody'"),
        ("./none.safetensors:2", "there is no file none.safetensors"),
        ("https://example.org/v/calm.safetensors:2@1", "example.org.* is not on this machine"),
    ],
)
def test_a_vector_that_is_not_there_is_named(vector: str, message: str) -> None:
    write("a.toml", steers=[vector])
    with pytest.raises(VectorError, match=message):
        resolved(read(Path("a.toml")).steers)


@pytest.mark.parametrize("when", [False, True])
def test_nothing_is_fetched_because_a_recipe_names_it(when: bool) -> None:
    """Only what the user has pulled is used, and only with the hash that the recipe wants."""
    url = "https://example.org/v/calm"
    references: list[str] = []

    def find(reference: str) -> Path:
        references.append(reference)
        return store.find(reference)

    def recipe(digest: str) -> Path:
        plain = f'{{ vector = "{url}:2@2", sha256 = "{digest}" }}'
        gated = f'{{ vector = "here:1@2", when = "{url}@0>0" }}'
        Path("a.toml").write_text(f"steers = [{gated if when else plain}]")
        return Path("a.toml")

    place = Path("vectors")
    place.mkdir()
    store.write(place / "here.safetensors", make_vector(seed=1))
    digest = store.write(place / "calm.safetensors", make_vector()).sha256
    with pytest.raises(VectorError, match="not fetched because a recipe names it"):
        resolved(read(recipe(digest)).steers, find)
    lock.keep(place, "calm", lock.Origin(url=url, sha256=digest))
    (named,) = resolved(read(recipe(digest)).steers, find)
    assert named.vectors[-1].sha256 == digest
    if not when:
        with pytest.raises(VectorError, match="not fetched because a recipe names it"):
            resolved(read(recipe("0" * 64)).steers, find)
    assert url not in references


def test_a_gate_stands_before_all_of_its_file_and_of_what_that_includes() -> None:
    write("sub/inner.toml", steers=["calm"])
    Path("sub/gated.toml").write_text(
        'include = ["inner.toml"]\nwhen = "./g.safetensors@1 > 0.4/last"\nsteers = ["sea:2"]\n'
    )
    write("a.toml", include=["sub/inner.toml", "sub/gated.toml"], steers=["joyful"])
    gate = "sub/g.safetensors@1 > 0.4/last"
    assert [(named.vector, named.when) for named in read(Path("a.toml")).steers] == [
        ("calm", None),
        ("calm", gate),
        ("sea:2", gate),
        ("joyful", None),
    ]
    # The same gate twice is one; another one would be lost, or open what should be closed.
    Path("b.toml").write_text(f'include = ["sub/gated.toml"]\nwhen = "{gate}"\n')
    assert {named.when for named in read(Path("b.toml")).steers} == {gate}
    Path("c.toml").write_text('include = ["sub/gated.toml"]\nwhen = "other>0"\n')
    with pytest.raises(InputError, match=r"c.toml: when 'other>0': 'calm' has the gate"):
        read(Path("c.toml"))


def test_what_is_named_twice_is_read_once(joyful: Path) -> None:  # noqa: F811
    gated = NamedSteer("joyful:1@1", when="joyful@0>0.5")
    first, second = resolved([gated, NamedSteer("joyful:-1@1", when="joyful@0 > 0.50")])
    assert first.vector is second.vector
    assert first.gate is second.gate is not None
    assert first.vectors == (first.vector, first.gate.threshold.projection.vector)


def test_show_prints_a_recipe_without_torch(joyful: Path) -> None:  # noqa: F811
    write("sub/a.toml", include=["b.toml"], steers=["joyful:2@1"])
    Path("sub/b.toml").write_text("[generation]\nseed = 4\n")
    shown = steer("recipe", "show", "sub/a.toml")
    assert (shown.exit_code, shown.stderr) == (0, "")
    Path("flat.toml").write_text(shown.stdout)
    assert steer("recipe", "show", "flat.toml").stdout == shown.stdout
    printed = json.loads(steer("recipe", "show", "sub/a.toml", "--json").stdout)
    assert printed["generation"] == {"seed": 4}
    written = {"vector": "joyful:2@1", "file": "sub/a.toml", "sha256": None, "when": None}
    assert printed["steers"] == [written]
    code = """
import sys
from typer.testing import CliRunner
from steer.cli.main import app

assert CliRunner().invoke(app, ["recipe", "show", "sub/a.toml"]).exit_code == 0
sys.exit("torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_apply_takes_a_recipe_and_what_is_typed_goes_before_it(
    joyful: Path, folder: Path  # noqa: F811
) -> None:  # fmt: skip
    Path("a.toml").write_text(
        'steers = ["joyful:3@1"]\n[generation]\ntemperature = 0.0\nmax_tokens = 5\nseed = 4\n'
    )
    words = ["apply", "w3 w4", "-m", folder, "--json"]
    by_hand = ["-v", "joyful:3@1", "-t", 0, "--max-tokens", 5, "--seed", 4]
    assert steer(*words, "--recipe", "a.toml").stdout == steer(*words, *by_hand).stdout
    # Typed out, even the default counts.
    typed = json.loads(steer(*words, "--recipe", "a.toml", "-t", 0.7, "-v", "joyful").stdout)
    assert (typed["sampling"]["temperature"], typed["sampling"]["seed"]) == (0.7, 4)
    assert len(typed["steers"]) == 2


def test_gates_and_beams_are_those_of_the_command_line(joyful: Path, folder: Path) -> None:  # noqa: F811
    words = ["apply", "w3 w4", "-m", folder, "--json", "--max-tokens", 5]
    Path("a.toml").write_text(
        'steers = ["joyful:9@1"]\nwhen = "joyful@0>-99"\n[generation]\ntemperature = 0\nbeams = 3\n'
    )
    by_hand = ["-v", "joyful:9@1", "-t", 0, "--beams", 3]
    opened = steer(*words, "--recipe", "a.toml")
    assert opened.exit_code == 0, opened.stderr
    assert "gate joyful@0>-99/mean: open" in opened.stderr
    assert opened.stdout == steer(*words, *by_hand, "--when", "joyful@0>-99").stdout
    assert json.loads(opened.stdout)["sampling"]["beams"] == 3

    Path("b.toml").write_text('steers = [{ vector = "joyful:9@1", when = "joyful@0>99" }]')
    closed = steer(*words, "--recipe", "b.toml")
    assert "nothing was steered" in closed.stderr
    texts = [json.loads(result.stdout)["results"][0]["text"] for result in (closed, steer(*words))]
    assert texts[0] == texts[1]


def test_recipes_that_cannot_be_applied_fail_before_the_model_loads(
    joyful: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pytest.fail("loaded"))
    write("a.toml", steers=["joyfull"])
    failed(steer("apply", "w3", "--recipe", "a.toml"), 1, "did you mean 'joyful'?")
    failed(steer("apply", "w3", "--recipe", "none.toml"), 1, "none.toml")
    Path("b.toml").write_text('[generation]\nsystem = "x"\n')
    failed(steer("apply", "w3", "--recipe", "b.toml"), 2, "--chat")
    Path("d.toml").write_text('steers = [{ vector = "joyful", when = "joyful>0" }]')
    for condition, message in (("joyful>1", "has the gate"), ("joyful", "not a threshold")):
        failed(steer("apply", "w3", "--recipe", "d.toml", "--when", condition), 2, message)
    Path("e.toml").write_text('steers = [{ vector = "joyful", when = "joyfull>0" }]')
    failed(steer("apply", "w3", "--recipe", "e.toml"), 1, "did you mean 'joyful'?")
    Path("f.toml").write_text("[generation]\nbeams = 2\n")
    failed(steer("apply", "w3", "--recipe", "f.toml"), 2, "--temperature 0")
    failed(
        steer("apply", "w3", "--recipe", "f.toml", "-t", 0, "-v", "joyful", "--watch", "joyful"),
        2,
        "--watch or --guard",
    )
    write("c.toml", include=["c.toml"])
    failed(steer("recipe", "show", "c.toml"), 1, "c.toml -> c.toml")
