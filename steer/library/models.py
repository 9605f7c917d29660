"""`steer.Model`: a language model that generates, is read, and is steered."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from typing import TYPE_CHECKING, Any

from steer.base.wording import worded
from steer.generate import conversation
from steer.generate.conversation import Turn
from steer.generate.prompts import generate_from
from steer.hooks import steered as hooks_steered
from steer.library.data import Data, as_tuple, text_list
from steer.library.options import GenerateOptions, spelled_out
from steer.library.vectors import (
    Steers,
    Vector,
    as_guards,
    as_projections,
    as_steers,
    html_table,
    read,
)
from steer.models import loading
from steer.models import model as models
from steer.models.source import ModelSource
from steer.monitoring.lens import LayerLens
from steer.monitoring.lens import lens as run_lens
from steer.steering.generation import Generation, Sampling, guides_of
from steer.steering.projection import Guard, OnTrip, Projection
from steer.steering.readers import check_readers, hint
from steer.steering.steers import Steer, check_all_fit
from steer.vectors.rendering import parse_settings, with_arguments
from steer.vectors.vector import SteeringVector

if TYPE_CHECKING:
    from typing_extensions import Unpack


class FitWarning(UserWarning):
    """A vector is used on another model, or on another kind of text, than it was made from."""


class Conversation(conversation.Conversation):
    """A conversation with a model: `turns` holds its messages and answers, each answer with its own
    steers."""

    def say(
        self,
        message: str,
        steer: Steers = None,
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        on_text: Callable[[str], None] = lambda text: None,
        allow_other_model: bool = False,
    ) -> Turn:
        """Answer a message, and append both to the conversation. The options are those of
        `Model.generate`.

        Raises:
            UsageError: a setting is out of range, or a spec is invalid.
            IdleError: a steer changes nothing; then nothing is appended.
            ModelError: a vector was made on another model.
            SteerError: the conversation fills the model's context.
        """
        steers = as_steers(steer)
        identity = self.model.identity
        for text in check_all_fit(_vectors(steers), identity, allow_other_model=allow_other_model):
            warnings.warn(worded(text), FitWarning, stacklevel=2)
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop=as_tuple(stop),
            seed=seed,
        )
        return self.answer(message, steers, sampling, on_text)

    def _repr_html_(self) -> str:
        rows = [(turn.message, turn.answer, " + ".join(turn.steers)) for turn in self.turns]
        return html_table("conversation", ("message", "answer", "steered by"), rows)


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
        """Number of layers."""
        return self._inner.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._inner.identity.d_model

    def __repr__(self) -> str:
        return f"<Model {self._inner.describe()}, {self.n_layers} layers, width {self.d_model}>"

    def _generate(
        self,
        prompts: Sequence[str],
        steer: Steers,
        *,
        on_text: Callable[[str], None] | None = None,
        samples: int = 1,
        batch_size: int = 16,
        chat: bool = False,
        system: str | None = None,
        condition: str | Sequence[str] = (),
        strength: float | Sequence[float] = 1.0,
        live_layer: int | None = None,
        max_tokens: int = 64,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: str | Sequence[str] = (),
        beams: int = 1,
        seed: int = 0,
        watch: str | Projection | Sequence[str | Projection] = (),
        guards: str | Guard | Sequence[str | Guard] = (),
        on_trip: OnTrip = "stop",
        allow_other_model: bool = False,
        allow_idle: bool = False,
    ) -> Iterator[Generation]:
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop=as_tuple(stop),
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            beams=beams,
        )
        chat = chat or system is not None
        steers = as_steers(steer)
        watched = as_projections(watch)
        guarding = as_guards(guards, on_trip)
        readers = [*watched, *(guard.threshold.projection for guard in guarding)]
        vectors = [*_vectors(steers), *(reader.vector for reader in readers)]
        self._check_fit(vectors, allow_other_model=allow_other_model)
        for text in check_readers(chat=chat, steers=steers, watched=watched, guards=guarding):
            warnings.warn(worded(f"{text}: {hint(chat=chat)}"), FitWarning, stacklevel=3)
        return generate_from(
            self._inner,
            prompts,
            steers,
            sampling,
            chat=chat,
            system=system,
            guides=guides_of(as_tuple(condition), strength),
            live_layer=live_layer,
            watched=watched,
            guards=guarding,
            on_text=on_text,
            allow_idle=allow_idle,
        )

    @spelled_out(by=_generate)
    def generate(
        self, prompt: str, steer: Steers = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Continue a prompt while steering; `str()` of the result is the text.

        steer: a spec such as "warm:2@12", a vector, a steer, a recipe, or several. on_text: called
        with each piece of the text. chat: put the prompt into the model's chat template, as a user
        message; system: a system message before it, which implies chat. condition: a text before
        the prompt (a system message in a chat) that guides generation at a strength: 1 is the
        condition itself, 0 none, -1 its opposite. live_layer: the layer at which it guides
        activations, in place of the next token's distribution. max_tokens: the most new tokens.
        temperature: 0 is greedy. top_p, top_k: 1 and 0 keep all tokens. stop: the text ends before
        any of these. beams: above 1, beam search. The same seed gives the same text, alone or in a
        batch. watch: vectors whose projections are read at each new token, such as "warm" or
        "warm@2". guards: thresholds such as "warm>0.9"; on_trip says what happens when a token
        passes one: `stop` ends the text before it, `error` raises, `ablate` removes the projection.
        allow_idle: allow a steer that changes nothing; `idle` of the result names it.

        Raises:
            UsageError: an option or a spec is invalid, or a guard was made from the other kind of
                texts (chat or plain).
            IdleError: a steer changes nothing.
            SteerError: the prompt is empty, or too long for the model.
            ModelError: a vector was made on another model (see allow_other_model).
            HookError: a steer was never applied.
            GuardError: a guard whose `on_trip` is `error` tripped.
        """
        [generation] = self._generate([prompt], steer, **options)
        return generation

    @spelled_out(by=_generate)
    def generate_batch(
        self,
        prompts: Data,
        steer: Steers = None,
        *,
        samples: int = 1,
        batch_size: int = 16,
        mapping: Mapping[str, str] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Generation]:
        """Continue many prompts, `samples` times each, in their order.

        prompts: a list of texts, a file, a dataset or a data frame. Each prompt gets the same text
        as alone; batch_size of them run together. mapping: names of fields in the data, such as
        {"prompt": "question"}. The other arguments and errors are those of `generate`; on_text
        needs a single prompt and sample.
        """
        return list(
            self._generate(
                text_list(prompts, mapping=mapping),
                steer,
                samples=samples,
                batch_size=batch_size,
                **options,
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
        self._check_fit(_vectors(chosen), allow_other_model=allow_other_model)
        return hooks_steered.steered(self._inner, chosen, allow_idle=allow_idle)

    def chat(self, *, system: str | None = None, allow_idle: bool = False) -> Conversation:
        """A new conversation: see `Conversation.say`."""

        def warn(text: str) -> None:
            warnings.warn(worded(text), FitWarning, stacklevel=3)

        return Conversation(self._inner, system=system, allow_idle=allow_idle, warn=warn)

    def lens(
        self, vector: Vector | str, *, top: int = 8, allow_other_model: bool = False
    ) -> list[LayerLens]:
        """The `top` tokens that a vector raises and lowers most, by layer: its logit lens.

        Scores are standard deviations over the vocabulary; a random vector reaches about 4.

        Raises:
            ModelError: the vector was made on another model, or the model has no unembedding.
        """
        data = vector.data if isinstance(vector, Vector) else read(vector).data
        identity = self._inner.identity
        for text in check_all_fit([data], identity, allow_other_model=allow_other_model):
            warnings.warn(worded(text), FitWarning, stacklevel=2)
        return run_lens(self._inner, data, top=top)

    def _check_fit(self, vectors: Sequence[SteeringVector], *, allow_other_model: bool) -> None:
        identity = self._inner.identity
        for text in check_all_fit(vectors, identity, allow_other_model=allow_other_model):
            warnings.warn(worded(text), FitWarning, stacklevel=4)


def _vectors(steers: Sequence[Steer]) -> list[SteeringVector]:
    """All vectors of the steers: those that steer, and those of gates."""
    return [vector for steer in steers for vector in steer.vectors]


def load(
    name: str | PathLike[str] = "pocket",
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    device_map: str | None = None,
    tensor_parallel: bool = False,
    trust_remote_code: bool = False,
    adapter: str | PathLike[str] | None = None,
    offline: bool = False,
    template_arguments: Mapping[str, Any] | None = None,
    date: str | None = None,
) -> Model:
    """Load a model: "pocket" (the small one inside steer), a folder, a hub id or a GGUF file.

    device: cpu, cuda, cuda:1 or mps; by default the first accelerator. dtype: float32, float16 or
    bfloat16. device_map: as Hugging Face takes it. adapter: a PEFT adapter to merge into the
    weights, a folder or a hub id. tensor_parallel: spread each matrix over torchrun's processes.
    offline: ask the hub nothing. template_arguments: variables of the chat template, such as
    {"enable_thinking": False}; date: the date that it writes, as YYYY-MM-DD.

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
        tensor_parallel=tensor_parallel,
        trust_remote_code=trust_remote_code,
        adapter=None if adapter is None else str(adapter),
        offline=offline,
        template=with_arguments(parse_settings((), date), template_arguments or {}),
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
