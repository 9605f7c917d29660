"""Tokenize passages, plain or in a chat template. Loads no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steer.base.errors import ModelError
from steer.contrasts.passages import Passage
from steer.contrasts.reading import Tokens, TokensOfMany
from steer.models.templates import ChatTemplate

#: The size of a batch, enough for a tokenizer to use all cores.
PASSAGES_AT_ONCE = 128


def encode_passages(
    template: ChatTemplate, passages: Sequence[Passage], markers: Sequence[str] = ()
) -> TokensOfMany:
    """Token ids of whole passages, with the range of the text in each.

    A token across the boundary between prompt and text belongs to the text. The last occurrence of
    each of `markers` is located too.

    Raises:
        ModelError: the tokenizer is not a fast one and so gives no offsets; or as
            `ChatTemplate.passages`.
    """
    if not getattr(template.tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer of {template.name} ({type(template.tokenizer).__name__}) gives no"
            " offsets of tokens in the text",
            hint="use a model folder with tokenizer.json",
        )
    return TokensOfMany(_encoded(template, passages, markers))


def _encoded(
    template: ChatTemplate, passages: Sequence[Passage], markers: Sequence[str]
) -> Iterator[Tokens]:
    # In batches, since a tokenizer's output takes a hundred times the memory of the ids.
    for start in range(0, len(passages), PASSAGES_AT_ONCE):
        part = passages[start : start + PASSAGES_AT_ONCE]
        plain = list(template.passages(part))
        encoded = template.tokenizer(
            [passage.full_text for passage in plain],
            # A chat template has already added the special tokens.
            add_special_tokens=part[0].role is None,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            # Texts that are too long are reported where they are run.
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
        start = passage.full_text.rfind(marker)
        following = [index for index in real if offsets[index][0] >= start + len(marker)]
        if start >= 0 and following:
            after.append((marker, following[0]))
    return Tokens(ids, own[0], own[-1] + 1, real[-1] + 1, tuple(after))
