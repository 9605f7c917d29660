"""Load a model and its tokenizer from a folder, the hub or a GGUF file, with a PEFT adapter.

Faults that a model's small files show are detected before its weights are read.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)
from transformers.utils import cached_file

from steer.base.errors import ModelError, SteerError
from steer.base.files import at_home, open_regular, read_bytes
from steer.base.hub import OFFLINE, hub_answers, is_offline_mode
from steer.models import adapter, gguf, known, tokenizers
from steer.models.memory import keep_freed
from steer.models.model import Model, wrap
from steer.models.source import POCKET, ModelSource

#: Upper bounds for the number of layers and for a tensor's size along one axis.
MOST_LAYERS, LARGEST_SIZE = 10_000, 1 << 28
#: The most parameters per byte of a weight file: each takes at least one bit.
PARAMETERS_A_BYTE = 8

_SAFE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
#: Dtypes of models, by their names in safetensors files.
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
#: The most bytes of a configuration or an index.
_MAX_JSON = 100_000_000
#: Names that configurations use for the number of layers, the width and the inner width.
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_INNER = ("intermediate_size", "ffn_dim", "n_inner")


def load(source: ModelSource) -> Model:
    """Load a model.

    Raises:
        ModelError: the model does not exist, cannot be downloaded, generates no text, lacks
            weights, has NaN or infinity in its weights, or is of a family that TransformerLens does
            not map.
    """
    with quiet(), explained(source):
        files = _Files(source)
        config = files.config
        model_class = auto_class(config, source.name)
        files.check_weights()
        # Before the weights, which take longer to load.
        tokenizer = tokenizers.load(source, files.common)
        placement, reason = _placement(source, config)
        network, report = model_class.from_pretrained(
            source.location,
            config=None if source.gguf else config,
            output_loading_info=True,
            attn_implementation=_attention(config),
            weights_only=True,
            **placement,
            **files.common,
        )
        if missing := sorted(report["missing_keys"]):
            raise ModelError(
                f"{source.name}: weights are missing and would be random: {', '.join(missing[:3])}",
                hint="is the checkpoint complete, and a causal language model?",
            )
        if source.gguf:
            gguf.forget_quantisation(network)
        marks: list[str] = []
        if source.adapter is not None:
            network, mark = adapter.merged(
                network, source.adapter, offline=source.offline or is_offline_mode()
            )
            marks.append(mark)
        if source.device_map is None and not source.tensor_parallel:
            network.to(device(source))
    keep_freed()
    check_numbers(network, source.name)
    notes = (*files.notes, *([reason] if reason else []))
    model = wrap(
        network,
        tokenizer,
        model_id=public_id(source, config),
        marks=marks,
        notes=notes,
        template=source.template,
    )
    model.template.check_arguments()
    if source.adapter is None and not source.on_hub and source.name != POCKET:
        known.remember(model.identity.fingerprint, at_home(source.name))
    return model


def outline(source: ModelSource) -> Model:
    """A model without weights, for its configuration, sites and tokenizer. Its fingerprint is not
    that of the model.

    Raises:
        ModelError: as `load`, except for faults of the weights.
    """
    with quiet(), explained(source):
        files = _Files(source)
        model_class = auto_class(files.config, source.name)
        tokenizer = tokenizers.load(source, files.common)
        with torch.device("meta"):
            network = model_class.from_config(
                files.config, trust_remote_code=source.trust_remote_code
            )
    name = public_id(source, files.config)
    return wrap(network, tokenizer, model_id=name, template=source.template)


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer of a model, without the model.

    Raises:
        ModelError: the tokenizer does not exist, or cannot be downloaded.
    """
    with quiet(), explained(source):
        return tokenizers.load(source, _Files(source).common)


def mapped(source: ModelSource) -> ModelSource:
    """The same model for whoever needs its identity and tokenizer but runs it elsewhere: on the
    CPU, in the dtype of its files if they have one dtype. Such safetensors are mapped from the
    disk cache, not copied, so that they take no memory beside an engine that reads the same files.

    Raises:
        ModelError: the files cannot be read.
    """
    if source.tensor_parallel:
        return source
    source = replace(source, device="cpu", device_map=None)
    if source.gguf or source.adapter is not None:
        return source  # their weights are computed: they have no file to be mapped from
    with quiet(), explained(source):
        dtypes = _Files(source).tensor_dtypes()
    dtype = next(iter(dtypes)) if len(dtypes) == 1 else None
    return replace(source, dtype=_DTYPES.get(dtype or "", source.dtype))


