"""Monitoring: what is read is what is there, whatever it is batched with, and the page is safe."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded import extract, pairs

from steer.base.errors import InputError
from steer.base.files import shown
from steer.fitting.fit import auc
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.hooks.record import capture
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.monitoring.heatmap import N_STEPS, colour, ink, luminance, page, step
from steer.monitoring.monitor import monitor as monitor_in
from steer.monitoring.monitor import tokenize
from steer.monitoring.traces import Trace, TracedToken, reach, summarise
from steer.steering.readouts import Readout, readouts
from steer.vectors.provenance import Read
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector
from steer.workers import LocalWorker


def monitor(
    model: Model, texts: Sequence[str], chosen: Sequence[Readout], **settings: Any
) -> list[Trace]:
    return monitor_in(LocalWorker(model), tokenize(model, texts, **settings), chosen)


TEXTS = ["w3 w4 w5 w6 w7 w8", "w9", "w10 w11 w12", "w20 w21 w22 w23 w24 w25 w26 w27"]
FAMILIES = ["llama", "gpt2", "gemma2", "qwen3", "falcon", "bloom"]


def readers(model: Model) -> list[Readout]:
    return [
        *readouts(tiny.vector(model, layers=(0, 2)), (0, 2)),
        *readouts(tiny.vector(model, layers=(1,), site="resid_pre", seed=1)),
        *readouts(tiny.vector(model, layers=(1,), site="attn_out", seed=2)),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_in_a_batch_a_text_reads_what_its_activations_project_to_alone(family: str) -> None:
    model = tiny.model(family)
    chosen = readers(model)
    for max_tokens in (1, 16, 1_000):
        traces = monitor(model, TEXTS, chosen, max_tokens=max_tokens)
        assert [trace.text for trace in traces] == TEXTS
        for trace in traces:
            ids = torch.tensor([[token.id for token in trace.tokens]])
            assert ids[0].tolist() == model.encode(trace.text)
            activations = capture(
                model, ids, torch.ones_like(ids), [reading.site for reading in chosen]
            )
            for column, reading in enumerate(chosen):
                expected = activations[reading.site][0].numpy() @ reading.weights + reading.offset
                np.testing.assert_allclose(trace.values[:, column], expected, rtol=1e-3, atol=1e-5)


def test_a_steer_moves_its_own_reading_by_its_length() -> None:
    model = tiny.model("llama")
    steer_by = tiny.steer(model, 3.0)
    (readout,) = readouts(steer_by.vector)
    before = monitor(model, TEXTS[:1], [readout])[0].values
    clock = TokenClock(prompt_length=before.shape[0], padding=torch.zeros(1, dtype=torch.int64))
    with injected(model, [steer_by], clock):
        after = monitor(model, TEXTS[:1], [readout])[0].values
    # The sides of this vector are two activation units apart.
    length = float(np.linalg.norm(steer_by.vector.direction(readout.layer))) / 2
    np.testing.assert_allclose(after - before, 3.0 * length, rtol=1e-3)


PLANTED = range(30, 40)


@pytest.fixture(scope="module")
def planted() -> tuple[Model, torch.Tensor]:
    """A model in whose embeddings some words carry a direction that the others do not."""
    original = tiny.model("llama")
    network = copy.deepcopy(original.network)
    axis = torch.nn.functional.normalize(torch.randn(32, generator=torch.manual_seed(3)), dim=0)
    weight = network.get_input_embeddings().weight
    scale = float(weight.norm(dim=1).mean())
    weight -= (weight @ axis)[:, None] * axis
    weight[list(PLANTED)] += 4 * scale * axis
    return tiny.wrapped(network, "planted"), axis


def texts(rng: np.random.Generator, words: range, count: int) -> list[str]:
    rows = rng.choice(list(words), size=(count, 8))
    return [" ".join(f"w{word}" for word in row) for row in rows]


def test_a_planted_direction_is_read_token_by_token(
    planted: tuple[Model, torch.Tensor],
) -> None:
    model, axis = planted
    other_vector = tiny.vector(model, layers=(0,), site="resid_pre")
    vector = SteeringVector(other_vector.metadata, axis.numpy()[None])
    chosen = readouts(vector, (0,))
    assert chosen[0].site == Site(0, "resid_pre")
    mixed = texts(np.random.default_rng(0), range(3, 60), 20)
    traces = monitor(model, mixed, chosen)
    summaries = [
        (token.id in PLANTED, value)
        for trace in traces
        for token, value in zip(trace.tokens, trace.values[:, 0], strict=True)
    ]
    carrying, others = (
        np.array([value for carries, value in summaries if carries == which])
        for which in (True, False)
    )
    assert auc(carrying, others) == 1


def test_held_out_texts_with_a_planted_direction_are_told_apart(
    planted: tuple[Model, torch.Tensor],
) -> None:
    model, _ = planted
    rng = np.random.default_rng(1)
    sides = texts(rng, PLANTED, 24), texts(rng, range(3, 30), 24)
    vector = extract(model, pairs(*zip(sides[0][:12], sides[1][:12], strict=True)))
    for readout in readouts(vector, vector.metadata.layers):
        scores = []
        for side, name in zip(sides, ("positive", "negative"), strict=True):
            summaries = [
                summarise(trace, 0, readout) for trace in monitor(model, side[12:], [readout])
            ]
            assert {summary.side for summary in summaries} == {name}
            scores.append(np.array([summary.score for summary in summaries]))
        assert auc(*scores) == 1


@pytest.fixture(scope="module")
def pocket() -> Model:
    return load(ModelSource())


wild = st.text(st.one_of(st.sampled_from("ab .\n\t<|>&\"'é😀"), st.characters()), max_size=20)


@given(wild.filter(lambda text: text.isprintable() or text.strip()))
def test_joined_tokens_are_the_text(pocket: Model, text: str) -> None:
    if not text or any("\ud800" <= character <= "\udfff" for character in text):
        return
    (trace,) = monitor(pocket, [text], [pocket_readout(pocket)])
    assert "".join(token.text for token in trace.tokens[1:]) == text
    assert trace.tokens[0].special
    assert 0 not in trace.counted


def pocket_readout(pocket: Model) -> Readout:
    return readouts(tiny.vector(pocket))[0]


def test_a_chat_s_own_tokens_are_not_counted(pocket: Model) -> None:
    text = pocket.chat("Tell me about the sea.")
    (trace,) = monitor(pocket, ["Tell me about the sea."], [pocket_readout(pocket)], chat=True)
    assert trace.text == text
    assert "".join(token.text for token in trace.tokens) == text
    counted = "".join(trace.tokens[index].text for index in trace.counted)
    assert counted == "Tell me about the sea."


def test_texts_that_cannot_be_read_are_named() -> None:
    model = tiny.model("llama")
    for texts_, message in (
        (["w3", ""], "text 2 has no tokens"),
        (["w3", " ".join(["w4"] * 500)], "text 2 has 501 tokens, more than the 128"),
    ):
        with pytest.raises(InputError, match=message):
            monitor(model, texts_, readers(model))


def test_a_summary_counts_no_special_tokens() -> None:
    readout = readouts(tiny.vector(tiny.model("llama")))[0]
    tokens = (TracedToken(1, "<s>", True), TracedToken(3, "a"), TracedToken(4, "b"))
    trace = Trace("ab", tokens, np.array([[99.0], [-2.0], [1.0]], np.float32))
    summary = summarise(trace, 0, readout)
    assert (summary.max, summary.max_at, summary.mean, summary.last) == (1.0, 2, -0.5, 1.0)
    assert summary.side == "negative"
    assert reach([trace], 0, readout) <= 2.5


@pytest.mark.parametrize("positions", ["last", "-1", "mean"])
def test_a_vector_of_last_tokens_judges_by_the_last_one_that_a_template_puts(
    positions: str,
) -> None:
    plain = tiny.vector(tiny.model("llama"))
    (readout,) = readouts(tiny.renamed(plain, read=Read(positions=positions)))
    tokens = (
        TracedToken(1, "<s>", True, True),
        TracedToken(3, "a"),
        TracedToken(5, "[answer]", True),
        TracedToken(2, "</s>", True, True),
    )
    trace = Trace("a[answer]", tokens, np.array([[99.0], [-2.0], [1.0], [-99.0]], np.float32))
    summary = summarise(trace, 0, readout)
    expected = (-2.0, "negative") if positions == "mean" else (1.0, "positive")
    assert (summary.score, summary.side) == expected
    assert summary.last == summary.score
    assert (summary.max, summary.mean) == (-2.0, -2.0)


class Page(HTMLParser):
    """The text of a page outside its style, and the tags in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_a_page_shows_any_text_and_runs_none(pieces: list[str]) -> None:
    readout = readouts(tiny.vector(tiny.model("llama")))[0]
    pieces = [*pieces, "</p><script>alert(1)</script>", "\x1b[2J\u202e"]
    tokens = tuple(TracedToken(3, piece) for piece in pieces)
    values = np.linspace(-9, 9, len(tokens), dtype=np.float32)[:, None]
    html = page("<title>", [Trace("".join(pieces), tokens, values)], [readout])
    parsed = Page(html)
    allowed = "html head meta title style body h1 h2 p div span br small table tr th td a"
    assert {tag for tag, _ in parsed.tags} <= set(allowed.split())
    linked = [attrs["href"] for tag, attrs in parsed.tags if tag == "a"]
    assert linked == ["#t1"]
    assert "http:" not in html and "https:" not in html and "src=" not in html
    text = "".join(parsed.words)
    for piece in pieces:
        # A parser reads every end of a line as one.
        assert re.sub("\r\n?", "\n", shown(piece)) in text
    assert not set("\x1b\u202e\x00") & set(html)


def test_the_scale_is_readable_at_every_step() -> None:
    for number in range(N_STEPS):
        light, dark = sorted((luminance(colour(number)), luminance(ink(colour(number)))))
        assert (dark + 0.05) / (light + 0.05) >= 4.5
    assert [step(value, 0.5, 2.0) for value in (-1e9, -1.5, 0.5, 2.5, 1e9)] == [0, 0, 10, 20, 20]
    shades = [luminance(colour(number)) for number in range(N_STEPS)]
    assert shades[:11] == sorted(shades[:11]) and shades[10:] == sorted(shades[10:])[::-1]
