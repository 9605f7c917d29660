"""A distilled edit as a vector file has it: the numbers, their statistics, and the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from steer.contrasts.reading import Reading
from steer.distillation.lessons import Lesson, nats_per_token
from steer.distillation.lowrank import Edits
from steer.distillation.settings import DistillSettings
from steer.distillation.task import Task
from steer.distillation.texts import Texts
from steer.fitting import fit
from steer.fitting.fitting import rounded, spread
from steer.hooks.record import record
from steer.intervals import Interval
from steer.models.model import Model
from steer.sites import Site
from steer.steering.operation import Coefficient
from steer.steering.scope import Scope
from steer.steering.steers import Steer
from steer.vectors.metadata import LayerStatistics, Metadata, Recommended
from steer.vectors.provenance import Distillation, Method, Read
from steer.vectors.vector import SteeringVector

#: Texts that are enough to know the mean length of an activation.
ENOUGH_TEXTS = 64


def scales(model: Model, lessons: Sequence[Lesson]) -> dict[Site, float]:
    """Root mean square of an activation's entries at each layer, over the texts' own tokens."""
    sites = [Site(layer) for layer in model.hooks.layers("resid_post")]
    _, norms = read_means(model, [(one.baseline, one.n) for one in lessons[:ENOUGH_TEXTS]], sites)
    width = model.identity.d_model
    return {site: float(norm) / width**0.5 for site, norm in zip(sites, norms.mean(0), strict=True)}


def read_means(
    model: Model, rows: Sequence[tuple[tuple[int, ...], int]], sites: Sequence[Site]
) -> tuple[fit.Array, fit.Array]:
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
    texts: Texts,
) -> SteeringVector:
    """The edits as a file has them, but for the evidence."""
    sites, lessons, chat = edits.sites, texts.held_out, texts.conditions.chat
    positive, _ = read_means(model, [(one.conditioned, one.n) for one in lessons], sites)
    negative, norms = read_means(model, [(one.baseline, one.n) for one in lessons], sites)
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
        rank=settings.rank,
        method=Method(name="mean_diff"),  # until the evidence is there, which takes a vector
        read=Read(positions=settings.scope, chat=chat or msgspec.UNSET),
        contrast=texts.contrast,
        statistics=tuple(statistics),
        recommended=Recommended(layers=layers, coefficient=1.0, evidence=""),
    )
    return SteeringVector(metadata, *stacked)


def with_evidence(
    task: Task, settings: DistillSettings, vector: SteeringVector, found: Interval, best_step: int
) -> SteeringVector:
    """The vector with R and what its own texts cost under the unsteered model."""
    layers, lessons = vector.metadata.layers, task.texts.held_out
    steer = Steer(vector, Coefficient(1.0), layers, Scope(settings.scope))
    own = task.own_nats((), settings.seed)
    steered = task.own_nats((steer,), settings.seed)
    conditioned = nats_per_token(task.model, [(one.baseline, one.n) for one in lessons])
    told = Distillation(
        samples=vector.metadata.contrast.n,
        held_out=len(lessons),
        max_tokens=settings.max_tokens,
        batch_size=settings.batch_size,
        steps=settings.steps,
        best_step=best_step,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        recovery=rounded(found.value),
        interval=(rounded(found.low), rounded(found.high)),
        extra_nats=rounded(steered - own),
        condition_extra_nats=rounded(conditioned - own),
    )
    evidence = f"recovery {found} on {len(lessons)} held-out texts"
    metadata = msgspec.structs.replace(
        vector.metadata,
        method=Method(name="distill", distillation=told),
        recommended=Recommended(layers=layers, coefficient=1.0, evidence=evidence),
    )
    return replace(vector, metadata=metadata)
