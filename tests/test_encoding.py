"""Passages to tokens: the chat template goes round them, and what is read stays known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from families import build
from hypothesis import given
from hypothesis import strategies as st

from steer.base.errors import ModelError
from steer.contrasts.passages import Message, Passage
from steer.models import encoding
from steer.models.loading import load, load_tokenizer
from steer.models.source import ModelSource
from steer.models.templates import ChatTemplate

TURNS = (Message("system", "w8"), Message("user", "w9 w10"))
CONTENT = st.lists(st.sampled_from(["w11", "w12", "w13", " "]), max_size=4).map(" ".join)


def templated(template: str = tiny.CHAT_TEMPLATE) -> Any:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def words(tokenizer: Any, ids: Any) -> list[str]:
    return tokenizer.convert_ids_to_tokens(list(ids))


def test_a_users_message_is_followed_by_what_the_template_adds() -> None:
    tokenizer = templated()
    passage = Passage("w3 ", "w4 w5", " w6", "user", (Message("system", "w8"),))
    (tokens,) = encoding.encode_passages(ChatTemplate(tokenizer, "tiny"), [passage])
    expected = ["<s>", "w50", "w8", "w62", "w51", "w3", "w4", "w5", "w6", "w62", "w52"]
    assert words(tokenizer, tokens.ids) == expected
    assert words(tokenizer, tokens.ids[tokens.text_start : tokens.text_stop]) == ["w4", "w5"]
    assert tokens.stop == len(expected)


def test_an_answer_ends_where_its_text_ends() -> None:
    tokenizer = templated()
    passage = Passage("", " w4 w5", "", "assistant", TURNS)
    (tokens,) = encoding.encode_passages(ChatTemplate(tokenizer, "tiny"), [passage])
    assert words(tokenizer, tokens.ids) == [
        "<s>",
        "w50",
        "w8",
        "w62",
        "w51",
        "w9",
        "w10",
        "w62",
        "w52",
        "w4",
        "w5",
    ]
    assert tokens.text_stop == tokens.stop == len(tokens.ids)


@given(CONTENT, CONTENT, CONTENT, st.sampled_from(["user", "assistant"]))
def test_rendered_passages_are_what_the_template_makes(
    prompt: str, text: str, suffix: str, role: str
) -> None:
    """Whatever blanks are trimmed, what is read is the text and the rest is round it."""
    tokenizer = templated()
    passage = Passage(prompt, text, suffix, role, TURNS)
    (encoded,) = ChatTemplate(tokenizer, "tiny").passages([passage])
    turns = [
        {"role": t.role, "content": t.content} for t in (*TURNS, Message(role, passage.full_text))
    ]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered.startswith(encoded.full_text)
    assert encoded.text.strip() == text.strip()
    if role == "user":
        assert rendered == encoded.full_text
    else:
        assert encoded.suffix.strip() == suffix.strip()


def test_markers_are_found() -> None:
    tokenizer = tiny.tokenizer()
    for text, after in (("w3 w9 w4", 3), ("w9 w3 w9 w4", 4), ("w3 w4", None), ("w3 w9", None)):
        (tokens,) = encoding.encode_passages(
            ChatTemplate(tokenizer, "tiny"), [Passage("", text)], ["w9", "w1"]
        )
        assert tokens.after == (() if after is None else (("w9", after),)), text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "tiny has no chat template"),
        ("{{ raise_exception('no') }}", "the chat template of tiny failed: no"),
        ("{{ messages[-1].content | upper }}", "changes the text of messages"),
        ("{{ messages[-1].content * 2 }}", "changes the text of messages"),
        ("w3", "changes the text of messages"),
    ],
)
def test_templates_that_cannot_be_used(template: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        encoding.encode_passages(
            ChatTemplate(templated(template), "tiny"), [Passage("", "abc", role="user")]
        )


def test_the_pocket_model_has_a_suffix_of_two_tokens() -> None:
    tokenizer = load_tokenizer(ModelSource())
    passage = Passage("", "How do I mend my uncle's kite?", "", "user")
    (tokens,) = encoding.encode_passages(ChatTemplate(tokenizer, "pocket"), [passage])
    assert words(tokenizer, tokens.ids[tokens.text_stop :]) == ["<|end|>", "<|assistant|>"]
    assert tokens.stop == len(tokens.ids)


def test_a_tokenizer_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="nobody/nothing is not in its cache"):
        load_tokenizer(ModelSource("nobody/nothing"))


def test_what_caps_attention_is_not_left_out(tmp_path: Path) -> None:
    network = build("gemma2")
    network.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    ids = torch.tensor([[1, 5, 9, 13, 17]])
    logits = load(ModelSource(str(tmp_path), device="cpu")).network(ids).logits
    network.set_attn_implementation("eager")
    torch.testing.assert_close(logits, network(ids).logits)
    # The cap is felt: without it the same weights say something else.
    network.config.attn_logit_softcapping = None
    for layer in network.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    assert (logits - network(ids).logits).abs().max() > 1e-3
