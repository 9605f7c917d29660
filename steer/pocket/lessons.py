"""Training batches of the pocket model: drawn texts with the grammar's soft targets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from steer.pocket import corpus
from steer.pocket.corpus import Document, Tags
from steer.pocket.teacher import Teacher, entropy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Example = tuple[Document, list[int], list[int]]
"""A text, its token ids, and where in the text each begins."""


@dataclass(frozen=True)
class Lesson:
    """A batch. ids: int64 [row, position]. The other three are [entry]: at place `places[i]` of the
    flattened ids the token that comes next is `tokens[i]` with probability `weights[i]`."""

    ids: Tensor
    places: Tensor
    tokens: Tensor
    weights: Tensor
    entropy: float


def texts(seed: int, tagged_first: int) -> Iterator[Document]:
    """Endless drawn texts: first some whose tags state all attributes, then the corpus.

    So the model learns the meaning of tags first, before it can learn to infer attributes from the
    text, which is harder and would make tags unnecessary.
    """
    rng = random.Random(seed)
    for _ in range(tagged_first):
        yield corpus.sample(rng, tags=Tags(**Tags().draw(rng)))
    while True:
        yield corpus.sample(rng)


def lessons(
    documents: Iterator[Document],
    tokenizer: PreTrainedTokenizerFast,
    *,
    tokens: int,
    pool_size: int,
    seed: int,
) -> Iterator[Lesson]:
    """Batches of about `tokens` tokens without end: one text a row, rows of like length together.

    Texts are sorted by length within pools of `pool_size`.
    """
    rng = random.Random(seed)
    teacher = Teacher(
        lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id
    )
    while True:
        pool = list(islice(documents, pool_size))
        read = tokenizer([d.text + corpus.END for d in pool], return_offsets_mapping=True)
        starts = [[start for start, _ in offsets] for offsets in read["offset_mapping"]]
        rows: list[Example] = list(zip(pool, read["input_ids"], starts, strict=True))
        rows.sort(key=lambda row: len(row[1]))
        groups: list[list[Example]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row[1]) > tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            yield lesson(group, teacher, tokenizer.pad_token_id)


def lesson(rows: Sequence[Example], teacher: Teacher, padding: int) -> Lesson:
    """One batch, filled on the right: rows are causal, so that no mask is needed."""
    width = max(len(ids) for _, ids, _ in rows)
    targets = [teacher.targets(*row) for row in rows]
    places = [number * width + t.positions - 1 for number, t in enumerate(targets)]
    return Lesson(
        torch.tensor([ids + [padding] * (width - len(ids)) for _, ids, _ in rows]),
        torch.from_numpy(np.concatenate(places)),
        torch.from_numpy(np.concatenate([t.tokens for t in targets])),
        torch.from_numpy(np.concatenate([t.weights for t in targets])).float(),
        sum(map(entropy, targets)),
    )
