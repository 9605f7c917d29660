"""Sample texts from the conditioned model, and compute log-probabilities with and without the
condition.

The texts are on-policy: sampled from the conditioned model at temperature 1, so they resemble those
that the edited model will generate. On other texts, an edit reaches as low a loss, but the edited
model generates worse texts.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steer.base.errors import InputError
from steer.base.journal import Journal
from steer.contrasts.frame import joinable
from steer.contrasts.reading import shared_prefix
from steer.generate.apply import Sampling, continue_ids
from steer.hooks.head import Ending, apply_head, ending_rows, has_head, last_hidden
from steer.models.model import Model
from steer.models.numbers import check_numbers
from steer.steering.steers import Steer

#: The limit for log-probabilities in memory, in bytes: of a batch in a forward pass, or of all
#: texts.
LOGITS_BUDGET = 256_000_000
#: Texts in a batch. It is halved for models of `LARGE` weights or more and texts of more than
#: `QUICK_TOKENS`, so that time is estimated early and an interrupted run loses little.
SAMPLED_TOGETHER = 128
QUICK_TOKENS = 32
LARGE = 50_000_000
#: The fewest new tokens that must fit into the context.
MIN_TOKENS = 4

_LETTERS = "AQZaqz"


@dataclass(frozen=True, slots=True)
class Lesson:
    """One continuation after two beginnings, in token ids; the loss is on its last `n` tokens.

    Both rows end in the same n tokens; the beginnings differ by the condition.
    """

    conditioned: tuple[int, ...]
    baseline: tuple[int, ...]
    n: int

    @property
    def length(self) -> int:
        """Tokens that an edit is run on."""
        return len(self.baseline)

    @property
    def response(self) -> int:
        """The position in `baseline` that predicts the first token of the response."""
        return len(self.baseline) - self.n - 1

    @property
    def question(self) -> int:
        """The position in `baseline` from which both rows have the same tokens."""
        shared = shared_prefix(self.conditioned[::-1], self.baseline[::-1])
        return min(self.response, len(self.baseline) - shared)


def first_edited(lessons: Sequence[Lesson], scope: str) -> int | None:
    """The first position that an edit changes in the baseline rows; None for each one's response.

    scope: `all`; `response`; or `question`, which begins after the baseline, the part of the prompt
    that replaces the condition.
    """
    if scope == "question":
        start = max(lesson.question for lesson in lessons)
        return min(start, *(lesson.response for lesson in lessons))
    return None if scope == "response" else 0


@dataclass(frozen=True, slots=True)
class Conditions:
    """The text before a prompt, and the baseline that replaces it; system messages if `chat`.

    Raises:
        InputError: they are equal.
    """

    condition: str
    baseline: str = ""
    chat: bool = False

    def __post_init__(self) -> None:
        if joinable(self.condition) == joinable(self.baseline):
            raise InputError("the condition and the baseline are the same")


def beginnings(
    model: Model, conditions: Conditions, prompt: str
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Token ids before the continuation of a prompt: under the condition, and with the baseline.

    With an empty prompt, the second value is None: the first word that the model generates becomes
    the prompt, because a tokenizer may encode it differently at the beginning of a text, or have no
    BOS token to predict it from.

    Raises:
        InputError: the baseline and the prompt have no token.
        ModelError: as `Model.chat`.
    """
    if conditions.chat:
        system = (conditions.condition or None, conditions.baseline or None)
        texts = [model.chat(prompt, message) for message in system]
        condition, baseline = (tuple(model.encode(text, special=False)) for text in texts)
        return condition, baseline
    before = joinable(conditions.condition)
    if not prompt:
        return _opening(model, before), None
    condition, baseline = (
        tuple(model.encode(text + prompt)) for text in (before, joinable(conditions.baseline))
    )
    if not baseline:
        raise InputError(f"{model.identity.id} makes no tokens of the prompt {prompt!r}")
    return condition, baseline


def _opening(model: Model, before: str) -> tuple[int, ...]:
    """The tokens of `before` that do not depend on the next word: without a final space."""
    ids = [model.encode(before + letter) for letter in _LETTERS]
    if all(row == ids[0] for row in ids):  # one token stands for all unknown words
        return tuple(model.encode(before))
    return tuple(ids[0][: min(shared_prefix(ids[0], row) for row in ids[1:])])


