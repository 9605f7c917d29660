"""Laws of learned tokens: a token does in a prompt what its embeddings say, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import steer
from steer.base.errors import SteerError, UsageError, VectorError
from steer.base.journal import Journal
from steer.cli.main import app
from steer.distillation import token as learning
from steer.distillation.lessons import Conditions
from steer.distillation.settings import DistillSettings
from steer.evaluation.batches import Text, distance, log_prob
from steer.evaluation.cells import PROMPTED, UNSTEERED, GuidedCell, SteeredCell
from steer.evaluation.scoring import score
from steer.generate.apply import generate
from steer.generate.together import Continuation, RunningTexts
from steer.hooks.tokens import embedded, substitute_tokens
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.generation import Row, Sampling
from steer.steering.spec import parse
from steer.steering.steers import Steer, resolve
from steer.steering.tokens import learned, separate
from steer.vectors import store
from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation
from steer.vectors.provenance import ContrastSummary, Method, Read
from steer.vectors.vector import SteeringVector

GREEDY = Sampling(max_tokens=10, temperature=0.0)
WARM = Sampling(max_tokens=10, temperature=1.0, seed=5)
PROMPTS = ["One day Mara", "The boat went down the river in the", "Once"]


@cache
def pocket() -> Model:
    return load(ModelSource("pocket", device="cpu"))


def vector_of(embeddings: np.ndarray, name: str = "word", **more: Any) -> SteeringVector:
    """A token file of pocket with these embeddings, [K, d_model]."""
    metadata = Metadata(
        name=name,
        model=pocket().identity,
        site="embedding",
        layers=(0,),
        tokens=len(embeddings),
        method=Method(name="mean_diff"),
        read=Read(positions="all"),
        contrast=ContrastSummary(kind="unknown", n=1, sha256="0"),
        statistics=(
            LayerStatistics(0, float(np.linalg.norm(embeddings, axis=1).mean()), resid_norm=1.0),
        ),
        recommended=Recommendation((0,), 1.0, ""),
    )
    origin = more.pop("origin", None)
    metadata = msgspec.structs.replace(metadata, **more)
    return SteeringVector(metadata, np.asarray(embeddings, np.float32), origin=origin)


def token_of(ids: Sequence[int], name: str = "word") -> SteeringVector:
    """A token whose embeddings are those of words."""
    rows = pocket().network.get_input_embeddings().weight[list(ids)]
    return vector_of(rows.detach().numpy().copy(), name)


def noise(name: str = "noise", count: int = 2) -> SteeringVector:
    rows = np.random.default_rng(3).normal(size=(count, pocket().identity.d_model))
    return vector_of(0.5 * rows, name)


def texts(prompts: Sequence[str], steers: Sequence[Steer], sampling: Sampling) -> list[str]:
    return [generation.text for generation in generate(pocket(), prompts, steers, sampling)]


def use(vector: SteeringVector, spec: str = "x") -> Steer:
    return resolve(parse(spec), vector)


def test_a_token_of_a_words_embedding_is_that_word_where_it_is_written() -> None:
    ids = pocket().encode(" river", special=False)
    steers = [use(token_of(ids))]
    for text in ("The boat went to the{} and", "One{}", "The{}{} was{}"):
        word, written = text.replace("{}", " river"), text.replace("{}", "<|word|>")
        assert texts([written], steers, GREEDY) == texts([word], [], GREEDY)


def test_a_token_that_is_not_written_stands_at_the_start_of_a_text() -> None:
    steers = [use(noise())]
    assert texts(["One day"], steers, GREEDY) == texts(["<|noise|>One day"], steers, GREEDY)
    assert texts(["One day"], steers, GREEDY) != texts(["One day"], [], GREEDY)


def test_a_token_that_is_not_written_stands_in_the_system_message_of_a_chat() -> None:
    model, vector = steer.Model(pocket()), steer.Vector(noise())
    alone = model.generate("Hi", vector, chat=True, temperature=0)
    written = model.generate("Hi", vector, chat=True, system="<|noise|>", temperature=0)
    before = model.generate("Hi", vector, system="Be kind.", temperature=0)
    in_front = model.generate("Hi", vector, system="<|noise|>Be kind.", temperature=0)
    assert (alone.text, before.text) == (written.text, in_front.text)
    assert alone.text != model.generate("Hi", chat=True, temperature=0).text


def test_coefficient_0_is_the_baseline() -> None:
    steers = [use(noise(), "noise:0")]
    assert texts(PROMPTS, steers, WARM) == texts(PROMPTS, [], WARM)


def test_several_tokens_stand_in_the_order_in_which_they_are_named() -> None:
    a, b = token_of([400], "a"), noise("b")
    both = [use(a), use(b)]
    assert texts(["One"], both, GREEDY) == texts(["<|a|><|b|>One"], both, GREEDY)
    assert texts(["One"], both, GREEDY) != texts(["<|b|><|a|>One"], both, GREEDY)


def test_a_batch_gives_each_prompt_what_it_gets_alone() -> None:
    steers = [use(noise())]
    prompts = [*PROMPTS, "The <|noise|> boat"]
    alone = [texts([prompt], steers, WARM)[0] for prompt in prompts]
    assert texts(prompts, steers, WARM) == alone


def test_texts_that_come_and_go_are_what_they_are_alone() -> None:
    """As the server writes them: each with steers of its own, cached, padded on the left."""
    steers, model = [use(noise())], pocket()
    rows = [Row("", 0, model.encode(prompt)) for prompt in PROMPTS]
    together = RunningTexts(model)
    wanted = [Continuation(model, row, own, WARM) for row in rows for own in (steers, [])]
    together.add(wanted[:3])
    together.step()
    together.add(wanted[3:])
    while together.rows:
        together.step()
    continuations = [row.generation().text for row in wanted]
    alone = [texts([prompt], own, WARM)[0] for prompt in PROMPTS for own in (steers, [])]
    assert continuations == alone


def test_a_cached_text_is_what_whole_forwards_give() -> None:
    model, vector = pocket(), noise()
    [tokens, _] = separate([use(vector)])
    ids = substitute_tokens(model, tokens, model.encode("One day"))
    changed = list(ids)
    for _ in range(GREEDY.max_tokens):
        with torch.no_grad(), embedded(model, tokens):
            logits = model.network(input_ids=torch.tensor([changed]), use_cache=False).logits
        changed.append(int(logits[0, -1].argmax()))
    assert texts(["One day"], [use(vector)], GREEDY) == [model.decode(changed[len(ids) :])]


def test_the_model_is_as_it_was_after_a_token_was_used() -> None:
    before = dict(vars(pocket().network.get_input_embeddings()))
    texts(["One"], [use(noise())], GREEDY)
    assert vars(pocket().network.get_input_embeddings()) == before


def lesson_texts() -> tuple[str, list[Text]]:
    """Texts scored under a system message, and without it."""
    model, condition = pocket(), "warm river"
    token_ids_seen = []
    for prompt, answer in (("Hi", " One day"), ("Tell me about boats", " The boat was on the")):
        start = model.encode(model.chat(prompt), special=False)
        under = model.encode(model.chat(prompt, condition), special=False)
        own = model.encode(answer, special=False)
        scored = tuple(range(len(start), len(start) + len(own)))
        token_ids_seen.append(Text((*start, *own), scored, len(start), (*under, *own)))
    return condition, token_ids_seen


def test_a_token_of_the_prompts_own_embeddings_scores_as_the_prompt() -> None:
    condition, scored = lesson_texts()
    own = use(token_of(pocket().encode(condition, special=False)))
    sums = score(pocket(), scored, [SteeredCell((own,)), PROMPTED], distance)
    assert np.abs(sums[0]).max() < 1e-4
    by_token, by_prompt = score(pocket(), scored, [SteeredCell((own,)), PROMPTED], log_prob)
    assert np.allclose(by_token, by_prompt, atol=1e-4)


def test_texts_of_a_group_score_as_each_alone() -> None:
    _, scored = lesson_texts()
    cell = SteeredCell((use(noise()),))
    together = score(pocket(), scored, [cell], log_prob)
    alone = [score(pocket(), [text], [cell], log_prob)[0, 0] for text in scored]
    assert np.allclose(together[0], alone, atol=1e-4)


def test_a_token_beside_an_edit_scores_as_both_do(tmp_path: Path) -> None:
    """The edit acts on the text with the token in it."""
    vectors = Path(__file__).parents[1] / "vectors"
    edit = use(store.read(vectors / "joyful.safetensors"), "joyful:2@2")
    condition, scored = lesson_texts()
    own = use(token_of(pocket().encode(condition, special=False)))
    both = score(pocket(), scored, [SteeredCell((own, edit))], log_prob)[0]
    moved = []
    for text in scored:
        shift = len(text.conditioned) - len(text.ids)
        positions = tuple(position + shift for position in text.scored)
        moved.append(Text(text.conditioned, positions, text.start + shift))
    assert np.allclose(both, score(pocket(), moved, [SteeredCell((edit,))], log_prob)[0], atol=1e-4)


def test_a_file_is_read_and_written_with_the_same_bytes(tmp_path: Path) -> None:
    scalar = vector_of(
        np.ones((2, pocket().identity.d_model)),
        origin=np.zeros((2, pocket().identity.d_model), np.float32),
        coefficients=(-1.0, 2.0),
    )
    for vector in (noise(), scalar):
        path = tmp_path / "a.safetensors"
        store.write(path, vector, force=True)
        again = store.write(tmp_path / "b.safetensors", store.read(path), force=True)
        assert path.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
        assert np.array_equal(again.embeddings(), vector.embeddings())


def test_a_token_trained_for_a_range_moves_along_a_line() -> None:
    width = pocket().identity.d_model
    origin, unit = np.full((1, width), 0.5, np.float32), np.ones((1, width), np.float32)
    vector = vector_of(unit, origin=origin, coefficients=(-1.0, 2.0))
    for value in (-1.0, 0.5, 2.0):
        embeddings = learned(use(vector, f"x:{value}")).embeddings
        assert np.allclose(embeddings, 0.5 + value)
    for value in (-1.5, 2.5):
        with pytest.raises(VectorError, match="from -1 to 2"):
            use(vector, f"x:{value}")


@pytest.mark.parametrize(
    "spec",
    ["x:2", "x:0.5", "x:15%", "x:ablate", "x:1@2", "x:1/response", "x:1/first=4", "x:1,norm=keep"],
)
def test_what_a_token_cannot_do_is_refused_by_its_name(spec: str) -> None:
    with pytest.raises(VectorError, match="'noise' is a learned token"):
        use(noise(), spec)


def test_two_tokens_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="'noise' is named twice"):
        texts(["One"], [use(noise()), use(noise(count=1))], GREEDY)


def test_a_token_that_leaves_no_room_is_refused() -> None:
    context = pocket().context
    assert context is not None
    with pytest.raises(SteerError, match="more than"):
        texts(["One"], [use(noise(count=context))], GREEDY)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize(
    "command",
    [
        "sweep -v noise --texts {vectors}/../examples/none.jsonl",
        "sweep -v noise --layers 2 --condition x",
        "monitor hello -v noise",
        "combine noise:1 joyful:1 -o x.safetensors",
        "convert noise.safetensors x.gguf",
        "apply One -v joyful --watch noise",
        "apply One -v joyful --guard noise>0.5",
        "apply One -v joyful --when noise>0.5",
        "apply One -v noise --engine vllm",
        "fit noise.safetensors -o x.safetensors",
    ],
)
def test_a_command_that_cannot_use_a_token_says_so(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vectors = Path(__file__).parents[1] / "vectors"
    monkeypatch.setenv("STEER_VECTORS", f"{tmp_path}:{vectors}")
    store.write(tmp_path / "noise.safetensors", noise())
    result = run(*command.format(vectors=vectors).split())
    assert result.exit_code in (1, 2)
    assert "noise" in result.output
    assert "Traceback" not in result.output


def test_steered_blocks_refuse_a_token() -> None:
    model = steer.Model(pocket())
    with pytest.raises(UsageError, match="'noise'"), model.steered(steer.Vector(noise())):
        pass


def small(**more: Any) -> DistillSettings:
    settings: dict[str, Any] = {
        "name": "joyful", "form": "token", "samples": 32, "held_out": 16, "max_tokens": 24,
        "steps": 20, "batch_size": 4,
    }  # fmt: skip
    return DistillSettings(**settings | more)


def test_a_tag_becomes_a_token_that_does_nearly_all_of_it_and_goes_on_after_a_kill(
    tmp_path: Path,
) -> None:
    conditions, prompts = Conditions("[mood: joyful]"), ["One day", "The boat"]
    kept = Journal(tmp_path / "kept.jsonl")
    vector = learning.distill_token(pocket(), conditions, prompts, small(), kept=kept)
    distillation = vector.metadata.method.distillation
    assert distillation is not None
    assert distillation.recovery > 0.6
    assert vector.metadata.contrast.positive == "[mood: joyful]"
    # Whatever was written before a kill, the rest comes out the same.
    lines = kept.path.read_text().splitlines() if kept.path else []
    part = tmp_path / "part.jsonl"
    part.write_text("\n".join(lines[: len(lines) - 1]) + "\n")
    again = learning.distill_token(pocket(), conditions, prompts, small(), kept=Journal(part))
    assert again.sha256 == vector.sha256


def test_a_token_within_a_condition_is_what_stands_there() -> None:
    """A condition that contains a token of a tag's own embeddings is the tag."""
    model = pocket()
    tag = token_of(model.encode("[mood: joyful]", special=False), "tag")
    settings = small(tokens=tag.metadata.tokens, name="outer", steps=1)
    spelled, nested = (
        learning.distill_token(
            model, Conditions(text), ["One day"], settings, within=[use(tag)] if within else []
        )
        for text, within in (("[mood: joyful]", False), ("<|tag|>", True))
    )
    distillations = [vector.metadata.method.distillation for vector in (spelled, nested)]
    assert all(
        distillation is not None and distillation.recovery > 0.9 for distillation in distillations
    )
    assert np.allclose(spelled.embeddings(), nested.embeddings(), atol=0.2)


