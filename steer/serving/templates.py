"""Messages of a request in the model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steer.models.model import Model
from steer.serving.errors import RequestError
from steer.serving.requests import Turn

#: Fields of a message that only some templates know, and that an answer may hang on.
_NEEDED = ("tool_calls", "tool_call_id", "function_call")
#: Arguments of a rendering that are not a template's own.
_RESERVED = frozenset(
    [
        "conversation",
        "tools",
        "documents",
        "chat_template",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "messages",
        "add_generation_prompt",
        "continue_final_message",
    ]
)


def prompt_of(
    model: Model,
    turns: Sequence[Turn],
    *,
    ask: bool | None = None,
    go_on: bool | None = None,
    arguments: dict[str, Any] | None = None,
) -> str:
    """The text that the model is to go on with.

    ask: whether it ends where an answer begins; by default it does. go_on: it ends where the last
    message ends. arguments: of the template, as `chat_template_kwargs` has them.

    Raises:
        RequestError: the model has no template, or that refuses or does not know what is in them.
    """
    template = model.tokenizer.chat_template
    if not template:
        raise RequestError(f"{model.identity.id} has no chat template", param="messages")
    source = template if isinstance(template, str) else str(template)
    if go_on and ask:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude each other",
            param="continue_final_message",
        )
    for name in arguments or {}:
        if name in _RESERVED:
            raise RequestError(
                f"{name!r} is no argument of a template", param=f"chat_template_kwargs.{name}"
            )
    messages = [_message(turn, f"messages[{index}]", source) for index, turn in enumerate(turns)]
    try:
        return str(
            model.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=not go_on if ask is None else ask,
                continue_final_message=bool(go_on),
                **(arguments or {}),
            )
        )
    except Exception as error:  # jinja2 raises what the template's author chose
        raise RequestError(
            f"the chat template of {model.identity.id} failed: {error}", param="messages"
        ) from None


def _message(turn: Turn, where: str, template: str) -> dict[str, Any]:
    """A message as templates have it.

    Raises:
        RequestError: it has something that this one would drop.
    """
    role = turn.role
    if role == "developer" and "developer" not in template:
        role = "system"  # which is what OpenAI's API calls it now
    if role in ("tool", "function") and role not in template:
        raise RequestError(
            f"the chat template of this model knows no role {role!r}",
            param=f"{where}.role",
            code="unsupported",
        )
    made: dict[str, Any] = {"role": role, "content": turn.text}
    for name in _NEEDED:
        value = getattr(turn, name)
        if not value:
            continue
        # An id says which call a tool answers; templates that do without go by the order.
        if name != "tool_call_id" and name not in template:
            raise RequestError(
                f"the chat template of this model does not use {name}",
                param=f"{where}.{name}",
                code="unsupported",
            )
        made[name] = list(value) if isinstance(value, tuple) else value
    if turn.name is not None:
        made["name"] = turn.name
    reasoning = turn.reasoning_content or turn.reasoning
    if reasoning:
        # Templates that know none leave it out, as they do with all but the last one's anyway.
        made["reasoning_content"] = reasoning
    return made