def write_lessons(
    model: Model,
    conditions: Conditions,
    prompts: Sequence[str],
    samples: range,
    *,
    max_tokens: int,
    seed: int,
    on_done: Callable[[int], None] = lambda n_texts: None,
    kept: Journal | None = None,
) -> list[Lesson]:
    """Sample continuations from the conditioned model.

    Number i of `samples` continues prompt i % len(prompts); each number gives a different text.
    Empty texts are skipped. Texts in the journal `kept` are not sampled again.

    Raises:
        InputError: the condition changes no prompt, the model generates nothing, or a prompt leaves
            no room.
    """
    begun = [beginnings(model, conditions, prompt) for prompt in prompts]
    if all(conditioned == baseline for conditioned, baseline in begun):
        raise InputError(
            f"the condition changes nothing in what {model.identity.id} is asked",
            hint="does its chat template take a system message? see with `steer doctor`",
        )
    room = max_tokens
    if model.context is not None:
        longest = max(max(len(both[0]), len(both[1] or ())) for both in begun)
        room = min(room, model.context - longest)
        if room < MIN_TOKENS:
            raise InputError(
                f"the condition and a prompt have {longest:,} tokens, and {model.identity.id}"
                f" takes {model.context:,}",
                hint="shorten them",
            )
    rows = [(begun[i % len(begun)], i // len(begun)) for i in samples]
    digest = hashlib.sha256(json.dumps(begun).encode()).hexdigest()[:16]
    written: list[list[int]] = []
    is_quick = room <= QUICK_TOKENS or model.network.num_parameters() < LARGE
    size = SAMPLED_TOGETHER if is_quick else SAMPLED_TOGETHER // 2
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        # The key depends on the prompts too.
        key = f"texts {samples[start]}-{samples[start + len(part) - 1]} after {digest}"
        new = kept.get(key) if kept is not None else None
        if new is None:
            sampling = Sampling(max_tokens=room, temperature=1.0, seed=seed, batch_size=size)
            new = continue_ids(model, [(both[0], n) for both, n in part], (), sampling)
            if kept is not None:
                kept.put(key, new)
        written += new
        on_done(len(part))
    lessons_or_none = [
        _lesson(model, conditions, both, new) for (both, _), new in zip(rows, written, strict=True)
    ]
    lessons = [lesson for lesson in lessons_or_none if lesson is not None]
    if len(lessons) < len(rows) / 2:
        raise InputError(
            f"{model.identity.id} writes nothing after the condition",
            hint="give prompts of your own, with --prompts",
        )
    return lessons


def _lesson(
    model: Model,
    conditions: Conditions,
    both: tuple[tuple[int, ...], tuple[int, ...] | None],
    new: list[int],
) -> Lesson | None:
    before, baseline = both
    n = len(new)
    if baseline is None:
        word = model.decode(new[:1]).strip()
        baseline = tuple(model.encode(joinable(conditions.baseline) + word))
        n -= 1
        if not word or "\ufffd" in word:
            return None
    if n < 1 or not baseline:
        return None
    return Lesson((*before, *new), (*baseline, *new[len(new) - n :]), n)


def rewritten(
    model: Model, lessons: Sequence[Lesson], steers: Sequence[Steer], *, seed: int
) -> list[tuple[tuple[int, ...], int]]:
    """Continue the baseline beginnings of lessons with the steered model.

    Returns token ids, and the number of new ones at the end.
    """
    starts = [lesson.baseline[: len(lesson.baseline) - lesson.n] for lesson in lessons]
    sampling = Sampling(
        max_tokens=max(lesson.n for lesson in lessons),
        temperature=1.0,
        seed=seed,
        batch_size=min(SAMPLED_TOGETHER, len(starts)),
    )
    written = continue_ids(model, [(start, i) for i, start in enumerate(starts)], steers, sampling)
    return [((*start, *new), len(new)) for start, new in zip(starts, written, strict=True)]


def picked_logits(model: Model, rows: Sequence[Ending]) -> Tensor:
    """Logits at the positions that predict the last n tokens of each row.

    rows: (token ids, n). Returns float32 [sum of n, vocabulary], row after row. If possible, the LM
    head runs only at these positions, or else at the columns that contain one.

    Raises:
        HookError: they are not numbers.
    """
    if has_head(model):
        return check_numbers(model, apply_head(model, last_hidden(model, rows)))
    # Padded on the right, so that positions count from 0 in every row.
    ids, mask = model.padded([row for row, _ in rows], left=False)
    start = min(len(row) - n for row, n in rows) - 1
    kept = {"logits_to_keep": ids.shape[1] - start} if picks_columns(model) else {}
    logits = model.network(input_ids=ids, attention_mask=mask, use_cache=False, **kept).logits
    cut = ids.shape[1] - logits.shape[1]
    chosen = ending_rows(logits, [(row[cut:], n) for row, n in rows]).float()
    return check_numbers(model, chosen)


def log_probs(model: Model, rows: Sequence[Ending]) -> Tensor:
    """`picked_logits` as log-probabilities."""
    return picked_logits(model, rows).log_softmax(-1)


def micro_batches(model: Model, lessons: Sequence[Lesson]) -> list[Sequence[Lesson]]:
    """Parts of a batch, each of which has log-probabilities of at most `LOGITS_BUDGET` bytes."""
    longest = max(lesson.n for lesson in lessons)
    size = max(1, LOGITS_BUDGET // (4 * longest * vocabulary(model)))
    return [lessons[start : start + size] for start in range(0, len(lessons), size)]


def picks_columns(model: Model) -> bool:
    """Whether the network can compute logits of the last columns only (`logits_to_keep`)."""
    return "logits_to_keep" in inspect.signature(model.network.forward).parameters


def vocabulary(model: Model) -> int:
    """The size of the LM head's vocabulary."""
    return int(model.network.config.get_text_config().vocab_size)


def nats_per_token(model: Model, rows: Sequence[Ending]) -> float:
    """Mean -log p of the last n tokens of each row, under the unsteered model."""
    total = 0.0
    for index in range(0, len(rows), 8):
        part = rows[index : index + 8]
        wanted = [token for row, n in part for token in row[len(row) - n :]]
        with torch.no_grad():
            scores = log_probs(model, part)
        total -= float(scores.gather(1, torch.tensor(wanted, device=scores.device)[:, None]).sum())
    return total / sum(n for _, n in rows)
