"""Export steers as a LoRA adapter in PEFT's format, which leaves the weights unchanged.

A module that writes y = W x + b to the residual stream, and should write P y + v with P = I + B C,
gets

    lora_B = B,   lora_A = C W,   bias of lora_B = (P - I) b + v

(LoRA: Hu et al. 2021, arXiv 2106.09685). So constants at a layer's output, and ablation at every
write, are exact. A low-rank edit depends on the whole residual stream, not only on what one matrix
writes, and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from steer import __version__
from steer.baking.check import TEXTS, Difference, Reference, log_probs, reference
from steer.baking.edits import Add, Edits, Writer, edits_of
from steer.baking.families import OUT_IN, Family, family_of
from steer.baking.target import REPORT, new_folder
from steer.base.errors import ModelError, VectorError
from steer.models.adapter import attached, is_installed
from steer.models.model import Model
from steer.steering.steers import Steer

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Factors:
    """The change of one module: float32 lora_A [rank, in], lora_B [out, rank], and a constant
    [out], if any. of_embedding: A is [rank, vocabulary]."""

    module: str
    down: Tensor
    up: Tensor
    bias: Tensor | None
    of_embedding: bool


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter. transposed: its modules store their weights as [in, out]."""

    factors: tuple[Factors, ...]
    transposed: bool

    @property
    def rank(self) -> int:
        return max(len(factor.down) for factor in self.factors)

    @property
    def has_bias(self) -> bool:
        return any(factor.bias is not None for factor in self.factors)


def adapter_of(model: Model, steers: Sequence[Steer]) -> Adapter:
    """The adapter with the effect of the steers.

    Raises:
        VectorError: weights cannot express a steer, or it is a learned token.
        ModelError: the family has no linear module in the place.
    """
    for steer in steers:
        if steer.is_token:
            raise VectorError(
                f"{steer.vector.name!r} is a learned token, and an adapter has no vocabulary",
                hint="bake it into a checkpoint: leave --lora out",
            )
    return _LoraBuilder(model).adapter(edits_of(steers, model.hooks))


class _LoraBuilder:
    def __init__(self, model: Model) -> None:
        self.model, self.name = model, model.hooks.architecture
        self.family: Family = family_of(self.name)
        self.weights: dict[str, Tensor] = dict(model.network.state_dict())

    def adapter(self, edits: Edits) -> Adapter:
        factors = tuple(self._factors(writer, edits[writer]) for writer in edits)
        axes = {
            self.family.attention_axis if writer.part == "attention" else self.family.axis
            for writer in edits
            if writer.part != "embedding"
        }
        if len(axes) > 1:
            self._refuse("attention and MLPs keep their matrices differently")
        adapter = Adapter(factors, transposed=bool(axes) and axes != {OUT_IN})
        if adapter.has_bias and any(factor.of_embedding for factor in factors):
            self._refuse("PEFT has no constants in an adapter that changes the embedding")
        return adapter

    def _factors(self, writer: Writer, steps: Sequence[Any]) -> Factors:
        module = self._module(writer)
        width = self.model.identity.d_model
        up = torch.zeros((width, 0), dtype=torch.float64)
        down = torch.zeros((0, width), dtype=torch.float64)
        constant = torch.zeros(width, dtype=torch.float64)
        for step in steps:
            if isinstance(step, Add):
                constant += torch.from_numpy(step.delta.copy())
                continue
            unit = torch.from_numpy(step.direction.copy()).double()
            up, down = (
                torch.cat([up, -step.share * unit[:, None]], 1),
                torch.cat([down, (unit + unit @ up @ down)[None]]),
            )
            constant -= step.share * unit * (unit @ constant)
        scale = self.family.scale
        if scale is not None and writer.part != "embedding":
            constant = constant / getattr(self.model.network.config, scale)
        weight = self._weight(f"{module}.weight")
        own = self.weights.get(f"{module}.bias")
        if own is not None:
            constant = constant + up @ (down @ own.cpu().double())
        if writer.part == "embedding":
            return self._embedding(module, weight, up, down, constant)
        is_out_in = self._axis(writer) == OUT_IN
        inside = down @ weight if is_out_in else down @ weight.T
        if not len(inside):  # a constant alone: PEFT has no adapter of rank 0
            inside, up = torch.zeros((1, inside.shape[1])), torch.zeros((width, 1))
        bias = constant.float() if bool(constant.any()) else None
        return Factors(module, inside.float(), up.float(), bias, of_embedding=False)

    def _embedding(
        self, module: str, weight: Tensor, up: Tensor, down: Tensor, constant: Tensor
    ) -> Factors:
        """The factors of an embedding, which has no bias: its constant is a row of ones."""
        inner = self.model.network.get_input_embeddings()
        scale = float(getattr(inner, "embed_scale", 1.0))
        inside = down @ weight.T
        if bool(constant.any()):
            up = torch.cat([up, constant[:, None] / scale], 1)
            inside = torch.cat([inside, torch.ones((1, len(weight)), dtype=torch.float64)])
        return Factors(module, inside.float(), up.float(), None, of_embedding=True)

    def _module(self, writer: Writer) -> str:
        family, layer = self.family, f"{self.family.blocks}.{writer.layer}."
        if writer.part == "embedding":
            if len(family.embeddings) != 1:
                self._refuse("its stream does not begin with one embedding")
            return family.embeddings[0]
        if family.post_norms is not None:
            self._refuse("a norm follows what its layers write")
        paths = [family.attention] if writer.part == "attention" else list(family.mlp)
        known = [path for path in paths if f"{layer}{path}.weight" in self.weights]
        if len(known) != 1 or family.experts:
            self._refuse(f"its {writer.part} does not write with one linear module")
        return layer + known[0]

    def _axis(self, writer: Writer) -> int:
        return self.family.attention_axis if writer.part == "attention" else self.family.axis

    def _weight(self, name: str) -> Tensor:
        if name not in self.weights:
            self._refuse(f"there is no {name}")
        return self.weights[name].cpu().double()

    def _refuse(self, reason: str) -> NoReturn:
        raise ModelError(
            f"{self.name} takes no LoRA for this: {reason}",
            hint="`steer bake` without --lora, or `steer apply`, which steers with hooks",
        )


