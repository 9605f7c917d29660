"""Generation from prompts as users give them: the chat template, and conditions that guide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from steer.base.errors import UsageError
from steer.generate.apply import generate
from steer.generate.guidance import guidance
from steer.models.model import Model
from steer.steering.generation import Generation, Guide, Sampling
from steer.steering.projection import Guard, Projection
from steer.steering.steers import Steer


def generate_from(
    model: Model,
    prompts: Sequence[str],
    steers: Sequence[Steer],
    sampling: Sampling,
    *,
    chat: bool = False,
    system: str | None = None,
    guides: Sequence[Guide] = (),
    live_layer: int | None = None,
    watched: Sequence[Projection] = (),
    guards: Sequence[Guard] = (),
    on_text: Callable[[str], None] | None = None,
    allow_idle: bool = False,
) -> Iterator[Generation]:
    """Continue each prompt `sampling.samples` times; `Generation.prompt` is the prompt as given.

    chat: each prompt is a user message, after a system message if there is one. guides: conditions
    that guide generation, at `live_layer`, or by the next token's distribution. The other arguments
    are those of `steer.generate.apply.generate`.

    Raises:
        UsageError: a live layer without a condition.
        ModelError: the model has no chat template.
        SteerError: as `steer.generate.apply.generate`.
    """
    if live_layer is not None and not guides:
        raise UsageError("a live layer needs a condition")
    guided = guidance(model, prompts, guides, chat=chat, layer=live_layer) if guides else None
    generations = generate(
        model,
        [model.chat(prompt, system) for prompt in prompts] if chat else prompts,
        steers,
        sampling,
        special=not chat,
        watched=watched,
        guards=guards,
        on_text=on_text,
        allow_idle=allow_idle,
        guidance=guided,
    )
    return with_own_prompts(generations, prompts, sampling)


def with_own_prompts(
    generations: Iterator[Generation], prompts: Sequence[str], sampling: Sampling
) -> Iterator[Generation]:
    """The generations, each with its prompt as the user gave it, without a template."""
    for index, generation in enumerate(generations):
        yield replace(generation, prompt=prompts[index // sampling.samples])