def test_show_names_the_nearest_words(tmp_path: Path) -> None:
    store.write(tmp_path / "word.safetensors", token_of([400]))
    plain = run("show", str(tmp_path / "word.safetensors"))
    assert "<|word|>" in plain.output
    result = run("show", str(tmp_path / "word.safetensors"), "--lens", "--json")
    assert json.loads(result.stdout)["lens"][0]["raised"][0]["text"] == pocket().token(400)


def test_a_baked_token_gives_what_apply_gives_and_is_never_written(tmp_path: Path) -> None:
    """Two tokens in one checkpoint, one of them of two embeddings; `bake` itself compares."""
    store.write(tmp_path / "noise.safetensors", noise())
    store.write(tmp_path / "word.safetensors", token_of([400]))
    result = run(
        "bake", "-v", str(tmp_path / "noise.safetensors"), "-v",
        str(tmp_path / "word.safetensors"), "-o", str(tmp_path / "baked"), "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["untied"] == bool(pocket().network.config.tie_word_embeddings)
    assert report["difference"]["largest"] < 1e-4 < 1e-2 < report["difference"]["effect"]
    assert report["difference"]["new_token"] < -9
    baked = load(ModelSource(str(tmp_path / "baked"), device="cpu"))
    texts_here = [token["text"] for token in report["tokens"]]
    assert texts_here == ["<|noise|><|noise.2|>", "<|word|>"]
    for text, token in zip(texts_here, (noise(), token_of([400])), strict=True):
        [there] = generate(baked, [f"{text}One day"], [], GREEDY)
        assert there.text == texts(["One day"], [use(token)], GREEDY)[0]
    assert baked.tokenizer.chat_template == pocket().tokenizer.chat_template


def test_a_token_whose_name_the_vocabulary_has_is_refused() -> None:
    own = pocket().tokenizer.convert_ids_to_tokens(1)
    name = own.removeprefix("<|").removesuffix("|>")
    with pytest.raises(UsageError, match="already"):
        learning.check_name(pocket(), name)


def test_many_conditions_become_many_files_and_what_is_there_is_not_made_again(
    tmp_path: Path,
) -> None:
    """A later condition contains an earlier one's token."""
    rows = [("tag", "[mood: joyful]"), ("outer", "<|tag|>")]
    lines = [json.dumps({"name": name, "condition": text}) for name, text in rows]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    (tmp_path / "made").mkdir()
    words = [
        "distill", "--as", "token", "--conditions", str(tmp_path / "many.jsonl"), "-o",
        str(tmp_path / "made"), "--samples", "16", "--held-out", "8", "--max-tokens", "12",
        "--steps", "2", "--json",
    ]  # fmt: skip
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert [entry["name"] for entry in json.loads(result.stdout)] == ["tag", "outer"]
    outer = store.read(tmp_path / "made" / "outer.safetensors")
    distillation = outer.metadata.method.distillation
    assert distillation is not None
    assert [part.name for part in distillation.within] == ["tag"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").iterdir()}
    assert run(*words).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "made").iterdir()} == before
    evaluated = run("eval", "-v", str(tmp_path / "made" / "outer.safetensors"))
    assert evaluated.exit_code == 1
    assert "<|tag|>" in evaluated.output


