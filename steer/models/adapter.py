"""Merge PEFT adapters into the weights of their base model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steer.base.errors import ModelError
from steer.base.files import at_home, read_bytes
from steer.base.hub import OFFLINE

#: The most bytes of an adapter's weights.
_MAX_WEIGHTS = 20_000_000_000
INSTALL = "pip install 'peft>=0.17'"
#: Kinds that prepend tokens or keys instead of changing weights.
_PROMPTS = (
    "PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "ADAPTION_PROMPT",
    "MULTITASK_PROMPT_TUNING",
)


def merged(network: Any, name: str, *, offline: bool) -> tuple[Any, str]:
    """`network` with an adapter merged into its weights, and the sha256 of the adapter's files.

    Raises:
        ModelError: peft is missing, or the adapter is of a kind that does not change weights.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise ModelError(f"--adapter needs the package peft: {error}", hint=INSTALL) from None
    folder = _folder(name, offline=offline)
    config = PeftConfig.from_pretrained(str(folder))
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind in _PROMPTS:
        raise ModelError(
            f"the adapter {name} is of the kind {kind}, which cannot be merged into weights",
            hint="use a LoRA, or another kind that changes weights",
        )
    wrapped = PeftModel.from_pretrained(network, str(folder), is_trainable=False)
    return wrapped.merge_and_unload(), _hash(folder)


def is_installed() -> bool:
    """Whether peft is there."""
    return importlib.util.find_spec("peft") is not None


@contextmanager
def attached(network: Any, folder: Path) -> Iterator[None]:
    """`network` with an adapter beside its weights, for the block."""
    from peft import PeftModel

    with warnings.catch_warnings():
        # A constant beside a layer without a bias cannot be merged, and is not to be.
        warnings.simplefilter("ignore")
        wrapped = PeftModel.from_pretrained(network, str(folder), is_trainable=False)
    wrapped.eval()
    try:
        yield
    finally:
        wrapped.unload()


def _folder(name: str, *, offline: bool) -> Path:
    path = at_home(name)
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = ["adapter_config.json", "adapter_model*"]
    try:
        downloaded = snapshot_download(name, allow_patterns=patterns, local_files_only=offline)
    except LocalEntryNotFoundError:
        fact = f"is not used ({OFFLINE})" if offline else "cannot be reached"
        raise ModelError(
            f"the hub {fact}, and the adapter {name} is not in its cache here",
            hint="is the name right? an adapter's folder needs no hub",
        ) from None
    return Path(downloaded)


def _hash(folder: Path) -> str:
    """A hash of the weights and of the settings that affect them, without paths and notes."""
    digest = hashlib.sha256()
    config = json.loads(read_bytes(folder / "adapter_config.json", limit=10_000_000))
    for key in ("base_model_name_or_path", "inference_mode", "revision", "auto_mapping"):
        config.pop(key, None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    for path in sorted(folder.glob("adapter_model*")):
        digest.update(path.name.encode() + read_bytes(path, limit=_MAX_WEIGHTS))
    return digest.hexdigest()
