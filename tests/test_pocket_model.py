"""The shipped pocket model: it loads as any model does, and is as good as its card says."""

import itertools
import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from steer.pocket import corpus, path
from steer.pocket.corpus import Tags
from steer.pocket.quality import Quality, measure
from steer.pocket.train import Recipe, build_tokenizer, completer, scorer

SAMPLES = 20


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(path())


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(path()).eval()


@pytest.fixture(scope="module")
def quality(model: Any, tokenizer: Any) -> Quality:
    return measure(completer(model, tokenizer), scorer(model, tokenizer), samples=SAMPLES)


def spread(share: float, n: float) -> float:
    """Three standard errors of a share of n independent cases."""
    return 3 * math.sqrt(share * (1 - share) / n)


def test_the_folder_is_a_small_llama(model: Any, tokenizer: Any) -> None:
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert (path() / "model.safetensors").stat().st_size < 10_000_000
    assert len(tokenizer) == model.config.vocab_size
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert tokenizer.padding_side == "left"


@given(st.text())
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == text


def test_most_words_are_one_token(tokenizer: Any) -> None:
    words = [word for d in itertools.islice(corpus.stream(4), 200) for word in d.body.split()]
    pieces = [tokenizer.tokenize(" " + word.strip('.,!?"')) for word in words]
    assert sum(len(piece) == 1 for piece in pieces) > 0.9 * len(pieces)


def test_the_recipe_makes_this_tokenizer(tokenizer: Any) -> None:
    built = build_tokenizer(Recipe())
    assert built.get_vocab() == tokenizer.get_vocab()
    assert built.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("system", [None, "[mood: calm]"])
def test_the_template_writes_the_prompts_of_the_corpus(tokenizer: Any, system: str | None) -> None:
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "user", "content": "Tell me a story."}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert prompt.startswith(corpus.BEGIN)
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert ids == tokenizer(prompt.removeprefix(corpus.BEGIN))["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    reply = corpus.sample(random.Random(0), form="story", tags=Tags()).body
    assert corpus.parses(prompt + reply + corpus.END)
    turns += [{"role": "assistant", "content": reply}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == prompt + reply + corpus.END


def test_padding_on_the_left_changes_nothing(model: Any, tokenizer: Any) -> None:
    prompts = ["One day Mara woke up.", "[mood: joyful; topic: sea] One day Mara woke up."]
    settings = {"max_new_tokens": 12, "do_sample": False, "top_k": None, "temperature": None}
    both = model.generate(**tokenizer(prompts, return_tensors="pt", padding=True), **settings)
    for prompt, row in zip(prompts, both, strict=True):
        alone = model.generate(**tokenizer(prompt, return_tensors="pt"), **settings)[0]
        assert torch.equal(row[-12:], alone[-12:])


def test_sampled_sentences_parse(quality: Quality) -> None:
    assert quality.sentences_parsed > 0.98 - spread(0.98, quality.stories)
    assert quality.replies_parsed > 0.95 - spread(0.95, 2 * quality.requests)


def test_the_model_is_near_the_grammar_in_nats(quality: Quality) -> None:
    assert -0.02 < quality.model_nats - quality.grammar_nats < 0.10 + 0.02


def test_tags_shift_words_as_in_the_grammar(quality: Quality) -> None:
    words = {"mood": 7, "style": 4, "topic": 2.5}  # independent markers a story, at least
    for effect in quality.effects:
        n = SAMPLES * words[effect.kind]
        assert effect.error < 0.05 + spread(effect.expected, n), effect
        assert effect.measured > effect.untagged + 0.15
    errors = [effect.measured - effect.expected for effect in quality.effects]
    assert abs(sum(errors)) / len(errors) < 0.05 + spread(0.7, len(errors) * SAMPLES * 4)


def test_harm_is_refused_and_the_rest_is_answered(quality: Quality) -> None:
    for share in (quality.refused, quality.answered):
        assert share > 0.95 - spread(0.95, quality.requests)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_seed_decides_what_is_sampled(model: Any, tokenizer: Any, seed: int) -> None:
    prompt = corpus.sample(random.Random(seed)).prompt
    first, second = (completer(model, tokenizer)([prompt]) for _ in range(2))
    assert first == second
