"""Texts scored under many ways of steering at once, teacher-forced: no text is generated.

A cell is one way of steering: a tuple of steers, empty for none. A batch holds each of its texts
once for every cell, and each cell edits its own rows. What lies below the lowest layer of a batch
runs once (`steer.trunk`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.hooks import SiteFunction, placed
from steer.inject import TokenClock, site_functions
from steer.lessons import LOGITS_BUDGET, picks_columns, vocabulary
from steer.memory import token_budget
from steer.model import Model
from steer.recovery import token_kl
from steer.sites import Site
from steer.spec import Scope
from steer.steers import Steer
from steer.trunk import Trunk, grown, replayed, takes_trunks

Sums = NDArray[np.float64]
#: A way of steering; None stands for no steering, but the condition before the text.
Cell = tuple[Steer, ...] | None

UNSTEERED: Cell = ()
CONDITION: Cell = None
#: Bytes of logits that one batch makes: more would leave a CPU's caches.
LOGITS_BYTES = {"cpu": 16_000_000, "cuda": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids, and which of them are scored, each by what the model predicts before it.

    scored: rising positions, from 1. start: where the response begins, for scopes. conditioned: ids
    of the same text after a condition, where there is one; the scored tokens end both alike.
    """

    ids: tuple[int, ...]
    scored: tuple[int, ...]
    start: int = 0
    conditioned: tuple[int, ...] = ()


@dataclass
class RowClock(TokenClock):
    """The clock of whole texts that are padded on the right, each with a start of its own.

    starts: int64 [row], the position of the response's first token.
    """

    starts: Tensor

    def mask(self, scope: Scope, resid: Tensor) -> Tensor | None:
        """As `TokenClock.mask`."""
        if scope.kind not in ("prompt", "response"):
            return super().mask(scope, resid)
        column = torch.arange(resid.shape[1], device=resid.device)
        response = column[None] >= self.starts.to(resid.device)[:, None] - 1
        return (response if scope.kind == "response" else ~response)[..., None]


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts that run together. columns: int64 [column], where one of them is predicted. targets:
    int64 [text, column], the token that comes. weights: float32 [text, column], 1 where it counts.
    """

    model: Model
    texts: Sequence[Text]
    ids: Tensor
    mask: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor

    @classmethod
    def of(cls, model: Model, texts: Sequence[Text]) -> Batch:
        ids, mask = model.padded([text.ids for text in texts], left=False)
        columns = sorted({position - 1 for text in texts for position in text.scored}) or [0]
        place = {column: index for index, column in enumerate(columns)}
        weights = torch.zeros((len(texts), len(columns)))
        for row, text in enumerate(texts):
            weights[row, [place[position - 1] for position in text.scored]] = 1
        which = torch.tensor(columns, device=ids.device)
        targets = ids[:, (which + 1).clamp(max=ids.shape[1] - 1)]
        return cls(model, texts, ids, mask, which, targets, weights.to(ids.device))

    def clock(self) -> RowClock:
        starts = torch.tensor([text.start for text in self.texts])
        return RowClock(0, torch.zeros(len(self.texts), dtype=torch.int64), starts)

    @cached_property
    def conditioned(self) -> Tensor:
        """Logits after the condition at the columns, float32 [text, column, vocabulary]."""
        ids, mask = self.model.padded([text.conditioned for text in self.texts], left=False)
        shifts = [len(text.conditioned) - len(text.ids) for text in self.texts]
        columns = torch.tensor(shifts)[:, None] + self.columns.cpu()[None]
        # What a text does not score is as good as anything.
        columns = columns.clamp(0, ids.shape[1] - 1)
        kept, index = torch.unique(columns, return_inverse=True)
        logits = _logits(self.model, ids, mask, kept.to(ids.device))
        return logits[torch.arange(len(ids))[:, None], index.to(logits.device)]


#: Logits [text, column, vocabulary] of a cell and of none, and their batch, to a number for each
#: text and column.
Measure = Callable[[Tensor, Tensor, Batch], Tensor]


def log_prob(cell: Tensor, _base: Tensor, batch: Batch) -> Tensor:
    """log p of the token that comes, in nats."""
    chosen = cell.gather(-1, batch.targets[..., None]).squeeze(-1)
    return chosen - cell.logsumexp(-1)


def drift(cell: Tensor, base: Tensor, _batch: Batch) -> Tensor:
    """KL(p_base || p_steered), in nats."""
    return token_kl(base.log_softmax(-1), cell.log_softmax(-1))


def distance(cell: Tensor, _base: Tensor, batch: Batch) -> Tensor:
    """KL(p_condition || p_steered), in nats."""
    return token_kl(batch.conditioned.log_softmax(-1), cell.log_softmax(-1))


def _logits(model: Model, ids: Tensor, mask: Tensor, columns: Tensor) -> Tensor:
    """Logits float32 [row, column, vocabulary] at the columns; the LM head runs there only."""
    if picks_columns(model):
        output = model.network(
            input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=columns
        )
        return torch.as_tensor(output.logits).float()
    logits = model.network(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return torch.as_tensor(logits[:, columns.to(logits.device)]).float()


@dataclass
class Scorer:
    """Scores texts under cells, batch by batch; `trunks` keeps what lies below the last layer."""

    model: Model
    texts: Sequence[Text]
    measure: Measure
    n_cells: int

    def __post_init__(self) -> None:
        order = sorted(range(len(self.texts)), key=lambda index: len(self.texts[index].ids))
        self.groups = _groups(self.model, [self.texts[index] for index in order], self.n_cells + 1)
        ends = np.cumsum([len(group) for group in self.groups]).tolist()
        self.indices = [
            order[end - len(group) : end] for end, group in zip(ends, self.groups, strict=True)
        ]
        self._batches = [Batch.of(self.model, group) for group in self.groups]
        self._trunks: dict[int, Trunk] = {}

    @torch.no_grad()
    def score(self, group: int, cells: Sequence[Cell]) -> Sums:
        """Sums over each text's scored tokens, float64 [cell, text of the group]; `indices` says
        which texts those are.

        Raises:
            HookError: a cell was never applied.
        """
        batch = self._batches[group]
        layer = _shared_layer(cells)
        trunk = None
        if layer is not None and takes_trunks(self.model):
            trunk = self._trunk(group, layer, batch)
        # The unsteered texts ride in the first batch: costs are measured from them.
        steered = [UNSTEERED, *(cell for cell in cells if cell)]
        most = self._at_once(batch)
        made = (
            logits
            for start in range(0, len(steered), most)
            for logits in self._forward(batch, steered[start : start + most], trunk)
        )
        base = next(made)
        sums = []
        for cell in cells:
            logits = batch.conditioned if cell is CONDITION else next(made) if cell else base
            values = self.measure(logits, base, batch) * batch.weights.to(logits.device)
            sums.append(values.double().sum(-1).cpu().numpy())
        return np.stack(sums)

    def _at_once(self, batch: Batch) -> int:
        """How many cells of a batch run together."""
        logits = 4 * vocabulary(self.model) * batch.targets.numel()
        return max(1, min(LOGITS_BUDGET // logits, token_budget(self.model) // batch.ids.numel()))

    def _trunk(self, group: int, layer: int, batch: Batch) -> Trunk:
        lower = self._trunks.get(group)
        if lower is not None and lower.layer == layer:
            return lower
        if lower is not None and lower.layer > layer:
            lower = None
        self._trunks[group] = grown(self.model, batch.ids, batch.mask, layer, lower)
        return self._trunks[group]

    def _forward(self, batch: Batch, cells: Sequence[Cell], trunk: Trunk | None) -> list[Tensor]:
        """Logits of each cell, [text, column, vocabulary]."""
        times = len(cells)
        own = [site_functions(cell or (), batch.clock()) for cell in cells]
        functions = _by_rows(own, len(batch.ids))
        with placed(self.model, functions), replayed(self.model, trunk, times):
            logits = _logits(
                self.model, batch.ids.repeat(times, 1), batch.mask.repeat(times, 1), batch.columns
            )
        return list(logits.chunk(times))


def score(
    model: Model,
    texts: Sequence[Text],
    cells: Sequence[Cell],
    measure: Measure,
    on_done: Callable[[int], None] = lambda n_scores: None,
) -> Sums:
    """Sums over each text's scored tokens under every cell, float64 [cell, text]."""
    scorer = Scorer(model, texts, measure, len(cells))
    sums = np.zeros((len(cells), len(texts)))
    for group, indices in enumerate(scorer.indices):
        sums[:, indices] = scorer.score(group, cells)
        on_done(len(cells) * len(indices))
    return sums


