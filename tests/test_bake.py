"""A baked folder does what the hooks do, or says why it cannot."""

from __future__ import annotations

import dataclasses
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from conftest import needs_shared
from families import _GROUPED, _SHARED, FAMILIES, randomised
from typer.testing import CliRunner

from steer.baking import folder as baking_folder
from steer.baking import target
from steer.baking.bake import BakedNetwork, bake, without
from steer.baking.check import Difference, compare, reference
from steer.baking.export import export
from steer.baking.families import FAMILIES as KNOWN
from steer.baking.target import REPORT, new_folder
from steer.base.errors import ModelError, SteerError, VectorError
from steer.base.shipped import SHIPPED
from steer.cli.main import app
from steer.models.checkpoint import rebuilt, save
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.operation import Coefficient, Operation
from steer.steering.scope import Schedule, Scope
from steer.steering.spec import parse
from steer.steering.steers import Steer, resolve
from steer.vectors import store

ROOT = Path(__file__).parents[1]
WRITES = Operation("ablate", writes=True)
TEXT = [" ".join(f"w{3 + (7 * i * i + 3 * i) % 58}" for i in range(20))]

#: Families that no other test has, and variants that matter here alone.
MORE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama, tied": ("Llama", _GROUPED, {"tie_word_embeddings": True}),
    "qwen2, tied": ("Qwen2", _GROUPED, {"tie_word_embeddings": True}),
    "mistral, no window": ("Mistral", _GROUPED, {"sliding_window": None}),
    "arcee": ("Arcee", _GROUPED, {}),
    "nemotron": ("Nemotron", _GROUPED, {}),
    "seed_oss": ("SeedOss", _GROUPED, {"head_dim": 8}),
    "olmo": ("Olmo", _GROUPED, {}),
    "olmo3": ("Olmo3", _GROUPED, {"sliding_window": 4}),
    "gpt_neo": (
        "GPTNeo",
        _SHARED,
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 128,
        },
    ),
    "qwen2_moe": (
        "Qwen2Moe",
        _GROUPED,
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24,
            "mlp_only_layers": [0],
        },
    ),
}
#: What weights can do in each: constants after a layer, constants in what attention writes,
#: ablation at every write. `exact`, `near` with --approximate, or `none`.
ALL, NO_BIAS, ATTENTION = ("exact",) * 3, ("none", "none", "exact"), ("near", "exact", "exact")
POST_NORM = ("none", "none", "near")
ABILITIES = {
    **dict.fromkeys(["llama", "gpt2", "gptj", "gpt_neox", "gpt_neo", "qwen2", "phi"], ALL),
    **dict.fromkeys(["opt", "falcon", "cohere", "starcoder2", "smollm3", "gpt_oss"], ALL),
    **dict.fromkeys(["arcee", "nemotron", "seed_oss"], ALL),
    **dict.fromkeys(["llama, tied", "qwen2, tied", "mistral, no window"], ALL),
    **dict.fromkeys(["gemma", "qwen3", "qwen3_moe", "olmo"], ATTENTION),
    **dict.fromkeys(["phi3", "stablelm", "mpt", "mixtral", "qwen2_moe"], NO_BIAS),
    **dict.fromkeys(["gemma2", "gemma3", "olmo2", "olmo3"], POST_NORM),
    "mistral": ("near", "near", "exact"),  # its window is no Llama's
    "bloom": ("exact", "exact", "none"),  # a norm follows the embedding
    "granite": ("exact", "none", "none"),  # the map does not show what its attention writes
}
each_family = pytest.mark.parametrize("family", ABILITIES)


@cache
def model_of(family: str) -> Model:
    if family in FAMILIES:
        return tiny.model(family)
    prefix, shared, own = MORE[family]
    config = getattr(transformers, f"{prefix}Config")(**shared, **own)
    network = randomised(getattr(transformers, f"{prefix}ForCausalLM"), config)
    return tiny.wrapped(network, f"tiny-{family}")


def add(on: Model, site: str = "resid_post", layers: tuple[int, ...] = (0, 1)) -> Steer:
    vector = tiny.vector(on, layers=layers, site=site)
    return Steer(vector, Coefficient(0.7), layers)


