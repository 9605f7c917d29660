"""A loaded model: its network, its tokenizer and its hook map."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from steer.base.errors import ModelError
from steer.contrasts.passages import Message, Passage
from steer.contrasts.reading import TokensOfMany, shared_prefix
from steer.models import encoding
from steer.models.fingerprint import fingerprint
from steer.models.hookmap import HookMap
from steer.models.hookmap_cache import hook_map
from steer.models.templates import ChatTemplate
from steer.models.thoughts import Thoughts
from steer.models.tokenizers import with_tokens
from steer.steering.tokens import LearnedToken
from steer.vectors.provenance import ModelIdentity
from steer.vectors.rendering import DEFAULT_SETTINGS, TemplateSettings

#: The relative difference of logits that counts as rounding, by dtype.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
COARSE_TOLERANCE = 0.1

#: Stands for a learned token while a text is tokenized.
PLACEHOLDER = "<|steer:token|>"
#: First letters of messages, by which what comes before any message is told.
_LETTERS = "AQZaqz"


#: Which texts can share a batch: any, padded on the left; those of equal length; or none.
Batching = Literal["any", "equal", "one"]


@dataclass(frozen=True)
class Model:
    """A causal language model, its tokenizer and its hook map."""

    network: Any  # transformers.PreTrainedModel, which is untyped
    tokenizer: Any
    identity: ModelIdentity
    hooks: HookMap
    #: Notes for the user about how the model was loaded, a line each.
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    template_settings: TemplateSettings = field(default=DEFAULT_SETTINGS, kw_only=True)
    #: Learned tokens that `encode` finds in a text, written as `<|name|>`.
    tokens: tuple[LearnedToken, ...] = field(default=(), kw_only=True)

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template, with the settings that the model was loaded with."""
        return ChatTemplate(self.tokenizer, self.identity.id, self.template_settings)

    @property
    def device(self) -> torch.device:
        """The device of the embedding, which takes the token ids."""
        return torch.device(self.network.get_input_embeddings().weight.device)

    @property
    def n_layers(self) -> int:
        return self.hooks.n_layers

    @property
    def body(self) -> Any:
        """The model without its LM head."""
        return self.network.base_model

    @contextmanager
    def contiguous_head(self) -> Iterator[None]:
        """Inside, the LM head gets the last positions of a batch as a copy: as a strided view,
        multiplied by the vocabulary on a CPU, they take up to several hundred times as long in
        bfloat16, and ten times in float32."""
        head = self.network.get_output_embeddings()
        if not isinstance(head, torch.nn.Module):
            yield
            return
        handle = head.register_forward_pre_hook(_contiguous)
        try:
            yield
        finally:
            handle.remove()

    @cached_property
    def pad_id(self) -> int:
        """The token for padding; any will do, since it is masked."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end a text; some models have several."""
        ends = self.network.generation_config.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        return frozenset([ends] if isinstance(ends, int) else ends or ())

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Special tokens, such as BOS and the markers of a chat template."""
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def thoughts(self) -> Thoughts | None:
        """The tags of thoughts in the chat template; None if it has none."""
        return Thoughts.of(getattr(self.tokenizer, "chat_template", None))

    @cached_property
    def context(self) -> int | None:
        """The length of the context in tokens; None if the configuration does not give it."""
        config = self.network.config.get_text_config()
        for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
            value = getattr(config, name, None)
            if isinstance(value, int) and value > 0:
                return value
        return None

    @cached_property
    def window(self) -> int | None:
        """The smallest attention window of a layer, in tokens; None if there is no window."""
        config = self.network.config.get_text_config()
        names = ("sliding_window", "attention_chunk_size", "window_size", "attention_window_size")
        values = (getattr(config, name, None) for name in names)
        return min((v for v in values if isinstance(v, int) and v > 0), default=None)

    @cached_property
    def batching(self) -> Batching:
        """The kind of texts that can share a batch in generation without influence on each other,
        found by a test.

        Attention masks padding. In many recurrent models the state passes through the padding, so
        they need texts of equal length; some mix up rows even then.
        """
        ordinary = [token for token in range(self._n_ids) if token not in self.special_ids]
        drawn = [ordinary[len(ordinary) * share // 16] for share in (3, 5, 7, 9, 11)]
        short = drawn[:2]
        alone = self._first_logits([short])
        for together, other in (("any", drawn), ("equal", drawn[2:4])):
            if _agree(self._first_logits([other, short]), alone, self.network.dtype):
                return together  # type: ignore[return-value]
        return "one"

    @property
    def _n_ids(self) -> int:
        """The number of the tokenizer's tokens that the model has an embedding for."""
        size = self.network.config.get_text_config().vocab_size
        return int(min(size, len(self.tokenizer)))

    def _first_logits(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Logits [step, vocabulary] of the last row's first two new tokens, and those tokens."""
        ids, mask = self.padded(rows, left=True)
        settings = GenerationConfig(
            max_new_tokens=2,
            do_sample=False,
            pad_token_id=self.pad_id,
            output_logits=True,
            return_dict_in_generate=True,
        )
        # Without the checkpoint's own settings, which could end the text or penalise tokens.
        own, self.network.generation_config = self.network.generation_config, GenerationConfig()
        try:
            with torch.no_grad():
                generated = self.network.generate(
                    input_ids=ids, attention_mask=mask, generation_config=settings
                )
        finally:
            self.network.generation_config = own
        return torch.stack([step[-1] for step in generated.logits]).float(), generated.sequences[
            -1, -2:
        ]

    def describe(self) -> str:
        """One line about the model, such as `pocket · cpu float32`."""
        weight = self.network.get_input_embeddings().weight
        return f"{self.identity.id} · {self.device} {str(weight.dtype).removeprefix('torch.')}"

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids; with `special`, including the tokens that the tokenizer adds, such as BOS."""
        written = {token.mark: token.ids for token in self.tokens}
        pattern = "|".join(map(re.escape, written))
        occurrences = re.findall(pattern, text) if written else []
        tokenizer, placeholder = self._with_placeholder if occurrences else (self.tokenizer, None)
        if occurrences:
            text = re.sub(pattern, PLACEHOLDER, text)
        # Texts that are too long are reported where they are run.
        ids = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        marks = iter(occurrences)
        return [
            own for id_ in ids for own in (written[next(marks)] if id_ == placeholder else (id_,))
        ]

    @cached_property
    def _with_placeholder(self) -> tuple[Any, int]:
        """A tokenizer that knows the placeholder, and the placeholder's id.

        Raises:
            ModelError: the tokenizer takes no new token.
        """
        tokenizer, [placeholder] = with_tokens(self.tokenizer, [PLACEHOLDER])
        if tokenizer(f"a{PLACEHOLDER}b")["input_ids"].count(placeholder) != 1:
            raise ModelError(f"the tokenizer of {self.identity.id} takes no new token")
        return tokenizer, placeholder

    def with_learned_tokens(self, tokens: Sequence[LearnedToken]) -> Model:
        """The same model, whose `encode` finds these learned tokens too."""
        if not tokens:
            return self
        # What has been found out about the model, such as `batching`, stays known.
        other = copy.copy(self)
        object.__setattr__(other, "tokens", (*self.tokens, *tokens))
        return other

    @cached_property
    def _system_place(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
        """Where a system message stands before the first user's: the ids before any user's message
        where there is no system message, those before a system message, and those between it and
        the user's. None where the template has no place for one."""
        if not self.template.exists:
            return None
        tokenizer, placeholder = self._with_placeholder
        try:
            plain, filled = (
                _common(
                    [
                        tokenizer(self.chat(letter, system), add_special_tokens=False)["input_ids"]
                        for letter in _LETTERS
                    ]
                )
                for system in (None, PLACEHOLDER)
            )
        except ModelError:
            return None
        if filled.count(placeholder) != 1:
            return None
        place = filled.index(placeholder)
        return plain, filled[:place], filled[place + 1 :]

    def with_system(self, ids: Sequence[int], new: Sequence[int]) -> list[int]:
        """A prompt's token ids with others as its system message, or before the one that it has; in
        a text that is in no chat template, at its start."""
        ids, new = tuple(ids), tuple(new)
        if self._system_place is not None:
            plain, before, after = self._system_place
            if plain and ids[: len(plain)] == plain:
                return [*before, *new, *after, *ids[len(plain) :]]
            if before and ids[: len(before)] == before:
                return [*before, *new, *ids[len(before) :]]
        start = len(self._first_ids) if ids[: len(self._first_ids)] == self._first_ids else 0
        return [*ids[:start], *new, *ids[start:]]

    @cached_property
    def _first_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text."""
        with_special, own = self.encode("A"), self.encode("A", special=False)
        starts = range(len(with_special) - len(own) + 1)
        start = next((i for i in starts if with_special[i : i + len(own)] == own), 0)
        return tuple(with_special[:start])

    @cached_property
    def _decode(self) -> Callable[..., str]:
        """The inner tokenizer's `decode`, if the class does not change it: streaming decodes at
        every token, and the layers above take as long as the work itself."""
        kind = type(self.tokenizer)
        is_plain = (
            issubclass(kind, PreTrainedTokenizerFast)
            and kind.decode is PreTrainedTokenizerFast.decode
            and kind._decode is PreTrainedTokenizerFast._decode
        )
        usual: Callable[..., str] = partial(
            self.tokenizer.decode, clean_up_tokenization_spaces=False
        )
        return self.tokenizer.backend_tokenizer.decode if is_plain else usual

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._decode(list(ids), skip_special_tokens=True))

    @cached_property
    def _texts(self) -> dict[int, str]:
        return {}

    def token(self, token: int) -> str:
        """The text of one token, including special ones and its leading blank."""
        if token not in self._texts:
            self._texts[token] = self._token(token)
        return self._texts[token]

    def _token(self, token: int) -> str:
        text = str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
        # None for ids that only pad the embedding matrix.
        piece = self.tokenizer.convert_ids_to_tokens(token) or ""
        # Tokenizers that write blanks as U+2581 drop the first one of a text when they decode.
        return f" {text}" if piece.startswith("\u2581") and not text.startswith(" ") else text

    def encode_passages(
        self, passages: Sequence[Passage], markers: Sequence[str] = ()
    ) -> TokensOfMany:
        """Token ids of passages, in the chat template if they are messages
        (`steer.models.encoding.encode_passages`).

        Raises:
            ModelError: as there.
        """
        return encoding.encode_passages(self.template, passages, markers)

    def chat(
        self, prompt: str, system: str | None = None, history: Sequence[tuple[str, str]] = ()
    ) -> str:
        """A user's message in the model's chat template, up to where the answer begins.

        history: earlier messages of the user, each with its answer.

        Raises:
            ModelError: the tokenizer has no template, or the template refuses the messages.
        """
        messages = [Message("system", system)] if system is not None else []
        for message, answer in history:
            messages += [Message("user", message), Message("assistant", answer)]
        return self.template.render([*messages, Message("user", prompt)])

    def warpers(self, temperature: float, top_k: int, top_p: float) -> list[Any]:
        """Hugging Face's logits processors for these settings, in the order it applies them."""
        warpers: list[Any] = [TemperatureLogitsWarper(temperature)]
        if top_k:
            warpers.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            warpers.append(TopPLogitsWarper(top_p))
        return warpers

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


def wrap(
    network: Any,
    tokenizer: Any,
    *,
    model_id: str,
    template: TemplateSettings = DEFAULT_SETTINGS,
    marks: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Model:
    """A `Model` for a loaded Hugging Face model. Freezes its weights and sets it to inference.

    marks: hashes of adapters that were merged into the weights, for the fingerprint.

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
        fingerprint=fingerprint(network, marks),
        tokenizer=_hash(sorted(tokenizer.get_vocab().items())),
        chat_template=_hash(tokenizer.chat_template),
    )
    return Model(
        network, tokenizer, identity, hooks, notes=tuple(notes), template_settings=template
    )


def _common(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The ids with which all rows begin."""
    first, *others = rows
    return tuple(first[: min(shared_prefix(first, row) for row in others)])


def _contiguous(_head: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args)


def _agree(
    batched: tuple[Tensor, Tensor], alone: tuple[Tensor, Tensor], dtype: torch.dtype
) -> bool:
    """Whether logits are equal up to rounding. The second step counts if the first tokens agree."""
    n = 1 + int(batched[1][0] == alone[1][0])
    error = (batched[0][:n] - alone[0][:n]).abs().max() / alone[0].abs().max()
    return bool(error <= TOLERANCE.get(dtype, COARSE_TOLERANCE))


def _hash(value: object) -> str | None:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16] if value else None