def _groups(model: Model, texts: Sequence[Text], n_cells: int) -> list[list[Text]]:
    """Texts of like length, as many as fit with all their cells."""
    tokens = token_budget(model)
    logits = LOGITS_BYTES.get(model.device.type, LOGITS_BYTES["cuda"]) // (4 * vocabulary(model))
    groups: list[list[Text]] = []
    for text in texts:
        here = [*(groups[-1] if groups else []), text]
        columns = len({position for one in here for position in one.scored})
        rows = len(here) * n_cells
        if groups and rows * len(text.ids) <= tokens and rows * columns <= logits:
            groups[-1].append(text)
        else:
            groups.append([text])
    return groups


def _shared_layer(cells: Sequence[Cell]) -> int | None:
    """The highest layer below which, and at whose `resid_post`, all cells leave the texts alone."""
    sites = [site for cell in cells for steer in cell or () for site in steer.sites()]
    lowest = min(
        (site.layer if site.name == "resid_post" else site.layer - 1 for site in sites), default=-1
    )
    return lowest if lowest >= 0 else None


def _by_rows(cells: Sequence[dict[Site, SiteFunction]], n: int) -> dict[Site, SiteFunction]:
    """Functions that give each cell's n rows to its own."""

    def function(site: Site) -> SiteFunction:
        own = [cell.get(site) for cell in cells]

        def edit(resid: Tensor) -> Tensor:
            parts = []
            for one, rows in zip(own, torch.split(resid, n), strict=True):
                edited = rows if one is None else one(rows)
                parts.append(rows if edited is None else edited)
            return torch.cat(parts)

        return edit

    return {site: function(site) for cell in cells for site in cell}
