"""Text as it grows: what is shown is what is written, whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from steer.base.text import TextDeltas, cut
from steer.generate.decoding import Stops

characters = st.text(st.sampled_from("abc é😀\n"), max_size=30)


@given(characters, st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=3), max_size=2))
@settings(max_examples=300)
def test_what_was_shown_is_the_text_up_to_the_stop(text: str, stop: list[str]) -> None:
    data = text.encode()
    deltas = TextDeltas(lambda ids: bytes(ids).decode(errors="replace"), stop)
    shown = written = ""
    for length, byte in enumerate(data, 1):
        shown += deltas.push(byte)
        written = data[:length].decode(errors="replace")
        assert cut(written, stop).startswith(shown)
        if any(word in written for word in stop):  # the text ends here
            break
    assert shown + deltas.finish() == cut(written, stop)


#: How tokenizers make text of tokens, and some tokens; several that belong together with blanks.
EURO = "€".encode()
DECODERS = {
    "word pieces": (decoders.WordPiece(cleanup=False), ["a", "##b", "##€", "c", "."]),
    "llama": (
        decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
        ["▁a", "b", "▁", "é", " ".join(f"<0x{byte:02X}>" for byte in EURO)],
    ),
    "metaspace": (decoders.Metaspace(), ["▁a", "b", "▁", "é"]),
    "bytes": (decoders.ByteLevel(), ["a", "Ġb", "Ã", "©", "â", "Ĥ", "¬"]),
}


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data(), stop=st.sampled_from([[], ["ba"], ["€", "b a"], [" "]]))
@settings(max_examples=200)
def test_text_grows_as_it_is_whatever_the_tokenizer(
    name: str, data: st.DataObject, stop: list[str]
) -> None:
    decoder, pieces = DECODERS[name]
    drawn = " ".join(data.draw(st.lists(st.sampled_from(pieces), max_size=60))).split()
    tokens = sorted(set(drawn))
    text = [tokens.index(token) for token in drawn]

    def decode(ids: Sequence[int]) -> str:
        return str(decoder.decode([tokens[token] for token in ids]))

    deltas = TextDeltas(decode, stop)
    shown = ""
    for length, token in enumerate(text, 1):
        shown += deltas.push(token)
        if any(word in decode(text[:length]) for word in stop):
            text = text[:length]
            break
    assert shown + deltas.finish() == cut(decode(text), stop)


def test_a_long_text_is_decoded_piece_by_piece() -> None:
    lengths = []

    def decode(ids: Sequence[int]) -> str:
        lengths.append(len(ids))
        return "".join(f" word{token}" for token in ids)

    deltas = TextDeltas(decode, ["\n"])
    shown = "".join(deltas.push(token) for token in range(2_000)) + deltas.finish()
    assert shown == "".join(f" word{token}" for token in range(2_000))
    assert max(lengths) < 32
    model = tiny.model("llama")
    ids = torch.full((2, 402), 9).clone()
    ids[:, ::2], ids[1, -1] = 8, 7
    looked: list[int] = []
    watching = replace(model, tokenizer=Counting(model.tokenizer, looked))
    stops = Stops(watching, ["w9 w9", "w7"], 2)
    assert stops(ids, ids).tolist() == [False, True]
    assert sorted(looked)[:2] == [36, 36]


class Counting:
    """A tokenizer that notes how many ids it is given to decode."""

    def __init__(self, inner: object, lengths: list[int]) -> None:
        self._inner, self._lengths = inner, lengths

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def decode(self, ids: list[int], **options: object) -> str:
        self._lengths.append(len(ids))
        return str(self._inner.decode(ids, **options))  # type: ignore[attr-defined]


def test_text_of_tokens_is_the_tokenizer_s() -> None:
    plain = tiny.model("llama")
    ids = [1, 5, 9, 2, 7]

    class Shouting(type(plain.tokenizer)):  # type: ignore[misc]
        def _decode(self, *args: object, **options: object) -> str:
            return str(super()._decode(*args, **options)).upper()

    loud = replace(plain, tokenizer=Shouting(tokenizer_object=plain.tokenizer.backend_tokenizer))
    for model in (plain, loud):
        expected = model.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert model.decode(ids) == expected
    assert plain.decode(ids) == "w5 w9 w7"
    assert loud.decode(ids).isupper()
