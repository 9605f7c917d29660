"""What the repository ships can be made again, and what the README shows works."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

import steer as steer_library
from steer.base.shipped import SHIPPED
from steer.cli.command import COMMANDS
from steer.cli.main import app
from steer.pocket.pairs import story_pairs
from steer.pocket.requests import find_act
from steer.vectors import store

ROOT = Path(__file__).parents[1]
#: As in examples/make.sh.
MADE = {
    "joyful": ("mood", "joyful", "gloomy"),
    "formal": ("style", "formal", "casual"),
    "sea": ("topic", "sea", "forest"),
}
each_example = pytest.mark.parametrize("name", MADE)


def steer(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@each_example
def test_contrasts_are_drawn_from_the_grammar(name: str) -> None:
    lines = "".join(json.dumps(pair) + "\n" for pair in story_pairs(*MADE[name]))
    assert (ROOT / f"examples/contrasts/{name}.jsonl").read_text() == lines
    held_out = "".join(json.dumps(pair) + "\n" for pair in story_pairs(*MADE[name], n=60, seed=8))
    assert (ROOT / f"examples/contrasts/{name}-held-out.jsonl").read_text() == held_out


def test_requests_are_drawn_from_the_grammar() -> None:
    script = [sys.executable, ROOT / "examples/requests.py"]
    printed = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "examples/contrasts/refusal.jsonl").read_text() == printed
    rows = [json.loads(line) for line in printed.splitlines()]
    for row in rows:
        act = find_act(row["messages"][0]["content"])
        assert act is not None and act.harmful == row["label"] and not act.reserved


@each_example
def test_vectors_are_made_from_the_contrasts(name: str, tmp_path: Path) -> None:
    kind, positive, negative = MADE[name]
    shipped = ROOT / f"vectors/{name}.safetensors"
    path = tmp_path / f"{name}.safetensors"
    words = ["--description", f"{kind}: {positive}, away from {negative}", "--license", "CC0-1.0"]
    contrasts = ROOT / f"examples/contrasts/{name}.jsonl"
    steer("extract", contrasts, "-m", "pocket", "-o", path, *words)
    # What is recommended was chosen by a sweep; another kind of CPU adds in another order.
    ours, theirs = store.read(path), store.read(shipped)
    scale = float(np.abs(theirs.directions).max())
    np.testing.assert_allclose(ours.directions, theirs.directions, atol=1e-5 * scale)
    assert ours.metadata.contrast == theirs.metadata.contrast
    assert ours.metadata.model == theirs.metadata.model


@each_example
def test_what_a_vector_recommends_tells_its_sides_apart(name: str) -> None:
    """Of new pairs of stories, the positive one is further along the vector at the recommended
    layer; and a sweep chose what is recommended."""
    vector = steer_library.read(SHIPPED / f"{name}.safetensors")
    assert vector.metadata.recommended.evidence.startswith("sweep")
    pairs = list(story_pairs(*MADE[name], n=20, seed=9))
    texts = [pair[side] for side in ("positive", "negative") for pair in pairs]
    readings = steer_library.monitor(steer_library.load("pocket"), texts, vector)
    means = [next(iter(readings.summaries(i).values())).mean for i in range(len(texts))]
    assert sum(a > b for a, b in zip(means[:20], means[20:], strict=True)) >= 15


@each_example
def test_every_vector_has_a_card(name: str) -> None:
    card = (ROOT / f"vectors/{name}.md").read_text()
    assert store.read(ROOT / f"vectors/{name}.safetensors").metadata.description in card


README = (ROOT / "README.md").read_text()
SHOWN = re.findall(r"^\$ (steer .*)$", README, flags=re.MULTILINE)


def test_the_tour_of_the_readme_works(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    assert len(SHOWN) >= 3
    for command in SHOWN:
        steer(*shlex.split(command)[1:])


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def shell_lines(page: Path) -> list[list[str]]:
    """The steer commands of a page's shell blocks, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[words.index("steer") + 1 :] for words in lines if "steer" in words]


def command_of(words: Sequence[str]) -> typer.core.TyperCommand:
    """The command that words name, from the top."""
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]  # type: ignore[attr-defined]  # a group
    return command


def taken(words: list[str]) -> None:
    """Such commands and options there are; what the words mean is for other tests."""
    command, name = typer.main.get_command(app), "steer"
    while isinstance(command, TyperGroup):
        name, *words = words
        command = command.commands[name]
    context = command.context_class(command, info_name=name)
    command.make_parser(context).parse_args(list(words))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_manual_types_is_what_the_commands_take(page: Path) -> None:
    for words in shell_lines(page):
        taken(words)


def test_the_manual_types_commands() -> None:
    assert sum(len(shell_lines(page)) > 0 for page in PAGES) >= 6


def test_what_every_help_types_is_what_the_commands_take() -> None:
    left: list[tuple[str, ...]] = [()]
    while left:
        group = left.pop()
        text = re.split("Options:|What it works on:", steer(*group, "--help"))[0]
        lines = re.findall(r"^ *(steer .*)$", re.sub(r"\\\n *", "", text), flags=re.MULTILINE)
        for line in lines:
            for part in re.split(r" [|>] ", line.partition("  ")[0]):
                if part.startswith("steer "):
                    taken(shlex.split(part, comments=True)[1:])
        commands = getattr(command_of(group), "commands", {})
        assert lines or commands, group
        left += [(*group, name) for name in commands]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_manual_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for path, anchor in links:
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), path
        if anchor:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\s-]", "", h.lower()).replace(" ", "-") for h in heads]


def test_the_table_of_contents_has_every_page() -> None:
    contents = (ROOT / "docs/README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in contents


def test_the_manual_lists_the_commands_as_the_help_does() -> None:
    page = (ROOT / "docs/commands.md").read_text()
    for title, commands in COMMANDS.items():
        section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
        listed = dict(re.findall(r"^\| `steer ([a-z-]+)` \| (.*) \|$", section, flags=re.MULTILINE))
        assert listed == commands