def ablate(on: Model, seed: int = 0, share: float = 1.0) -> Steer:
    vector = tiny.vector(on, layers=(1,), seed=seed)
    return Steer(vector, Coefficient(share), (1,), op=WRITES)


def written(baked: BakedNetwork, on: Model, folder: Path, **options: Any) -> Path:
    save(folder, baked.network, on.tokenizer, ModelSource(), **{"max_shard_size": "5GB"} | options)
    return folder


def difference(
    on: Model, steers: list[Steer], folder: Path, *, approximate: bool = False
) -> Difference:
    baked = bake(on, steers, dtype=torch.float32, approximate=approximate)
    expected = reference(on, steers, TEXT)
    source = ModelSource(str(written(baked, on, folder)))
    exact = not baked.placement.approximations
    return compare(source, expected, dtype="float32", exact=exact)


def test_every_family_of_the_table_is_tried() -> None:
    tried = {type(model_of(family).network).__name__ for family in ABILITIES}
    assert tried == set(KNOWN)


@each_family
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["resid_post", "attn_out", "writes"])
def test_it_does_what_the_hooks_do_or_refuses(family: str, kind: int, tmp_path: Path) -> None:
    on, ability = model_of(family), ABILITIES[family][kind]
    steers = [[add(on)], [add(on, "attn_out")], [ablate(on)]][kind]
    if ability == "exact":
        gap = difference(on, steers, tmp_path)
        assert gap.largest < 1e-4 and gap.effect > 0.5 and gap.passed
        return
    with pytest.raises(ModelError) as refusal:
        bake(on, steers, dtype=torch.float32)
    assert refusal.value.hint
    if ability == "near":
        gap = difference(on, steers, tmp_path, approximate=True)
        assert gap.largest > 1e-3 and not gap.exact
    else:
        with pytest.raises(ModelError):
            bake(on, steers, dtype=torch.float32, approximate=True)


@pytest.mark.parametrize("family", ["llama, tied", "gpt2", "gemma", "granite", "mistral"])
def test_what_goes_into_the_first_layer_is_in_the_embedding(family: str, tmp_path: Path) -> None:
    on = model_of(family)
    gap = difference(on, [add(on, "resid_pre", (0,))], tmp_path)
    assert gap.largest < 1e-4 and gap.effect > 0.5


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gpt_oss", "cohere", "gptj"])
def test_several_at_once_are_done_in_the_order_of_the_hooks(family: str, tmp_path: Path) -> None:
    on = model_of(family)
    steers = [
        ablate(on, share=0.5),
        add(on),
        add(on, "attn_out", (1, 2)),
        ablate(on, seed=3),
        add(on, "mlp_out", (1,)),
    ]
    gap = difference(on, steers, tmp_path)
    assert gap.largest < 1e-4 and gap.effect > 0.5


def test_what_stands_for_the_mlp_is_not_mixed_with_constants() -> None:
    on = model_of("opt")
    for steers in ([ablate(on), add(on)], [ablate(on, share=0.5)]):
        with pytest.raises(ModelError, match="does not show"):
            bake(on, steers, dtype=torch.float32)


@pytest.mark.parametrize(
    ("family", "expected"),
    # Each layer's attention and MLPs, and what the stream begins with.
    [("llama", 7), ("gpt2", 8), ("mixtral", 1 + 3 + 12), ("gpt_oss", 16), ("qwen3_moe", 13)],
)
def test_every_matrix_that_writes_is_counted(family: str, expected: int) -> None:
    on = model_of(family)
    baked = bake(on, [ablate(on)], dtype=torch.float32)
    assert baked.n_matrices == expected
    unit = torch.from_numpy(np.array(baked.edits[next(iter(baked.edits))][0].direction)).double()
    name = on.hooks.embed
    weight = baked.network.state_dict()[f"{name}.weight"].double()
    assert (weight @ unit).abs().max() < 1e-6


def test_the_lm_head_keeps_what_it_compares_with() -> None:
    on = model_of("llama, tied")
    baked = bake(on, [ablate(on)], dtype=torch.float32)
    weights, original = baked.network.state_dict(), on.network.state_dict()
    assert baked.placement.untied and baked.network.config.tie_word_embeddings is False
    assert torch.equal(weights["lm_head.weight"], original["lm_head.weight"])
    assert not torch.equal(weights["model.embed_tokens.weight"], weights["lm_head.weight"])


