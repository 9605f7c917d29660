"""Train the pocket model: `python -m steer.pocket.train [--out DIR]`, under 20 minutes on 2 cores.

Everything is drawn from seeds: the corpus, the first weights, the order. The texts of training are
fresh draws, never the same pool twice; the texts of the report come from other seeds, and its
requests from the reserved acts.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steer.pocket import corpus, path
from steer.pocket.card import card
from steer.pocket.corpus import Document
from steer.pocket.lessons import Lesson, lessons, texts
from steer.pocket.optimizer import Muon
from steer.pocket.quality import Complete, Score, measure

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('roles are system, user and assistant') }}{% endif %}"
    "{{ '<|' + message.role + '|>' + message.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the weights. Sizes in tokens; both learning rates decay to 0 by a
    cosine."""

    seed: int = 0
    steps: int = 6500
    tokens_per_batch: int = 1536
    learning_rate: float = 1.5e-2
    matrix_rate: float = 5e-3
    warmup: int = 60
    pool: int = 1024
    tagged_first: int = 20_000
    texts_for_words: int = 20_000
    d_model: int = 128
    n_layers: int = 5
    n_heads: int = 4
    d_mlp: int = 352
    context: int = 512
    threads: int = 2


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Each word of the corpus is one token, with the space before it; any other text is bytes.

    The best path of a unigram model: a word costs what any piece costs, so the fewest pieces win,
    and a byte costs twice that.
    """
    special = [
        corpus.BEGIN,
        corpus.END,
        corpus.PAD,
        corpus.SYSTEM,
        corpus.USER,
        corpus.ASSISTANT,
    ]
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = Counter(
        word
        for document in islice(corpus.stream(recipe.seed), recipe.texts_for_words)
        for passage in re.split(r"<\|\w+\|>", document.text)
        for word, _ in splitter.pre_tokenize_str(passage)
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [(letter, -2.0) for letter in letters]
    pieces += [(word, -1.0) for word, _ in words.most_common() if len(word) > 1]
    unigram = Tokenizer(models.Unigram([(token, 0.0) for token in special] + pieces))
    unigram.add_special_tokens(special)
    unigram.pre_tokenizer = splitter
    unigram.decoder = decoders.ByteLevel()
    begin = unigram.token_to_id(corpus.BEGIN)
    unigram.post_processor = processors.TemplateProcessing(
        single=f"{corpus.BEGIN} $A",
        pair=f"{corpus.BEGIN} $A $B",
        special_tokens=[(corpus.BEGIN, begin)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram,
        bos_token=corpus.BEGIN,
        eos_token=corpus.END,
        pad_token=corpus.PAD,
        extra_special_tokens=special[3:],
        model_max_length=recipe.context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with tied embeddings, its weights drawn from the seed."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        initializer_range=0.5 / math.sqrt(recipe.d_model),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = True
    model.generation_config.temperature = 1.0
    model.generation_config.top_k = 0
    return model


def excess(model: LlamaForCausalLM, batch: Lesson) -> Tensor:
    """Cross-entropy above the entropy of the targets, in nats per predicted token.

    Slightly more than the distance from the grammar: some targets depend on a later token, which
    the model cannot know.
    """
    places, entry = torch.unique(batch.places, return_inverse=True)
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state.flatten(0, 1)
    log_probs = model.lm_head(hidden[places]).log_softmax(-1)
    cross: Tensor = -(batch.weights * log_probs[entry, batch.tokens]).sum()
    return (cross - batch.entropy) / len(places)


def schedule(recipe: Recipe, step: int) -> float:
    """Linear warm-up from 0 to 1, then a cosine to 0."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def optimizers_of(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, Adam for the embeddings and the gains of norms."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        Muon(matrices, lr=recipe.matrix_rate),
        torch.optim.Adam(others, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True),
    ]


def fit(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
    """Train in place."""
    optimizers = optimizers_of(model, recipe)
    columns = (
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]:.4f} nats/token above the targets"),
    )
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    batches = lessons(
        texts(recipe.seed + 1, recipe.tagged_first),
        tokenizer,
        tokens=recipe.tokens_per_batch,
        pool_size=recipe.pool,
        seed=recipe.seed + 1,
    )
    model.train()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=recipe.steps, loss=math.nan)
        mean = math.nan
        for step, batch in enumerate(islice(batches, recipe.steps)):
            for optimizer, rate in zip(optimizers, rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * schedule(recipe, step)
            loss = excess(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
            progress.update(task, advance=1, loss=mean)
    model.eval()


def completer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, batch_size: int = 128
) -> Complete:
    """Sample the rest of each prompt at temperature 1, seeded by the calls made so far."""
    calls = count()

    def complete(prompts: Sequence[str]) -> list[str]:
        torch.manual_seed(next(calls))
        bodies: list[str] = []
        for start in range(0, len(prompts), batch_size):
            inputs = tokenizer(
                list(prompts[start : start + batch_size]), return_tensors="pt", padding=True
            )
            ids = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=160,
            )
            texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :])
            bodies += [text.split(corpus.END)[0] for text in texts]
        return bodies

    return complete


def scorer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Score:
    """Sum the nats of bodies given their prompts, one text at a time."""

    @torch.inference_mode()
    def score(documents: Sequence[Document]) -> tuple[float, int]:
        nats, tokens = 0.0, 0
        for document in documents:
            ids = tokenizer(document.text + corpus.END, return_tensors="pt")["input_ids"]
            start = len(tokenizer(document.prompt)["input_ids"])
            log_probs = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            nats -= log_probs.gather(-1, ids[0, start:, None]).sum().item()
            tokens += ids.shape[1] - start
        return nats, tokens

    return score


def main() -> None:
    """Train, save, measure, and print the figures."""
    parser = argparse.ArgumentParser(description="Train the pocket model from its grammar.")
    parser.add_argument("--out", type=Path, default=path(), help="folder of the weights")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimiser steps")
    parser.add_argument("--samples", type=int, default=150, help="texts a condition is measured on")
    arguments = parser.parse_args()
    recipe = Recipe(steps=arguments.steps)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(recipe.threads)
    started = time.perf_counter()
    tokenizer = build_tokenizer(recipe)
    model = build_model(recipe, tokenizer)
    fit(model, tokenizer, recipe)
    minutes = (time.perf_counter() - started) / 60
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(arguments.out)
    model.save_pretrained(arguments.out)
    quality = measure(
        completer(model, tokenizer), scorer(model, tokenizer), samples=arguments.samples
    )
    parameters = model.num_parameters()
    text = card(
        asdict(recipe), quality, parameters=parameters, minutes=minutes, torch=torch.__version__
    )
    (arguments.out / "README.md").write_text(text, encoding="utf-8")
    print(f"{parameters:,} parameters, trained in {minutes:.1f} minutes\n")
    print(quality.table())


if __name__ == "__main__":
    main()
