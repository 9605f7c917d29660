"""The one door to transformers: loads a model, and turns text into tokens and back."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from steer.base.errors import ModelError
from steer.contrasts.passages import Message, Passage
from steer.contrasts.reading import TokensOfMany
from steer.models import encoding
from steer.models.fingerprint import fingerprint
from steer.models.found import hook_map
from steer.models.heap import keep_freed
from steer.models.hookmap import HookMap
from steer.models.placement import attention, device
from steer.models.source import POCKET, ModelSource
from steer.models.templates import ChatTemplate
from steer.vectors.provenance import ModelIdentity
from steer.vectors.rendering import DEFAULT_SETTINGS, TemplateSettings


@dataclass(frozen=True)
class Model:
    """A causal language model, its tokenizer, and where its sites are."""

    network: Any  # transformers.PreTrainedModel; untyped there too
    tokenizer: Any
    identity: ModelIdentity
    hooks: HookMap
    template_settings: TemplateSettings = field(default=DEFAULT_SETTINGS, kw_only=True)

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template, with the settings that the model was loaded with."""
        return ChatTemplate(self.tokenizer, self.identity.id, self.template_settings)

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return torch.device(self.network.get_input_embeddings().weight.device)

    @property
    def n_layers(self) -> int:
        return self.hooks.n_layers

    @property
    def body(self) -> Any:
        """The model without its LM head."""
        return self.network.base_model

    @cached_property
    def pad_id(self) -> int:
        """A token for padding; it is masked out, so any will do where none is defined."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a text; some models have several."""
        ends = self.network.generation_config.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        return frozenset([ends] if isinstance(ends, int) else ends or ())

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are no text: the first of one, the marks of a chat template."""
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def context(self) -> int | None:
        """The most tokens that the model takes, where its configuration says so."""
        config = self.network.config.get_text_config()
        for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
            value = getattr(config, name, None)
            if isinstance(value, int) and value > 0:
                return value
        return None

    @cached_property
    def window(self) -> int | None:
        """The fewest tokens that a layer looks back on; None where all look back on all."""
        config = self.network.config.get_text_config()
        names = ("sliding_window", "attention_chunk_size", "window_size", "attention_window_size")
        values = (getattr(config, name, None) for name in names)
        return min((v for v in values if isinstance(v, int) and v > 0), default=None)

    def describe(self) -> str:
        """`pocket · cpu float32`, for the line that says what was used."""
        weight = self.network.get_input_embeddings().weight
        return f"{self.identity.id} · {self.device} {str(weight.dtype).removeprefix('torch.')}"

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids; `special` adds what the tokenizer puts round a text (a first token, often)."""
        # What is too long is told of where it is run.
        return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    @cached_property
    def _decode(self) -> Callable[..., str]:
        """Where its class adds nothing, the tokenizer inside the tokenizer: streaming decodes at
        every token, and the way there takes as long as the work."""
        made = type(self.tokenizer)
        is_plain = (
            issubclass(made, PreTrainedTokenizerFast)
            and made.decode is PreTrainedTokenizerFast.decode
            and made._decode is PreTrainedTokenizerFast._decode
        )
        usual: Callable[..., str] = partial(
            self.tokenizer.decode, clean_up_tokenization_spaces=False
        )
        return self.tokenizer.backend_tokenizer.decode if is_plain else usual

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._decode(list(ids), skip_special_tokens=True))

    @cached_property
    def _texts(self) -> dict[int, str]:
        return {}

    def token(self, token: int) -> str:
        """The text of one token, special or not, with the blank that it begins with."""
        if token not in self._texts:
            self._texts[token] = self._token(token)
        return self._texts[token]

    def _token(self, token: int) -> str:
        text = str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
        # None of an id that only makes the embedding matrix a round size.
        piece = self.tokenizer.convert_ids_to_tokens(token) or ""
        # Where blanks are U+2581, decoders drop the first one of a text.
        return f" {text}" if piece.startswith("\u2581") and not text.startswith(" ") else text

    def encode_passages(
        self, passages: Sequence[Passage], markers: Sequence[str] = ()
    ) -> TokensOfMany:
        """Token ids of passages, chat template and all (`steer.models.encoding.encode_passages`).

        Raises:
            ModelError: as there.
        """
        return encoding.encode_passages(self.template, passages, markers)

    def chat(
        self, prompt: str, system: str | None = None, history: Sequence[tuple[str, str]] = ()
    ) -> str:
        """A user's message in the model's chat template, up to where the answer begins.

        history: the messages before it, each with its answer.

        Raises:
            ModelError: the tokenizer has no template, or the template refuses the messages.
        """
        messages = [Message("system", system)] if system is not None else []
        for said, answer in history:
            messages += [Message("user", said), Message("assistant", answer)]
        return self.template.render([*messages, Message("user", prompt)])

    def warpers(self, temperature: float, top_k: int, top_p: float) -> list[Any]:
        """Hugging Face's logits processors for these settings, in the order it applies them."""
        made: list[Any] = [TemperatureLogitsWarper(temperature)]
        if top_k:
            made.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            made.append(TopPLogitsWarper(top_p))
        return made

    def padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, int64 [row, longest], padded at one side."""
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id)
        mask = torch.zeros((len(rows), width), dtype=torch.int64)
        for index, row in enumerate(rows):
            span = slice(width - len(row), width) if left else slice(0, len(row))
            ids[index, span] = torch.tensor(row)
            mask[index, span] = 1
        return ids.to(self.device), mask.to(self.device)


def load(source: ModelSource) -> Model:
    """Load a model, ready to read from and write to.

    Raises:
        ModelError: it does not exist, cannot be reached, is no causal language model, lacks
            weights, or is of a family that TransformerLens does not map.
    """
    common = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    with quiet(), explained(source):
        placement = _placement(source)
        # First, because it is small: a hub that cannot be reached is found out after one round of
        # retries, not after one for each file.
        config = AutoConfig.from_pretrained(source.location, **common)
        tokenizer = AutoTokenizer.from_pretrained(source.location, **common)
        network, report = AutoModelForCausalLM.from_pretrained(
            source.location,
            config=config,
            output_loading_info=True,
            attn_implementation=attention(config),
            **placement,
            **common,
        )
        if source.device_map is None and not source.tensor_parallel:
            network.to(device(source))
    keep_freed()
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(
            f"{source.name}: weights are missing and would be random: {missing}",
            hint="is the checkpoint complete, and a causal language model?",
        )
    model = wrap(network, tokenizer, model_id=source.public_id, template=source.template)
    model.template.check_arguments()
    return model


def wrap(
    network: Any,
    tokenizer: Any,
    *,
    model_id: str,
    template: TemplateSettings = DEFAULT_SETTINGS,
) -> Model:
    """A `Model` of a loaded Hugging Face model; its weights are frozen and it is set to inference.

    Raises:
        ModelError: TransformerLens has no map of its family.
    """
    network.eval().requires_grad_(False)
    hooks = hook_map(network)
    identity = ModelIdentity(
        id=model_id,
        revision=getattr(network.config, "_commit_hash", None),
        architecture=hooks.architecture,
        d_model=hooks.d_model,
        n_layers=hooks.n_layers,
        fingerprint=fingerprint(network),
        tokenizer=_hash(sorted(tokenizer.get_vocab().items())),
        chat_template=_hash(tokenizer.chat_template),
    )
    return Model(network, tokenizer, identity, hooks, template_settings=template)


def _placement(source: ModelSource) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` for where and how precise."""
    if source.device_map is not None:
        return {"device_map": source.device_map, "dtype": source.dtype or "auto"}
    on_cpu = device(source).type == "cpu"
    dtype = {"dtype": source.dtype or ("float32" if on_cpu else "auto")}
    if not source.tensor_parallel:
        return dtype
    from transformers.distributed import DistributedConfig

    return dtype | {"distributed_config": DistributedConfig(tp_plan="auto")}


def _hash(value: object) -> str | None:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16] if value else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' warnings and its bar over weights, which take a second."""
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
    """Turn what loading can raise into an error with a next step.

    Raises:
        ModelError: in place of whatever the libraries below raise.
    """
    try:
        yield
    # Loading runs half a dozen libraries, each with errors of its own and no common root.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        where = source.device or source.device_map
        if where and where in reason:
            hint = "--device takes cpu, cuda, cuda:1 or mps, --device-map auto or balanced"
        elif source.location == source.name != POCKET:
            hint = "is the id right, and the hub reachable? a folder works offline"
        else:
            hint = "the folder needs config.json, safetensors weights and a tokenizer"
        raise ModelError(f"cannot load {source.name}: {reason}", hint=hint) from error
