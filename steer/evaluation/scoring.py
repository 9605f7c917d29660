"""Score texts under many cells at once, with teacher forcing: no text is generated.

A batch runs its texts once for every cell (`steer.evaluation.cells`), and each cell edits its own
rows. Layers below the lowest edited layer run once for all cells (`steer.hooks.trunk`).

Extra nats: how much less likely steered texts are under the unsteered model than its own texts.

    E_x~steered mean_t H(p_steered(. | x_<t), p_base(. | x_<t))
        - E_x~base mean_t H(p_base(. | x_<t)),            H(p, q) = -sum_v p(v) log q(v)

per token of texts that were sampled at temperature 1. The mean of -log p_base(x_t) has the same
expectation but more noise, from the single token drawn at each position; the cross-entropy averages
over all tokens (Rao-Blackwell).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.base.errors import IdleError, InputError
from steer.base.intervals import Interval, difference
from steer.base.journal import Journal
from steer.distillation.lessons import LOGITS_BUDGET, vocabulary
from steer.distillation.task import LEAST_EFFECT
from steer.evaluation.batches import (
    MemoryBudget,
    Part,
    Text,
    TextBatch,
    TokenMeasure,
    packed,
    surprise,
)
from steer.evaluation.cells import (
    Cell,
    GuidedCell,
    PromptedCell,
    SteeredCell,
    UnsteeredCell,
    steers_of,
)
from steer.generate.guidance import guided
from steer.hooks.acting import acted, reached
from steer.hooks.clock import TokenClock
from steer.hooks.gates import prompt_values
from steer.hooks.head import has_head
from steer.hooks.hooks import SiteFunction
from steer.hooks.inject import by_rows, site_functions
from steer.hooks.packing import batches
from steer.hooks.tokens import embedded, substitute_tokens
from steer.hooks.trunk import Trunk, replayed, takes_trunks, trunk_at
from steer.models.memory import token_budget
from steer.models.model import Model
from steer.models.numbers import not_numbers
from steer.steering.steers import Steer
from steer.steering.tokens import separate
from steer.vectors.sites import Site, format_layers
from steer.workers import once, workers_of

Sums = NDArray[np.float64]
Functions = dict[Site, SiteFunction]
#: For each text, the expected nats of its tokens, and the number of tokens.
Nats = tuple[Sums, Sums]

#: Bytes of log-probabilities at once, so that they fit into a CPU's caches.
LOGITS_BYTES = {"cpu": 16_000_000, "cuda": 1_000_000_000}
#: Groups of texts are small enough for this many cells to run together.
CELLS_TOGETHER = 4


@dataclass
class _Group:
    """A group of texts with the results that all cells share. sums: of the cells without
    steers."""

    batch: TextBatch
    trunks: dict[int, Trunk] = field(default_factory=dict)
    sums: dict[Cell, Sums] = field(default_factory=dict)


@dataclass
class Scorer:
    """Scores groups of texts under cells. It caches results that all cells share, while there is
    room."""

    model: Model
    groups: Sequence[Sequence[Text]]
    measure: TokenMeasure

    def __post_init__(self) -> None:
        self._groups: dict[tuple[int, bool], _Group] = {}
        self._room = MemoryBudget(LOGITS_BUDGET)

    @torch.no_grad()
    def score(self, group: int, cells: Sequence[Cell]) -> Sums:
        """Sums over each text's scored tokens, float64 [cell, text of the group]. Afterwards `idle`
        names the steers that changed nothing in any of these texts.

        Raises:
            HookError: a cell was never applied, or the model's logits are not numbers.
            InputError: a text has no prompt, which a gate needs.
        """
        shared = self._group(group, cells)
        batch = shared.batch
        editing = [cell for cell in cells if isinstance(cell, SteeredCell) and not _has_token(cell)]
        steered = self._functions(batch, [cell.steers for cell in editing])
        if not len(batch):
            self.idle = sorted(_names(cells))
            return np.zeros((len(cells), len(batch.texts)))
        layer = _shared_layer(steered)
        trunk = None
        if layer is not None and takes_trunks(self.model):
            trunk = self._trunk(layer, shared)
        of_steered = iter(
            np.concatenate(
                [
                    self._sums(self._states(batch, part, trunk), batch)
                    for part in _even_parts(steered, self._at_once(batch))
                ]
            )
            if steered
            else ()
        )
        sums: list[Sums] = []
        for cell in cells:
            if isinstance(cell, SteeredCell) and _has_token(cell):
                sums.append(self._sums(self._with_tokens(batch, cell.steers)[None], batch)[0])
            elif isinstance(cell, SteeredCell):
                sums.append(next(of_steered))
            else:
                if cell not in shared.sums:
                    shared.sums[cell] = self._unsteered(cell, batch)
                sums.append(shared.sums[cell])
        self.idle = idle_in_all(self.model, batch, self._steered)
        return np.stack(sums)

    def _group(self, group: int, cells: Sequence[Cell]) -> _Group:
        by_prompt = any(
            steer.gate is not None and steer.gate.pooling != "token"
            for cell in cells
            for steer in steers_of(cell)
        )
        if (group, by_prompt) not in self._groups:
            texts = self.groups[group]
            batch = TextBatch.of(self.model, texts, self._room, by_prompt=by_prompt)
            self._groups[group, by_prompt] = _Group(batch)
        return self._groups[group, by_prompt]

    def _sums(self, states: Tensor, batch: TextBatch) -> Sums:
        """Sums of the measure over each text's scored tokens, [cell, text]. states: [cell, token,
        ...]."""
        parts = [
            self.measure(batch.plain.log_probs(states[:, part.where]), part)
            for part in batch.parts(self._logits_at_once(len(states)))
        ]
        return self._sums_by_text(parts, batch)

    def _unsteered(self, cell: UnsteeredCell | PromptedCell | GuidedCell, batch: TextBatch) -> Sums:
        """The same for the unsteered model, [text]."""

        def log_probs(part: Part) -> Tensor:
            if isinstance(cell, GuidedCell):
                both = torch.stack([part.base, part.conditioned], -2)
                return guided(both, (cell.strength,)).log_softmax(-1)
            return part.conditioned if isinstance(cell, PromptedCell) else part.base

        parts = batch.parts(self._logits_at_once(1))
        sums = self._sums_by_text(
            [self.measure(log_probs(part)[None], part) for part in parts], batch
        )
        return np.asarray(sums[0])

    def _sums_by_text(self, parts: Sequence[Tensor], batch: TextBatch) -> Sums:
        """Values [cell, token] in parts, added up over each text: [cell, text]."""
        # On the CPU, since not every device has float64.
        values = torch.cat([part.cpu().double() for part in parts], 1).numpy()
        if np.isnan(values).any():
            raise not_numbers(self.model)
        n_texts = len(batch.texts)
        return np.stack([np.bincount(batch.owners, row, n_texts) for row in values])

    def _logits_at_once(self, n_cells: int) -> int:
        """The number of tokens whose log-probabilities under `n_cells` cells are computed at
        once."""
        size = LOGITS_BYTES.get(self.model.device.type, LOGITS_BYTES["cuda"])
        return max(1, size // (4 * vocabulary(self.model) * n_cells))

    def _at_once(self, batch: TextBatch) -> int:
        """How many cells of a batch can run together."""
        fits = token_budget(self.model) // batch.n_tokens
        if not has_head(self.model):  # all logits are held
            fits = min(fits, LOGITS_BUDGET // (4 * vocabulary(self.model) * len(batch)))
        return max(1, fits)

    def _trunk(self, layer: int, group: _Group) -> Trunk:
        """The batch's trunk at a layer. If there is room, those of all layers are kept; otherwise
        only this one, computed from a lower one if that was kept."""
        batch, kept = group.batch, group.trunks
        size = batch.n_tokens * self.model.identity.d_model * self.model.network.dtype.itemsize
        if not kept and self._room.take(self.model.n_layers * size):
            kept.update(batch.grow())
        if layer not in kept:
            lower = next((trunk for trunk in kept.values() if trunk.layer < layer), None)
            kept.clear()
            inputs = batch.plain.inputs
            kept[layer] = trunk_at(self.model, inputs.ids, layer, lower, batch.plain.arguments())
        return kept[layer]

    def _functions(self, batch: TextBatch, cells: Sequence[Sequence[Steer]]) -> list[Functions]:
        """The site functions of each cell. Prompt gates see the tokens before the response."""
        steers = [steer for cell in cells for steer in cell]
        prompts = [text.ids[: text.start] for text in batch.texts]
        special = set(self.model.tokenizer.all_special_ids)
        for gate in (steer.gate for steer in steers):
            if gate and gate.pooling != "token" and any(map(special.issuperset, prompts)):
                raise InputError(
                    f"the gate {gate} reads prompts, but a text has none",
                    hint="add prompts to --texts and --unrelated, and pass --prompts",
                )
        values = prompt_values(self.model, steers, prompts)
        self._steered = [(cell, batch.clock(values)) for cell in cells]
        return [site_functions(self.model, cell, clock) for cell, clock in self._steered]

    def _with_tokens(self, batch: TextBatch, steers: Sequence[Steer]) -> Tensor:
        """States [token, ...] of the batch's texts with learned tokens before them."""
        tokens, editing = separate(steers)
        longer = [substitute_tokens(self.model, tokens, text.ids) for text in batch.texts]
        shifts = [len(ids) - len(text.ids) for ids, text in zip(longer, batch.texts, strict=True)]
        shifted = [
            replace(
                text,
                ids=tuple(ids),
                scored=tuple(position + shift for position in text.scored),
                start=text.start + shift,
            )
            for ids, shift, text in zip(longer, shifts, batch.texts, strict=True)
        ]
        with embedded(self.model, tokens):
            lengthened = TextBatch.of(self.model, shifted, MemoryBudget(0))
            if not editing:
                return lengthened.base_states
            clock = lengthened.clock({})
            self._steered.append((editing, clock))
            return self._states(lengthened, [site_functions(self.model, editing, clock)], None)[0]

    def _states(self, batch: TextBatch, cells: Sequence[Functions], trunk: Trunk | None) -> Tensor:
        """States of steered cells, [cell, token, ...] (`Forward.states`)."""
        times = len(cells)
        functions = by_rows(cells, [len(batch.plain.inputs.ids)] * times)
        with replayed(self.model, trunk, times):
            return batch.plain.states(times, functions)


