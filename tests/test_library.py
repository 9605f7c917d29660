"""The Python API: what `import steer` gives, and that it does what the command line does."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tiny
import torch
from test_cli import steer as run

import steer
from steer.base.errors import InputError, SteerError, UsageError, VectorError
from steer.base.progress import Advance, Picture
from steer.generate.apply import Sampling, generate
from steer.library.models import Model
from steer.library.vectors import as_steers

PAIRS = [
    ("The sea is bright and calm.", "The sea is dark and wild."),
    ("A bright day came.", "A dark night came."),
    ("She smiled at him.", "She wept at him."),
    ("They sang a song.", "They sighed a sigh."),
]

HELD_OUT = [
    {"positive": f"{pair} She laughed.", "negative": f"{two} She wept."} for pair, two in PAIRS
]


@pytest.fixture(scope="module")
def model() -> Model:
    return steer.load("pocket")


@pytest.fixture(scope="module")
def warm(model: Model) -> steer.Vector:
    return steer.extract(model, PAIRS, name="warm")


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, steer; dir(steer); heavy = {'torch', 'numpy', 'typer', 'rich'};"
        " sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_former_names_are_the_present_ones() -> None:
    for former, present in steer._FORMER.items():
        assert getattr(steer, former) is getattr(steer, present)
        assert former not in steer.__all__


def test_every_public_name_is_there_and_documented() -> None:
    assert set(steer.__all__) == set(dir(steer))
    assert set(steer._PUBLIC) == set(steer.__all__) - {"__version__"}
    for name in steer._PUBLIC:
        value = getattr(steer, name)
        assert callable(value) and (value.__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        steer.nothing  # noqa: B018


def test_rows_of_any_kind_give_the_same_vector(
    model: Model, warm: steer.Vector, tmp_path: Path
) -> None:
    dicts = [{"positive": pair, "negative": other} for pair, other in PAIRS]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in dicts))
    for rows in (dicts, path, str(path), datasets.Dataset.from_list(dicts), iter(dicts)):
        assert steer.extract(model, rows, name="warm") == warm
    renamed = [{"good": pair, "bad": other} for pair, other in PAIRS]
    mapping = {"positive": "good", "negative": "bad"}
    assert steer.extract(model, renamed, name="warm", mapping=mapping) == warm


def test_a_data_frame_gives_the_same_vector(model: Model, warm: steer.Vector) -> None:
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame(PAIRS, columns=["positive", "negative"])
    assert steer.extract(model, rows, name="warm") == warm
    assert list(warm.to_pandas()["layer"]) == list(warm.layers)


def test_recorded_once_fitted_often(model: Model, warm: steer.Vector) -> None:
    with steer.record(model, PAIRS) as activations:
        again = steer.fit(activations, name="warm")
        other = steer.fit(activations, name="warm", method="pca")
    assert again == warm
    assert other != warm


def test_the_command_line_writes_the_same_file(
    model: Model, warm: steer.Vector, tmp_path: Path
) -> None:
    rows = [json.dumps({"positive": pair, "negative": other}) for pair, other in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    out = tmp_path / "warm.safetensors"
    done = run("extract", str(tmp_path / "pairs.jsonl"), "-o", str(out))
    assert done.exit_code == 0, done.stderr
    warm.save(tmp_path / "mine.safetensors")
    assert out.read_bytes() == (tmp_path / "mine.safetensors").read_bytes()
    assert steer.read(out) == warm


def test_arithmetic_is_that_of_the_directions(warm: steer.Vector, model: Model) -> None:
    cold = steer.extract(model, [(b, a[:9] + b) for a, b in PAIRS], name="cold")
    v, w = (vector.numpy().astype(np.float64) for vector in (warm, cold))

    def close(vector: steer.Vector, expected: Any) -> None:
        np.testing.assert_allclose(vector.numpy(), expected, rtol=1e-5, atol=1e-5)

    close(warm + cold, v + w)
    close(warm - 0.5 * cold, v - 0.5 * w)
    close(-warm, -v)
    close(2 * warm, 2 * v)
    close(warm / 4, v / 4)
    close(sum([warm, cold]), v + w)  # type: ignore[arg-type]
    cosines = warm.cosine(-warm)
    assert set(cosines) == set(warm.layers)
    assert all(value == pytest.approx(-1) for value in cosines.values())
    assert warm == steer.Vector(warm.data) and hash(warm) == hash(steer.Vector(warm.data))


def test_one_layer_of_a_vector(warm: steer.Vector) -> None:
    at_layer = warm.at(3)
    assert at_layer.layers == (3,)
    np.testing.assert_array_equal(at_layer.numpy(), warm.numpy()[warm.layers.index(3)])
    assert at_layer.numpy().shape == (warm.metadata.model.d_model,)
    with pytest.raises(VectorError, match="no layer 99"):
        warm.at(99)


def test_arithmetic_refuses_what_means_nothing(warm: steer.Vector) -> None:
    for wrong in (lambda: warm + 1, lambda: warm * warm, lambda: warm * True):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(VectorError):
        warm / 0
    with pytest.raises(VectorError, match="nothing is left"):
        warm - warm


def test_a_call_says_what_the_command_line_says(warm: steer.Vector, tmp_path: Path) -> None:
    path = tmp_path / "warm.safetensors"
    saved = warm.save(path)
    for text, called in {
        "": saved(),
        ":2": saved(2),
        ":-1.5@3": saved(-1.5, layers=3),
        ":15%@1-3": saved("15%", layers="1-3"),
        ":ablate@2": saved(op="ablate", layers=[2]),
        ":0.5,ablate@all": saved(0.5, op="ablate", layers="all"),
        ":2@3/response": saved(2, layers=3, scope="response"),
        ":2@3/response/decay=20": saved(2, layers=3, scope="response", schedule="decay=20"),
    }.items():
        typed = steer.parse(f"{path}{text}")
        assert str(typed) == str(called)
        assert (typed.coefficient, typed.layers, typed.op, typed.scope, typed.schedule) == (
            called.coefficient, called.layers, called.op, called.scope, called.schedule
        )  # fmt: skip
    assert [str(steer_parsed) for steer_parsed in as_steers([f"{path}:2", saved])] == [
        str(saved(2)), str(saved())
    ]  # fmt: skip
    with pytest.raises(UsageError):
        as_steers(3)  # type: ignore[arg-type]


def test_generate_is_apply(model: Model, warm: steer.Vector) -> None:
    prompts = ["One day", "The sea"]
    sampling = Sampling(max_tokens=6, seed=4)
    expected = list(generate(model.inner, prompts, [warm(8, layers=2)], sampling))
    generations = model.generate_batch(prompts, warm(8, layers=2), max_tokens=6, seed=4)
    assert generations == expected
    alone = model.generate("The sea", warm(8, layers=2), max_tokens=6, seed=4)
    assert str(alone) == alone.text == expected[1].text


SCOPES = [None, "response", "prompt", "1-3", "response=0"]


@pytest.mark.parametrize("scope", SCOPES)
def test_steered_generate_of_hugging_face_is_ours(scope: str | None) -> None:
    inner = tiny.wrapped(tiny.build("llama"), "tiny-llama")
    model = Model(inner)
    steering = tiny.steer(inner, 6.0)
    vector = steer.Vector(steering.vector)
    chosen = vector(6.0, layers=1, scope=scope)
    prompts = ["w5 w9", "w12 w7 w33 w8"]
    expected = model.generate_batch(prompts, chosen, temperature=0, max_tokens=6)
    ids, mask = inner.padded([inner.encode(prompt) for prompt in prompts], left=True)
    for use_cache in (True, False):
        with model.steered(chosen):
            output = model.hf.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False,
                use_cache=use_cache, pad_token_id=inner.pad_id,
            )  # fmt: skip
        texts = [inner.decode(row) for row in output[:, ids.shape[1] :].tolist()]
        assert texts == [text.text for text in expected]


def test_steered_forwards_do_not_depend_on_the_side_of_the_padding() -> None:
    inner = tiny.wrapped(tiny.build("llama"), "tiny-llama")
    model = Model(inner)
    vector = steer.Vector(tiny.steer(inner).vector)
    rows = [inner.encode("w5 w9"), inner.encode("w12 w7 w33 w8")]
    for scope in SCOPES:
        logits = []
        for left in (True, False):
            ids, mask = inner.padded(rows, left=left)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            with model.steered(vector(6.0, layers=1, scope=scope)), torch.no_grad():
                steered_logits = model.hf(
                    input_ids=ids, attention_mask=mask, position_ids=positions
                ).logits
            logits.append(
                [row[keep.bool()] for row, keep in zip(steered_logits, mask, strict=True)]
            )
        for left_row, right_row in zip(*logits, strict=True):
            torch.testing.assert_close(left_row, right_row, rtol=1e-4, atol=1e-4)


def test_steered_leaves_the_model_as_it_was() -> None:
    inner = tiny.wrapped(tiny.build("llama"), "tiny-llama")
    model = Model(inner)
    vector = steer.Vector(tiny.steer(inner).vector)
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        before = model.hf(input_ids=ids).logits
        with model.steered(vector(6.0, layers=1)):
            during = model.hf(input_ids=ids).logits
        with pytest.raises(ZeroDivisionError), model.steered(vector(6.0, layers=1)):
            raise ZeroDivisionError
        after = model.hf(input_ids=ids).logits
        with model.steered(vector(0.0, layers=1)):
            nothing = model.hf(input_ids=ids).logits
    assert torch.equal(before, after) and torch.equal(before, nothing)
    assert not torch.equal(before, during)
    assert "generate" not in vars(model.hf) and "forward" not in vars(model.hf)


def test_a_block_without_a_forward_is_an_error() -> None:
    inner = tiny.wrapped(tiny.build("llama"), "tiny-llama")
    vector = steer.Vector(tiny.steer(inner).vector)
    with pytest.raises(steer.HookError, match="no forward"), Model(inner).steered(vector(2)):
        pass


def test_wrapped_is_loaded(model: Model, warm: steer.Vector) -> None:
    wrapped = steer.wrap(model.hf, model.tokenizer, name="pocket")
    assert steer.extract(wrapped, PAIRS, name="warm") == warm
    assert wrapped.id == "pocket"


def test_monitor_reads_what_the_vector_was_made_from(model: Model, warm: steer.Vector) -> None:
    readings = steer.monitor(model, [text for pair in PAIRS for text in pair], warm, layers=2)
    assert len(readings) == 2 * len(PAIRS)
    plain = readings.to_dict()
    for trace, text in zip(readings.traces, plain["texts"], strict=True):
        assert trace.values.shape == (len(trace.tokens), 1)
        assert text["values"]["warm@2"] == trace.values[:, 0].tolist()
    assert readings._repr_html_().count("<tr>") == 1 + sum(len(t.tokens) for t in readings.traces)


def test_markup_of_a_model_is_no_markup(warm: steer.Vector) -> None:
    named = warm.renamed("<script>alert(1)</script>")
    assert "<script>" not in named._repr_html_()


def test_a_gate_from_another_vector(model: Model, warm: steer.Vector) -> None:
    gate = warm.above(1e6, layer=1, pool="last")
    closed = model.generate("One day", warm(8, layers=2, when=gate), max_tokens=6)
    assert closed.text == model.generate("One day", max_tokens=6).text
    opened = warm.below(1e6, layer=1, pool="last")
    steered = model.generate("One day", warm(8, layers=2, when=opened), max_tokens=6)
    assert steered.text == model.generate("One day", warm(8, layers=2), max_tokens=6).text


def test_guards_and_watched_vectors_are_those_of_the_command_line(
    model: Model, warm: steer.Vector, tmp_path: Path
) -> None:
    path = f"{tmp_path}/warm.safetensors"
    warm.save(path)
    spec, command = f"{path}:8@2", ["apply", "One day", "--max-tokens", "12", "--json"]
    steered = model.generate("One day", spec, max_tokens=12, watch=f"{path}@2")
    [values] = steered.watched.values()
    guard = f"{path}@2>{sorted(values)[-2]}"
    for outcome in ("stop", "ablate"):
        generation = model.generate("One day", spec, max_tokens=12, guards=guard, on_trip=outcome)
        shown = run(*command, "-v", spec, "--guard", guard, "--on-trip", outcome)
        assert generation.text == json.loads(shown.stdout)["results"][0]["text"]
        assert generation.trips
    with pytest.raises(steer.GuardError):
        model.generate("One day", spec, max_tokens=12, guards=[guard], on_trip="error")
    with pytest.raises(UsageError, match="on_trip"):
        model.generate("One day", guards=guard, on_trip="halt")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda model: model.generate("x", guards="joyful"), UsageError),
        (lambda model: model.generate("x", guards="no-such-vector>1"), VectorError),
        (lambda model: model.generate("x", watch=["no-such-vector"]), VectorError),
        (lambda model: steer.extract(model), UsageError),
        (lambda model: steer.extract(model, 3), InputError),
        (lambda model: steer.extract(model, []), InputError),
        (lambda model: steer.extract(model, PAIRS, method="magic"), UsageError),
        (lambda model: steer.extract(model, PAIRS, layers=99), SteerError),
        (lambda model: steer.extract(model, PAIRS, site="nowhere"), UsageError),
        (lambda model: steer.extract(model, PAIRS, positive="x"), UsageError),
        (lambda model: steer.read("no-such-vector"), VectorError),
        (lambda model: steer.parse("no-such-vector:2"), VectorError),
        (lambda model: steer.load("./no-such-folder"), steer.ModelError),
        (lambda model: model.generate("x", max_tokens=0), UsageError),
        (lambda model: steer.monitor(model, ["x"], []), UsageError),
    ],
)
def test_wrong_calls_are_our_errors(model: Model, call: Any, error: type[SteerError]) -> None:
    with pytest.raises(error):
        call(model)


def test_shared_options_are_in_every_signature_and_others_are_refused(model: Model) -> None:
    for function in (Model.generate, Model.generate_batch):
        names = inspect.signature(function).parameters
        assert {"temperature", "condition", "allow_idle"} <= set(names)
        assert not [p for p in names.values() if p.kind is p.VAR_KEYWORD]
    assert inspect.signature(steer.extract).parameters["lists"].default is None
    with pytest.raises(TypeError, match="temprature"):
        model.generate("One day", temprature=0)  # type: ignore[call-arg]


def test_a_condition_of_strength_1_is_the_prompt(model: Model) -> None:
    plain = model.generate("[mood: joyful] One day", max_tokens=8, temperature=0)
    guided = model.generate("One day", condition="[mood: joyful] ", max_tokens=8, temperature=0)
    assert guided.text == plain.text


def test_a_conversation_remembers(model: Model) -> None:
    talk = model.chat()
    first = talk.say("One day", max_tokens=6)
    assert talk.say("Then", max_tokens=6) == talk.turns[1]
    assert first.answer in talk._repr_html_()


def test_files_are_listed_verified_compared_and_combined(
    warm: steer.Vector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vectors").mkdir()
    saved = warm.save("vectors/warm.safetensors")
    (-warm).renamed("cold").save("vectors/cold.safetensors")
    assert [file.name for file in steer.list_vectors("vectors")] == ["cold", "warm"]
    Path("vectors/broken.safetensors").write_text("{}")
    with pytest.warns(steer.FileWarning, match="broken"):
        steer.list_vectors("vectors")
    assert steer.verify("warm").vector == saved
    compared = steer.compare("warm", "cold")
    assert compared.likenesses[0].cosines[2] == pytest.approx(-1)
    assert not compared.obstacles and "warm · cold" in compared._repr_html_()
    both = steer.combine(["warm:2", saved, saved(-1, layers="all")], name="two")
    assert both.cosine(warm)[2] == pytest.approx(1)
    np.testing.assert_allclose(both.at(2).numpy(), 2 * warm.at(2).numpy(), rtol=1e-5)
    with pytest.raises(UsageError, match="multiple"):
        steer.combine([saved(1, scope="response")])


def test_a_recipe_steers_as_its_steers_do(
    model: Model, warm: steer.Vector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    warm.save("warm.safetensors")
    Path("mild.toml").write_text(
        'steers = ["./warm.safetensors:2@2"]\n[generation]\nmax_tokens = 8\n'
    )
    recipe = steer.read_recipe("mild.toml")
    text = model.generate("One day", recipe, **recipe.generation).text
    assert text == model.generate("One day", warm(2, layers=2), max_tokens=8).text
    Path("again.toml").write_text(recipe.to_toml())
    assert steer.read_recipe("again.toml").generation == recipe.generation


def test_contrasts_are_checked_and_split(model: Model) -> None:
    report = steer.check_contrasts(PAIRS)
    assert report.giveaways.unit == "words" and report.to_dict()["n_positive"] == len(PAIRS)
    assert steer.check_contrasts(PAIRS, model=model).giveaways.unit == "tokens"
    rows = [{"positive": f"{a} {n}", "negative": f"{b} {n}"} for n in range(4) for a, b in PAIRS]
    kept, held = steer.split(rows, 0.25)
    assert kept and held and len(kept) + len(held) == len(rows)


def test_the_doctor_and_the_lens_report(model: Model, warm: steer.Vector) -> None:
    seen: list[str] = []
    diagnosis = steer.doctor(model, on_check=lambda check: seen.append(check.name))
    assert diagnosis.passed and seen == [check.name for check in diagnosis.checks]
    assert "device" in diagnosis._repr_html_()
    lens = model.lens(warm, top=3)
    assert [row.layer for row in lens] == list(warm.layers) and len(lens[0].raised) == 3


def test_an_evaluation_is_that_of_the_command_line(model: Model, tmp_path: Path) -> None:
    rows = [
        {"positive": f"{pair} She laughed.", "negative": f"{two} She wept."} for pair, two in PAIRS
    ]
    (tmp_path / "held-out.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    words = ["--texts", str(tmp_path / "held-out.jsonl"), "--samples", "4", "--max-tokens", "8"]
    path = Path(__file__).parents[1] / "vectors/joyful.safetensors"
    done = run("eval", "-v", f"{path}:2@2", *words, "--json")
    assert done.exit_code == 0, done.stderr
    joyful = steer.read(path)
    result = steer.evaluate(model, joyful(2, layers=2), rows, samples=4, max_tokens=8)
    theirs, ours = json.loads(done.stdout), json.loads(json.dumps(result.to_dict()))
    assert ours["rows"] == theirs["rows"]
    assert "<pre" in result._repr_html_()


def test_a_sweep_from_rows(model: Model) -> None:
    joyful = steer.read(Path(__file__).parents[1] / "vectors/joyful.safetensors")
    rows = [
        {"positive": f"{pair} She laughed.", "negative": f"{two} She wept."} for pair, two in PAIRS
    ]
    shares: dict[str, float] = {}

    @contextmanager
    def progress(phase: str, total: int) -> Iterator[Advance]:
        def advance(count: float, note: str | None = None, picture: Picture | None = None) -> None:
            shares[phase] = shares.get(phase, 0) + count / total
            assert picture is None or picture(80)

        yield advance

    result = steer.sweep(
        model,
        joyful,
        rows,
        layers=[1, 2],
        coefficients=[1.0, 2.0],
        samples=4,
        max_tokens=8,
        progress=progress,
    )
    assert result.to_dict()["vectors"]
    assert shares["scoring"] == pytest.approx(1)


def test_names_and_paths_stand_for_vectors(
    model: Model, warm: steer.Vector, tmp_path: Path
) -> None:
    warm.save(tmp_path / "warm.safetensors")
    path = tmp_path / "warm.safetensors"
    text = "One day Mara laughed."
    of_path, of_value = (
        steer.monitor(model, text, vector).traces[0].values for vector in (path, warm)
    )
    np.testing.assert_array_equal(of_path, of_value)
    assert steer.describe(path, [warm, warm], 1) == steer.describe(warm, [path, path], 1)
    for use in (
        lambda: steer.sweep(model, "nobody", PAIRS),
        lambda: steer.monitor(model, text, ["nobody"]),
        lambda: steer.describe("nobody", [warm]),
    ):
        with pytest.raises(VectorError, match="nobody"):
            use()


def test_export_and_convert_are_inverse(model: Model, warm: steer.Vector, tmp_path: Path) -> None:
    steer.export(warm(1, layers="all"), tmp_path / "warm.npz")
    with pytest.warns(steer.ImportNote):
        again = steer.convert(tmp_path / "warm.npz", model)
    np.testing.assert_allclose(again.numpy(), warm.numpy(), rtol=1e-6)
    with pytest.raises(UsageError):
        steer.export([warm(1), warm(2)], tmp_path / "two.npz")
