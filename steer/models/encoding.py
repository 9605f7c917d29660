"""Text to tokens: what a tokenizer makes of passages, chats and all. Loads no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from steer.base.errors import ModelError
from steer.contrasts.passages import Message, Passage
from steer.contrasts.reading import Tokens, TokensOfMany

#: Enough for a tokenizer to use all cores.
PASSAGES_AT_ONCE = 128
#: Stands in for a message while the template round it is found out; no template trims its middle.
_STAND_IN = "steer0message0"


def chat(tokenizer: Any, name: str, messages: Sequence[Message], *, ask: bool = True) -> str:
    """Messages in the chat template; with `ask`, up to where the next answer begins.

    Raises:
        ModelError: the tokenizer of the model `name` has no template, or it refuses the messages.
    """
    if not tokenizer.chat_template:
        raise ModelError(f"{name} has no chat template", hint="use plain texts, without --chat")
    turns = [{"role": turn.role, "content": turn.content} for turn in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask))
    except Exception as error:  # jinja2 raises what the template's author chose
        raise ModelError(f"the chat template of {name} failed: {error}") from None


def render(tokenizer: Any, name: str, passages: Sequence[Passage]) -> Iterator[Passage]:
    """Passages as plain text; those that are messages get the chat template round them.

    What the template puts after an answer, such as the end of a turn, is left out: a model is read
    as it stands while it writes.

    Raises:
        ModelError: as `chat`; or the template does not give the message as it is.
    """

    @cache
    def round_about(turns: tuple[Message, ...], role: str) -> tuple[str, str]:
        messages = (*turns, Message(role, _STAND_IN))
        parts = chat(tokenizer, name, messages, ask=role != "assistant").split(_STAND_IN)
        if len(parts) != 2:
            raise _unlike(name)
        return parts[0], parts[1]

    for passage in passages:
        if passage.role is None:
            yield passage
            continue
        before, after = round_about(passage.turns, passage.role)
        messages = (*passage.turns, Message(passage.role, passage.whole))
        made = chat(tokenizer, name, messages, ask=passage.role != "assistant")
        stripped = passage.whole.strip()
        cut = len(passage.whole) - len(passage.whole.lstrip())
        if made == before + passage.whole + after:
            stripped, cut = passage.whole, 0
        elif made != before + stripped + after:
            raise _unlike(name)
        start = max(0, len(passage.prompt) - cut)
        stop = len(passage.prompt) + len(passage.text) - cut
        ending = "" if passage.role == "assistant" else after
        yield Passage(before + stripped[:start], stripped[start:stop], stripped[stop:] + ending)


def encode_passages(
    tokenizer: Any, name: str, passages: Sequence[Passage], markers: Sequence[str] = ()
) -> TokensOfMany:
    """Token ids of whole passages, and which of them belong to the text.

    A token that holds the end of the prompt and the beginning of the text belongs to the text.
    `markers` are looked for in each; `name` is the model's, for messages.

    Raises:
        ModelError: the tokenizer is not a fast one, so that it cannot say where tokens stand; or as
            `render`.
    """
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer of {name} gives no offsets")
    return TokensOfMany(_encoded(tokenizer, name, passages, markers))


def _encoded(
    tokenizer: Any, name: str, passages: Sequence[Passage], markers: Sequence[str]
) -> Iterator[Tokens]:
    # A part at a time: what a tokenizer says of a token takes a hundred times its id's bytes.
    for start in range(0, len(passages), PASSAGES_AT_ONCE):
        part = passages[start : start + PASSAGES_AT_ONCE]
        plain = list(render(tokenizer, name, part))
        encoded = tokenizer(
            [passage.whole for passage in plain],
            # A chat template has put in what a tokenizer would.
            add_special_tokens=part[0].role is None,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            # What is too long is told of where it is run.
            verbose=False,
        )
        columns = ("input_ids", "offset_mapping", "special_tokens_mask")
        rows = zip(plain, *(encoded[column] for column in columns), strict=True)
        for passage, *row in rows:
            yield _tokens(passage, markers, *row)


def _tokens(
    passage: Passage,
    markers: Sequence[str],
    ids: list[int],
    offsets: list[tuple[int, int]],
    special: list[int],
) -> Tokens:
    begin, end = len(passage.prompt), len(passage.prompt) + len(passage.text)
    real = [
        index
        for index, ((start, stop), is_special) in enumerate(zip(offsets, special, strict=True))
        if stop > start and not is_special
    ]
    own = [index for index in real if offsets[index][1] > begin and offsets[index][0] < end]
    if not own:
        raise ModelError(f"the tokenizer makes no tokens of {passage.text[:40]!r}")
    after = []
    for marker in markers:
        found = passage.whole.rfind(marker)
        behind = [index for index in real if offsets[index][0] >= found + len(marker)]
        if found >= 0 and behind:
            after.append((marker, behind[0]))
    return Tokens(ids, own[0], own[-1] + 1, real[-1] + 1, tuple(after))


def _unlike(name: str) -> ModelError:
    return ModelError(
        f"the chat template of {name} does not give messages as they are",
        hint="put them into the template yourself, and pass the contrasts as plain texts",
    )
