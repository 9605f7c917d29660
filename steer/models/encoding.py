"""Text to tokens: what a tokenizer makes of passages, chats and all. Loads no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steer.base.errors import ModelError
from steer.contrasts.passages import Passage
from steer.contrasts.reading import Tokens, TokensOfMany
from steer.models.templates import ChatTemplate

#: Enough for a tokenizer to use all cores.
PASSAGES_AT_ONCE = 128


def encode_passages(
    template: ChatTemplate, passages: Sequence[Passage], markers: Sequence[str] = ()
) -> TokensOfMany:
    """Token ids of whole passages, and which of them belong to the text.

    A token that holds the end of the prompt and the beginning of the text belongs to the text.
    `markers` are looked for in each.

    Raises:
        ModelError: the tokenizer is not a fast one, so that it cannot say where tokens stand; or as
            `ChatTemplate.passages`.
    """
    if not getattr(template.tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer of {template.name} ({type(template.tokenizer).__name__}) cannot say"
            " where tokens stand in a text",
            hint="a folder with tokenizer.json has one that can",
        )
    return TokensOfMany(_encoded(template, passages, markers))


def _encoded(
    template: ChatTemplate, passages: Sequence[Passage], markers: Sequence[str]
) -> Iterator[Tokens]:
    # A part at a time: what a tokenizer says of a token takes a hundred times its id's bytes.
    for start in range(0, len(passages), PASSAGES_AT_ONCE):
        part = passages[start : start + PASSAGES_AT_ONCE]
        plain = list(template.passages(part))
        encoded = template.tokenizer(
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
