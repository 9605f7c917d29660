"""`--engine`: what generates in place of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.base.errors import UsageError
from steer.cli import output

if TYPE_CHECKING:
    from steer.engines.vllm_engine import Engine
    from steer.evaluation.written import Continue
    from steer.models.model import Model
    from steer.models.source import ModelSource
    from steer.steering.generation import Generation, Sampling
    from steer.steering.steers import Steer

    #: Of prompts, steers, whether prompts get the tokenizer's special tokens, and whether a steer
    #: may act nowhere.
    Generate = Callable[[Sequence[str], Sequence[Steer], bool, bool], list[Generation]]

EngineOption = Annotated[
    str | None,
    typer.Option(help="vllm: vLLM generates the texts."),
]
EngineSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        metavar="KEY=VAL",
        help="A setting of vLLM: tensor_parallel_size=2.",
    ),
]

#: Of commands that score, too.
WriterOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="vllm: vLLM generates the texts.",
    ),
]


def check(engine: str | None, settings: Sequence[str], steers: Sequence[Steer]) -> dict[str, Any]:
    """The settings as keyword arguments, once it is sure that the engine can do what is asked.

    Raises:
        UsageError: another engine, a setting without a value, or a steer that it cannot do.
        ModelError: an architecture that it is not steered in.
        SteerError: it is not installed, or in another version.
    """
    if engine is None:
        if settings:
            raise UsageError("--engine-option needs --engine")
        return {}
    if engine != "vllm":
        raise UsageError(f"{engine!r} is not an engine", hint="use vllm, or leave --engine out")
    from steer.steering.tokens import refuse

    refuse(steers, f"--engine {engine}")
    parsed = dict(_setting(text) for text in settings)
    from steer.engines import vllm_engine

    for steer in steers:
        vllm_engine.check([steer], steer.vector.metadata.model.architecture)
    vllm_engine.check_installed()
    return parsed


@contextmanager
def started(
    source: ModelSource, steerings: Sequence[Sequence[Steer]], settings: dict[str, Any]
) -> Iterator[Engine]:
    """vLLM with the model, ready for these steerings and for none.

    Raises:
        SteerError: as `steer.engines.vllm_engine.running`.
    """
    from steer.engines.vllm_engine import running

    with ExitStack() as stack:
        with output.status("starting vLLM"):
            engine = stack.enter_context(running(source, steerings, **settings))
        yield engine


@contextmanager
def writer(
    source: ModelSource, steerings: Sequence[Sequence[Steer]], settings: dict[str, Any]
) -> Iterator[Continue]:
    """The same for commands that score: what continues token ids."""
    with started(source, steerings, settings) as running:
        yield running.continue_ids


@contextmanager
def writing(
    source: ModelSource,
    model: Model,
    steerings: Sequence[Sequence[Steer]],
    sampling: Sampling,
    settings: dict[str, Any],
) -> Iterator[Generate]:
    """The same as a function from prompts and steers to texts.

    The weights of `model` are let go of: from then on it is its tokenizer that serves.
    """
    from steer.generate.apply import rows_of
    from steer.hooks.meeting import check_acted, check_can_act

    model.network.to("meta")
    with started(source, steerings, settings) as engine:

        def generate(
            prompts: Sequence[str], steers: Sequence[Steer], special: bool, allow_idle: bool
        ) -> list[Generation]:
            rows = rows_of(model, prompts, sampling, special=special)
            if not allow_idle:
                check_can_act(model, steers, [row.ids for row in rows], sampling.max_tokens)
            generations = engine.generate(rows, [steers] * len(rows), sampling)
            if not allow_idle:
                check_acted([one.idle for one in generations])
            return generations

        yield generate


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--engine-option {text!r} is no KEY=VALUE")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value
