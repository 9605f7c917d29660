"""What `-m` and its companions mean, found out before anything heavy is imported."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model as the user names it, and how to load it; None means the best for this machine.

    name: `pocket`, a folder, or a hub id. device: `cpu`, `cuda`, `cuda:1`, `mps`; by default the
    first accelerator. device_map: given to Hugging Face as it is (`auto` spreads a model over
    devices). tensor_parallel: spread each matrix over the processes that torchrun has started.
    dtype: one of `DTYPES`; by default float32 on a CPU, elsewhere the checkpoint's own. template:
    what its chat template gets beside messages.

    Raises:
        ModelError: a folder that is not there or holds no model.
        UsageError: options that mean nothing, or exclude each other.
    """

    name: str = POCKET
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    device_map: str | None = None
    trust_remote_code: bool = False
    tensor_parallel: bool = False
    template: TemplateSettings = DEFAULT_SETTINGS

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f"{self.dtype!r} is not a dtype", hint=f"use one of {listed(DTYPES)}")
        if self.device is not None and self.device_map is not None:
            raise UsageError("--device and --device-map exclude each other")
        if self.tensor_parallel and (self.device or self.device_map):
            raise UsageError("--tp places the model itself", hint="leave out where it goes")
        if self.tensor_parallel != several():
            raise UsageError(
                "torchrun runs a command several times at once, --tp makes that one model",
                hint="write: torchrun --nproc-per-node 2 -m steer extract ... --tp",
            )
        path = self._path
        with reported(path):
            is_folder = path.is_dir()
        if is_folder:
            if not (path / "config.json").is_file():
                raise ModelError(f"the folder {self.name} holds no model: it has no config.json")
        elif path.is_absolute() or self.name.startswith((".", "~")) or self.name.count("/") > 1:
            raise ModelError(
                f"there is no model folder {self.name}",
                hint="name a folder that is there, or a hub id",
            )

    @property
    def location(self) -> str:
        """What Hugging Face is to load: a folder or a hub id."""
        return str(self._path) if self._path.is_dir() else self.name

    @property
    def public_id(self) -> str:
        """The hub id, or a folder's own name: where it lies is nobody else's concern."""
        if self.name == POCKET:
            return POCKET
        return self._path.resolve().name if self._path.is_dir() else self.name

    @property
    def _path(self) -> Path:
        return pocket.path() if self.name == POCKET else at_home(self.name)
