"""What `distill.py` measures of an edit beside its recovery, each beside the same of the tag."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import torch

from steer.base.intervals import difference, ratio
from steer.distillation.distilled import read_means
from steer.distillation.lessons import SAMPLED_TOGETHER, log_probs
from steer.distillation.task import Task
from steer.evaluation.batches import Text, distance, drift, surprise
from steer.evaluation.cells import PROMPTED, UNSTEERED, Cell, SteeredCell
from steer.evaluation.scoring import score
from steer.evaluation.written import lesson_text
from steer.generate.apply import Sampling, continue_ids
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.models.model import Model
from steer.pocket import corpus
from steer.pocket.measure import markers
from steer.pocket.tags import Tags
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

#: Texts after each held-out first word that shares are measured on.
TIMES = 4
#: Texts that are read together.
TOGETHER = 32
#: Texts of each kind of prompt that a tag is not about.
UNRELATED = 16
COEFFICIENTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


def firsts(model: Model) -> dict[int, tuple[str, str]]:
    """First tokens of words that bear an attribute, with its (kind, value); clear ones only."""
    pairs: dict[int, set[tuple[str, str]]] = {}
    for word, tag in markers().items():
        for surface in (" " + word, " " + word.capitalize(), word.capitalize()):
            pairs.setdefault(model.encode(surface, special=False)[0], set()).add(tag)
    return {token: next(iter(tag)) for token, tag in pairs.items() if len(tag) == 1}


def shares(task: Task, steer: Steer, tag: Tags) -> dict[str, Any]:
    """Share of the tag's own value among words of its kind, where the edit has written and where
    the tag has, `TIMES` each after the same first words, and how far apart the two are.

    A text that begins with another topic keeps to it, so of texts there have to be many.
    """
    model, lessons = task.model, task.texts.held_out
    sums = []
    for side, steers in (("baseline", [steer]), ("conditioned", [])):
        starts = [
            getattr(lesson, side)[: len(getattr(lesson, side)) - lesson.n] for lesson in lessons
        ]
        sampling = Sampling(
            max_tokens=max(lesson.n for lesson in lessons),
            temperature=1.0,
            seed=1,
            batch_size=SAMPLED_TOGETHER,
        )
        beginnings = [(start, index) for index, start in enumerate(starts * TIMES)]
        written = continue_ids(model, beginnings, steers, sampling)
        rows = [
            ((*start, *new), len(new)) for (start, _), new in zip(beginnings, written, strict=True)
        ]
        sums.append(at_words(model, rows, steers))
    masses = {}
    for kind, value in tag.stated().items():
        # Of a first word all texts together: they are what is drawn anew for the interval.
        both = [total[kind, value].reshape(TIMES, -1, 2).sum(0).T for total in sums]
        between = difference((both[0][0], both[0][1]), (both[1][0], both[1][1]))
        each = [float(top.sum() / bottom.sum()) for top, bottom in both]
        masses[kind] = {"edit": each[0], "tag": each[1], "between": asdict(between)}
    return {"shares": masses}


def at_words(
    model: Model, rows: Sequence[tuple[Sequence[int], int]], steers: Sequence[Steer]
) -> dict[tuple[str, str], np.ndarray]:
    """For each kind and value [row, 2]: the sum of the value's share at the words of its kind that
    are among a row's last n tokens, and how many these are.
    """
    known = firsts(model)
    kinds = {
        kind: {
            value: [token for token, key in known.items() if key == (kind, value)]
            for value in values
        }
        for kind, values in corpus.KINDS.items()
    }
    totals = {tag: np.zeros((len(rows), 2)) for tag in markers().values()}
    for start in range(0, len(rows), TOGETHER):
        part = rows[start : start + TOGETHER]
        clock = TokenClock(0, torch.zeros(len(part), dtype=torch.int64))
        with torch.no_grad(), injected(model, steers, clock) if steers else nullcontext():
            scores = log_probs(model, part).exp()
        drawn = [
            (start + number, token)
            for number, (row, n) in enumerate(part)
            for token in row[len(row) - n :]
        ]
        for place, (number, token) in enumerate(drawn):
            if token in known:
                kind = known[token][0]
                mass = {
                    value: float(scores[place, ids].sum()) for value, ids in kinds[kind].items()
                }
                for value, share in mass.items():
                    totals[kind, value][number] += share / sum(mass.values()), 1
    return totals


@dataclass
class RemoteModel:
    """Texts of the model's own that a tag is not about: requests answered and refused, and texts
    under tags of other kinds.
    """

    model: Model
    _written: dict[str, list[tuple[tuple[int, ...], int]]] = field(default_factory=dict)

    def texts(self, tag: Tags) -> list[Text]:
        """Each without the tag, and under it as well."""
        forms = enumerate(("harmless", "harmful"))
        samples = [corpus.sample(random.Random(n), tags=Tags(), form=form) for n, form in forms]
        befores = [(sample.prompt, with_tag(sample.prompt, tag)) for sample in samples]
        for kind, values in corpus.KINDS.items():
            if kind not in tag.stated():
                tags = Tags(**{kind: values[0]})
                befores.append((tags.render(), replace(tags, **tag.stated()).render()))
        rows = []
        for before, tagged in befores:
            start = self.encoded(tagged)
            for ids, n in self.written(before):
                first = len(ids) - n
                both = (*start, *ids[first:])
                rows.append(Text(ids, tuple(range(first, len(ids))), first, both))
        return rows

    def encoded(self, before: str) -> list[int]:
        return self.model.encode(before, special=not before.startswith(corpus.BEGIN))

    def written(self, before: str) -> list[tuple[tuple[int, ...], int]]:
        """Token ids, and how many of them at the end are the model's own."""
        if before not in self._written:
            start, n = self.encoded(before), UNRELATED
            sampling = Sampling(max_tokens=64, temperature=1.0, seed=2, batch_size=n)
            new = continue_ids(self.model, [(start, n_seed) for n_seed in range(n)], (), sampling)
            self._written[before] = [((*start, *text), len(text)) for text in new]
        return self._written[before]