def test_a_token_for_a_range_goes_through_its_prompt() -> None:
    """What it does at 1 is what the condition does, and it says how well at each coefficient."""
    settings = small(scalar=True, steps=30, samples=48)
    vector = learning.distill_token(pocket(), Conditions("[mood: joyful]"), ["One day"], settings)
    distillation = vector.metadata.method.distillation
    assert distillation is not None
    recoveries = {row[0]: row[1] for row in distillation.by_coefficient}
    assert set(recoveries) == {-1.0, 0.5, 1.0, 1.5, 2.0}
    assert recoveries[1.0] > 0.4
    assert vector.metadata.coefficients == (-1.0, 2.0)


def test_guidance_at_strength_1_scores_as_the_condition() -> None:
    _, scored = lesson_texts()
    sums = score(
        pocket(), scored, [GuidedCell(1.0), PROMPTED, GuidedCell(0.0), UNSTEERED], log_prob
    )
    assert np.allclose(sums[0], sums[1], atol=1e-5)
    assert np.allclose(sums[2], sums[3], atol=1e-5)
    assert not np.allclose(sums[0], sums[2], atol=1e-2)


def test_an_evaluation_of_a_token_has_its_recovery_and_a_guided_row(tmp_path: Path) -> None:
    """It is scored as `score` does it, which other laws are about."""
    tag = token_of(pocket().encode("[mood: joyful]", special=False), "tag")
    evaluation = steer.evaluate(
        steer.Model(pocket()), steer.Vector(tag), condition="[mood: joyful]", guidance=(1.0,),
        samples=8, max_tokens=8, prompts=["One day", "The boat"],
    )  # fmt: skip
    rows = {row.variant.kind: row for row in evaluation.rows}
    assert set(rows) == {"unsteered", "vector", "prompt", "guidance"}
    assert -1 < rows["vector"].measures["recovery"].value < 1
    assert abs(rows["guidance"].measures["recovery"].value - 1) < 1e-4


def test_a_token_that_is_written_and_not_named_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its letters would stand in the prompt in place of it."""
    monkeypatch.setenv("STEER_VECTORS", str(tmp_path))
    store.write(tmp_path / "noise.safetensors", noise())
    refused = run("apply", "One <|noise|> day")
    assert refused.exit_code == 2
    assert "add -v noise" in refused.output
    assert run("apply", "One <|noise|> day", "-v", "noise", "--max-tokens", "2").exit_code == 0
    assert run("apply", "One <|other|> day", "--max-tokens", "2").exit_code == 0
