"""Scopes by thoughts: where a thought is, and that one forward and many steer alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import tiny
import torch
from families import VOCABULARY
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from steer.base.errors import ModelError, UsageError
from steer.evaluation.batches import Text, drift, log_prob
from steer.evaluation.cells import SteeredCell
from steer.evaluation.scoring import score, scored
from steer.generate.apply import Sampling, continue_ids, generate
from steer.models.model import Model
from steer.models.thoughts import TAGS, Stage, Thoughts, ThoughtTracker
from steer.steering.scope import Scope, parse_scope
from steer.steering.steers import Steer

#: Templates of the kinds of Qwen3, DeepSeek-R1 and gpt-oss: source, and what ends a prompt.
QWEN = (
    "{% for m in messages %}{{ m.content.split('</think>')[-1] }} {% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think> </think> {% endif %}"
)
R1 = "{% for m in messages %}{{ m.content.split('</think>')[-1] }} {% endfor %}<think>"
OSS = (
    "{% for m in messages %}{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}"
    "{% endif %}<|channel|>final<|message|>{{ m.content }}{% endfor %}"
)
THINK, ANSWER, BEFORE = Stage.THINKING, Stage.ANSWER, Stage.BEFORE
#: Ids of the tags; the last three are parts of the first one.
FIRST, LAST, CHANNEL, ANALYSIS, FINAL, MESSAGE = 10, 11, 12, 13, 14, 15
PARTS = (16, 17, 18)


def model(template: str) -> Model:
    """A tiny model with words for the tags."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, VOCABULARY)}
    tags = (
        "<think>",
        "</think>",
        "<|channel|>",
        "analysis",
        "final",
        "<|message|>",
        "<th",
        "in",
        "k>",
    )
    for number, tag in enumerate(tags, FIRST):
        del words[f"w{number}"]
        words[tag] = number
    inner = Tokenizer(WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = template
    return dataclasses.replace(tiny.model("llama"), tokenizer=tokenizer)


def places(template: str, prompt: str, tokens: Sequence[str]) -> list[Stage]:
    thoughts = Thoughts.of(template)
    assert thoughts is not None
    tracker = ThoughtTracker(thoughts, prompt)
    stages = [tracker.stage]
    for token in tokens:
        tracker.follow(token)
        stages.append(tracker.stage)
    return stages


@pytest.mark.parametrize(
    ("template", "prompt", "tokens", "expected"),
    [
        (QWEN, "Hi", ["<think>", "a", "</think>", "b"], [BEFORE, THINK, THINK, ANSWER, ANSWER]),
        (
            QWEN,
            "Hi",
            ["<th", "ink", ">a", "</thi", "nk>b"],
            [BEFORE, BEFORE, BEFORE, THINK, THINK, ANSWER],
        ),
        (QWEN, "Hi", ["\u010a", "<think>\u010a", "a"], [BEFORE, BEFORE, THINK, THINK]),
        (QWEN, "Hi", ["a", "b"], [BEFORE, ANSWER, ANSWER]),
        (QWEN, "<think>\u010a\u010a</think>\u010a\u010a", ["a"], [ANSWER, ANSWER]),
        (QWEN, "Hi", ["<think></think>"], [BEFORE, ANSWER]),
        (R1, "Hi<think>\u010a", ["a", "</think>", "b"], [THINK, THINK, ANSWER, ANSWER]),
        (R1, "what is <think>?", ["a"], [BEFORE, ANSWER]),
        (
            OSS,
            "<|start|>assistant",
            ["<|channel|>", "analysis", "<|message|>", "a", "<|end|>", "<|channel|>", "final",
             "<|message|>", "b"],
            [BEFORE, BEFORE, BEFORE, THINK, THINK, THINK, THINK, THINK, ANSWER, ANSWER],
        ),
    ],
)  # fmt: skip
def test_where_the_next_token_is(
    template: str, prompt: str, tokens: list[str], expected: list[Stage]
) -> None:
    assert places(template, prompt, tokens) == expected


def test_tags_are_those_of_the_template() -> None:
    for template, tags in ((QWEN, TAGS[0]), (R1, TAGS[0]), (OSS, TAGS[2])):
        assert Thoughts.of(template) == Thoughts(*tags)
    assert Thoughts.of(None) is None
    assert Thoughts.of(tiny.CHAT_TEMPLATE) is None


#: Prompts of 3 tokens and responses: a thought, one that began in the prompt, none, and one of a
#: tag in parts. For each, the steps of thinking and of the answer.
TEXTS = [
    ([3, 4, 5, FIRST, 20, 21, LAST, 22, 23], range(1, 4), range(4, 6)),
    ([3, 4, FIRST, 20, 21, LAST, 22, 23, 24], range(3), range(3, 6)),
    ([3, 4, 5, 20, 21, 22], range(0), range(1, 3)),
    ([3, 4, 5, *PARTS, 20, LAST, 22], range(3, 5), range(5, 6)),
]


def texts() -> list[Text]:
    return [Text(tuple(ids), tuple(range(3, len(ids))), 3) for ids, _, _ in TEXTS]


@pytest.mark.parametrize("kind", ["thinking", "answer", "not-thinking"])
def test_a_text_in_one_forward_is_steered_where_it_is_said(kind: str) -> None:
    """Each text as under the same steps, typed; also together, where they share tokens."""
    on = model(QWEN)
    scope = parse_scope(kind)
    steer = tiny.steer(on, 3.0, scope)
    together = score(on, texts(), [SteeredCell((steer,))], log_prob)[0]
    for number, (text, (_, thinking, answer)) in enumerate(zip(texts(), TEXTS, strict=True)):
        steps = answer if kind == "answer" else thinking
        inverted = kind.startswith("not-")
        if steps:
            typed = Scope("steps", steps.start, steps.stop - 1, inverted=inverted)
            same = score(on, [text], [SteeredCell((tiny.steer(on, 3.0, typed),))], log_prob)
            np.testing.assert_allclose(together[number], same[0, 0], rtol=1e-4)
        elif not inverted:
            plain = score(on, [text], [SteeredCell((tiny.steer(on, 0.0),))], log_prob)
            np.testing.assert_allclose(together[number], plain[0, 0], rtol=1e-4)


@pytest.mark.parametrize("kind", ["thinking", "answer"])
@pytest.mark.parametrize("prompt", [[3, 4, 5], [3, 4, FIRST], [3, FIRST, LAST]])
def test_what_is_written_is_what_one_forward_predicts(kind: str, prompt: list[int]) -> None:
    """Token by token with a cache, in a batch with another prompt: greedy tokens are the likeliest
    of the whole text."""
    on = model(QWEN)
    steer = tiny.steer(on, 4.0, parse_scope(kind))
    sampling = Sampling(max_tokens=12, temperature=0.0, batch_size=2)
    new = continue_ids(on, [(prompt, 0), ([6, 7, 8, 9, FIRST], 0)], [steer], sampling)[0]
    ids = (*prompt, *new)
    for position in range(3, len(ids)):
        cells = [Text((*ids[:position], token), (position,), 3) for token in range(VOCABULARY)]
        sums = scored(on, cells, [SteeredCell((steer,))], log_prob).sums[0]
        assert sums[ids[position]] >= sums.max() - 1e-3


def test_a_steer_of_thoughts_changes_nothing_where_nothing_is_thought() -> None:
    on = model(QWEN)
    steer = tiny.steer(on, 3.0, parse_scope("thinking"))
    sums = score(on, texts(), [SteeredCell((steer,))], drift)[0]
    assert (sums > 1e-6).tolist() == [True, True, False, True]


def test_scopes_by_thoughts_need_thoughts_and_no_beams() -> None:
    steer: Steer = tiny.steer(tiny.model("llama"), 1.0, parse_scope("answer"))
    with pytest.raises(ModelError, match="has no tags of thoughts"):
        score(tiny.model("llama"), texts(), [SteeredCell((steer,))], drift)
    beams = Sampling(max_tokens=2, temperature=0.0, beams=2)
    with pytest.raises(UsageError, match="excludes the scope answer"):
        list(generate(model(QWEN), ["w3 w4"], [steer], beams))
    assert str(parse_scope("not-answer")) == "not-answer"
    assert torch.is_grad_enabled()
