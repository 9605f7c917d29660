"""The vector of a distilled edit: the numbers, their statistics, and the evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from steer.base.intervals import Interval
from steer.contrasts.reading import Reading
from steer.distillation.below import by_length
from steer.distillation.lessons import Lesson
from steer.distillation.lowrank import Edits
from steer.distillation.ridge import Spread
from steer.distillation.settings import DistillSettings
from steer.fitting import fit
from steer.fitting.fitting import rounded, spread
from steer.hooks.head import Ending, ending_rows
from steer.hooks.record import record, run
from steer.methods.method import FittedEdit
from steer.methods.registry import distill_methods
from steer.models.model import Model
from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation
from steer.vectors.provenance import ContrastSummary, Distillation, Method, Part, Read
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

#: Token ids, and the number of tokens to read at the end.
Rows = Sequence[tuple[tuple[int, ...], int]]

#: Texts for measuring the mean length of activations.
ENOUGH_TEXTS = 64


def spreads(model: Model, lessons: Sequence[Lesson], *, start: int | None) -> dict[Site, Spread]:
    """The spread of activations at each layer, over the tokens that an edit changes.

    start: the first of them, or None for the response's.
    """
    width = model.identity.d_model
    sums = {
        Site(layer): torch.zeros((2, width), dtype=torch.float64)
        for layer in model.hooks.layers("resid_post")
    }
    n_tokens = 0
    for group in by_length(lessons[:ENOUGH_TEXTS]):
        rows = [
            (lesson.baseline, lesson.n if start is None else len(lesson.baseline) - 1 - start)
            for lesson in group
        ]
        n_tokens += sum(n for _, n in rows)

        def reader(site: Site, rows: Sequence[Ending] = rows) -> Callable[[Tensor], None]:
            def read(resid: Tensor) -> None:
                x = ending_rows(resid, rows).double()
                sums[site] += torch.stack([x.sum(0), x.square().sum(0)]).cpu()

            return read

        ids, mask = model.padded([row for row, _ in rows], left=False)
        with torch.no_grad():
            run(model, ids, mask, {site: reader(site) for site in sums})
    return {
        site: Spread.of(total / n_tokens, squares / n_tokens - (total / n_tokens).square())
        for site, (total, squares) in sums.items()
    }


def read_means(model: Model, rows: Rows, sites: Sequence[Site]) -> tuple[fit.Array, fit.Array]:
    """Mean activations [row, site, d_model] and mean lengths [row, site] of the last n tokens."""
    readings = [Reading(ids, ((len(ids) - n, len(ids)),)) for ids, n in rows]
    means = np.zeros((len(rows), len(sites), model.identity.d_model))
    norms = np.zeros((len(rows), len(sites)))
    for batch in record(model, readings, sites):
        means[batch.indices], norms[batch.indices] = batch.activations, batch.norms
    return means, norms


def as_vector(
    model: Model,
    settings: DistillSettings,
    edits: Edits,
    rows: tuple[Rows, Rows],
    contrast: ContrastSummary,
    *,
    chat: bool = False,
) -> SteeringVector:
    """The vector of an edit, without its evidence. rows: held-out texts of both sides."""
    sites = edits.sites
    positive, _ = read_means(model, rows[0], sites)
    negative, norms = read_means(model, rows[1], sites)
    stacked = [np.stack(parts) for parts in zip(*map(edits.arrays, sites), strict=True)]
    statistics = []
    for index, site in enumerate(sites):
        direction, *factors = edits.arrays(site)
        added = direction[None]
        if factors:
            down, up = factors
            added = direction + negative[:, index] @ down.T @ up.T
        unit = fit.unit(direction.astype(np.float64))
        statistics.append(
            LayerStatistics(
                layer=site.layer,
                norm=rounded(float(np.linalg.norm(added, axis=1).mean())),
                resid_norm=rounded(float(norms[:, index].mean())),
                positive=spread(positive[:, index] @ unit),
                negative=spread(negative[:, index] @ unit),
            )
        )
    layers = tuple(site.layer for site in sites)
    metadata = Metadata(
        name=settings.name,
        description=settings.description,
        license=settings.license,
        model=model.identity,
        site="resid_post",
        layers=layers,
        rank=edits.rank,
        method=Method(name="mean_diff"),  # replaced by `with_evidence`
        read=Read(
            positions="response" if edits.start is None else "all",
            chat=chat or msgspec.UNSET,
            **(model.template.recorded if chat else {}),
        ),
        contrast=contrast,
        statistics=tuple(statistics),
        recommended=Recommendation(
            layers=layers,
            coefficient=1.0,
            scope=f"{edits.start}-" if edits.start else None,
            evidence="",
        ),
    )
    return SteeringVector(metadata, *stacked)


def with_evidence(
    vector: SteeringVector,
    settings: DistillSettings,
    fitted: FittedEdit,
    recovered: Interval,
    *,
    held_out: int,
    extra_nats: float,
    condition_extra_nats: float,
    evidence: str,
    objective: Literal["condition", "pairs"] = "condition",
    plain: Interval | None = None,
    unrelated: tuple[Interval, Interval] | None = None,
    within: Sequence[Part] = (),
    by_coefficient: tuple[tuple[float, float, float, float], ...] = (),
) -> SteeringVector:
    """The vector with its recovery, and the cost of its texts under the unsteered model.

    plain: recovery on the plain model's own texts. unrelated: KL on unrelated texts, of the steered
    model and of the condition.
    """
    method = distill_methods().named(settings.method)
    descended = method.descends
    distillation = Distillation(
        samples=vector.metadata.contrast.n,
        held_out=held_out,
        max_tokens=settings.max_tokens,
        batch_size=settings.batch_size if descended else 0,
        steps=settings.steps if descended else 0,
        best_step=fitted.best_step,
        learning_rate=settings.learning_rate if descended else 0.0,
        seed=settings.seed,
        recovery=rounded(recovered.value),
        interval=(rounded(recovered.low), rounded(recovered.high)),
        extra_nats=rounded(extra_nats),
        condition_extra_nats=rounded(condition_extra_nats),
        objective=objective,
        method=method.name,
        ridge=fitted.ridge,
        plain_recovery=None if plain is None else _rounded(plain),
        unrelated_kl=None if unrelated is None else _rounded(unrelated[0]),
        condition_unrelated_kl=None if unrelated is None else _rounded(unrelated[1]),
        within=tuple(within),
        by_coefficient=by_coefficient,
    )
    metadata = msgspec.structs.replace(
        vector.metadata,
        method=Method(
            name="distill",
            distillation=distillation,
            options=method.settings(settings.options),
            package=method.package or "",
        ),
        recommended=msgspec.structs.replace(vector.metadata.recommended, evidence=evidence),
    )
    return replace(vector, metadata=metadata)


def _rounded(interval: Interval) -> tuple[float, float, float]:
    return rounded(interval.value), rounded(interval.low), rounded(interval.high)
