"""Any model that a user names loads and steers rightly, or is refused before it is read."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from families import RECURRENT, WRAPPERS, build, build_recurrent, build_wrapper
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from steer.base import hub
from steer.base.errors import ModelError, UsageError
from steer.base.processes import hearing_interrupts
from steer.cli.main import app
from steer.generate.apply import generate
from steer.models import gguf, loading
from steer.models.loading import check_config, load, mapped, public_id
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.selftest import examine
from steer.steering.generation import Sampling


def saved(folder: Path, network: Any) -> Path:
    network.generation_config.eos_token_id = None
    network.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("llama") / "tiny-llama")


def copied(folder: Path, to: Path, **settings: object) -> Path:
    """A copy of a model folder, its configuration changed."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    config = json.loads((to / "config.json").read_text()) | settings
    (to / "config.json").write_text(json.dumps(config))
    return to


# --- wrappers that see images, steered on text ---


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_round_a_language_model_is_steered_on_text(name: str, tmp_path: Path) -> None:
    model = load(ModelSource(str(saved(tmp_path / name, build_wrapper(name)))))
    assert [check_result for check_result in examine(model) if not check_result.passed] == []


def test_a_model_that_writes_no_text_is_refused_by_its_kind(tmp_path: Path) -> None:
    network = transformers.ViTModel(
        transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    network.save_pretrained(tmp_path / "vit")
    with pytest.raises(ModelError, match="of type vit") as caught:
        load(ModelSource(str(tmp_path / "vit")))
    assert "hub" not in f"{caught.value}{caught.value.hint}"


# --- models with a state ---


def texts(model: Model, prompts: list[str], batch_size: int) -> list[str]:
    sampling = Sampling(max_tokens=5, temperature=0, batch_size=batch_size)
    return [generation.text for generation in generate(model, prompts, [], sampling)]


@pytest.mark.parametrize("name", RECURRENT)
def test_a_text_of_a_recurrent_model_is_what_it_is_alone(name: str) -> None:
    model = tiny.wrapped(build_recurrent(name), name)
    assert model.batching == {"rwkv": "one"}.get(name, "equal")
    prompts = ["w5 w9 w20 w31 w8 w44", "w7", "w11 w12", "w50 w3", "w7 w8 w9"]
    assert texts(model, prompts, 8) == texts(model, prompts, 1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "bloom", "mpt"])
def test_attention_takes_padding(family: str) -> None:
    assert tiny.model(family).batching == "any"


def test_the_doctor_finds_padding_that_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    recurrent = tiny.wrapped(build_recurrent("recurrent_gemma"), "state")
    (check_result,) = (
        check_result for check_result in examine(recurrent) if check_result.name == "batches"
    )
    assert check_result.passed and "equal length" in check_result.detail
    blind = tiny.wrapped(build("llama"), "blind")
    forward = blind.network.forward
    monkeypatch.setattr(
        blind.network, "forward", lambda attention_mask=None, **others: forward(**others)
    )
    (check_result,) = (
        check_result for check_result in examine(blind) if check_result.name == "batches"
    )
    assert "equal length" in check_result.detail


# --- what is refused, and before what ---


@pytest.mark.parametrize(
    "settings",
    [
        {"num_hidden_layers": 10**9},
        {"n_layer": 10**12},
        {"hidden_size": 10**10},
        {"text_config": {"intermediate_size": 1 << 40}},
        {"vocab_size": -1},
    ],
)
def test_absurd_sizes_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"config\.json has"):
        check_config(settings, "this", None)


