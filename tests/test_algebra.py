"""Laws of combined vectors: they do what their parts do, and say what these were."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st

from steer.base.errors import VectorError
from steer.generate.apply import Sampling, generate
from steer.steering.algebra import combine, likenesses, obstacles, orthogonalised
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors import store
from steer.vectors.metadata import decode, encode
from steer.vectors.vector import SteeringVector

CALM = make_vector(layers=(0, 1, 2), seed=0, name="calm")
WARM = make_vector(layers=(1, 2, 3), seed=1, name="warm")
COLD = make_vector(layers=(1, 2), seed=2, name="cold")
ALL = (CALM, WARM, COLD)


def part(vector: SteeringVector, coefficient: float = 1.0, unit: str = "vector") -> Steer:
    return Steer(vector, Coefficient(coefficient, unit), vector.metadata.layers)  # type: ignore[arg-type]


def test_a_combination_applied_once_is_all_parts_applied() -> None:
    model = tiny.model("llama")
    first, second = (tiny.vector(model, layers=(0, 1), seed=seed) for seed in (1, 2))
    combined = combine([part(first, 2.0), part(second, -0.5)], name="both")
    sampling = Sampling(max_tokens=8, temperature=1.0)
    texts = [
        [generation.text for generation in generate(model, ["w5 w9", "w3"], steers, sampling)]
        for steers in ([part(combined)], [part(first, 2.0), part(second, -0.5)], [])
    ]
    assert texts[0] == texts[1] != texts[2]


@given(st.permutations(range(3)), st.sampled_from(["sum", "mean"]))
def test_numbers_do_not_depend_on_the_order(order: list[int], op: str) -> None:
    parts = [part(CALM, 0.3), part(WARM, -1.7), part(COLD, 1e4)]
    combined = combine(parts, name="x", op=op, orthogonal_to=[COLD])  # type: ignore[arg-type]
    other = combine([parts[i] for i in order], name="x", op=op, orthogonal_to=[COLD])  # type: ignore[arg-type]
    assert combined.directions.tobytes() == other.directions.tobytes()
    assert combined.metadata.statistics == other.metadata.statistics


def test_it_has_the_layers_that_all_parts_have() -> None:
    combined = combine([part(CALM), part(WARM)], name="x")
    assert combined.metadata.layers == (1, 2)
    assert np.allclose(combined.direction(2), CALM.direction(2) + WARM.direction(2))
    assert combine([part(CALM)], name="x", orthogonal_to=[WARM]).metadata.layers == (1, 2)


@pytest.mark.parametrize("coefficient", [1.0, -1.0, 0.25, 8.0])
def test_one_part_is_scaled(coefficient: float) -> None:
    for op in ("sum", "mean"):
        scaled = combine([part(CALM, coefficient)], name="x", op=op)  # type: ignore[arg-type]
        assert np.array_equal(scaled.directions, np.float32(coefficient) * CALM.directions)


def test_the_mean_of_equals_is_the_same() -> None:
    same = combine([part(CALM)] * 3, name="x", op="mean")
    assert np.array_equal(same.directions, CALM.directions)


def test_a_percentage_is_a_share_of_the_activations() -> None:
    shared = combine([part(CALM, 0.15, "residual")], name="x")
    assert np.allclose(np.linalg.norm(shared.directions, axis=1), 0.15 * 10)
    assert [row.norm for row in shared.metadata.statistics] == pytest.approx([1.5] * 3)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_what_is_orthogonalised_is_orthogonal(seed: int, scale: float) -> None:
    others = [make_vector(layers=(1,), seed=seed + i) for i in range(3)]
    # Two of these are nearly alike, and still each has to go.
    near = np.float32(scale) * (others[0].directions + np.float32(1e-3) * others[1].directions)
    others.append(SteeringVector(others[0].metadata, near))
    alone = make_vector(layers=(1,), seed=seed + 10)
    combined = combine([part(alone)], name="x", orthogonal_to=others)
    for likeness in likenesses([combined, *others])[: len(others)]:
        cosine = likeness.cosines[1]
        assert cosine is not None
        assert abs(cosine) < 1e-6


def test_orthogonalising_is_least_squares() -> None:
    rng = np.random.default_rng(3)
    vector, others = rng.normal(size=8), rng.normal(size=(3, 8))
    fitted = others.T @ np.linalg.lstsq(others.T, vector, rcond=None)[0]
    left = orthogonalised(vector, others)
    assert np.allclose(left, vector - fitted)
    assert np.allclose(orthogonalised(left, others), left)
    assert np.allclose(orthogonalised(vector, np.vstack([others, 0 * others, others])), left)


def test_nothing_is_refused() -> None:
    tripled = SteeringVector(CALM.metadata, np.float32(3.3) * CALM.directions)
    for parts, others in (
        ([part(CALM), part(CALM, -1)], []),
        ([part(CALM, -3.3), part(tripled)], []),
        ([part(CALM, 0)], []),
        ([part(CALM)], [tripled]),
    ):
        with pytest.raises(VectorError, match="at layer 0: nothing is left"):
            combine(parts, name="x", orthogonal_to=others)


def changed(vector: SteeringVector, **model: object) -> SteeringVector:
    return tiny.renamed(vector, model=msgspec.structs.replace(vector.metadata.model, **model))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_vector(site="mlp_out", name="o"), r"sites differ \(calm resid_post, o mlp_out\)"),
        (changed(WARM, fingerprint="1" * 16), "models differ .*weights 0000.*weights 1111"),
        (changed(WARM, architecture="Other"), "models differ .*Tiny.*Other"),
        (make_vector(layers=(3,)), "no layer in common"),
    ],
)
def test_what_does_not_go_together_is_named(other: SteeringVector, message: str) -> None:
    for parts, others in (([part(CALM), part(other)], []), ([part(CALM)], [other])):
        with pytest.raises(VectorError, match=message):
            combine(parts, name="x", orthogonal_to=others)
    assert len(obstacles([CALM, other])) == 1


def test_the_same_weights_under_two_ids_go_together() -> None:
    assert obstacles([CALM, changed(WARM, id="elsewhere")]) == []


def test_low_rank_edits_are_refused() -> None:
    metadata = msgspec.structs.replace(CALM.metadata, rank=1)
    edit = SteeringVector(
        metadata, CALM.directions, np.ones((3, 1, 8), np.float32), np.ones((3, 8, 1), np.float32)
    )
    with pytest.raises(VectorError, match="low-rank edits"):
        combine([part(CALM), part(edit)], name="x")


def test_the_file_says_what_it_was_made_from(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    sealed = CALM.sealed()
    combined = combine([part(sealed, 2), part(WARM, 0.1, "residual")], name="x",
                       orthogonal_to=[COLD])  # fmt: skip
    store.write(first, combined)
    store.write(second, store.read(first))
    assert first.read_bytes() == second.read_bytes()
    metadata = store.read(first).metadata
    how = metadata.method.combination
    assert how is not None
    assert [(part.name, part.coefficient, part.unit) for part in how.parts] == [
        ("calm", 2.0, "vector"),
        ("warm", 0.1, "residual"),
    ]
    assert how.parts[0].sha256 == sealed.metadata.sha256
    assert [vector.name for vector in how.orthogonal_to] == ["cold"]
    assert (metadata.contrast.kind, metadata.contrast.n) == ("vectors", 2)
    assert metadata.recommended.layers == (1, 2)
    assert [row.separability for row in metadata.statistics] == [None, None]


def test_positions_that_differ_are_mixed() -> None:
    last = tiny.renamed(WARM, read=msgspec.structs.replace(WARM.metadata.read, positions="last"))
    assert combine([part(CALM), part(WARM)], name="x").metadata.read.positions == "mean"
    assert combine([part(CALM), part(last)], name="x").metadata.read.positions == "mixed"


def test_a_licence_is_kept_where_the_parts_agree() -> None:
    free = [tiny.renamed(vector, license="CC0-1.0") for vector in ALL]
    assert combine([part(component) for component in free], name="x").metadata.license == "CC0-1.0"
    assert combine([part(CALM), part(free[1])], name="x").metadata.license == ""


def test_vectors_without_parts_do_not_mention_any() -> None:
    text = encode(CALM.metadata)
    assert "combination" not in text
    method = text.replace('"name":"mean_diff"', '"name":"combine"')
    with pytest.raises(VectorError, match="belongs to combined vectors"):
        decode(method, "file")


def test_cosines_are_those_of_the_numbers() -> None:
    turned = combine([part(CALM, -2)], name="x")
    wide = make_vector(
        msgspec.structs.replace(CALM.metadata.model, d_model=9), layers=(1,), name="wide"
    )
    pairs = likenesses([CALM, turned, WARM, wide])
    assert [(pair.first, pair.second) for pair in pairs[:2]] == [(0, 1), (0, 2)]
    assert pairs[0].cosines == pytest.approx({0: -1.0, 1: -1.0, 2: -1.0})
    assert set(pairs[1].cosines) == {1, 2}
    assert pairs[2].cosines == {}
