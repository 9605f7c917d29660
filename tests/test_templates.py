"""Chat templates: what goes in beside messages, and what is said where they surprise."""

from __future__ import annotations

import datetime
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_cli import steer

from steer.base.errors import ModelError, UsageError
from steer.contrasts.passages import Message, Passage
from steer.models import templates
from steer.models.templates import ChatTemplate
from steer.vectors import store
from steer.vectors.provenance import Read
from steer.vectors.rendering import TemplateSettings, parse_settings, settings_for

#: As Gemma's: no system message, and roles take turns.
NO_SYSTEM = (
    "{% for m in messages %}"
    "{% if m.role == 'system' or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles') }}{% endif %}[{{ m.role }}]{{ m.content | trim }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
#: As Qwen's: answers have thoughts, or empty ones, prompts only where thinking is off.
THINKING = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.role == 'assistant' and '</think>' not in m.content %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)
DATED = (
    "<s> {{ strftime_now('w%d') }} {{ date_string or strftime_now('%H:%M:%S') }}"
    "{% for m in messages %} w51 {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %} w52{% endif %}"
)
ASKED = (Message("user", "Hi"),)


def template(text: str, settings: TemplateSettings | None = None) -> ChatTemplate:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = text
    return ChatTemplate(tokenizer, "tiny", settings or TemplateSettings())


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What was reported so far."""
    monkeypatch.setattr(logging.getLogger("steer"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]


# Arguments and dates ----------------------------------------------------------------------------


def test_arguments_reach_the_template(messages: Any) -> None:
    settings = parse_settings(["enable_thinking=false"], None)
    assert template(THINKING).render(ASKED) == "[user]Hi[assistant]"
    off = template(THINKING, settings)
    assert off.render(ASKED) == "[user]Hi[assistant]<think></think>"
    assert off.recorded == {"template_args": {"enable_thinking": False}}
    off.check_arguments()
    assert not messages()
    wrong = template(THINKING, parse_settings(["enable_thinkin=false", "tools=[]"], None))
    wrong.check_arguments()
    assert ["'enable_thinkin'" in text and "enable_thinking" in text for text in messages()] == [
        True
    ]


def test_the_date_is_pinned_and_recorded_where_it_is_used() -> None:
    days = [datetime.date(2024, 7, 26), datetime.date(2026, 11, 30)]
    both = [template(DATED, TemplateSettings(date=day)) for day in days]
    for _ in range(2):  # the two share one compiled template
        assert [read_used.render(ASKED)[:16] for read_used in both] == [
            "<s> w26 00:00:00",
            "<s> w30 00:00:00",
        ]
    assert both[0].recorded == {"date": "2024-07-26"}
    assert template(DATED).date == datetime.date.today()
    plain = template(NO_SYSTEM, TemplateSettings(date=days[0]))
    plain.render(ASKED)
    assert plain.recorded == {}
    assert both[0].key != both[1].key and plain.key == template(NO_SYSTEM).key


@pytest.mark.parametrize("text", ["x", "=1", "a b=1", "tokenize=true", "chat_template=x"])
def test_arguments_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_settings([text], None)


def test_settings_are_what_was_typed_or_what_vectors_were_read_with() -> None:
    with pytest.raises(UsageError, match="given twice"):
        parse_settings(["a=1", "a=2"], None)
    with pytest.raises(UsageError, match="not a date"):
        parse_settings([], "yesterday")
    typed = parse_settings(["a=1", "b=text"], "2024-07-26")
    assert typed.values == {"a": 1, "b": "text"}
    none = TemplateSettings()
    plain = ("plain", Read(positions="mean"))
    old = ("old", Read(positions="mean", chat=True))
    first = ("one", Read(positions="mean", chat=True, template_args={"a": 1}, date="2024-07-26"))
    other = ("other", Read(positions="mean", chat=True, template_args={"a": 2}))
    same = parse_settings(["a=1"], "2024-07-26")
    assert settings_for(none, [plain, old]) == (none, [], [])
    chosen, notes, warnings = settings_for(none, [plain, first])
    assert (chosen, len(notes), warnings) == (same, 1, [])
    assert settings_for(same, [plain, first]) == (same, [], [])
    chosen, _, warnings = settings_for(none, [first, other])
    assert (chosen.arguments, len(warnings)) == ("", 1)
    for vectors, count in (([first], 0), ([other], 1), ([old], 1), ([first, other, old], 2)):
        chosen, _, warnings = settings_for(parse_settings(["a=1"], None), vectors)
        assert (chosen.arguments, len(warnings)) == (same.arguments, count)


# No system role ---------------------------------------------------------------------------------


def test_a_system_text_goes_before_the_first_user_message(messages: Any) -> None:
    rendering = template(NO_SYSTEM)
    system = Message("system", "Be glad.")
    assert rendering.render([system, *ASKED]) == "[user]Be glad.\n\nHi[assistant]"
    answer = Passage("", "Yes.", "", "assistant", (system, *ASKED))
    own = Passage("A ", "text", "!", "user", (system,))
    alone = Passage("", "Yes.", "", "assistant", (system,))
    rendered = list(rendering.passages([answer, own, alone]))
    assert rendered == [
        Passage("[user]Be glad.\n\nHi[assistant]", "Yes."),
        Passage("[user]Be glad.\n\nA ", "text", "![assistant]"),
        Passage("[user]Be glad.[assistant]", "Yes."),
    ]
    assert ["has no system role" in text for text in messages()] == [True]
    kept = template(tiny.CHAT_TEMPLATE)
    assert "w50 Be glad." in kept.render([system, *ASKED])
    assert len(messages()) == 1


# Thoughts, and other fields ---------------------------------------------------------------------


def test_answers_that_are_read_elsewhere_than_prompts_end_are_reported(messages: Any) -> None:
    answer = Passage("", "Yes.", "", "assistant", ASKED)
    assert (
        list(template(THINKING).passages([answer] * 2))
        == [Passage("[user]Hi[assistant]<think></think>", "Yes.")] * 2
    )
    assert ["enable_thinking=false" in text for text in messages()] == [True]
    off = template(THINKING, parse_settings(["enable_thinking=false"], None))
    (passage,) = off.passages([answer])
    assert passage.prompt == off.render(ASKED)
    assert len(messages()) == 1


def test_thoughts_in_a_completion_and_as_a_field(messages: Any) -> None:
    written = Passage("", "<think>Hm.</think>Yes.", "", "assistant", ASKED)
    field = Passage("", "Yes.", "", "assistant", ASKED, '{"reasoning_content": "Hm."}')
    assert list(template(THINKING).passages([written, field])) == [
        Passage("[user]Hi[assistant]", "<think>Hm.</think>Yes."),
        Passage("[user]Hi[assistant]<think>Hm.</think>", "Yes."),
    ]
    assert not messages()


def test_fields_that_a_template_does_not_use_are_reported_once(messages: Any) -> None:
    message = Message(
        "assistant", "Yes.", json.dumps({"reasoning_content": "Hm.", "tool_calls": []})
    )
    for _ in range(3):
        template_ = template(THINKING)
        template_.render([*ASKED, message, *ASKED])
        template_.render([*ASKED, message, *ASKED])
    reported = [text for text in messages() if "ignores" in text]
    assert len(reported) == 3 and all("'tool_calls'" in text for text in reported)


def test_a_field_that_a_template_needs_is_not_reported(messages: Any) -> None:
    needed = (
        "{% for m in messages %}{% if m.role == 'tool' and not m.tool_call_id %}"
        "{{ raise_exception('no id') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    answered = Message("tool", "Hi", '{"tool_call_id": "w3"}')
    assert template(needed).render([answered]) == "Hi"
    assert not messages()
    with pytest.raises(ModelError, match="no id"):
        template(needed).render([Message("tool", "Hi")])


def test_the_last_message_can_be_left_unfinished() -> None:
    begun = (*ASKED, Message("assistant", "Yes"))
    full_template = template(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
    )
    assert full_template.render(begun, ask=False) == "[user]Hi[end][assistant]Yes[end]"
    assert full_template.render(begun, ask=False, unfinished=True) == "[user]Hi[end][assistant]Yes"


def test_fields_keep_their_order() -> None:
    call = '{"tool_calls": [{"name": "f", "arguments": {"b": 1, "a": 2}}], "x": 1}'
    kept = Message("assistant", "", call)
    shown = template("{{ messages[0].tool_calls | tojson }}").render([kept])
    assert shown.index('"b"') < shown.index('"a"')
    assert json.loads(kept.without("x").extra) == {"tool_calls": kept.fields["tool_calls"]}
    assert list(kept.without("x").fields["tool_calls"][0]["arguments"]) == ["b", "a"]


# Hostile templates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set r = range(99999) | list %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) if n < 1 }}{% endmacro %}{{ f(0) }}",
    ],
)
def test_templates_that_loop_are_stopped(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MOST_SECONDS", 0.2)
    with pytest.raises(ModelError, match="the chat template of tiny"):
        template(text).render(ASKED)


def test_templates_that_grow_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = itertools.count(step=templates.MOST_GROWTH // 3)
    monkeypatch.setattr(templates, "_peak", lambda: next(grown))
    with pytest.raises(ModelError, match="takes too long or produces too much text"):
        template("{% for a in range(99) %}{% set b = a %}{% endfor %}").render(ASKED)
    monkeypatch.undo()
    monkeypatch.setattr(templates, "MOST_CHARACTERS", 1000)
    with pytest.raises(ModelError, match="takes too long or produces too much text"):
        template("{{ 'x' * 2000 }}").render(ASKED)


# On the command line ----------------------------------------------------------------------------


def test_a_vector_keeps_what_it_was_read_with_and_apply_uses_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tiny.save(tmp_path_factory.mktemp("models") / "dated")
    dated = DATED.replace("date_string or strftime_now('%H:%M:%S')", "word")
    (folder / "chat_template.jinja").write_text(dated)
    rows = [{"positive": f"w{i} w20", "negative": f"w{i} w21"} for i in range(3, 15)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def extracted(name: str, *words: str) -> bytes:
        result = steer("extract", "pairs.jsonl", "-m", folder, "--chat", "--name", "same", *words,
                       "-o", f"{name}.safetensors")  # fmt: skip
        assert result.exit_code == 0, result.stderr
        return Path(f"{name}.safetensors").read_bytes()

    settings = ["--date", "2024-07-26", "--template-arg", "word=w7"]
    assert extracted("a", *settings) == extracted("b", *settings)
    assert extracted("c", *settings[:2]) != extracted("d", "--date", "2024-07-27")
    read = store.read(Path("a.safetensors")).metadata.read
    assert (read.date, read.template_args) == ("2024-07-26", {"word": "w7"})
    words = ["apply", "w3", "--chat", "-m", folder, "--max-tokens", "2", "-v", "./a.safetensors"]
    result = steer(*words)
    assert 'word="w7", date 2024-07-26' in result.stderr and "warning" not in result.stderr
    assert result.stdout == steer(*words, *settings).stdout
    # In a conversation that began without it.
    talk = ["chat", "-m", folder, "--max-tokens", "2", "--template-arg", "word=w8"]
    late = steer(*talk, stdin="/steer ./a.safetensors\nw3\n")
    assert "was read with the template arguments" in late.stderr
    other = steer(*words, "--template-arg", "word=w8")
    assert "was read with the template arguments" in other.stderr
