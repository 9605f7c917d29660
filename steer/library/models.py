"""`steer.Model`: a language model that generates, is read, and is steered."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from typing import Any

from steer.base.wording import worded
from steer.generate import apply
from steer.generate.conversation import Conversation
from steer.hooks import steered as hooks_steered
from steer.library.data import Data, text_list
from steer.library.vectors import Steers, as_steers
from steer.models import loading
from steer.models import model as models
from steer.models.source import ModelSource
from steer.steering.generation import Generation, Sampling
from steer.steering.projection import Guard, Projection
from steer.steering.readers import check_readers, hint
from steer.steering.steers import Steer, check_all_fit


class FitWarning(UserWarning):
    """A vector is used on a model, or reads texts, unlike those that it was made on."""


class Model:
    """A causal language model and its tokenizer, from `steer.load` or `steer.wrap`.

    `hf` and `tokenizer` are Hugging Face's own objects. Steering never changes their weights.
    """

    def __init__(self, inner: models.Model) -> None:
        self._inner = inner

    @property
    def inner(self) -> models.Model:
        """The model as the rest of steer takes it."""
        return self._inner

    @property
    def hf(self) -> Any:
        """The Hugging Face model."""
        return self._inner.network

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self._inner.tokenizer

    @property
    def id(self) -> str:
        """The name by which vector files know the model."""
        return self._inner.identity.id

    @property
    def n_layers(self) -> int:
        return self._inner.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._inner.identity.d_model

    def __repr__(self) -> str:
        return f"<Model {self._inner.describe()}, {self.n_layers} layers, width {self.d_model}>"

    def generate(
        self,
        prompt: str,
        steer: Steers = None,
        *,
        chat: bool = False,
        system: str | None = None,
        max_tokens: int = 64,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        watch: Sequence[Projection] = (),
        guards: Sequence[Guard] = (),
        on_text: Callable[[str], None] | None = None,
        allow_other_model: bool = False,
        allow_idle: bool = False,
    ) -> Generation:
        """Continue a prompt while steering; `str()` of what it returns is the text.

        steer: a spec such as "warm:2@12", a vector, a steer, or several. chat: the prompt is what a
        user says, in the model's chat template; system: a message before it, which makes it a chat.
        temperature: 0 is
        greedy. The same seed gives the same text, alone or in a batch. on_text: gets the text as it
        is written. allow_idle: a steer may change nothing; `idle` of what is returned names it.

        Raises:
            UsageError: a setting out of its range, a spec that means nothing, or a guard from texts
                of another kind (plain, or in a chat).
            IdleError: a steer changes nothing.
            SteerError: the prompt is empty or leaves no room.
            ModelError: a vector was made on another model (see allow_other_model).
            HookError: a steer was never applied.
            GuardError: a guard tripped, and was to be an error.
        """
        [generation] = self._generate(
            [prompt],
            as_steers(steer),
            Sampling(
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                stop=(stop,) if isinstance(stop, str) else tuple(stop),
                seed=seed,
            ),
            chat=chat,
            system=system,
            watch=watch,
            guards=guards,
            on_text=on_text,
            allow_other_model=allow_other_model,
            allow_idle=allow_idle,
        )
        return generation

    def generate_batch(
        self,
        prompts: Data,
        steer: Steers = None,
        *,
        chat: bool = False,
        system: str | None = None,
        samples: int = 1,
        max_tokens: int = 64,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        batch_size: int = 16,
        watch: Sequence[Projection] = (),
        guards: Sequence[Guard] = (),
        allow_other_model: bool = False,
        allow_idle: bool = False,
    ) -> list[Generation]:
        """Continue many prompts, `samples` times each, in their order.

        prompts: a list of texts, a file, a dataset or a data frame. Each prompt gets the text that
        it would get alone. The other arguments, and what is raised, are as in `generate`.
        """
        return list(
            self._generate(
                text_list(prompts),
                as_steers(steer),
                Sampling(
                    max_tokens=max_tokens,
                    temperature=temperature,
                    top_p=top_p,
                    top_k=top_k,
                    stop=(stop,) if isinstance(stop, str) else tuple(stop),
                    samples=samples,
                    seed=seed,
                    batch_size=batch_size,
                ),
                chat=chat,
                system=system,
                watch=watch,
                guards=guards,
                on_text=None,
                allow_other_model=allow_other_model,
                allow_idle=allow_idle,
            )
        )

    def steered(
        self, *steers: Steers, allow_other_model: bool = False, allow_idle: bool = False
    ) -> AbstractContextManager[None]:
        """Steer every call of the Hugging Face model inside a `with` block.

            with model.steered(warm(2, layers=12)):
                logits = model.hf(**inputs).logits
                ids = model.hf.generate(**inputs)

        A call without a cache begins a new text, whose prompt is all of its tokens; `generate`
        begins one with its prompt. Padding may be on either side, as the attention mask says.

        Raises:
            ModelError, SiteError: a vector does not fit the model.
            HookError: when the block ends: a steer was never applied.
            IdleError: when the block ends: a steer changed nothing (see allow_idle).
        """
        chosen = as_steers(steers)  # type: ignore[arg-type]  # a tuple of what it takes
        self._check_fit(chosen, allow_other_model=allow_other_model)
        return hooks_steered.steered(self._inner, chosen, allow_idle=allow_idle)

    def chat(self, *, system: str | None = None, allow_idle: bool = False) -> Conversation:
        """A conversation, which remembers what was said: see `Conversation.answer`."""

        def warn(text: str) -> None:
            warnings.warn(worded(text), FitWarning, stacklevel=3)

        return Conversation(self._inner, system=system, allow_idle=allow_idle, warn=warn)

    def _generate(
        self,
        prompts: Sequence[str],
        steers: Sequence[Steer],
        sampling: Sampling,
        *,
        chat: bool,
        system: str | None,
        watch: Sequence[Projection],
        guards: Sequence[Guard],
        on_text: Callable[[str], None] | None,
        allow_other_model: bool,
        allow_idle: bool,
    ) -> Iterator[Generation]:
        self._check_fit(steers, allow_other_model=allow_other_model)
        chat = chat or system is not None
        for text in check_readers(chat=chat, steers=steers, watched=watch, guards=guards):
            warnings.warn(worded(f"{text}: {hint(chat=chat)}"), FitWarning, stacklevel=3)
        if chat:
            prompts = [self._inner.chat(prompt, system) for prompt in prompts]
        return apply.generate(
            self._inner,
            prompts,
            steers,
            sampling,
            special=not chat,
            watched=watch,
            guards=guards,
            on_text=on_text,
            allow_idle=allow_idle,
        )

    def _check_fit(self, steers: Sequence[Steer], *, allow_other_model: bool) -> None:
        vectors = [vector for steer in steers for vector in steer.vectors]
        identity = self._inner.identity
        for text in check_all_fit(vectors, identity, allow_other_model=allow_other_model):
            warnings.warn(worded(text), FitWarning, stacklevel=4)


def load(
    name: str | PathLike[str] = "pocket",
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    device_map: str | None = None,
    trust_remote_code: bool = False,
    adapter: str | PathLike[str] | None = None,
    offline: bool = False,
) -> Model:
    """Load a model: "pocket" (the small one inside steer), a folder, a hub id or a GGUF file.

    device: cpu, cuda, cuda:1 or mps; by default the first accelerator. dtype: float32, float16 or
    bfloat16. device_map: as Hugging Face takes it. adapter: a PEFT adapter to merge into the
    weights, a folder or a hub id. offline: ask the hub nothing.

    Raises:
        ModelError: it does not exist, cannot be loaded, or is of a family without a map of sites.
        UsageError: settings that exclude each other.
    """
    source = ModelSource(
        str(name),
        revision=revision,
        device=device,
        dtype=dtype,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        adapter=None if adapter is None else str(adapter),
        offline=offline,
    )
    return Model(loading.load(source))


def wrap(network: Any, tokenizer: Any, *, name: str | None = None) -> Model:
    """Use a Hugging Face model and tokenizer that are loaded already.

    The model is set to inference and its weights are frozen. name: what vector files call it; by
    default the name or path that it was loaded from.

    Raises:
        ModelError: its family has no map of sites.
    """
    known = name or getattr(network.config, "_name_or_path", "") or type(network).__name__
    return Model(models.wrap(network, tokenizer, model_id=known))