def write(folder: Path, adapter: Adapter, model: Model) -> None:
    """Write PEFT's two files into an existing folder."""
    rank, tensors = adapter.rank, {}
    for low_rank in adapter.factors:
        down, up = (
            torch.zeros((rank, low_rank.down.shape[1])),
            torch.zeros((len(low_rank.up), rank)),
        )
        down[: len(low_rank.down)], up[:, : len(low_rank.down)] = low_rank.down, low_rank.up
        prefix = f"base_model.model.{low_rank.module}."
        if low_rank.of_embedding:
            tensors[f"{prefix}lora_embedding_A"], tensors[f"{prefix}lora_embedding_B"] = down, up
            continue
        tensors[f"{prefix}lora_A.weight"], tensors[f"{prefix}lora_B.weight"] = down, up
        if adapter.has_bias:
            tensors[f"{prefix}lora_B.bias"] = (
                torch.zeros(len(up)) if low_rank.bias is None else low_rank.bias.contiguous()
            )
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / ADAPTER)
    config = {
        "base_model_name_or_path": model.identity.id,
        "bias": "none",
        "fan_in_fan_out": adapter.transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_bias": adapter.has_bias,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "revision": model.identity.revision,
        "target_modules": sorted(factor.module for factor in adapter.factors),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class LoraReport:
    """The report of an adapter. difference: from the hooks; None if peft is not installed."""

    model: str
    fingerprint: str
    steers: list[str]
    vectors: list[dict[str, str]]
    modules: list[str]
    rank: int
    bias: bool
    difference: Difference | None

    def to_json(self) -> dict[str, Any]:
        """The values for JSON."""
        plain = asdict(self)
        if self.difference is not None:
            plain["difference"].pop("new_token")
            plain["difference"] |= {
                "tolerance": self.difference.tolerance,
                "passed": self.difference.passed,
            }
        return {"steer": __version__, "format": "peft", **plain}


def export(
    model: Model,
    steers: Sequence[Steer],
    folder: Path,
    *,
    texts: Sequence[str] = TEXTS,
    force: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> LoraReport:
    """Write an adapter's folder and, if peft is installed, load it and compare it with the hooks.

    model: in float32. If the comparison fails, the folder is kept, and its card says so.

    Raises:
        VectorError, ModelError: as in `adapter_of`.
        IdleError: the steers change nothing, or too little to tell.
        SteerError: the folder cannot be written.
    """
    on_stage("factoring the edits")
    adapter = adapter_of(model, steers)
    on_stage("asking the hooks")
    expected = reference(model, steers, texts)
    expected.check_effect("float32")
    with new_folder(folder, force=force) as temporary:
        on_stage(f"writing {folder}")
        write(temporary, adapter, model)
        on_stage("loading it and comparing")
        report = LoraReport(
            model.identity.id,
            model.identity.fingerprint,
            [str(steer) for steer in steers],
            [
                {"name": vector.name, "sha256": vector.sha256}
                for vector in {s.vector for s in steers}
            ],
            sorted(factor.module for factor in adapter.factors),
            adapter.rank,
            adapter.has_bias,
            _compared(model, temporary, expected),
        )
        text = json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (temporary / REPORT).write_text(text + "\n", encoding="utf-8")
    return report


def _compared(model: Model, folder: Path, expected: Reference) -> Difference | None:
    if not is_installed():
        return None
    with attached(model.network, folder):
        return expected.difference(log_probs(model, expected.ids), "float32")