def stored_dtype(source: ModelSource) -> str:
    """The dtype in which a checkpoint is saved, according to its configuration.

    Raises:
        ModelError: the configuration cannot be read.
    """
    with quiet(), explained(source):
        dtype = _saved_dtype(_Files(source).config)
    return str(dtype or torch.float32).removeprefix("torch.")


def public_id(source: ModelSource, config: Any) -> str:
    """`ModelSource.public_id`; for a local copy of a hub model, the hub id in its configuration.

    A finetuned model keeps the id of its base model in its configuration, so only a folder with the
    repository's name counts as a copy.
    """
    name = source.public_id
    origin = getattr(config, "_name_or_path", None) or ""
    if source.folder is None or source.adapter is not None or origin.count("/") != 1:
        return name
    is_copy = origin.split("/")[1].lower() == name.lower() and not Path(origin).exists()
    return str(origin) if is_copy else name


@dataclass(frozen=True)
class _Files:
    """The small files of a model, read and checked before anything is allocated."""

    source: ModelSource

    @cached_property
    def offline(self) -> bool:
        """Whether to use local files only.

        Raises:
            ModelError: the hub is not to be used or cannot be reached, and the model is not in its
                cache here.
        """
        source = self.source
        if not source.on_hub:
            return True
        offline = source.offline or is_offline_mode()
        if not offline and hub_answers():
            return False
        if self._in_cache(source.gguf or "config.json"):
            return True
        fact = f"is not used ({OFFLINE})" if offline else "cannot be reached"
        raise ModelError(
            f"the hub {fact}, and {source.name} is not in its cache here",
            hint="is the name right? a model folder needs no hub",
        )

    @property
    def common(self) -> dict[str, Any]:
        """Keyword arguments that every `from_pretrained` gets."""
        source = self.source
        arguments: dict[str, Any] = {
            "revision": source.commit,
            "trust_remote_code": source.trust_remote_code,
            "local_files_only": self.offline,
        }
        return arguments | ({"gguf_file": source.gguf} if source.gguf else {})

    @cached_property
    def config(self) -> Any:
        """The configuration.

        Raises:
            ModelError: its sizes are impossible, or it is not the configuration of a model.
        """
        source = self.source
        if source.gguf:
            path = self._path(source.gguf)
            if path is None:
                raise ModelError(f"{source.location} has no file {source.gguf}")
            gguf.check(path, source.name)
        else:
            # Before the library builds a configuration, which may allocate lists of these sizes.
            path = self._path("config.json")
            if path is not None:
                check_config(_read_json(path), source.name, self._bytes)
        return AutoConfig.from_pretrained(source.location, **self.common)

    def check_weights(self) -> None:
        """Check that a folder has weights.

        Raises:
            ModelError: it has none.
        """
        if self.source.folder is None or self._kind is not None:
            return
        raise ModelError(
            f"the folder {self.source.name} holds no weights",
            hint=f"it needs {_SAFE[0]}, or its parts with {_SAFE[1]}",
        )

    @property
    def notes(self) -> list[str]:
        """Notes for the user about the origin of the model."""
        source, notes = self.source, []
        if source.on_hub and self.offline and not (source.offline or is_offline_mode()):
            notes.append(f"the hub cannot be reached: {source.name} is the copy in its cache here")
        if self._kind == "pickle":
            notes.append(
                f"the weights of {source.name} are in a pickle ({_PICKLED[0]}); torch reads only"
                " tensors from it and runs no code (weights_only)"
            )
        return notes

    @cached_property
    def _kind(self) -> str | None:
        """`gguf`, `safetensors`, `pickle`, or None if there are no weights."""
        if self.source.gguf:
            return "gguf"
        for kind, names in (("safetensors", _SAFE), ("pickle", _PICKLED)):
            if any(self._path(name) is not None for name in names):
                return kind
        return None

    def tensor_dtypes(self) -> set[str]:
        """The dtypes of all tensors in safetensors files, by their names there; empty if there are
        no such files.

        Raises:
            ModelError: the index of the files is not JSON.
            SteerError: a file cannot be read.
        """
        single, index = map(self._path, _SAFE)
        names = {_SAFE[0]} if single else set()
        if index is not None:
            names = set(_read_json(index)["weight_map"].values())
        paths = filter(None, map(self._path, sorted(names)))
        return {dtype for path in paths for dtype in _header_dtypes(path)}

    @property
    def _bytes(self) -> int | None:
        """The size of a folder's weight files together."""
        folder = self.source.folder
        if folder is None:
            return None
        patterns = ("*.safetensors", "*.bin", "*.pt", "*.pth")
        return sum(path.stat().st_size for pattern in patterns for path in folder.glob(pattern))

    def _in_cache(self, name: str) -> bool:
        return self._cached(name, local=True) is not None

    def _path(self, name: str) -> Path | None:
        """The local path of a file of the model, downloaded if necessary; None if there is none."""
        if not self.source.on_hub:
            path = Path(self.source.location) / name
            return path if path.is_file() else None
        return self._cached(name, local=self.offline)

    def _cached(self, name: str, *, local: bool) -> Path | None:
        path = cached_file(
            self.source.location,
            name,
            revision=self.source.commit,
            local_files_only=local,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=not local,
        )
        return None if path is None else Path(path)


