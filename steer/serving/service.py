"""Prepare requests for generation, and return their results: shared by the routes of all APIs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fastapi import Request

from steer.base.errors import IdleError, UsageError
from steer.contrasts.frame import joinable
from steer.hooks.idle import check_can_act
from steer.hooks.tokens import substitute_tokens
from steer.models.model import Model
from steer.serving import limits, requests
from steer.serving.batching import Batcher, Event, Job, Order
from steer.serving.errors import RequestError
from steer.serving.library import Library, Steering
from steer.serving.messages import render
from steer.serving.responses import Answer, ChoiceEnd
from steer.steering.generation import Guide, Row, Sampling
from steer.steering.readers import check_readers
from steer.steering.tokens import LearnedToken, mark, marked_names, separate

#: Default new tokens of a completion, as in OpenAI's API, and of an answer without a known context.
_USUAL, _UNKNOWN = 16, 4096
#: The lowest temperature; dividing by a lower one overflows.
_COLD = 1e-4
#: Seconds between checks whether a client is still connected.
_CHECK_SECONDS = 0.2
#: The keys of the scope for data from the middleware.
BODY, STEERING, LOG = "steer.body", "steer.steering", "steer.log"


@dataclass
class PreparedRequest:
    """A request that is ready for generation.

    conditioned: token ids of each prompt under each condition that guides it. prefill: token ids
    that each text begins with. wanted: the most new tokens; None for all that fit. notes: for the
    client, on the rendering of messages and on vectors that were made from another kind of texts.
    """

    params: requests.Completion | requests.Chat
    prompts: list[list[int]]
    wanted: int | None
    settings: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    conditioned: list[tuple[list[int], ...]] = field(default_factory=list)
    prefill: list[int] = field(default_factory=list)


class Service:
    """The state that the routes share."""

    def __init__(
        self, model: Model, batcher: Batcher, library: Library, threads: limits.TimedThreads
    ) -> None:
        self.model, self.batcher, self.library = model, batcher, library
        self._threads = threads

    @property
    def served(self) -> str:
        return self.model.identity.id

    @cached_property
    def _most_characters(self) -> int:
        """The most characters that can fit into the context, by the longest token."""
        if self.model.context is None:
            return limits.MAX_BODY
        longest = max(map(len, self.model.tokenizer.get_vocab()), default=1)
        return int(self.model.context * longest)

    async def prepare_completion(
        self, body: Mapping[str, Any], steering: Steering
    ) -> PreparedRequest:
        """Prepare a completion.

        Raises:
            RequestError: it is invalid.
        """
        params = requests.read(body, requests.Completion, self.served)
        texts = params.prompts
        for text in texts:
            self._check_length(text, "prompt")

        model = self.model.with_learned_tokens(_tokens(steering))

        def encode(text: str | tuple[int, ...]) -> list[int]:
            if not isinstance(text, str):
                return list(text)
            self._check_named(text, steering)
            return model.encode(text, special=params.add_special_tokens)

        def encode_all() -> tuple[list[list[int]], list[tuple[list[int], ...]]]:
            prompts = [encode(text) for text in texts]
            return prompts, [
                self._check_conditions(
                    steering,
                    ids,
                    [
                        encode(conditioned)
                        for conditioned in _conditioned_prompts(text, steering.guides)
                    ],
                )
                for text, ids in zip(texts, prompts, strict=True)
            ]

        prompts, conditioned = await self._threads.run(encode_all, "the tokenizer")
        wanted = params.most_tokens
        if wanted is None:
            wanted = steering.settings.get("max_tokens", _USUAL)
        wanted = None if wanted == -1 else wanted
        prefill = await self._prefill(steering)
        return PreparedRequest(params, prompts, wanted, steering.settings, [], conditioned, prefill)

    async def prepare_chat(self, body: Mapping[str, Any], steering: Steering) -> PreparedRequest:
        """Prepare a chat, in the model's template.

        Raises:
            RequestError: it is invalid.
        """
        params = requests.read(body, requests.Chat, self.served)
        ids, notes = await self.encode_chat(params, steering)
        under = []
        for guide in steering.guides:
            self._check_length(guide.condition, "condition")
            under.append((await self.encode_chat(params, steering, guide.condition))[0])
        conditioned = [self._check_conditions(steering, ids, under)]
        wanted = params.max_completion_tokens
        wanted = params.most_tokens if wanted is None else wanted
        wanted = steering.settings.get("max_tokens") if wanted is None else wanted
        wanted = None if wanted == -1 else wanted
        prefill = await self._prefill(steering)
        return PreparedRequest(
            params, [ids], wanted, steering.settings, notes, conditioned, prefill
        )

    def _check_conditions(
        self, steering: Steering, plain: list[int], conditioned: Sequence[list[int]]
    ) -> tuple[list[int], ...]:
        """The prompt under each condition, if each changes it.

        Raises:
            RequestError: a condition changes nothing in it.
        """
        for guide, ids in zip(steering.guides, conditioned, strict=True):
            if ids == plain:
                raise RequestError(
                    f"the condition {guide.condition[:100]!r} changes nothing in the prompt",
                    param="condition",
                )
        return tuple(conditioned)

    async def _prefill(self, steering: Steering) -> list[int]:
        prefill = steering.prefill
        if isinstance(prefill, str):
            return await self.encode(prefill, special=False)
        return list(prefill)

    async def encode_chat(
        self,
        params: requests.Chat | requests.Tokenize,
        steering: Steering,
        condition: str | None = None,
    ) -> tuple[list[int], list[str]]:
        """Token ids of messages in the template, and notes for the client. condition: a system
        message to put before them.

        Raises:
            RequestError: the messages cannot be rendered, or are too long.
        """
        for turn in params.messages or ():
            self._check_length(turn.text, "messages")

        def encode() -> tuple[list[int], list[str]]:
            text, notes = render(self.model, params, steering, condition)
            self._check_length(text, "messages")
            self._check_named(text, steering)
            return self.model.with_learned_tokens(_tokens(steering)).encode(
                text, special=False
            ), notes

        return await self._threads.run(encode, "the chat template")

    async def encode(self, text: str, *, special: bool) -> list[int]:
        """A text as token ids."""
        self._check_length(text, "prompt")
        return await self._threads.run(
            lambda: self.model.encode(text, special=special), "the tokenizer"
        )

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return await self._threads.run(lambda: self.model.decode(ids), "the tokenizer")

    def _check_length(self, text: str | tuple[int, ...], param: str) -> None:
        most = self._most_characters if isinstance(text, str) else self.model.context
        if most is not None and len(text) > most:
            unit = "characters" if isinstance(text, str) else "tokens"
            raise RequestError(
                f"{param} has {len(text):,} {unit}, more than fit in the"
                f" {self.model.context or most:,} tokens that {self.served} takes",
                param=param,
                code="context_length_exceeded",
            )

    def begin(self, prepared: PreparedRequest, steering: Steering) -> tuple[Job, Sampling]:
        """Start the generation.

        Raises:
            RequestError: there is no room, the request is too large, or a steer would be idle.
        """
        model, params, settings = self.model, prepared.params, prepared.settings
        tokens = _tokens(steering)
        sequences = [*prepared.prompts, *(ids for under in prepared.conditioned for ids in under)]
        every = [substitute_tokens(model, tokens, ids) for ids in sequences]
        longest = max(map(len, every), default=0)
        wanted = prepared.wanted
        if wanted is None:
            wanted = model.context - longest if model.context else _UNKNOWN
        if wanted == 0:
            raise RequestError("max_tokens is at least 1", param="max_tokens")
        param = "prompt" if isinstance(params, requests.Completion) else "messages"
        for ids in every:
            self._check_prompt(ids, max(wanted, 1), param, tokens)
        if prepared.prefill:
            self._check_prefill(prepared.prefill, wanted)
        chosen = settings.get
        temperature = (
            chosen("temperature", 1.0) if params.temperature is None else params.temperature
        )
        top_p = chosen("top_p", 1.0) if params.top_p is None else params.top_p
        top_k = chosen("top_k", 0) if params.top_k is None else params.top_k
        seed = chosen("seed") if params.seed in (None, -1) else params.seed
        sampling = Sampling(
            max_tokens=max(wanted, 1),
            temperature=temperature if temperature >= _COLD else 0.0,
            top_p=max(top_p, 1e-6),
            top_k=max(top_k, 0),
            stop=params.stops if params.stop is not None else tuple(chosen("stop") or ()),
            samples=params.n or 1,
            seed=secrets.randbits(31) if seed is None else seed % 2**63,
        )
        rows = [
            Row("", sample, ids, under)
            for ids, under in zip(prepared.prompts, prepared.conditioned, strict=True)
            for sample in range(sampling.samples)
        ]
        if len(rows) > limits.MOST_CHOICES:
            raise RequestError(f"n times the prompts is more than {limits.MOST_CHOICES}", param="n")
        if len(rows) * sampling.max_tokens * ((params.top or 0) + 1) > limits.MOST_LOGPROBS and (
            params.top is not None
        ):
            raise RequestError(
                f"choices times tokens times logprobs is more than {limits.MOST_LOGPROBS:,}",
                param="logprobs",
            )
        if not steering.allow_idle:
            try:
                check_can_act(model, steering.steers, prepared.prompts, sampling.max_tokens)
            except IdleError as error:
                raise RequestError(
                    f'{error}; "allow_idle": true allows it', param="steer", code="idle"
                ) from None
        other = "completions" if isinstance(params, requests.Chat) else "chat completions"
        try:
            notes = check_readers(
                chat=isinstance(params, requests.Chat),
                steers=steering.steers,
                watched=steering.watched,
                guards=steering.guards,
            )
        except UsageError as error:
            raise RequestError(
                f"{error}; ask for {other}", param="guard", code="bad_steer"
            ) from None
        prepared.notes += [f"{note}: ask for {other}" for note in notes]
        order = Order(
            rows,
            steering,
            sampling,
            params.top,
            bool(params.stream),
            bool(params.return_token_ids),
            prepared.prefill,
            self._echoes(prepared, steering),
        )
        return self.batcher.order(order), sampling

    def _echoes(self, prepared: PreparedRequest, steering: Steering) -> bool:
        """Whether to echo the prompts.

        Raises:
            RequestError: another field excludes it, or it takes too much memory.
        """
        params = prepared.params
        if not (isinstance(params, requests.Completion) and params.echo):
            return False
        size = self.model.network.config.get_text_config().vocab_size
        with_others = params.stream or steering.watched or steering.guides or prepared.prefill
        if with_others or _tokens(steering):
            raise RequestError(
                "echo excludes stream, watch, condition, prefill and learned tokens",
                param="echo",
                code="unsupported",
            )
        if max(map(len, prepared.prompts)) * size > limits.MOST_LOGITS:
            raise RequestError(
                f"echo takes prompts of at most {limits.MOST_LOGITS // size:,} tokens",
                param="echo",
            )
        return True

    def _check_prefill(self, ids: Sequence[int], max_tokens: int) -> None:
        size = self.model.network.config.get_text_config().vocab_size
        if any(token >= size for token in ids):
            raise RequestError(f"token ids are below {size:,}", param="prefill")
        if len(ids) >= max_tokens:
            raise RequestError(
                f"the prefill has {len(ids):,} tokens, which count as new ones, of {max_tokens:,}:"
                " raise max_tokens",
                param="prefill",
            )

    def _check_named(self, text: str, steering: Steering) -> None:
        """Check that steers name all learned tokens in a text.

        Raises:
            RequestError: the text contains a learned token of this server that no steer names.
        """
        named = {steer.vector.name for steer in steering.steers if steer.is_token}
        for name in marked_names(text):
            vector = self.library.vectors.get(name)
            if vector is not None and vector.metadata.tokens and name not in named:
                raise RequestError(
                    f"a text has {mark(name)}, and no steer names the learned token {name!r}",
                    param="steer",
                    code="bad_steer",
                )

    def _check_prompt(
        self, ids: Sequence[int], max_tokens: int, param: str, tokens: Sequence[LearnedToken] = ()
    ) -> None:
        size = self.model.network.config.get_text_config().vocab_size
        learned = {own for token in tokens for own in token.ids}
        if not ids or any(token >= size and token not in learned for token in ids):
            raise RequestError(
                f"{param} is empty" if not ids else f"token ids are below {size:,}", param=param
            )
        context = self.model.context
        if context is not None and len(ids) + max_tokens > context:
            raise RequestError(
                f"the prompt has {len(ids):,} tokens; with {max_tokens:,} new ones this exceeds the"
                f" context of {context:,} tokens of {self.served}",
                param="max_tokens" if len(ids) < context else param,
                code="context_length_exceeded",
            )

    def answer(
        self, prepared: PreparedRequest, steering: Steering, job: Job, model_name: str
    ) -> Answer:
        """The answer that the job's events fill."""
        return Answer(
            model_name,
            isinstance(prepared.params, requests.Chat),
            sum(map(len, prepared.prompts)),
            prepared.params.top is not None,
            len(job.order.rows),
            [self.library.as_request(steer) for steer in steering.steers],
            [str(projection) for projection in steering.watched],
            prepared.notes,
            token_ids=bool(prepared.params.return_token_ids),
        )


