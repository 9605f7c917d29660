"""The commands of the manual's page on sharing, from one machine to another, by every place."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from test_sharing import (  # noqa: F401  (fixtures)
    Team,
    _own_caches,
    bucket,
    hub,
    refused,
    sftp,
    steer,
    team,
)

from steer.vectors import store

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/sharing.md").read_text()
BLOCKS = [
    [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
]


def typed(words: list[str], team: Team) -> str:  # noqa: F811
    place = {"hf://OWNER/REPO": team.url, "MODEL": "pocket"}
    for name, expected in place.items():
        words = [word.replace(name, expected) for word in words]
    return steer(*words)


@pytest.mark.parametrize("team", ["hf", "s3", "sftp", "path"], indirect=True)
def test_a_vector_goes_from_one_machine_to_another(
    team: Team,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sending, receiving, converting = BLOCKS
    assert [words[0] for words in sending] == ["sign", "push"]
    assert [words[0] for words in receiving] == [
        "list", "pull", "pull", "verify", "apply", "apply", "bake",
    ]  # fmt: skip
    first, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(ROOT / "vectors", first / "vectors")
    other.mkdir()
    monkeypatch.chdir(first)
    for words in sending:
        typed(words, team)
    monkeypatch.chdir(other)
    shutil.copy(first / "k.pub", "k.pub")
    outputs = {tuple(words): typed(words, team) for words in receiving if words[0] != "bake"}
    assert "joyful" in outputs[tuple(receiving[0])]
    verified = outputs[tuple(receiving[3])]
    assert "signed by" in verified and "fits pocket" in verified
    pulled, fetched = (outputs[tuple(words)] for words in receiving[4:6])
    assert pulled == fetched != steer("apply", "Once")
    file = "joyful.safetensors"
    assert Path("vectors", file).read_bytes() == (first / "vectors" / file).read_bytes()
    in_a_recipe(team, pulled)
    if team.url.startswith("hf:"):  # what comes after does not know the place any more
        for words in (*converting[:2], receiving[-1]):  # the others need files of other tools
            typed(words, team)
        check_exported(pulled)
        check_baked()


def in_a_recipe(team: Team, expected: str) -> None:  # noqa: F811
    """An address in a recipe means the vector that was pulled from there, by its hash."""
    vector = f"{team.url}/joyful:2@2"
    digest = store.read(Path("vectors/joyful.safetensors")).metadata.sha256
    for sha256, works in ((digest, True), ("0" * 64, False)):
        recipe = f'steers = [{{ vector = "{vector}", sha256 = "{sha256}" }}]\n'
        Path("r.toml").write_text(recipe)
        words = ("apply", "Once", "--recipe", "r.toml")
        if works:
            assert steer(*words) == expected
        else:
            refused(*words, because="0" * 12)


def check_exported(expected: str) -> None:
    original, back = (
        store.read(Path(f"vectors/{name}.safetensors")) for name in ("joyful", "back")
    )
    assert np.array_equal(back.direction(2), 2 * original.direction(2))
    assert steer("apply", "Once", "-v", "back") == expected


def check_baked() -> None:
    """Plain transformers, which knows nothing of vectors, writes the steered text."""
    folder = "joyful-model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("Once", return_tensors="pt")
    tokens = network.generate(**ids, max_new_tokens=30, do_sample=False)[
        0, ids["input_ids"].shape[1] :
    ]
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    words = ("apply", "Once", "-v", "joyful:2@2", "-t", "0", "--max-tokens", "30", "--json")
    assert json.loads(steer(*words))["results"][0]["text"] == text