def check_config(config: Any, name: str, weight_bytes: int | None) -> None:
    """Refuse a configuration with sizes that are impossible or that its weight files cannot hold.

    config: the JSON of `config.json`, including nested configurations.

    Raises:
        ModelError: naming the setting.
    """
    if not isinstance(config, dict):
        raise ModelError(f"{name}: config.json holds no JSON object")
    for key, value in config.items():
        if isinstance(value, dict):
            check_config(value, name, weight_bytes)
        sizes = [value] if not isinstance(value, list) else value[:MOST_LAYERS]
        numbers = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool)]
        most = max(numbers, default=0)
        limit = MOST_LAYERS if key in _LAYERS else LARGEST_SIZE
        is_size = key in (*_LAYERS, *_WIDTHS, *_INNER) or key.endswith(_SIZE_ENDINGS)
        if is_size and (most > limit or min(numbers, default=0) < 0):
            raise ModelError(
                f"{name}: config.json has {key} = {most:,}, which no model has"
                if most > limit
                else f"{name}: config.json has a negative {key}",
                hint="check that the file is complete and from somebody you trust",
            )
    _check_total(config, name, weight_bytes)


#: Endings of the names of settings that give the size of a tensor.
_SIZE_ENDINGS = ("_size", "_dim", "_heads", "_experts", "_rank", "_layers")


def _check_total(config: Mapping[str, Any], name: str, weight_bytes: int | None) -> None:
    def first(names: tuple[str, ...]) -> int:
        values = (config.get(name) for name in names)
        return next((v for v in values if isinstance(v, int) and v > 0), 0)

    layers, width, vocabulary = first(_LAYERS), first(_WIDTHS), first(("vocab_size",))
    # Every decoder has at least an embedding and one square matrix per layer.
    least = vocabulary * width + layers * width * width
    if weight_bytes and least > PARAMETERS_A_BYTE * weight_bytes:
        raise ModelError(
            f"{name}: config.json describes at least {least:,} parameters, and the weight files"
            f" have {weight_bytes:,} bytes",
            hint="configuration and weights belong to different models, or files are missing",
        )


def check_numbers(network: torch.nn.Module, name: str) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        ModelError: naming the first such parameter.
    """
    for path, parameter in network.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point() or parameter.numel() == 0:
            continue
        try:
            # NaN and infinity survive a sum, which needs no extra memory.
            total = parameter.detach().sum(dtype=torch.float32)
        except (NotImplementedError, RuntimeError):  # a quantised type without sums
            continue
        if hasattr(total, "full_tensor"):  # the parameter is sharded over devices
            total = total.full_tensor()
        if not bool(torch.isfinite(total)):
            raise ModelError(
                f"{name}: the weights {path} hold NaN or infinity",
                hint="the checkpoint is broken, or overflows in this --dtype: try --dtype=float32",
            )


def device(source: ModelSource) -> torch.device:
    """The device that the user names, or the first accelerator, or the CPU."""
    if source.device is not None:
        return torch.device(source.device)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _attention(config: Any) -> str | None:
    """The attention implementation; None leaves the choice to Hugging Face.

    Its default (sdpa) silently ignores the softcap on attention logits that Gemma 2 was trained
    with.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped else None