def _conditioned_prompts(text: str | tuple[int, ...], guides: Sequence[Guide]) -> list[str]:
    """The prompt after each condition.

    Raises:
        RequestError: the prompt is token ids.
    """
    if guides and not isinstance(text, str):
        raise RequestError("a condition needs a text as prompt, not token ids", param="prompt")
    return [joinable(guide.condition) + str(text) for guide in guides]


async def all_events(request: Request, job: Job) -> list[Event]:
    """All events of a job; abandons it when its client disconnects."""
    async with _until_disconnect(request, job):
        return [event async for event in job.stream()]


async def lines(
    job: Job,
    tell: Callable[[Event], str],
    refused: Callable[[RequestError], str],
    log: list[str],
    n_prompt: int,
) -> AsyncIterator[str]:
    """A job's events as pieces of a stream. tell, refused: the text of an event and of an error.
    log: gets the numbers of tokens at the end."""
    n_new = 0
    try:
        async with aclosing(job.stream()) as events:
            async for event in events:
                n_new += event.n_tokens if isinstance(event, ChoiceEnd) else 0
                yield tell(event)
    except RequestError as refusal:
        yield refused(refusal)
    finally:
        job.gone.set()
        log.append(f"{n_prompt}+{n_new} tokens")


@asynccontextmanager
async def _until_disconnect(request: Request, job: Job) -> AsyncIterator[None]:
    """Abandon a job when its client disconnects."""

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_CHECK_SECONDS)
        job.leave()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        job.gone.set()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def _tokens(steering: Steering) -> list[LearnedToken]:
    """The learned tokens of a request.

    Raises:
        RequestError: they cannot be combined with the other steers.
    """
    try:
        return separate(steering.steers)[0]
    except UsageError as error:
        raise RequestError(str(error), param="steer", code="bad_steer") from None
