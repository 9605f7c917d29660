"""The model that the user names with `-m` and related options, checked without heavy imports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from steer import pocket
from steer.base.errors import ModelError, UsageError
from steer.base.files import at_home, reported
from steer.base.processes import several
from steer.vectors.rendering import DEFAULT_SETTINGS, TemplateSettings
from steer.vectors.sites import listed

POCKET = "pocket"
DTYPES = ("float32", "float16", "bfloat16")

_HUB_FILE = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+\.gguf)", re.IGNORECASE)
#: The path of a repository's commit in huggingface_hub's cache.
_SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/[0-9a-f]{40}$")
_PART_OF_GGUF = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that the user names, and how to load it; None means the best for this machine.

    name: `pocket`, a folder, a hub id, a GGUF file, or one on the hub
    (`hf://owner/repo/file.gguf`). adapter: a folder or hub id of a PEFT adapter to merge into the
    model. device: `cpu`, `cuda`, `cuda:1`, `mps`; by default the first accelerator. device_map:
    Hugging Face's (`auto` spreads a model over devices). tensor_parallel: spread each matrix over
    the processes that torchrun has started. dtype: one of `DTYPES`; by default float32 on a CPU,
    elsewhere the checkpoint's own. fast: by default, use bfloat16 on a CPU that supports it, for
    models that are saved in it. offline: use only the hub's cache. template: settings of its chat
    template. assumed: nobody has named the model.

    Raises:
        ModelError: the folder or file does not exist or holds no model.
        UsageError: options are invalid, or exclude each other.
    """

    name: str = POCKET
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    device_map: str | None = None
    trust_remote_code: bool = False
    tensor_parallel: bool = False
    adapter: str | None = None
    offline: bool = False
    fast: bool = False
    template: TemplateSettings = DEFAULT_SETTINGS
    assumed: bool = False

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UsageError(
                "--model names no model",
                hint="pass a folder, a hub id or a .gguf file, or leave --model out",
            )
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f"{self.dtype!r} is not a dtype", hint=f"use one of {listed(DTYPES)}")
        if self.device is not None and self.device_map is not None:
            raise UsageError("--device and --device-map exclude each other")
        if self.tensor_parallel and (self.device or self.device_map):
            raise UsageError(
                "--tp chooses the devices itself", hint="leave out --device and --device-map"
            )
        if self.tensor_parallel != several():
            raise UsageError(
                "torchrun and --tp go together: torchrun starts the processes, --tp shares a model"
                " among them",
                hint="write: torchrun --nproc-per-node 2 -m steer extract ... --tp",
            )
        self._check_path()
        self._check_adapter()

    def _check_path(self) -> None:
        path = self._path
        with reported(path):
            is_folder, is_file, exists = path.is_dir(), path.is_file(), path.exists()
        if self.gguf is not None:
            if _PART_OF_GGUF.search(self.gguf):
                raise ModelError(
                    f"{self.name} is one part of a model that is split over several files",
                    hint="join them with llama.cpp: llama-gguf-split --merge FIRST-PART WHOLE.gguf",
                )
            if self._hub_file is None and not is_file:
                raise ModelError(
                    f"there is no file {self.name}",
                    hint="name a .gguf file, or one on the hub: hf://owner/repo/file.gguf",
                )
        elif self.name.startswith("hf://"):
            raise UsageError(
                f"{self.name} names no model",
                hint="write a hub id as owner/repo, or a file as hf://owner/repo/file.gguf",
            )
        elif is_folder:
            if (path / "adapter_config.json").is_file():
                raise ModelError(
                    f"the folder {self.name} holds a PEFT adapter",
                    hint="name its base model, and the adapter:"
                    f" --model=BASE --adapter={self.name}",
                )
            if not (path / "config.json").is_file():
                raise ModelError(f"the folder {self.name} holds no model: it has no config.json")
        elif is_file:
            raise ModelError(
                f"{self.name} is a file, but not a GGUF file", hint="name the folder that it is in"
            )
        elif exists:
            raise ModelError(
                f"{self.name} is neither a folder nor a file", hint="name a model's folder"
            )
        elif path.is_absolute() or self.name.startswith((".", "~")) or self.name.count("/") > 1:
            raise ModelError(
                f"there is no model folder {self.name}",
                hint="name an existing folder, or a hub id",
            )

    def _check_adapter(self) -> None:
        if self.adapter is None:
            return
        path = at_home(self.adapter)
        if not self.adapter.strip():
            raise UsageError("--adapter names no adapter", hint="pass a folder or a hub id")
        if path.is_dir():
            if not (path / "adapter_config.json").is_file():
                raise ModelError(
                    f"the folder {self.adapter} holds no PEFT adapter: it has no"
                    " adapter_config.json"
                )
        elif path.is_absolute() or self.adapter.startswith((".", "~")):
            raise ModelError(f"there is no adapter folder {self.adapter}")
        if self.tensor_parallel:
            raise UsageError("--adapter and --tp exclude each other")

    @property
    def gguf(self) -> str | None:
        """The name of the GGUF file at `location`; None for other models."""
        if self._hub_file is not None:
            return self._hub_file[3]
        return self._path.name if self.name.lower().endswith(".gguf") else None

    @property
    def location(self) -> str:
        """The folder or hub id for Hugging Face to load."""
        if self._hub_file is not None:
            return self._hub_file[1]
        if self.gguf is not None:
            return str(self._path.parent)
        return str(self._path) if self._path.is_dir() else self.name

    @property
    def commit(self) -> str | None:
        """The branch, tag or commit that the user named."""
        return self.revision or (self._hub_file[2] if self._hub_file is not None else None)

    @property
    def folder(self) -> Path | None:
        """The local folder; None for a GGUF file or a hub id."""
        return self._path if self.gguf is None and self._path.is_dir() else None

    @property
    def on_hub(self) -> bool:
        """Whether the model is on the hub."""
        return not Path(self.location).is_dir()

    @property
    def public_id(self) -> str:
        """The model's name to publish, without a local path.

        The hub id; for a folder in the hub's cache, its repository; for another folder or a file,
        its own name. With an adapter, both names.
        """
        adapter = "" if self.adapter is None else f"+{_public_name(self.adapter)}"
        if self.name == POCKET:
            return POCKET + adapter
        if self._hub_file is not None:
            return f"{self._hub_file[1]}/{self._hub_file[3]}{adapter}"
        return _public_name(self.name) + adapter

    @property
    def _hub_file(self) -> re.Match[str] | None:
        return _HUB_FILE.fullmatch(self.name)

    @property
    def _path(self) -> Path:
        return pocket.path() if self.name == POCKET else at_home(self.name)


def _public_name(name: str) -> str:
    path = at_home(name)
    if not path.exists():
        return name
    path = path.absolute()
    if match := _SNAPSHOT.search(path.as_posix()):
        return f"{match[1]}/{match[2]}"
    return path.resolve().name
