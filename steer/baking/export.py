"""Bake steers: load the model, check everything, and write a checkpoint or a LoRA adapter."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from steer.baking import folder as folders
from steer.baking import lora as adapters
from steer.baking.bakeable import check_bakeable
from steer.baking.check import TEXTS
from steer.baking.target import check_folder
from steer.base.errors import SteerError, UsageError
from steer.base.progress import Progress, silent
from steer.models import loading
from steer.models.model import Model
from steer.models.source import DTYPES, ModelSource
from steer.steering.steers import Steer, check_all_fit
from steer.vectors.sites import listed

_SIZE = re.compile(r"\d+(\.\d+)?[KMGT]I?B", re.IGNORECASE)


def export(
    source: ModelSource,
    steers: Sequence[Steer],
    out: Path,
    *,
    approximate: bool = False,
    lora: bool = False,
    max_shard_size: str = "5GB",
    texts: Sequence[str] | None = None,
    allow_other_model: bool = False,
    force: bool = False,
    load: Callable[[ModelSource], Model] = loading.load,
    warn: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> folders.Report | adapters.LoraReport:
    """Bake `steers` into the model of `source`, which is loaded in float32.

    source: its dtype is the type of the weights to write, by default the type in which the model is
    stored. lora: write an adapter instead of a checkpoint. max_shard_size: of one weight file, such
    as `5GB`. texts: to compare the result with the hooks, by default `steer.baking.check.TEXTS`.
    load: loads the model. warn: called with each warning about vectors of another model.

    Raises:
        UsageError: options exclude each other, or `max_shard_size` is not a size.
        VectorError, ModelError: weights cannot express a steer, and `approximate` is off, or a
            vector does not fit the model.
        IdleError: the steers change nothing, or too little to tell.
        SteerError: the folder exists already, or cannot be written.
    """
    if not _SIZE.fullmatch(max_shard_size):
        raise UsageError(f"{max_shard_size!r} is not a size", hint="write 5GB or 500MB")
    if lora and (approximate or source.dtype):
        raise UsageError(
            "an adapter is exact and in float32, so it excludes --approximate and --dtype"
        )
    check_bakeable(steers)
    check_folder(out, force=force)
    dtype = source.dtype or loading.stored_dtype(source)
    if dtype not in DTYPES:
        raise SteerError(
            f"{source.name} is stored in {dtype}", hint=f"pass --dtype with one of {listed(DTYPES)}"
        )
    source = replace(source, dtype="float32")
    model = load(source)
    vectors = [vector for steer in steers for vector in steer.vectors]
    for text in check_all_fit(vectors, model.identity, allow_other_model=allow_other_model):
        warn(text)
    texts = TEXTS if texts is None else texts
    with progress("baking", folders.N_STAGES) as advance:

        def on_stage(stage: str) -> None:
            advance(1, stage)

        if lora:
            return adapters.export(model, steers, out, texts=texts, force=force, on_stage=on_stage)
        return folders.export(
            model,
            steers,
            out,
            source,
            dtype=dtype,
            max_shard_size=max_shard_size,
            approximate=approximate,
            texts=texts,
            force=force,
            on_stage=on_stage,
        )
