"""A conversation: what is said, what steers it, and what each command does to both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny
from test_cli import failed, folder, joyful, pairs, steer  # noqa: F401  (fixtures)

from steer.base.errors import ModelError, SteerError, UsageError
from steer.cli import chat as chat_command
from steer.cli.chat import prompt_line
from steer.generate import decoding
from steer.generate.apply import generate
from steer.generate.chat import COMMANDS, Chat
from steer.generate.conversation import Conversation
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.generation import Sampling
from steer.steering.recipe import read
from steer.steering.spec import parse
from steer.steering.steers import resolve
from steer.vectors import store

SAMPLING = Sampling(max_tokens=6)


def ignore(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def pocket() -> Model:
    return load(ModelSource())


@pytest.fixture
def plain() -> Chat:
    """With a model that has no chat template, and two vectors that fit it."""
    model = tiny.model("llama")
    Path("vectors").mkdir()
    for seed, name in enumerate(("calm", "warm")):
        vector = tiny.vector(model, layers=(0, 1, 2), seed=seed)
        store.write(Path(f"vectors/{name}.safetensors"), tiny.renamed(vector, name=name))
    return Chat(Conversation(model), SAMPLING)


def say(chat: Chat, *lines: str) -> list[str]:
    """The texts of the answers to these lines; what was streamed is what was answered."""
    answers = []
    for line in lines:
        pieces: list[str] = []
        turn = chat.enter(line, pieces.append).turn
        if turn is not None:
            assert "".join(pieces) == turn.answer
            answers.append(turn.answer)
    return answers


def written(model: Model, prompt: str, chat: Chat, specs_: tuple[str, ...], special: bool) -> str:
    steers = [
        resolve(parsed_spec, store.read(store.find(parsed_spec.reference)))
        for parsed_spec in map(parse, specs_)
    ]
    return next(generate(model, [prompt], steers, chat.sampling, special=special)).text


def test_without_a_template_the_model_continues_all_that_was_written(plain: Chat) -> None:
    model = plain.conversation.model
    first, second = say(plain, "w3 w4", "/steer calm 3", "w9")
    assert first == written(model, "w3 w4", plain, (), True)
    assert second == written(model, f"w3 w4{first} w9", plain, ("calm:3",), True)
    assert [turn.message for turn in plain.conversation.turns] == ["w3 w4", "w9"]


def test_with_a_template_all_turns_go_with_a_message(pocket: Model) -> None:
    chat = Chat(Conversation(pocket, system="Be kind."), SAMPLING)
    first, second = say(chat, "Hello.", "//help me")
    template = pocket.tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": first},
            {"role": "user", "content": "/help me"},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert second == written(pocket, template, chat, (), False)
    with pytest.raises(ModelError, match="no system message"):
        Conversation(tiny.model("llama"), system="Be kind.")


def test_a_steer_is_set_changed_and_taken_away(plain: Chat) -> None:
    def after(line: str) -> tuple[str, ...]:
        plain.enter(line, ignore)
        return tuple(map(str, plain.steers))

    assert after("/steer calm 2") == ("calm:2",)
    assert after("/steer warm:-1@1/response") == ("calm:2", "warm:-1@1/response")
    assert after("/steer calm 0.5@2") == ("warm:-1@1/response", "calm:0.5@2")
    assert after("/steer calm") == ("warm:-1@1/response", "calm")
    assert after("/off warm") == ("calm",)
    assert after("/off") == ()


def test_compare_is_what_would_have_been_said_unsteered(plain: Chat) -> None:
    (unsteered,) = say(plain, "w3 w4")
    plain.enter("/undo", ignore)
    (steered,) = say(plain, "/steer calm 9", "w3 w4")
    assert steered != unsteered
    # The seed is that of the answer, whatever was set since.
    assert say(plain, "/seed 5", "/compare") == [unsteered]
    assert plain.conversation.turns[-1].answer == steered
    assert len(plain.conversation.turns) == 1


def test_undo_and_the_seed_make_an_answer_again(plain: Chat) -> None:
    _, again = say(plain, "w3", "w4 w5")
    assert say(plain, "/undo", "w4 w5") == [again]
    assert say(plain, "/undo", "/seed 1", "w4 w5") != [again]
    assert plain.enter("/seed", ignore).lines == ("1",)
    assert say(plain, "/undo", "/seed 0", "w4 w5") == [again]
    assert say(plain, "/new", "w4 w5") != [again]
    assert len(plain.conversation.turns) == 1


@pytest.mark.parametrize("after", [0, 2])
def test_ctrl_c_keeps_what_was_said_and_steers_nothing_later(
    plain: Chat, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plain.conversation.model
    before = written(model, "w3", plain, (), True)
    monkeypatch.setattr(decoding, "PAUSE", 0.0)
    pieces: list[str] = []

    def interrupted(piece: str) -> None:
        if len(pieces) == after:
            raise KeyboardInterrupt
        pieces.append(piece)

    plain.enter("/steer calm 9", ignore)
    turn = plain.enter("w3", interrupted).turn
    assert turn is not None and turn.finish == "interrupted"
    kept = [turn.answer for turn in plain.conversation.turns]
    # The piece at which it was interrupted had been written already.
    assert kept == [turn.answer] if turn.answer.strip() else kept == []
    assert turn.answer.startswith("".join(pieces))
    assert written(model, "w3", plain, (), True) == before


def test_a_conversation_is_saved_as_the_recipe_that_it_is(plain: Chat) -> None:
    Path("sub").mkdir()
    for line in ("/steer calm 2@1", "/steer ./vectors/warm.safetensors:-1", "/seed 7"):
        plain.enter(line, ignore)
    for name in ("a.toml", "sub/b.toml", str(Path("sub/c.toml").resolve())):
        plain.enter(f"/save {name}", ignore)
        recipe = read(Path(name))
        parsed = [parse(steer.vector) for steer in recipe.steers]
        assert [(str(spec.coefficient), spec.layers) for spec in parsed] == [
            ("2", (1,)),
            ("-1", None),
        ]
        assert (
            store.find(parsed[1].reference).resolve() == Path("vectors/warm.safetensors").resolve()
        )
        assert (recipe.generation["seed"], recipe.generation["chat"]) == (7, False)
    with pytest.raises(SteerError, match=r"a.toml exists"):
        plain.enter("/save a.toml", ignore)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/stear calm", "/stear is not a command"),
        ("/steer", "needs a vector"),
        ("/steer clam 2", "no vector named 'clam'"),
        ("/steer calm x", "'x' is not a number"),
        ("/steer calm@9", "no layer 9"),
        ("/off warm", "no steer warm"),
        ("/seed x", "not a seed"),
        ("/save", "needs a file"),
        ("/save none/a.toml", "none does not exist"),
        ("/undo", "no message to remove"),
        ("/compare", "no answer to compare"),
    ],
)
def test_what_cannot_be_done_changes_nothing(plain: Chat, line: str, message: str) -> None:
    plain.enter("/steer calm 2", ignore)
    with pytest.raises(SteerError, match=message):
        plain.enter(line, ignore)
    assert tuple(map(str, plain.steers)) == ("calm:2",)
    assert plain.conversation.turns == []


def test_an_unsteered_answer_has_nothing_to_compare(plain: Chat) -> None:
    say(plain, "w3", "/steer calm")
    with pytest.raises(UsageError, match="was not steered"):
        plain.enter("/compare", ignore)


def test_a_full_conversation_says_so(plain: Chat) -> None:
    room = plain.conversation.model.context
    assert room is not None
    (answer,) = say(plain, " ".join(["w3"] * (room - 3)))
    assert len(answer.split()) == 2
    with pytest.raises(SteerError, match="fills the context") as caught:
        plain.enter("w3", ignore)
    assert "/undo" in str(caught.value.hint)
    assert len(plain.conversation.turns) == 1


def test_lines_lead_somewhere(plain: Chat) -> None:
    assert plain.enter("  ", ignore).turn is None
    assert plain.enter("/quit", ignore).over
    helped = plain.enter("/help", ignore).lines
    assert all(any(line.startswith(name) for line in helped) for name in COMMANDS)
    plain.enter("/steer calm 2", ignore)
    listed = plain.enter("/list", ignore).lines
    assert listed[0].startswith("* calm:2") and "  warm" in listed
    for line, words in (
        ("/st", ["/steer"]),
        ("/steer ", ["calm", "warm"]),
        ("/steer w", ["warm"]),
        ("/off ", ["calm"]),
        ("hello", []),
        ("", []),
        ("/seed ", []),
    ):
        assert plain.completions(line) == words


def test_ctrl_c_leads_back_to_the_prompt_and_twice_leaves(
    plain: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter([KeyboardInterrupt, "w3", KeyboardInterrupt, "/nothing", KeyboardInterrupt, "/"])
    left: list[object] = []

    def ask() -> str:
        line = next(typed, None)
        left.append(line)
        if not isinstance(line, str):
            raise line or EOFError
        return line

    monkeypatch.setattr(chat_command, "_prompter", lambda chatting: ask)
    chat_command._talk(plain)
    assert left[-1] is None and len(plain.conversation.turns) == 1
    typed = iter(["w4", KeyboardInterrupt, KeyboardInterrupt, "w5"])
    with pytest.raises(KeyboardInterrupt):
        chat_command._talk(plain)
    assert next(typed) == "w5"


def test_a_cut_answer_and_one_more_ctrl_c_leave(
    plain: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(piece: str) -> None:
        raise KeyboardInterrupt

    typed = iter(["w3", KeyboardInterrupt, "w5"])

    def ask() -> str:
        line = next(typed)
        if not isinstance(line, str):
            raise line
        return line

    monkeypatch.setattr(chat_command, "_prompter", lambda chatting: ask)
    monkeypatch.setattr(chat_command.output, "write", cut)
    with pytest.raises(KeyboardInterrupt):
        chat_command._talk(plain)
    assert next(typed) == "w5"


def test_the_prompt_line_leaves_room_to_type() -> None:
    assert prompt_line((), 40) == "> "
    assert prompt_line(("joyful:2",), 40) == "joyful:2 > "
    assert prompt_line(("joyful:2@3-9/response", "calm"), 40).endswith("\n> ")
    assert "\x1b" not in prompt_line(("\x1b[2J",), 40)


def test_lines_are_piped_in_and_answers_out(joyful: Path, folder: Path) -> None:  # noqa: F811
    words = ["chat", "-m", folder, "--max-tokens", 5]
    result = steer(*words, stdin="/steer joyful 9\nw3 w4\n/compare\n/quit\nw5\n")
    assert result.exit_code == 0, result.stderr
    steered, unsteered = result.stdout.splitlines()
    assert "steering: joyful ×9" in result.stderr
    assert steer("apply", "w3 w4", "-m", folder, "-v", "joyful:9", "--max-tokens", 5).stdout == (
        steered + "\n"
    )
    assert steer("apply", "w3 w4", "-m", folder, "--max-tokens", 5).stdout == unsteered + "\n"
    printed = json.loads(steer(*words, "-v", "joyful:9", "--json", stdin="w3 w4").stdout)
    assert [answer["answer"].strip() for answer in printed["answers"]] == [steered]


def test_a_piped_error_ends_the_conversation(joyful: Path, folder: Path) -> None:  # noqa: F811
    failed(steer("chat", "-m", folder, stdin="/steer joyfull 2\nw3\n"), 1, "did you mean 'joyful'?")
    failed(steer("chat", "-m", folder, stdin="/compere\nw3\n"), 2, "did you mean /compare?")
    failed(steer("chat", "-m", folder, stdin=b"\xff\n"), 1, "not UTF-8")
    failed(steer("chat", "-m", folder, "-v", "joyfull", stdin="w3\n"), 1, "did you mean 'joyful'?")


def test_a_recipe_begins_a_conversation(joyful: Path, folder: Path) -> None:  # noqa: F811
    Path("a.toml").write_text(
        'steers = ["joyful:9"]\n[generation]\nmax_tokens = 3\nsamples = 4\nchat = true\n'
    )
    printed = json.loads(
        steer("chat", "-m", folder, "--recipe", "a.toml", "--json", stdin="w3").stdout
    )
    (answer,) = printed["answers"]
    assert answer["steers"] and len(answer["answer"].split()) <= 3


def test_gates_of_a_recipe_are_told_of_and_saved(joyful: Path, folder: Path) -> None:  # noqa: F811
    digest = store.read(joyful).sha256
    Path("a.toml").write_text(
        f'when = "joyful@0>99"\nsteers = [{{ vector = "joyful:9@1", sha256 = "{digest}" }}]\n'
        "[generation]\nbeams = 2\nmax_tokens = 3\n"
    )
    words = ["chat", "-m", folder, "--recipe", "a.toml"]
    result = steer(*words, stdin="w3\n/list\n/save b.toml\n")
    assert result.exit_code == 0, result.stderr
    assert "ignored settings of the recipe, which only apply uses: beams" in result.stderr
    assert "gate joyful@0>99/mean: closed" in result.stderr
    assert "* joyful:9@1 when joyful@0>99" in result.stdout
    (saved,) = read(Path("b.toml")).steers
    assert (saved.vector, saved.sha256, saved.when) == ("joyful:9@1", digest, "joyful@0>99")
    (answer,) = json.loads(steer(*words, "--json", stdin="w3").stdout)["answers"]
    assert answer["gates"][0]["share"] == 0


def test_piped_it_needs_no_line_editor(
    joyful: Path,  # noqa: F811
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    assert steer("chat", "-m", folder, "--max-tokens", 2, stdin="w3\n").exit_code == 0


def test_vectors_are_looked_for_before_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pytest.fail("loaded"))
    failed(steer("chat", "-v", "nobody", stdin="w3\n"), 1, "no vector named 'nobody'")
    failed(steer("chat", "-v", "nobody:x", stdin="w3\n"), 2, "not a number")
    failed(steer("chat", "--recipe", "none.toml", stdin="w3\n"), 1, "none.toml")
    failed(steer("chat", "-t", -1, stdin="w3\n"), 2, "--temperature")
