"""Profiles of texts and conversations over the concepts of a pack, on the pocket model."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

import steer as library
from steer.base.errors import InputError, ModelError
from steer.base.files import cache_folder
from steer.cli.main import app
from steer.concepts import baseline, index, likelihood
from steer.concepts.likelihood import Likelihoods
from steer.concepts.profile import QUESTION, ConversationProfile, Profile, Profiler
from steer.contrasts.passages import Message
from steer.contrasts.records import arriving_records, records

CONCEPTS = {
    "joy": ("[mood: joyful]", "[mood: gloomy]"),
    "gloom": ("[mood: gloomy]", "[mood: joyful]"),
    "formal": ("[style: formal] [mood: calm]", ""),
}
GLAD = "The sunny day felt wonderful, and everyone cheered."
SAD = "The dreary day felt dismal. Nobody came."
CHAT = [
    {"role": "user", "content": "Tell me a story."},
    {"role": "assistant", "content": GLAD},
    {"role": "user", "content": "Another one."},
    {"role": "assistant", "content": SAD},
]


def steer(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


@pytest.fixture(scope="module")
def model() -> library.Model:
    return library.load("pocket")


@pytest.fixture
def pack(model: library.Model, tmp_path: Path) -> Path:
    """A folder with the index of a built pack, whose vectors are all missing."""
    folder = tmp_path / "pack"
    folder.mkdir()
    rows = [
        {"name": name, "works": True, "conditions": list(conditions), "heeded": {"value": 1.0}}
        for name, conditions in CONCEPTS.items()
    ]
    identity = msgspec.to_builtins(model.inner.identity)
    values = {"format": 1, "pack": "moods", "title": "Moods", "model": "pocket",
              "identity": identity, "concepts": rows}  # fmt: skip
    (folder / "pack.json").write_text(json.dumps(values))
    return folder


def profiler(model: library.Model, pack: Path, **options: Any) -> Profiler:
    return Profiler(model.inner, index.read(pack), n_baseline=3, **options)


def messages(chat: list[dict[str, str]]) -> list[Message]:
    return [Message(**turn) for turn in chat]


def test_kept_beginnings_change_nothing(model: library.Model) -> None:
    inner = model.inner
    assert likelihood._takes_kept(inner)
    beginnings = [tuple(inner.encode(text)) for text in ("One day", "The old house by the sea", "")]
    beginnings[2] = beginnings[2] or tuple(inner.encode("A"))
    likelihoods = Likelihoods(inner, 3)
    likelihoods._groups = [slice(0, 2), slice(2, 3)]
    texts = [tuple(inner.encode(text, special=False)) for text in (f" {GLAD}", f" {SAD}", " Then.")]
    rows = [[(*row, *text) for row in beginnings] for text in texts[:2]]
    rows.append([(*row, *texts[2]) for row in rows[1]])
    for number, part in enumerate(rows):
        n = len(texts[number])
        values = likelihoods(part, n, continues=number == 1)
        assert likelihoods._kept
        expected = np.concatenate([likelihood._uncached(inner, [row], n) for row in part])
        assert np.allclose(values, expected, atol=1e-3)


def test_a_model_that_keeps_nothing_gives_the_same(
    model: library.Model, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = profiler(model, pack).read(GLAD)
    monkeypatch.setattr(likelihood, "_takes_kept", lambda model: False)
    assert np.allclose(profiler(model, pack).read(GLAD).ratios, fast.ratios, atol=1e-3)


@pytest.mark.parametrize("chat", [True, False])
def test_concepts_raise_their_own_texts(model: library.Model, pack: Path, chat: bool) -> None:
    glad, sad = map(profiler(model, pack, chat=chat).read, (GLAD, SAD))
    assert glad.text == GLAD and sad.text == SAD
    joy, gloom = glad.names.index("joy"), glad.names.index("gloom")
    assert glad.readings[joy] > sad.readings[joy]
    assert glad.false_positives[joy] <= sad.false_positives[joy]
    assert glad.top(1)[0][0] == max(zip(glad.scores, glad.names, strict=True))[1]
    # The opposite concept is the negative.
    assert np.allclose(glad.ratios[:, joy], -glad.ratios[:, gloom], atol=1e-5)
    assert glad.scores[joy] == pytest.approx(-glad.scores[gloom], abs=1e-4)


def test_a_running_profile_ends_with_the_profile(model: library.Model, pack: Path) -> None:
    complete = profiler(model, pack).read(GLAD)
    parts = list(complete.running(4))
    assert [part.n_tokens for part in parts[:-1]] == list(range(4, complete.n_tokens, 4))
    assert np.array_equal(parts[-1].readings, complete.readings)
    assert np.array_equal(parts[-1].false_positives, complete.false_positives)
    assert all(complete.text.startswith(part.text) for part in parts)
    # What comes later changes nothing: the beginning of a text is read as in any longer one.
    longer = profiler(model, pack).read(f"{GLAD} {SAD}")
    assert np.allclose(longer.ratios[: complete.n_tokens], complete.ratios, atol=1e-3)
    [only] = complete.running(1000)
    assert only.n_tokens == complete.n_tokens


def test_a_text_is_the_answer_to_a_fixed_question(model: library.Model, pack: Path) -> None:
    reader = profiler(model, pack)
    turns = [Message("user", QUESTION), Message("assistant", GLAD)]
    [answer] = reader.read_turns(turns)
    assert np.allclose(answer.ratios, reader.read(GLAD).ratios, atol=1e-3)


def test_an_answer_is_read_after_what_was_before_it_alone(model: library.Model, pack: Path) -> None:
    first, second = profiler(model, pack).read_turns(messages(CHAT))
    assert (first.text, second.text) == (GLAD, SAD)
    [cut] = profiler(model, pack).read_turns(messages(CHAT[:2]))
    assert np.allclose(cut.ratios, first.ratios, atol=1e-3)
    changed = [replace(turn, content=turn.content.replace("sunny", "rainy"))
               for turn in messages(CHAT)]  # fmt: skip
    reader = profiler(model, pack)
    assert not np.allclose(list(reader.read_turns(changed))[1].ratios, second.ratios, atol=1e-3)
    # The same reader goes on to another conversation.
    again = list(reader.read_turns(messages(CHAT)))
    assert np.allclose(again[1].ratios, second.ratios, atol=1e-3)
    overall = ConversationProfile((first, second)).overall
    n = np.array([first.n_tokens, second.n_tokens])
    assert np.allclose(overall.readings, n @ np.stack([first.readings, second.readings]) / n.sum())


def test_a_condition_joins_the_system_message(model: library.Model, pack: Path) -> None:
    reader = profiler(model, pack)
    own = [Message("system", "Be brief."), *messages(CHAT[:1])]
    rows = dict(zip(reader._conditions, reader._beginnings(own), strict=True))
    for condition, ids in rows.items():
        text = model.inner.tokenizer.decode(ids)
        joined = f"{condition}\n\nBe brief." if condition else "Be brief."
        assert text == model.inner.template.render([Message("system", joined), own[1]])


def test_no_rate_is_zero_and_the_highest_is_one(model: library.Model, pack: Path) -> None:
    own = profiler(model, pack).baseline()
    n = own.readings(8)
    assert np.allclose(own.false_positives(n.max(0) + 1, 8), 1 / (len(own) + 1))
    assert np.allclose(own.false_positives(n.min(0), 8), 1)
    assert np.allclose(own.scores(n.mean(0), 8), 0)
    short = [text[:2].mean(0) for text in own.ratios]
    assert np.allclose(own.readings(2), short)
    assert np.array_equal(own.readings(10_000), own.readings(max(map(len, own.ratios))))


def test_the_baseline_is_kept(
    model: library.Model, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(pack / "cache"))
    first = profiler(model, pack).baseline()
    calls: list[int] = []
    write = baseline.answering.write

    def counted(model: Any, queries: Any, **options: Any) -> Any:
        calls.append(len(queries))
        return write(model, queries, **options)

    monkeypatch.setattr(baseline.answering, "write", counted)
    again = profiler(model, pack).baseline()
    assert not calls
    assert all(map(np.array_equal, first.ratios, again.ratios))
    more = Profiler(model.inner, index.read(pack), n_baseline=5).baseline()
    assert calls == [2]
    assert all(map(np.array_equal, first.ratios, more.ratios))
    [file] = cache_folder("profiles").iterdir()
    for damaged in (b"", b"x" * 100, file.read_bytes()[:-7]):
        file.write_bytes(damaged)
        again = profiler(model, pack).baseline()
        assert all(
            np.allclose(a, b, atol=1e-3) for a, b in zip(first.ratios, again.ratios, strict=True)
        )
    # Other words are another baseline.
    other = json.loads((pack / "pack.json").read_text())
    other["concepts"].pop()
    (pack / "pack.json").write_text(json.dumps(other))
    assert profiler(model, pack).baseline().ratios[0].shape[1] == 2


def test_a_cache_that_cannot_be_written_is_no_error(
    model: library.Model, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pack / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(pack / "file"))
    assert profiler(model, pack).read(GLAD).names == tuple(CONCEPTS)


def test_texts_are_read_as_they_come(model: library.Model, pack: Path) -> None:
    seen: list[str] = []

    def endless() -> Iterator[Any]:
        yield GLAD
        assert seen == [GLAD]
        yield {"messages": CHAT}
        assert seen == [GLAD, GLAD, SAD]

    def keep(profile: Profile) -> None:
        seen.append(profile.text)

    read = library.profile(model, endless(), pack, baseline=3, on_profile=keep)
    assert isinstance(read[0], Profile) and isinstance(read[1], ConversationProfile)
    [chat] = library.profile(model, CHAT, pack, baseline=3)
    assert isinstance(chat, ConversationProfile) and len(chat.turns) == 2


@pytest.mark.parametrize(
    "data",
    ["one\ntwo\n\nthree", '[\n["a"],\n["b"]]', '{"text": "a"}\n\n{"text": "b"}\n', '["a", "b"]',
     "text,label\na,1\nb,0\n",
     '{\n "text": "a"\n}', '"a"\n"b"\n', '[{"role": "user", "content": "a"}]\n', "\n\none\r\ntwo",
     '\ufefftext,label\na,1', '{curly} braces\nare a text'],
)  # fmt: skip
def test_records_that_arrive_are_those_of_the_whole_file(data: str) -> None:
    complete = [record for _, record in records(data.encode(), "stdin", {"text"})]
    arrived = arriving_records(io.BytesIO(data.encode()), "stdin", {"text"})
    assert [record for _, record in arrived] == complete


def test_a_line_is_a_record_before_the_next_one_arrives() -> None:
    class Pipe(io.BytesIO):
        n = 0

        def readline(self, size: int | None = -1) -> bytes:
            self.n += 1
            return super().readline(size)

    pipe = Pipe(b"one\n\ntwo\n\xff\n")
    arriving = arriving_records(pipe, "stdin")
    assert next(arriving) == ("stdin:1", "one") and pipe.n == 1
    assert next(arriving) == ("stdin:3", "two") and pipe.n == 3
    with pytest.raises(InputError, match="line 4 of stdin"):
        next(arriving)


def other_model(pack: Path) -> None:
    """Makes it a pack of another model."""
    values = json.loads((pack / "pack.json").read_text())
    values["identity"] |= {"id": "other/model", "fingerprint": "0" * 64}
    (pack / "pack.json").write_text(json.dumps(values))


def test_a_pack_of_another_model_is_refused(model: library.Model, pack: Path) -> None:
    other_model(pack)
    with pytest.raises(ModelError, match="was built on other/model; the weights of pocket") as info:
        library.profile(model, [GLAD], pack)
    assert "steer pack build" in str(info.value.hint)
    result = steer("monitor", GLAD, "--pack", pack)
    assert result.exit_code == 1 and str(pack) in result.stderr
    with pytest.warns(UserWarning, match="other/model"):
        library.profile(model, [GLAD], pack, baseline=3, allow_other_model=True)


def test_an_index_without_its_model_takes_that_of_a_vector(
    model: library.Model, pack: Path
) -> None:
    built = index.read(pack)
    vector = library.read("sea").data.renamed("joy")
    index.store.write(pack / "joy.safetensors", vector)
    old = replace(built, identity=None)
    assert old.check_model(model.inner.identity) == []
    changed = msgspec.structs.replace(model.inner.identity, fingerprint="0" * 64)
    with pytest.raises(ModelError):
        old.check_model(changed)
    assert built.to_dict()["identity"]["id"] == "pocket"
    assert "identity" not in old.to_dict()


def test_profiles_on_the_command_line(pack: Path) -> None:
    options = ["--pack", pack, "--baseline", 3]
    shown = steer("monitor", GLAD, *options, "--every", 4)
    assert shown.exit_code == 0, shown.output
    assert "joy" in shown.stdout and "tokens so far" in shown.stdout
    document = json.loads(steer("monitor", GLAD, *options, "--json").stdout)
    assert document["pack"] == "moods" and document["texts"][0]["text"] == GLAD
    Path("texts.jsonl").write_text(
        "\n".join(map(json.dumps, [GLAD, {"messages": CHAT}, {"text": SAD}]))
    )
    result = steer("monitor", "--texts", "texts.jsonl", *options, "--json", "--every", 4)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    places = [(line["number"], line.get("message", "")) for line in lines]
    assert places == [(1, ""), (2, 2), (2, 4), (2, None), (3, "")]
    assert lines[0]["running"][-1]["readings"] == [c["reading"] for c in lines[0]["concepts"]]
    piped = steer("monitor", "--texts", "-", *options, "--json", "--every", 4,
                  stdin=Path("texts.jsonl").read_text())  # fmt: skip
    assert [json.loads(line)["text"] for line in piped.stdout.splitlines()] == [
        line["text"] for line in lines
    ]


@pytest.mark.parametrize(
    ("words", "stdin", "code", "message"),
    [
        (["--texts", "-"], '{"messages": [{"role": "user", "content": "a"}]}\n', 1, "no answer"),
        (["--texts", "-"], '{"other": 1}\n', 1, "--map text="),
        (["--texts", "-"], "", 1, "stdin is empty"),
        (["--texts", "-", "a text"], "", 2, "not both"),
        (["--texts", "missing.txt"], None, 1, "missing.txt"),
        (["a text", "--baseline", 1], None, 2, "baseline"),
        (["a text", "-v", "sea"], None, 2, "--pack cannot"),
        (["x " * 2000], None, 1, "takes 512"),
    ],
)
def test_wrong_input_is_named(
    pack: Path, words: list[object], stdin: str | None, code: int, message: str
) -> None:
    result = steer("monitor", *words, "--pack", pack, stdin=stdin)
    assert result.exit_code == code, result.output
    assert message in result.stderr and "Traceback" not in result.output


def test_options_of_a_pack_need_one() -> None:
    for option in ("--every", "--baseline"):
        result = steer("monitor", GLAD, "-v", "sea", option, 4)
        assert result.exit_code == 2 and "need --pack" in result.stderr


def test_a_conversation_needs_a_chat_template(model: library.Model, pack: Path) -> None:
    with pytest.raises(ModelError, match="without a chat template"):
        library.profile(model, [CHAT], pack, chat=False)
