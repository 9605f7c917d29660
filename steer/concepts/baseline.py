"""The model's own texts, read with the conditions of a pack: what a profile is compared with.

The texts answer steer's held-out questions, which neither fitted nor chose anything. Reading them
takes far longer than reading one text, so the numbers are kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from steer.base.errors import InputError, SteerError
from steer.base.files import cache_folder, read_cached, write_cached
from steer.base.progress import Progress, silent
from steer.concepts import answers as answering
from steer.concepts.answers import Query
from steer.concepts.questions import everyday
from steer.models.model import Model

Array = NDArray[np.float64]
#: Nats by which the positive condition makes each token likelier, float32 [token, concept].
Ratios = NDArray[np.float32]

#: Changes whenever the same texts get other numbers.
_VERSION = 1
_MAX_BYTES = 500_000_000
#: The most tokens of a text.
MAX_TOKENS = 16


@dataclass(frozen=True)
class Baseline:
    """The model's own texts. ratios: of each text; no text is empty."""

    ratios: tuple[Ratios, ...]
    _by_length: dict[int, Array] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.ratios)

    def readings(self, n: int) -> Array:
        """Nats per token over the first n tokens of each text, [text, concept]: short texts vary
        more, so a text is compared with texts of its length as far as there are such."""
        n = min(n, max(map(len, self.ratios)))
        if n not in self._by_length:
            self._by_length[n] = np.stack([text[:n].mean(0, np.float64) for text in self.ratios])
        return self._by_length[n]

    def false_positives(self, readings: Array, n: int) -> Array:
        """The share of texts with a reading as high, [concept]; the text that is read counts too,
        so that no rate is 0."""
        above = (self.readings(n) >= readings).sum(0)
        return np.asarray((above + 1) / (len(self) + 1))

    def scores(self, readings: Array, n: int) -> Array:
        """Standard deviations of the texts' readings above their mean, [concept]."""
        own = self.readings(n)
        spread = own.std(0, ddof=1) if len(own) > 1 else np.ones(own.shape[1])
        return np.asarray((readings - own.mean(0)) / np.maximum(spread, 1e-6))


def of_model(
    model: Model,
    read: Callable[[Query, tuple[int, ...]], Ratios],
    n: int,
    *,
    chat: bool,
    key: Sequence[Any],
    seed: int = 0,
    progress: Progress = silent,
) -> Baseline:
    """Write and read `n` texts of the model's own, or take their numbers from the cache.

    read: gives the ratios of an answer. key: plain JSON, all that `read` depends on besides the
    model. Each text is kept as soon as it is read.

    Raises:
        InputError: the model writes no text.
    """
    file = _file(model, [*key, chat, seed])
    known = _cached(file)
    questions = everyday(chat=chat).held_out
    missing = range(len(known), n)
    if missing:
        written = answering.write(
            model,
            [Query("", questions[index % len(questions)], chat) for index in missing],
            samples=[index // len(questions) for index in missing],
            max_tokens=MAX_TOKENS,
            seed=seed,
            activity="writing the model's own texts",
            progress=progress,
        )
        with progress("reading the model's own texts", len(written)) as advance:
            for answer in written:
                known.append(read(answer.query, answer.ids))
                with suppress(SteerError):  # a cache that cannot be written only costs time
                    _write(file, known)
                advance(1)
    texts = tuple(ratios for ratios in known[:n] if len(ratios))
    if not texts:
        raise InputError(
            f"{model.identity.id} writes no text of its own, so there is nothing to compare with"
        )
    return Baseline(texts)


def _file(model: Model, parts: list[Any]) -> Path:
    identity = msgspec.to_builtins(model.identity)
    every = [_VERSION, MAX_TOKENS, answering.TEMPERATURE, identity, model.describe(),
             model.template.key, parts]  # fmt: skip
    text = json.dumps(every, sort_keys=True, default=str)
    name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return cache_folder("profiles") / f"{name}.safetensors"


def _write(file: Path, ratios: Sequence[Ratios]) -> None:
    lengths = np.array([len(text) for text in ratios], np.int64)
    write_cached(file, save({"ratios": np.concatenate(ratios), "lengths": lengths}))


def _cached(file: Path) -> list[Ratios]:
    """What is known already; nothing if the file is missing or damaged."""
    try:
        data = read_cached(file, limit=_MAX_BYTES)
        if data is None:
            return []
        arrays = load(data)
        lengths = arrays["lengths"].astype(np.int64)
        if lengths.min() < 0 or lengths.sum() != len(arrays["ratios"]):
            return []
        return list(np.split(arrays["ratios"].astype(np.float32), lengths.cumsum()[:-1]))
    except Exception:  # a damaged file may make safetensors raise anything
        return []