def test_a_configuration_that_its_weights_cannot_hold_is_refused_before_they_are_read(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail())
    for settings in ({"num_hidden_layers": 10**9}, {"hidden_size": 200_000}):
        folder = copied(llama, tmp_path / str(len(list(tmp_path.iterdir()))), **settings)
        with pytest.raises(ModelError, match=r"config\.json"):
            load(ModelSource(str(folder)))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(
    llama: Path, tmp_path: Path, number: float
) -> None:
    folder = copied(llama, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = number
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj\.weight hold NaN or infinity"):
        load(ModelSource(str(folder)))


def test_a_pickle_is_read_without_running_it_and_reported(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    assert load(ModelSource(str(folder))).notes == ()
    (folder / "model.safetensors").unlink()
    (note,) = load(ModelSource(str(folder))).notes
    assert "pickle" in note and "weights_only" in note

    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    torch.save({"x": Hostile()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load(ModelSource(str(folder)))
    assert not ran.exists()


def test_a_folder_without_weights_is_refused_in_words_about_a_folder(
    llama: Path, tmp_path: Path
) -> None:
    folder = copied(llama, tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights") as caught:
        load(ModelSource(str(folder)))
    assert "hub" not in str(caught.value.hint)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError):
        ModelSource(name)
    result = CliRunner().invoke(app, ["apply", "One day", "-m", name])
    assert result.exit_code == 2 and "no model" in result.output


# --- the hub ---


def test_a_hub_that_cannot_be_reached_is_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    started = time.monotonic()
    with pytest.raises(ModelError, match="hub cannot be reached"):
        load(ModelSource("nobody/nothing"))
    assert time.monotonic() - started < 5


def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "hub_answers", lambda: pytest.fail("asked"))
    with pytest.raises(ModelError, match=r"offline=True.* nobody/nothing is not in its cache"):
        load(ModelSource("nobody/nothing", offline=True))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_folder_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (str(tmp_path / "pipe"), os.path.relpath(tmp_path / "pipe"), os.devnull):
        with pytest.raises(ModelError, match="neither a folder nor a file"):
            ModelSource(name)


def test_names_that_a_recipient_can_load(llama: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--repo" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert ModelSource(str(snapshot)).public_id == "owner/repo"
    config = transformers.LlamaConfig()
    config._name_or_path = "someone/Tiny-Llama"
    assert public_id(ModelSource(str(llama)), config) == "someone/Tiny-Llama"
    config._name_or_path = "someone/base-of-a-finetune"
    assert public_id(ModelSource(str(llama)), config) == "tiny-llama"


# --- GGUF files and adapters ---


def gguf_bytes(architecture: str = "llama", kind: int = 0, n: int = 32, version: int = 3) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    values = text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    tensor = text("w") + struct.pack("<IQIQ", 1, n, kind, 0)
    head = b"GGUF" + struct.pack("<IQQ", version, 1, 1) + values + tensor
    return head.ljust(256, b"\0") + bytes(128)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"nothing of the kind", "not a GGUF file"),
        (b"", "not a GGUF file"),
        (gguf_bytes()[:40], "cut off"),
        (gguf_bytes(n=1 << 40), "cut off"),
        (gguf_bytes(version=1), "version 1"),
        (gguf_bytes("controlvector"), "control vector"),
        (gguf_bytes("nobodys-net"), "'nobodys-net'"),
    ],
)
def test_a_gguf_file_that_holds_no_such_model_is_refused(
    data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message):
        load(ModelSource(str(path)))


def test_gguf_names() -> None:
    hub = ModelSource("hf://owner/repo@main/sub/model.Q4_K_M.gguf")
    assert (hub.location, hub.gguf, hub.commit) == ("owner/repo", "sub/model.Q4_K_M.gguf", "main")
    assert hub.public_id == "owner/repo/sub/model.Q4_K_M.gguf"
    for name in ("nowhere.gguf", "hf://owner/repo/model-00001-of-00002.gguf"):
        with pytest.raises(ModelError):
            ModelSource(name)
    with pytest.raises(UsageError):
        ModelSource("hf://owner/repo")


@pytest.mark.skipif(not importlib.util.find_spec("gguf"), reason="needs the package gguf")
def test_a_quantisation_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(kind=3 + 1, n=32))  # Q4_2, which nobody reads any more
    with pytest.raises(ModelError, match="quantised as"):
        gguf.check(path, "model.gguf")


def test_an_adapter_is_told_from_a_model(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path / "lora")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="PEFT adapter") as caught:
        ModelSource(str(folder))
    assert "adapter=" in str(caught.value.hint)
    for adapter in (str(llama), str(tmp_path / "nowhere")):
        with pytest.raises(ModelError, match="adapter"):
            ModelSource(str(llama), adapter=adapter)


