"""The messages of a request as the model's prompt, the same as with `steer apply --chat`."""

from __future__ import annotations

import json

from steer.base.errors import ModelError
from steer.contrasts.passages import Message
from steer.models.model import Model
from steer.models.templates import ChatTemplate
from steer.serving import requests
from steer.serving.errors import RequestError
from steer.serving.library import Steering

#: Fields of a message that a chat template may use, besides its role and content.
_EXTRA = ("name", "tool_calls", "tool_call_id", "function_call", "refusal", "annotations")


def render(
    model: Model,
    params: requests.Chat | requests.Tokenize,
    steering: Steering,
    condition: str | None = None,
) -> tuple[str, list[str]]:
    """The text that the model continues, and notes for the client.

    condition: a system message to put before messages that have none. The template gets the
    server's arguments and the request's own `chat_template_kwargs`; without any, those with which
    the request's vectors were recorded, which is noted. Other notes name fields of messages that
    the template ignores.

    Raises:
        RequestError: there is no template, it fails, or does not support the request.
    """
    if params.continue_final_message and params.add_generation_prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude each other",
            param="continue_final_message",
        )
    settings, notes = steering.template_settings(
        model.template_settings, params.chat_template_kwargs or {}
    )
    template = ChatTemplate(model.tokenizer, model.identity.id, settings, notes.append)
    if not template.exists:
        raise RequestError(f"{model.identity.id} has no chat template", param="messages")
    if params.chat_template_kwargs:
        template.check_arguments()
    unfinished = bool(params.continue_final_message)
    ask = not unfinished if params.add_generation_prompt is None else params.add_generation_prompt
    messages = _messages(model, params, steering)
    if condition is not None:
        if messages and messages[0].role in ("system", "developer"):
            raise RequestError(
                "a condition is a system message, and there is one already", param="condition"
            )
        messages.insert(0, Message("system", condition))
    try:
        text = template.render(messages, ask=ask, unfinished=unfinished)
    except ModelError as error:
        raise RequestError(str(error), param="messages") from None
    return text, notes


def _messages(
    model: Model, params: requests.Chat | requests.Tokenize, steering: Steering
) -> list[Message]:
    """The messages for the chat template, after the system message of a recipe, if any.

    Raises:
        RequestError: the template does not know a role.
    """
    source = str(getattr(model.tokenizer, "chat_template", None) or "")
    messages = [
        _message(turn, f"messages[{index}]", source)
        for index, turn in enumerate(params.messages or ())
    ]
    system = steering.settings.get("system")
    if system is not None and messages and messages[0].role not in ("system", "developer"):
        messages.insert(0, Message("system", system))
    return messages


def _message(turn: requests.Turn, where: str, template: str) -> Message:
    role = turn.role
    if role == "developer" and "developer" not in template:
        role = "system"  # OpenAI's newer name for it
    if role in ("tool", "function") and role not in template:
        raise RequestError(
            f"the chat template of this model has no role {role!r}",
            param=f"{where}.role",
            code="unsupported",
        )
    extra = {name: value for name in _EXTRA if (value := getattr(turn, name))}
    reasoning = turn.reasoning_content or turn.reasoning
    if reasoning:
        extra["reasoning_content"] = reasoning
    return Message(role, turn.text, json.dumps(extra) if extra else "")