def auto_class(config: Any, name: str = "this") -> Any:
    """The Auto class that loads a model that generates text, including models that read images.

    Raises:
        ModelError: there is none.
    """
    auto_map = getattr(config, "auto_map", None) or {}
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in auto._model_mapping or auto.__name__ in auto_map:
            return auto
    if config.get_text_config() is not config and type(config.get_text_config()) in (
        AutoModelForCausalLM._model_mapping
    ):
        kind = f"the {config.model_type} wrapper round a language model"
    else:
        kind = f"a model of type {config.model_type}"
    raise ModelError(
        f"{name} is {kind}, which transformers cannot load as a model that generates text",
        hint="use a decoder-only language model, such as Llama, Qwen, Gemma or GPT-2",
    )


def _placement(source: ModelSource, config: Any) -> tuple[dict[str, Any], str | None]:
    """Keyword arguments of `from_pretrained` for device and dtype, and a note for the user if the
    dtype is an unusual choice."""
    if source.device_map is not None:
        return {"device_map": source.device_map, "dtype": source.dtype or "auto"}, None
    dtype, reason = _dtype(source, config)
    placement: dict[str, Any] = {"dtype": dtype}
    if source.tensor_parallel:
        from transformers.distributed import DistributedConfig

        placement["distributed_config"] = DistributedConfig(tp_plan="auto")
    return placement, reason


def _dtype(source: ModelSource, config: Any) -> tuple[str, str | None]:
    if source.dtype is not None:
        return source.dtype, None
    if device(source).type != "cpu":
        return "auto", None
    saved = _saved_dtype(config)
    if source.fast and source.adapter is None and saved is torch.bfloat16 and computes_bfloat16():
        return "bfloat16", (
            "computing in bfloat16, the dtype of the weights, which this CPU supports natively;"
            " sums and vectors are float32 (--dtype=float32: everything in float32)"
        )
    return "float32", None


def _saved_dtype(config: Any) -> torch.dtype | None:
    dtype = config.get_text_config().dtype or config.dtype
    saved: torch.dtype | None = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return saved


@cache
def computes_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512_BF16, AMX, or Arm's BF16)."""
    if sys.platform != "linux":
        return False
    with contextlib.suppress(SteerError):
        text = read_bytes(Path("/proc/cpuinfo"), limit=_MAX_JSON).decode(errors="replace")
        for line in text.split("\n"):
            if line.startswith(("flags", "Features")):
                return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(line.split()))
    return False


def _header_dtypes(path: Path) -> set[str]:
    """The dtypes of the tensors in a safetensors file; only its header is read."""
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, _MAX_JSON)))
    return {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path, limit=_MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' warnings and its progress bar."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


@contextlib.contextmanager
def explained(source: ModelSource) -> Iterator[None]:
    """Turn any exception of loading into a ModelError with a hint.

    Raises:
        ModelError: in place of any exception of the libraries below.
    """
    try:
        yield
    except ModelError:
        raise
    # Loading runs half a dozen libraries, whose exceptions have no common base class.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ModelError(f"cannot load {source.name}: {reason}", hint=_hint(source, reason)) from (
            error
        )


def _hint(source: ModelSource, reason: str) -> str:
    where = source.device or source.device_map
    hints: list[tuple[Callable[[], bool], str]] = [
        (
            lambda: bool(where and where in reason),
            "--device takes cpu, cuda, cuda:1 or mps, --device-map auto or balanced",
        ),
        (lambda: source.on_hub, "is the id right, and may you read it? a folder works offline"),
        (lambda: source.gguf is not None, "does llama.cpp load the file?"),
        (
            lambda: source.adapter is not None and at_home(source.adapter).name in reason,
            "is the adapter one of this base model?",
        ),
        (
            lambda: source.name != POCKET,
            "the folder needs config.json, safetensors weights and a tokenizer",
        ),
    ]
    return next((text for holds, text in hints if holds()), "reinstall steer")