def _even_parts(cells: Sequence[Functions], most: int) -> Iterator[Sequence[Functions]]:
    """The cells in as few parts of at most `most` cells as possible, all of about one size."""
    n_parts = -(-len(cells) // most)
    edges = [len(cells) * number // n_parts for number in range(n_parts + 1)] if n_parts else []
    for start, stop in pairwise(edges):
        yield cells[start:stop]


def _has_token(cell: SteeredCell) -> bool:
    return any(steer.is_token for steer in cell.steers)


class _BatchResult(TypedDict):
    """A worker's result for a batch: sums [cell][text], and the steers that were idle."""

    sums: list[list[float]]
    idle: list[str]


class TextSetScores(NamedTuple):
    """Scores of a text set. sums: float64 [cell, text]. idle: the steers that changed none of its
    texts; their sums do not show an effect."""

    sums: Sums
    idle: frozenset[str]


class TextSet(NamedTuple):
    """Texts to score by one measure; `name` is their key in the journal."""

    name: str
    texts: Sequence[Text]
    measure: TokenMeasure


@dataclass
class _ScoreJob:
    """The job of a worker: score a batch of a text set under some cells."""

    model: Model
    parts: Sequence[tuple[Sequence[Sequence[Text]], TokenMeasure]]

    def __post_init__(self) -> None:
        self._scorers = [Scorer(self.model, groups, measure) for groups, measure in self.parts]

    def __call__(self, item: tuple[int, int, Sequence[Cell]]) -> _BatchResult:
        part, group, cells = item
        sums = self._scorers[part].score(group, cells).tolist()
        return {"sums": sums, "idle": self._scorers[part].idle}


def score_rows(
    model: Model,
    parts: Sequence[TextSet],
    rows: Mapping[int, Sequence[Cell]],
    on_done: Callable[[int, int], None] = lambda row, n_scores: None,
    done: Journal | None = None,
) -> Iterator[tuple[int, list[TextSetScores]]]:
    """Score all texts under the cells of each row. Yields a row's index and its scores for each
    text set as soon as the row is done. Batches that the journal `done` has are not scored again.

    Raises:
        HookError: a cell was never applied.
        InputError: a text has no prompt, which a gate needs.
    """
    journal = Journal(None) if done is None else done
    workers, n_cells = workers_of(model), max(map(len, rows.values()))
    texts = [part.texts for part in parts]
    groups = once(workers, lambda model: [in_groups(model, part, n_cells) for part in texts])
    every = [(part, group) for part in range(len(parts)) for group in range(len(groups[part]))]
    sums = {
        row: [np.zeros((len(cells), len(part.texts))) for part in parts]
        for row, cells in rows.items()
    }
    names_of = {row: _names(cells) for row, cells in rows.items()}
    idle = {row: [names_of[row]] * len(parts) for row in rows}
    n_open = dict.fromkeys(rows, len(every))

    def put(row: int, part: int, group: int, result: _BatchResult) -> bool:
        """Store the result of a batch; returns whether its row is complete."""
        indices = groups[part][group]
        sums[row][part][:, indices] = result["sums"]
        idle[row][part] &= frozenset(result["idle"])
        n_open[row] -= 1
        on_done(row, len(rows[row]) * len(indices))
        return not n_open[row]

    def scored(row: int) -> list[TextSetScores]:
        return [
            TextSetScores(
                own, names if any(text.scored for text in text_set.texts) else frozenset()
            )
            for own, names, text_set in zip(sums[row], idle[row], parts, strict=True)
        ]

    # The tokens are part of the key: a template with the date gives others tomorrow.
    names = [f"{part.name} {_digest(part.texts)}" for part in parts]

    def key(row: int, part: int, group: int) -> str:
        return f"{names[part]} {row}: {format_layers(groups[part][group])}"

    remaining = []
    for batch in [(row, part, group) for row in rows for part, group in every]:
        kept = journal.get(key(*batch))
        if not isinstance(kept, dict):
            remaining.append(batch)
        elif put(*batch, _BatchResult(sums=kept["sums"], idle=kept["idle"])):
            yield batch[0], scored(batch[0])
    # Workers get the groups: they would form other ones if they had more or less free memory.
    grouped = [
        ([[part.texts[index] for index in indices] for indices in together], part.measure)
        for part, together in zip(parts, groups, strict=True)
    ]
    items = ((part, group, rows[row]) for row, part, group in remaining)
    for number, result in workers.map(partial(_ScoreJob, parts=grouped), items):
        batch = remaining[number]
        journal.put(key(*batch), result)
        if put(*batch, result):
            yield batch[0], scored(batch[0])


def _names(cells: Sequence[Cell]) -> frozenset[str]:
    """The steers of some cells whose coefficient is not 0."""
    return frozenset(
        str(steer) for cell in cells for steer in steers_of(cell) if steer.coefficient.value
    )


def _digest(texts: Sequence[Text]) -> str:
    """A hash of the tokens of texts."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text.ids} {text.scored} {text.start} {text.conditioned}\n".encode())
    return digest.hexdigest()[:16]


def scored(
    model: Model,
    texts: Sequence[Text],
    cells: Sequence[Cell],
    measure: TokenMeasure,
    on_done: Callable[[int], None] = lambda n_scores: None,
    done: Journal | None = None,
    name: str = "",
) -> TextSetScores:
    """Sums over each text's scored tokens under every cell, and the steers that were idle. Batches
    that the journal `done` has under this name are not scored again.

    Raises:
        HookError, InputError: as `score_rows`.
    """
    count = lambda _, n_scores: on_done(n_scores)  # noqa: E731  (it is always row 0)
    [(_, [result])] = score_rows(model, [TextSet(name, texts, measure)], {0: cells}, count, done)
    return result


def score(
    model: Model,
    texts: Sequence[Text],
    cells: Sequence[Cell],
    measure: TokenMeasure,
    on_done: Callable[[int], None] = lambda n_scores: None,
    done: Journal | None = None,
    name: str = "",
) -> Sums:
    """The sums of `scored`, float64 [cell, text].

    Raises:
        IdleError: a steer changed nothing in any text.
        HookError, InputError: as `score_rows`.
    """
    result = scored(model, texts, cells, measure, on_done, done, name)
    check_acted(result.idle, len(texts))
    return result.sums


def idle_in_all(
    model: Model, batch: TextBatch, steered: Sequence[tuple[Sequence[Steer], TokenClock]]
) -> list[str]:
    """The steers that changed no text of a batch with scored tokens, unless a closed gate or an
    unreached bound explains it."""
    named = []
    for steers, clock in steered:
        named += [
            str(steer)
            for steer in steers
            if steer.coefficient.value
            and all(
                _is_idle(model, steer, clock, row, text)
                for row, text in enumerate(batch.texts)
                if text.scored
            )
        ]
    return named


def _is_idle(model: Model, steer: Steer, clock: TokenClock, row: int, text: Text) -> bool:
    if acted(clock, steer, row) or clock.is_closed(steer.gate, row):
        return False
    special = [token in model.special_ids for token in text.ids[: text.start]]
    bounded = steer.op.op.bounded
    return not (bounded and reached(steer, special, len(text.ids) - text.start, model.n_layers))


def check_acted(idle: Collection[str], n_texts: int, *, verb: str = "scored") -> None:
    """Refuse measures of steers that changed no text. verb: how the texts were used, for the
    message.

    Raises:
        IdleError: naming one.
    """
    for steer in sorted(idle):
        raise IdleError(
            f"{steer} changed nothing in any of the {n_texts:,} {verb} texts, so its effect cannot"
            " be measured on them",
            hint="change its scope, schedule, coefficient or layers",
        )


def expected_nats(model: Model, parts: Sequence[tuple[Cell, Sequence[Text]]]) -> Nats:
    """Cross-entropies summed over the scored tokens of texts; each part is a cell and the texts
    that were generated under it.

    Raises:
        IdleError: steers of every cell changed nothing in any of its texts.
    """
    results = [scored(model, texts, [cell], surprise) for cell, texts in parts]
    texts = [text for _, some in parts for text in some]
    if all(result.idle for result in results):
        check_acted(results[0].idle, len(texts), verb="generated")
    counts = np.array([float(len(text.scored)) for text in texts])
    return np.concatenate([result.sums[0] for result in results]), counts


def added_nats(own: Nats, base: Nats) -> Interval:
    """Extra nats per token: those of texts minus those of the unsteered model's own texts.

    Texts with the same index were sampled from the same seeds, so they are resampled as pairs.
    """
    # The condition may have fewer texts, since empty ones are left out.
    n = min(len(own[0]), len(base[0]))
    return difference((own[0][:n], own[1][:n]), (base[0][:n], base[1][:n]))


def check_effect(base: Sums, texts: Sequence[Text]) -> None:
    """Refuse a condition without an effect. base: sums of KL(p_condition || p_base).

    Raises:
        InputError: it changes the prediction of the next token by less than `LEAST_EFFECT` nats.
    """
    if base.sum() < LEAST_EFFECT * sum(len(text.scored) for text in texts):
        raise InputError(
            "the condition does not change what the model generates",
            hint="check with `steer apply` whether the model follows it as a prompt",
        )


def in_groups(model: Model, texts: Sequence[Text], n_cells: int) -> list[list[int]]:
    """Groups of texts, by index, that share tokens or have similar lengths; small enough that
    several cells fit into memory at once."""
    limit = token_budget(model) // min(n_cells, CELLS_TOGETHER)
    rows = packed(model, texts, limit)
    return [
        sorted(index for row in together for index in rows[row].readings)
        for together in batches([row.length for row in rows], limit)
    ]


def _shared_layer(cells: Sequence[Functions]) -> int | None:
    """The highest layer up to which all cells share their activations (except its `resid_post`)."""
    sites = [site for cell in cells for site in cell]
    lowest = min(
        (site.layer if site.name == "resid_post" else site.layer - 1 for site in sites), default=-1
    )
    return lowest if lowest >= 0 else None
