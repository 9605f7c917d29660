"""`--engine`: generate with vLLM instead of Hugging Face."""

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

    #: Arguments: prompts, steers, whether to add the tokenizer's special tokens to prompts, and
    #: whether a steer may act at no position.
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

#: For commands that score texts with the model and generate them with the engine.
WriterOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="vllm: vLLM generates the texts.",
    ),
]


def check(engine: str | None, settings: Sequence[str], steers: Sequence[Steer]) -> dict[str, Any]:
    """Check that the engine supports the steers, and parse its settings.

    Returns:
        the settings as keyword arguments.

    Raises:
        UsageError: the engine does not exist, a setting has no value, or the engine does not
            support a steer.
        ModelError: the engine does not support steering in this architecture.
        SteerError: the engine is not installed, or not in the supported version.
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
    """Start vLLM with the model, prepared for each of `steerings` and for unsteered texts.

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
    """Start vLLM; yields a function that continues token ids."""
    with started(source, steerings, settings) as running:
        yield running.continue_ids


@contextmanager
def generator(
    source: ModelSource,
    model: Model,
    steerings: Sequence[Sequence[Steer]],
    sampling: Sampling,
    settings: dict[str, Any],
) -> Iterator[Generate]:
    """Start vLLM; yields a function from prompts and steers to generations.

    This frees the weights of `model`; afterwards only its tokenizer can be used.
    """
    from steer.generate.apply import rows_of
    from steer.hooks.idle import check_acted, check_can_act

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
                check_acted([generation.idle for generation in generations])
            return generations

        yield generate


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--engine-option {text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value
