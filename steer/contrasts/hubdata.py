"""Records from a dataset of the Hugging Face hub: `hf:OWNER/NAME[:CONFIG][@SPLIT]`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

from steer.base.errors import InputError, UsageError
from steer.base.hub import OFFLINE, hub_answers, is_offline_mode
from steer.contrasts.records import Record
from steer.vectors.sites import listed

PREFIX = "hf:"
_NAME = re.compile(
    r"hf:(?P<id>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?"
)


def rows(name: str) -> Iterator[Record]:
    """The rows of a dataset's split: the one that is named, else `train`, else the only one.

    Raises:
        UsageError: the name is not of that form.
        InputError: the library is missing, the hub cannot be reached, the dataset cannot be loaded,
            or it has no such split.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise UsageError(f"{name!r} names no dataset", hint="write hf:OWNER/NAME[:CONFIG][@SPLIT]")
    for number, row in enumerate(_load(match["id"], match["config"], match["split"])):
        yield f"{name}, row {number}", row


def _load(dataset: str, config: str | None, split: str | None) -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError(
            "datasets of the hub need the `datasets` library",
            hint="pip install 'steer-activations[datasets]'",
        ) from None
    if not is_offline_mode() and not hub_answers():
        raise InputError(
            f"the hub cannot be reached: the dataset {dataset} is not loaded",
            hint="use a file, or set HF_HUB_OFFLINE=1 for the copy in the library's cache",
        )
    datasets.disable_progress_bars()
    # Silences the library's own report of each retry; the failure is reported below.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    try:
        splits = datasets.load_dataset(dataset, config)
    # The library's exceptions have no common base class.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        if is_offline_mode():
            raise InputError(
                f"the hub is not used ({OFFLINE}), and the library's cache has no dataset"
                f" {dataset}: {reason}",
                hint="is the name right? a file needs no hub",
            ) from error
        raise InputError(
            f"cannot load the dataset {dataset}: {reason}",
            hint="is the name right, and the hub reachable? a file works offline",
        ) from error
    chosen = split or ("train" if "train" in splits or len(splits) > 1 else next(iter(splits)))
    if chosen not in splits:
        raise InputError(
            f"the dataset {dataset} has no split {chosen}",
            hint=f"write @SPLIT; it has {listed(splits)}",
        )
    return splits[chosen]