def with_tag(prompt: str, tag: Tags) -> str:
    """The prompt of a request, with the tag before the user's text."""
    head, user, reply = prompt.rpartition(corpus.USER)
    return f"{head}{user}{tag.render()} {reply}"


def per_token(sums: np.ndarray, texts: Sequence[Text]) -> dict[str, float]:
    excess = ratio(sums, [float(len(text.scored)) for text in texts])
    return asdict(excess)


def nats(task: Task, steer: Steer) -> dict[str, Any]:
    """What the next token costs the unsteered model, as the edit and as the tag would write it, at
    each place of the tag's own texts: so their difference has little noise.
    """
    texts = [lesson_text(lesson) for lesson in task.texts.held_out]
    base, tag, edit = score(
        task.model, texts, [UNSTEERED, PROMPTED, SteeredCell((steer,))], surprise
    )
    more = {"edit": edit - base, "tag": tag - base, "between": edit - tag}
    return {"nats": {name: per_token(sums, texts) for name, sums in more.items()}}


def harm(model: Model, texts: Sequence[Text], steer: Steer) -> dict[str, Any]:
    tag, edit = score(model, texts, [PROMPTED, SteeredCell((steer,))], drift)
    return {"harm": {"edit": per_token(edit, texts), "tag": per_token(tag, texts)}}


def mean_differences(task: Task, other: Sequence[Text], steer: Steer) -> dict[str, Any]:
    """The best mean difference of any layer and coefficient: of all, and of those that harm no more
    than the edit.
    """
    model, vector = task.model, steer.vector
    sites = [Site(layer) for layer in model.hooks.layers("resid_post")]
    positive, negative = (
        read_means(
            model, [(getattr(lesson, side), lesson.n) for lesson in task.texts.lessons], sites
        )[0]
        for side in ("conditioned", "baseline")
    )
    cells: list[Cell] = [UNSTEERED, SteeredCell((steer,))]
    names = []
    for index, site in enumerate(sites):
        direction = (positive - negative)[:, index].mean(0, keepdims=True).astype(np.float32)
        moved = at_layer(vector, site.layer, direction)
        for coefficient in COEFFICIENTS:
            cells.append((Steer(moved, Coefficient(coefficient), (site.layer,)),))
            names.append((site.layer, coefficient))
    held_out = [lesson_text(lesson) for lesson in task.texts.held_out]
    left = score(model, held_out, cells, distance).sum(1)
    recovered, harms = 1 - left[1:] / left[0], score(model, other, cells[1:], drift).sum(1)

    def best(allowed: np.ndarray) -> dict[str, Any]:
        index = int(np.argmax(np.where(allowed, recovered[1:], -np.inf)))
        layer, coefficient = names[index]
        return {
            "recovery": recovered[1:][index],
            "layer": layer,
            "coefficient": coefficient,
            "harm_of_edits": harms[1:][index] / harms[0],
        }

    return {
        "vector": recovered[0],
        "mean_diff": {
            "any": best(np.full(len(names), True)),
            "harmless": best(harms[1:] <= harms[0]),
        },
    }


def at_layer(vector: SteeringVector, layer: int, direction: np.ndarray) -> SteeringVector:
    (statistics,) = vector.metadata.statistics
    metadata = msgspec.structs.replace(
        vector.metadata,
        layers=(layer,),
        statistics=(msgspec.structs.replace(statistics, layer=layer),),
        recommended=msgspec.structs.replace(vector.metadata.recommended, layers=(layer,)),
    )
    return SteeringVector(metadata, direction)
