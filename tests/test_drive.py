"""`steer drive` on small servers with the APIs of engines; `steer check-server` tests them."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import fake_engines as fake
import numpy as np
import pytest
from answering import answering
from typer.testing import CliRunner

import steer
from steer.base.errors import SteerError, UsageError
from steer.cli.main import app
from steer.engines.drivers.llama_cpp import combination
from steer.engines.driving import drivers, find
from steer.engines.endpoint import Server
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource

ROOT = Path(__file__).parents[1]
SPEC = "joyful:2@2"


@pytest.fixture(autouse=True)
def _vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_VECTORS", str(ROOT / "vectors"))
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pocket())


@cache
def pocket() -> Model:
    return load(ModelSource())


def running(engine: fake.Engine) -> AbstractContextManager[str]:
    """The address of an engine."""

    def reply(method: str, path: str, content: Any) -> tuple[int, bytes]:
        status, answer = engine(method, path, content)
        return status, json.dumps(answer).encode()

    return answering(reply)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def verdict(url: str, *words: str) -> str:
    """What `steer check-server` finds."""
    result = run("check-server", url, *(words or ("-v", SPEC)), "--json", "--max-tokens", "8")
    assert result.stdout, result.output
    answer = json.loads(result.stdout)
    assert result.exit_code == (answer["verdict"] != "steered")
    return str(answer["verdict"])


def started_with(folder: Path, *specs: str) -> list[Path]:
    """Control vectors that a llama-server is started with."""
    paths = []
    for number, spec in enumerate(specs):
        paths.append(folder / f"{number}.gguf")
        assert run("convert", spec, str(paths[-1])).exit_code == 0
    return paths


def engine_named(name: str, folder: Path) -> fake.Engine:
    if name == "llama.cpp":
        return fake.Llama(pocket(), *started_with(folder, "joyful:1@2"))
    if name == "hotwire":
        row = steer.read("joyful").at(2).numpy()
        table = np.zeros((pocket().n_layers, row.shape[-1]), np.float32)
        table[2] = row
        return fake.Hotwire(pocket(), {"joyful": table})
    kinds = {
        "ik_llama.cpp": fake.IkLlama,
        "rhizonymph": fake.RhizoNymph,
        "easysteer": fake.EasySteer,
        "vllm-lens": fake.VllmLens,
    }
    return kinds[name](pocket())


@pytest.mark.parametrize("name", drivers().names)
def test_an_engine_that_was_driven_is_found_steered_and_cleared_unsteered(
    name: str, tmp_path: Path
) -> None:
    with running(engine_named(name, tmp_path)) as url:
        named = () if drivers().named(name).detect else ("--engine", name)
        # llama.cpp's has what it was started with, at once.
        assert run("drive", url, "--clear", *named).exit_code == 0
        assert verdict(url) == "unsteered"
        fields = tmp_path / "fields.json"
        carried = drivers().named(name).clear is None
        out = ("--out", str(fields)) if carried else ()
        driven = run("drive", url, "-v", SPEC, *named, *out)
        assert driven.exit_code == 0, driven.output
        with_fields = ("--fields", str(fields)) if carried else ()
        assert verdict(url, "-v", SPEC, *with_fields) == "steered"
        # Driven again, the new steers take the place of the old ones.
        assert run("drive", url, "-v", "joyful:4@2", *named, *out, "--force").exit_code == 0
        assert verdict(url, "-v", SPEC, *with_fields) == "other"
        assert verdict(url, "-v", "joyful:4@2", *with_fields) == "steered"
        assert run("drive", url, "--clear", *named).exit_code == 0
        assert verdict(url) == "unsteered"


@pytest.mark.parametrize("name", [d.name for d in drivers() if d.detect])
def test_engines_are_recognised_and_say_what_they_take(name: str, tmp_path: Path) -> None:
    with running(engine_named(name, tmp_path)) as url:
        with Server(url) as server:
            assert find(server).name == name
        shown = steer.drive(url)
        assert (shown.engine, shown.steers) == (name, None)
        assert "gates and guards" in shown.refuses
        assert shown.takes in run("drive", url).stdout.replace("\n", " ")


def test_a_server_without_steering_is_not_driven() -> None:
    with running(fake.Engine(pocket())) as url:
        with pytest.raises(SteerError, match="no steering of its own"):
            steer.drive(url, steer.parse(SPEC))
        assert run("drive", url, "-v", SPEC).exit_code == 1
    assert run("drive", url, "-v", SPEC).exit_code == 1  # gone
    assert run("drive", "localhost", "-v", SPEC).exit_code == 2


@pytest.mark.parametrize("name", drivers().names)
@pytest.mark.parametrize(
    ("spec", "lacking"),
    [
        ("joyful:2@2/first=3", "schedule"),
        ("joyful:2@2/0-3", "scope 0-3"),
        ("joyful:norm=keep@2", "norm=keep"),
        ("joyful:rotate=30@2", "rotate"),
        ("joyful:ablate=writes@2", "ablate=writes"),
    ],
)
def test_what_an_engine_does_not_take_is_refused_before_anything_is_sent(
    name: str, spec: str, lacking: str, tmp_path: Path
) -> None:
    engine = engine_named(name, tmp_path)
    with running(engine) as url, pytest.raises(UsageError, match=lacking):
        steer.drive(url, steer.parse(spec), engine=name)
    assert not engine.requests


@pytest.mark.parametrize("name", ["ik_llama.cpp", "llama.cpp"])
def test_llama_cpp_does_not_steer_the_first_block(name: str, tmp_path: Path) -> None:
    with (
        running(engine_named(name, tmp_path)) as url,
        pytest.raises(UsageError, match="layer 0"),
    ):
        steer.drive(url, steer.parse("joyful:2@0"))


@pytest.mark.parametrize("op", ["ablate", "clamp=3", "cap=-1", "floor=2", "0.5,clamp=pos"])
def test_clamps_move_projections_as_ops_do(op: str) -> None:
    spec = f"joyful:{op}@2"
    with running(fake.RhizoNymph(pocket())) as url:
        steer.drive(url, [steer.parse("sea:1@1"), steer.parse(spec)])
        assert verdict(url, "-v", "sea:1@1", "-v", spec) == "steered"
        with pytest.raises(UsageError, match="share"):
            steer.drive(url, steer.parse("joyful:2,clamp=3@2"))
        with pytest.raises(UsageError, match="one after another"):
            steer.drive(url, [steer.parse("joyful:cap=3@2"), steer.parse("sea:cap=3@2")])


@pytest.mark.parametrize("scope", ["all", "prompt", "response"])
def test_scopes_of_easysteer_are_ours(scope: str) -> None:
    spec = f"joyful:4@1/{scope}"
    with running(fake.EasySteer(pocket())) as url:
        steer.drive(url, [steer.parse(spec), steer.parse("sea:1@2")])
        assert verdict(url, "-v", spec, "-v", "sea:1@2") == "steered"


def test_several_steers_are_one_control_vector_which_is_never_an_old_file(tmp_path: Path) -> None:
    engine, out = fake.IkLlama(pocket()), tmp_path / "steering.gguf"
    with running(engine) as url:
        steer.drive(url, steer.parse("sea:3@1-4"), out=out)
        both = [steer.parse("joyful:1@2"), steer.parse("formal:-1@2")]
        with pytest.raises(SteerError, match="exists"):
            steer.drive(url, both, out=out)
        steer.drive(url, both, out=out, force=True)
        assert verdict(url, "-v", "joyful:1@2", "-v", "formal:-1@2") == "steered"
        assert len(engine.vectors) == 1
        with pytest.raises(UsageError, match="change nothing"):
            steer.drive(url, [steer.parse("sea:1@2"), steer.parse("sea:-1@2")])


def test_scales_of_llama_cpp_are_found_from_the_files_that_it_has(tmp_path: Path) -> None:
    paths = started_with(tmp_path, "joyful:1@2", "sea:0.5@1-3", "formal:1@4")
    engine = fake.Llama(pocket(), *paths)
    with running(engine) as url:
        steer.drive(url, [steer.parse("joyful:-2@2"), steer.parse("sea:1@1-3")])
        np.testing.assert_allclose(engine.scales, [-2, 2, 0], atol=1e-4)
        out = tmp_path / "new.gguf"
        with pytest.raises(SteerError, match="cannot be steered so"):
            steer.drive(url, steer.parse("sea:1@1"), out=out)
        np.testing.assert_allclose(engine.scales, [-2, 2, 0], atol=1e-4)
    with running(fake.Llama(pocket(), out)) as url:
        steer.drive(url, steer.parse("sea:1@1"))
        assert verdict(url, "-v", "sea:1@1") == "steered"


def test_a_combination_is_exact_or_none() -> None:
    rng = np.random.default_rng(0)
    first, two, other = (
        {n: rng.normal(size=8).astype(np.float32) for n in (1, 2)} for _ in range(3)
    )
    wanted = {n: np.float32(0.5) * first[n] - np.float32(2) * two[n] for n in first}
    coefficients = combination(wanted, [other, two, {1: np.ones(4, np.float32)}, first])
    assert coefficients is not None
    np.testing.assert_allclose(coefficients, [0, -2, 0, 0.5], atol=1e-6)
    assert combination(wanted, [first]) is None
    assert combination(wanted, [{1: wanted[1]}]) is None
    assert combination(wanted, []) is None


@pytest.mark.parametrize("name", ["vllm-lens", "hotwire"])
def test_requests_that_are_steered_otherwise_share_no_cached_prompts(
    name: str, tmp_path: Path
) -> None:
    with running(engine_named(name, tmp_path)) as url:
        direction, same, other = (
            steer.drive(url, steer.parse(spec), engine=name).fields["cache_salt"]
            for spec in ("joyful:2@2", "joyful:2@2", "joyful:3@2")
        )
    assert direction == same != other


def test_only_engines_that_read_files_or_get_fields_have_an_out(tmp_path: Path) -> None:
    out = tmp_path / "x"
    with running(fake.RhizoNymph(pocket())) as url, pytest.raises(UsageError, match="no file"):
        steer.drive(url, steer.parse(SPEC), out=out)
    assert not out.exists()
    with pytest.raises(UsageError, match="takes no steers"):
        steer.drive(url, steer.parse(SPEC), clear=True)


def test_a_refusal_of_the_engine_is_an_error_with_its_words() -> None:
    class Refusing(fake.RhizoNymph):
        def api(self, method: str, path: str, body: Any) -> fake.Reply:
            if method == "POST":
                return 401, {"error": "Unauthorized: steering API key required."}
            return super().api(method, path, body)

    with running(Refusing(pocket())) as url:
        failed = run("drive", url, "-v", SPEC)
    assert failed.exit_code == 1
    assert "steering API key required" in failed.stderr
    assert "--api-key" in failed.stderr


def test_the_fields_of_vllm_lens_are_what_the_package_reads() -> None:
    """With the package itself, where it is installed (it needs vLLM only to run)."""
    types = pytest.importorskip("vllm_lens._helpers.types")
    with running(fake.VllmLens(pocket())) as url:
        fields = steer.drive(url, steer.parse("joyful:2@2-3")).fields
    (raw,) = json.loads(fields["vllm_xargs"]["apply_steering_vectors"])
    vector = types.SteeringVector.model_validate(raw)
    expected = np.stack([2 * steer.read("joyful").at(layer).numpy() for layer in (2, 3)])
    np.testing.assert_array_equal(vector.activations.numpy(), expected)
    assert (vector.layer_indices, vector.scale, vector.norm_match) == ([2, 3], 1.0, False)
