"""Activations that are NaN or infinite are an error wherever they are read or written from, and
never a number of a result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny
import torch
from test_cli import PAIRS, failed, steer

import steer as api
from steer.baking.check import reference
from steer.base.errors import InputError, ModelError
from steer.contrasts.reading import Reading
from steer.distillation.lessons import picked_logits
from steer.distillation.ridge import Moments
from steer.evaluation.batches import Text, drift, log_prob, surprise
from steer.evaluation.cells import UNSTEERED
from steer.evaluation.scoring import score
from steer.fitting.activations import open_kept
from steer.hooks.record import capture, record
from steer.models.model import Model
from steer.vectors import store
from steer.vectors.sites import Site

#: From this layer on.
BROKEN = 1


def overflowing(layer: int = BROKEN) -> torch.nn.Module:
    """A network with finite weights whose activations overflow float16 at a layer."""
    network = tiny.build("llama").half()
    for parameter in network.model.layers[layer].mlp.parameters():
        parameter.data.fill_(6e4)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny-overflowing"
    overflowing().save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.wrapped(overflowing(), "tiny-overflowing")


@pytest.fixture
def _files(model: Model) -> None:
    Path("vectors").mkdir()
    vector = tiny.vector(model, layers=(0, 1, 2))
    store.write(Path("vectors/calm.safetensors"), vector)
    Path("plain.txt").write_text("".join(f"w{n} w{n + 2} w{n + 3}\n" for n in range(3, 33)))
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))


@pytest.mark.parametrize(
    "words",
    [
        ["extract", "pairs.jsonl", "-o", "x.safetensors"],
        ["extract", "pairs.jsonl", "--layers", "1", "-o", "x.safetensors", "--keep", "x.acts"],
        ["monitor", "w5 w9", "-v", "calm@1"],
        ["monitor", "w5 w9", "-v", "calm@2", "--json"],
        ["apply", "w5 w9"],
        ["apply", "w5 w9", "-v", "calm:2@0"],
        ["apply", "w5 w9", "-v", "calm:2@2", "--when", "calm@1<1e6/mean"],
        ["apply", "w5 w9", "--watch", "calm@1", "--json"],
        ["eval", "-v", "calm:2@0", "--texts", "pairs.jsonl", "--samples", "2"],
        ["eval", "-v", "calm:2@0", "--condition", "w3", "--samples", "2", "--max-tokens", "4"],
        ["sweep", "-v", "calm", "--texts", "pairs.jsonl", "--samples", "2", "--max-tokens", "4"],
        ["suite", "--condition", "w3", "--texts", "plain.txt", "--samples", "2"],
        ["suite", "--condition", "w3", "--texts", "plain.txt", "--methods", "distill"],
        ["suite", "--condition", "w3", "--texts", "plain.txt", "--guidance", "2"],
        ["apply", "w5", "--condition", "w3"],
        ["discover", "plain.txt", "-k", "2", "-o", "x.safetensors"],
        ["make", "pairs.jsonl", "-o", "x.safetensors"],
        ["extract", "--raises", "w5", "--lowers", "w9", "-o", "x.safetensors"],
        ["contrasts", "write", "w5", "-o", "x.safetensors"],
        ["distill", "--condition", "w3", "-o", "x.safetensors", "--max-tokens", "4"],
        ["distill", "--contrasts", "pairs.jsonl", "-o", "x.safetensors", "--max-tokens", "4"],
    ],
)
@pytest.mark.usefixtures("_files")
def test_commands(folder: Path, words: Sequence[str]) -> None:
    extra = "--allow-other-model" if "-v" in words else "--force"
    if words[0] == "suite":
        extra = "--seed=0"
    result = steer(*words, "-m", folder, "--dtype", "float16", extra)
    failed(result, 1, "float32")
    assert not Path("x.safetensors").is_file()


@pytest.mark.usefixtures("_files")
def test_what_is_scored_and_fitted_is_looked_at_too(model: Model) -> None:
    """Where nothing is written before."""
    texts = [Text((1, 5, 9, 12), (2, 3), 1)]
    for measure in (log_prob, drift, surprise):
        with pytest.raises(ModelError, match="not numbers"):
            score(model, texts, [UNSTEERED], measure)
    with pytest.raises(ModelError, match="not numbers"):
        picked_logits(model, [((1, 5, 9), 1)])
    with pytest.raises(ModelError, match="not numbers"):
        reference(model, [], ["w5 w9"])
    moments = Moments(4)
    moments.add(torch.full((3, 4), torch.inf), torch.ones(3, 4))
    with pytest.raises(ModelError, match="NaN or infinite"):
        moments.spectrum()


@pytest.mark.usefixtures("_files")
def test_kept_activations(folder: Path) -> None:
    words = ["extract", "pairs.jsonl", "-m", folder, "--dtype", "float16"]
    kept = steer(*words, "--layers", "0", "-o", "x.safetensors", "--keep", "x.acts")
    assert kept.exit_code == 0, kept.stderr
    data = bytearray(Path("x.acts").read_bytes())
    for bits in (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f"):  # NaN, infinity
        data[-4:] = bits
        Path("x.acts").write_bytes(data)
        failed(steer("fit", "x.acts", "-o", "y.safetensors"), 1, "x.acts holds", "NaN or infinite")
        with open_kept(Path("x.acts")) as opened, pytest.raises(InputError):
            list(opened.chunks(0, 1))


def test_what_lies_before_can_be_read(model: Model) -> None:
    ids, mask = model.padded([[1, 5, 9], [1, 7]], left=False)
    for name in ("resid_post", "attn_out", "mlp_out", "resid_pre"):
        for layer in range(model.n_layers):
            site = Site(layer, name)  # type: ignore[arg-type]
            if layer < BROKEN or (layer == BROKEN and name in ("resid_pre", "attn_out")):
                assert torch.isfinite(capture(model, ids, mask, [site])[site]).all()
            else:
                with pytest.raises(ModelError, match="NaN or infinite"):
                    capture(model, ids, mask, [site])


def test_padding_is_not_looked_at(model: Model) -> None:
    """Whatever stands there, it is never read."""
    broken = tiny.wrapped(tiny.build("llama"), "tiny-padding")
    ids, mask = broken.padded([[1, 5, 9], [1, 7]], left=False)
    inner = broken.network.model.layers[0].mlp.forward

    def spoiled(x: torch.Tensor) -> torch.Tensor:
        return inner(x).masked_fill(mask[:, :, None] == 0, torch.nan)

    broken.network.model.layers[0].mlp.forward = spoiled
    seen = capture(broken, ids, mask, [Site(0, "mlp_out")])[Site(0, "mlp_out")]
    assert seen.isnan().any()
    assert seen[mask.bool()].isfinite().all()


def test_library(model: Model) -> None:
    wrapped = api.Model(model)
    pairs = [(pair["positive"], pair["negative"]) for pair in PAIRS]
    with pytest.raises(ModelError, match="NaN or infinite"):
        api.extract(wrapped, pairs)
    with pytest.raises(ModelError, match="NaN or infinite"):
        api.record(wrapped, pairs)
    with pytest.raises(ModelError, match="NaN or infinite"):
        api.monitor(wrapped, ["w5"], api.Vector(tiny.vector(model)))
    with pytest.raises(ModelError, match="not numbers"):
        wrapped.generate("w5", temperature=0, max_tokens=2)


def test_nothing_is_recorded_of_a_broken_batch(model: Model) -> None:
    readings = [Reading((1, 5, n), ((1, 3),)) for n in range(5, 9)]
    assert list(record(model, readings, [Site(0)]))
    with pytest.raises(ModelError, match="NaN or infinite"):
        list(record(model, readings, [Site(0), Site(2)]))