@pytest.mark.skipif(not importlib.util.find_spec("peft"), reason="needs the package peft")
def test_an_adapter_is_in_the_weights_and_in_the_fingerprint(llama: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = load(ModelSource(str(llama)))
    settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    network = get_peft_model(build("llama"), settings)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    network.save_pretrained(tmp_path / "lora")
    adapted = load(ModelSource(str(llama), adapter=str(tmp_path / "lora")))
    ids = torch.tensor([[1, 7, 9, 30]])
    with torch.no_grad():
        expected, logits = (
            network_called(input_ids=ids).logits for network_called in (network, adapted.network)
        )
        assert torch.allclose(expected, logits, atol=1e-4)
        assert not torch.allclose(base.network(input_ids=ids).logits, logits, atol=1e-2)
    assert adapted.identity.fingerprint != base.identity.fingerprint
    assert adapted.identity.id == "tiny-llama+lora"
    half = load(ModelSource(str(llama), adapter=str(tmp_path / "lora")))
    assert half.identity == adapted.identity


# --- number types, and Ctrl-C ---


def in_files(model: Model) -> bool:
    """Whether every weight lies in memory that is mapped from a file."""
    spans = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(".safetensors")
    ]
    starts = [parameter.data_ptr() for parameter in model.network.parameters()]
    return all(any(low <= start < high for low, high in spans) for start in starts)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("stated", ["own", "float16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_weights_of_a_model_that_runs_elsewhere_stay_in_their_files(
    dtype: torch.dtype, stated: str, shard: str, tmp_path: Path
) -> None:
    """Whatever the configuration states, identities are equal: rounding twice would change them."""
    tiny.build("llama").to(dtype).save_pretrained(tmp_path / "saved", max_shard_size=shard)
    tiny.tokenizer().save_pretrained(tmp_path / "saved")
    settings = {} if stated == "own" else {"dtype": stated, "torch_dtype": stated}
    source = ModelSource(str(copied(tmp_path / "saved", tmp_path / "tiny", **settings)))
    copy, elsewhere = load(source), load(mapped(source))
    assert elsewhere.identity == copy.identity
    assert in_files(elsewhere)
    assert in_files(copy) == (dtype is torch.float32)  # the default on a CPU


def test_weights_that_are_computed_keep_their_dtype(llama: Path) -> None:
    source = ModelSource(str(llama), dtype="float16", device_map="auto")
    assert mapped(source).dtype == "float32" and mapped(source).device == "cpu"
    (llama.parent / "adapter").mkdir(exist_ok=True)
    (llama.parent / "adapter/adapter_config.json").write_text("{}")
    adapted = ModelSource(str(llama), adapter=str(llama.parent / "adapter"))
    assert mapped(adapted).dtype is None


def test_the_type_is_the_fastest_only_where_it_may_be(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build("llama").to(torch.bfloat16)
    folder = str(saved(tmp_path / "half", network))
    monkeypatch.setattr(loading, "computes_bfloat16", lambda: True)
    slow = load(ModelSource(folder, device="cpu"))
    quick = load(ModelSource(folder, device="cpu", fast=True))
    assert (slow.network.dtype, slow.notes) == (torch.float32, ())
    assert quick.network.dtype == torch.bfloat16
    assert len(quick.notes) == 1 and "--dtype=float32" in quick.notes[0]
    # A vector of one fits the other.
    assert slow.identity == quick.identity
    chosen = load(ModelSource(folder, device="cpu", fast=True, dtype="float32"))
    assert (chosen.network.dtype, chosen.notes) == (torch.float32, ())
    assert load(ModelSource(str(llama), device="cpu", fast=True)).network.dtype == torch.float32
    monkeypatch.setattr(loading, "computes_bfloat16", lambda: False)
    assert load(ModelSource(folder, device="cpu", fast=True)).network.dtype == torch.float32


def test_an_interrupt_is_heard_where_something_catches_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    for kept in (BaseException, ()):
        with (
            pytest.raises(KeyboardInterrupt),
            hearing_interrupts(),
            suppress(*([kept] if kept else [])),  # type: ignore[arg-type]
        ):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    with pytest.raises(KeyboardInterrupt), hearing_interrupts():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("half imported") from None
    assert signal.getsignal(signal.SIGINT) is before