def test_the_model_stays_as_it_is() -> None:
    on = model_of("llama, tied")
    before = {name: item.clone() for name, item in on.network.state_dict().items()}
    bake(on, [ablate(on), add(on)], dtype=torch.bfloat16)
    after = on.network.state_dict()
    assert all(torch.equal(after[name], item) for name, item in before.items())
    assert not on.network.config.mlp_bias


@pytest.mark.parametrize("axis", [-1, -2])
def test_without_leaves_nothing_along_the_direction(axis: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (3, 8, 5) if axis == -2 else (3, 5, 8)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    unit = torch.nn.functional.normalize(torch.randn(8, generator=generator).double(), dim=0)
    left = without(weight, unit, 1.0, axis)
    assert left.shape == weight.shape
    assert (left.movedim(axis, -1) @ unit).abs().max() < 1e-12


@pytest.mark.parametrize(
    "change",
    [
        {"scope": Scope("response")},
        {"schedule": Schedule("decay", 20.0)},
        {"op": Operation("clamp", 0.0)},
        {"op": Operation("ablate")},
        {"op": Operation(keep_norm=True)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_weights_cannot_do_is_refused(change: dict[str, Any]) -> None:
    on = model_of("llama")
    with pytest.raises(VectorError, match="cannot be baked") as refusal:
        bake(on, [dataclasses.replace(add(on), **change)], dtype=torch.float32)
    assert refusal.value.hint


def test_low_rank_edits_nothing_and_unknown_models_are_refused() -> None:
    on = model_of("llama")
    for steers in (
        [tiny.low_rank_steer(on)],
        [],
        [dataclasses.replace(add(on), coefficient=Coefficient(0))],
    ):
        with pytest.raises(VectorError):
            bake(on, steers, dtype=torch.float32)
    other = dataclasses.replace(on.hooks, architecture="SomeForCausalLM")
    with pytest.raises(ModelError, match="SomeForCausalLM"):
        bake(dataclasses.replace(on, hooks=other), [add(on)], dtype=torch.float32)


def test_weights_of_another_shape_are_refused() -> None:
    network = model_of("llama").network
    weights = dict(network.state_dict()) | {"model.norm.weight": torch.ones(5)}
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        rebuilt(network, weights, {})


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_folder_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool
) -> None:
    if not exchanged:  # a file system that cannot
        monkeypatch.setattr(target, "_exchange", lambda first, other: False)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "made", force=False) as inside:
        (inside / "half").write_text("a half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    for text in ("first", "second"):
        with new_folder(tmp_path / "made", force=True) as inside:
            (inside / REPORT).write_text(text)
    assert [file.name for file in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / REPORT).read_text() == "second"
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("precious")
    for path, force in ((other, True), (tmp_path / "made", False), (other / "mine", True)):
        with pytest.raises(SteerError), new_folder(path, force=force):
            pass
    assert (other / "mine").read_text() == "precious"


def test_who_may_read_the_folder_may_read_what_is_in_its_folders(tmp_path: Path) -> None:
    with new_folder(tmp_path / "made", force=False) as inside:
        (inside / "additional_chat_templates").mkdir()
        (inside / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}")
    mask = os.umask(0)
    os.umask(mask)
    for path in (tmp_path / "made").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask


@pytest.fixture
def vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_VECTORS", str(ROOT / "vectors"))


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_the_folder_writes_what_apply_writes(vectors: None) -> None:
    baked = run("bake", "-v", "joyful:2@2", "-v", "sea:ablate=writes@2", "--max-shard-size", "1MB",
                "-o", "made", "--json")  # fmt: skip
    assert baked.exit_code == 0, baked.output
    report = json.loads(baked.stdout)
    assert report["difference"]["passed"] and report["difference"]["effect"] > 1
    assert (report["matrices"], report["constants"], report["untied"]) == (11, 1, True)
    folder = Path("made")
    assert json.loads((folder / REPORT).read_text()).items() <= report.items()
    assert "joyful" in (folder / "README.md").read_text()
    assert len(list(folder.glob("*.safetensors"))) > 1
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = "One day Mara woke up."
    ids = tokenizer(prompt, return_tensors="pt")
    tokens = network.generate(**ids, max_new_tokens=40, do_sample=False)[
        0, ids["input_ids"].shape[1] :
    ]
    applied = run("apply", prompt, "-v", "joyful:2@2", "-v", "sea:ablate=writes@2", "-t", "0",
                  "--max-tokens", "40", "--json")  # fmt: skip
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert json.loads(applied.stdout)["results"][0]["text"] == text


def test_half_precision_is_held_against_a_tolerance_of_its_own(vectors: None) -> None:
    baked = run("bake", "-v", "joyful:2@2", "--dtype", "bfloat16", "-o", "made", "--json")
    assert baked.exit_code == 0, baked.output
    report = json.loads(baked.stdout)["difference"]
    assert (
        report["dtype"] == "bfloat16"
        and 0 < report["mean"] <= report["tolerance"] < report["mean_effect"]
    )
    config = json.loads((Path("made") / "config.json").read_text())
    assert (config["dtype"], config["mlp_bias"]) == ("bfloat16", True)


def test_a_difference_is_told_and_deletes_nothing(
    vectors: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(model: Model, steers: list[Steer], **options: Any) -> BakedNetwork:
        baked = bake(model, steers, **options)
        return dataclasses.replace(
            baked, network=rebuilt(model.network, model.network.state_dict(), {})
        )

    monkeypatch.setattr(baking_folder, "bake", forgetful)
    for dtype in ("float32", "bfloat16"):
        baked = run("bake", "-v", "joyful:2@2", "-o", "made", "--dtype", dtype, "--force")
        assert baked.exit_code == 1
        assert "does not do what the hooks do" in baked.stderr
        assert json.loads((Path("made") / REPORT).read_text())["difference"]["passed"] is False
        assert "does not do" in (Path("made") / "README.md").read_text()


def test_recipes_of_adds_are_baked_and_gates_are_not(vectors: None) -> None:
    Path("both.toml").write_text('steers = ["joyful:1@2", "sea:-1@3"]\n')
    assert run("bake", "--recipe", "both.toml", "-o", "made").exit_code == 0
    Path("gated.toml").write_text('steers = [{ vector = "joyful:1@2", when = "sea>0.2" }]\n')
    refused = run("bake", "--recipe", "gated.toml", "-o", "other")
    assert refused.exit_code == 1 and "gate" in refused.stderr and not Path("other").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["-v", "joyful:2@2", "--max-shard-size", "5"], 2),
        (["-v", "joyful:2@2/response"], 1),
        (["-v", "nobody"], 1),
        ([], 1),
    ],
)
def test_what_cannot_be_is_said_before_a_model_loads(
    vectors: None, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int
) -> None:
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pytest.fail("it loaded"))
    refused = run("bake", *words, "-o", "made")
    assert refused.exit_code == code and refused.stderr.startswith("error: ")


@needs_shared
def test_a_real_model_is_baked(tmp_path: Path) -> None:
    from conftest import SHARED

    from steer.models.loading import load

    on = load(ModelSource(str(SHARED / "models/babyllama-tok105")))
    steers = [add(on, layers=(2, 3)), ablate(on)]
    expected = reference(on, steers)
    baked = bake(on, steers, dtype=torch.float32)
    comparison = compare(ModelSource(str(written(baked, on, tmp_path))), expected, dtype="float32")
    assert comparison.passed and comparison.effect > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_shard_size": "5 apples"}, "is not a size"),
        ({"lora": True, "dtype": "bfloat16"}, "an adapter is exact"),
        ({"lora": True, "approximate": True}, "an adapter is exact"),
    ],
)
def test_what_cannot_be_baked_is_refused_before_the_model_loads(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    steers = [resolve(parse("joyful:2@2"), store.read(SHIPPED / "joyful.safetensors"))]
    dtype = options.pop("dtype", None)
    with pytest.raises(SteerError) as refused:
        export(
            ModelSource(dtype=dtype), steers, tmp_path / "out", **options,
            load=lambda source: pytest.fail("loaded"),
        )  # fmt: skip
    assert message in f"{refused.value} {refused.value.hint}"
