"""What each op does to activations, on numbers alone."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steer.engines.wire import can_do
from steer.formats.registry import registry as formats
from steer.hooks import ops
from steer.ops import registry
from steer.steering.operation import parse_operation

DOCS = Path(__file__).parents[1] / "docs" / "steering.md"
WIDTH = 16
seeds = st.integers(0, 10_000)
levels = st.floats(-30, 30)
angles = st.floats(-360, 360)
#: Values that change something in what `drawn` gives; else that of the op's example.
LEVELS = {"clamp": 2.5, "cap": -1.0, "floor": 1.0, "rotate": 35.0}
each_op = pytest.mark.parametrize("name", [op.name for op in registry.ops() if not op.adds])


def edit(name: str, h: Tensor, u: Tensor, value: float = 0.0, weight: Any = 1.0) -> Tensor:
    return registry.ops().named(name).edit(h, u, value, weight)


def level_of(name: str) -> float:
    value = parse_operation(registry.ops().named(name).example, name).value
    return LEVELS.get(name, value if isinstance(value, float) else 0.0)


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Activations [2, 5, WIDTH] and a unit vector."""
    generator = torch.Generator().manual_seed(seed)
    h = 5 * torch.randn((2, 5, WIDTH), generator=generator)
    u = torch.randn(WIDTH, generator=generator)
    return h, u / u.norm()


@each_op
def test_weight_0_is_bit_for_bit_and_1_is_not(name: str) -> None:
    h, u = drawn(0)
    op, level = partial(edit, name), level_of(name)
    assert torch.equal(op(h, u, level, 0.0), h)
    weight = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])[None, :, None]
    mixed, full = op(h, u, level, weight), op(h, u, level, 1.0)
    assert torch.equal(mixed[:, ::2], h[:, ::2])
    torch.testing.assert_close(mixed[:, 1::2], full[:, 1::2], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(full, h)


@each_op
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_ops_compute_in_float32_and_leave_their_input(name: str, dtype: torch.dtype) -> None:
    h, u = drawn(1)
    narrow = h.to(dtype)
    before = narrow.clone()
    result = edit(name, narrow, u, level_of(name))
    assert result.dtype == torch.float32
    assert torch.equal(narrow, before)
    expected = edit(name, narrow.float(), u, level_of(name))
    assert torch.equal(result, expected)


@given(seeds)
def test_ablate_leaves_nothing_along_the_vector_and_all_across(seed: int) -> None:
    h, u = drawn(seed)
    left = edit("ablate", h, u)
    assert ((left @ u).abs() < 1e-5 * h.norm(dim=-1)).all()
    removed = h - left
    torch.testing.assert_close(removed, (h @ u)[..., None] * u, rtol=1e-4, atol=1e-4)


@given(seeds, levels)
def test_clamp_sets_the_projection(seed: int, level: float) -> None:
    h, u = drawn(seed)
    clamped = edit("clamp", h, u, level)
    assert ((clamped @ u - level).abs() < 1e-5 * (h.norm(dim=-1) + abs(level))).all()
    torch.testing.assert_close(
        edit("ablate", clamped, u), edit("ablate", h, u), rtol=1e-4, atol=1e-4
    )


@given(seeds, levels)
def test_cap_and_floor_move_only_what_is_beyond(seed: int, level: float) -> None:
    h, u = drawn(seed)
    projection = h @ u
    for result, beyond in (
        (edit("cap", h, u, level), projection > level),
        (edit("floor", h, u, level), projection < level),
    ):
        assert torch.equal(result[~beyond], h[~beyond])
        expected = edit("clamp", h, u, level)
        torch.testing.assert_close(result[beyond], expected[beyond], rtol=1e-5, atol=1e-5)


@given(seeds, angles)
def test_rotate_keeps_the_length_and_turns_by_the_angle(seed: int, degrees: float) -> None:
    h, u = drawn(seed)
    turned = edit("rotate", h, u, degrees)
    torch.testing.assert_close(turned.norm(dim=-1), h.norm(dim=-1), rtol=1e-5, atol=1e-5)
    before = torch.rad2deg(((h.double() @ u.double()) / h.double().norm(dim=-1)).acos())
    wanted = (before - degrees).clamp(0, 180)
    after = ((turned.double() @ u.double()) / turned.double().norm(dim=-1)).clamp(-1, 1)
    expected = torch.deg2rad(wanted).cos()
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


@given(seeds, st.floats(-40, 40), st.floats(-40, 40))
def test_two_rotations_are_one(seed: int, first: float, second: float) -> None:
    h, u = drawn(seed)
    before = torch.rad2deg(((h @ u) / h.norm(dim=-1)).acos())
    inside = ((before - first).clamp(1, 179) == before - first) & (
        (before - first - second).clamp(1, 179) == before - first - second
    )
    twice, once = (
        edit("rotate", edit("rotate", h, u, first), u, second),
        edit("rotate", h, u, first + second),
    )
    torch.testing.assert_close(twice[inside], once[inside], rtol=1e-3, atol=1e-3)


def test_rotate_leaves_what_has_no_plane() -> None:
    _, u = drawn(0)
    h = torch.stack([torch.zeros(WIDTH), u])[None]
    turned = edit("rotate", h, u, 90.0)
    assert torch.isfinite(turned).all()
    torch.testing.assert_close(turned.norm(dim=-1), h.norm(dim=-1))


@given(seeds)
def test_keeping_the_norm(seed: int) -> None:
    h, u = drawn(seed)
    added = ops.add(h, 7 * u)
    kept = ops.keeping_norm(h, added)
    torch.testing.assert_close(kept.norm(dim=-1), h.norm(dim=-1), rtol=1e-5, atol=1e-5)
    cosine = torch.cosine_similarity(kept, added, dim=-1)
    assert (cosine > 1 - 1e-5).all()
    assert torch.equal(ops.keeping_norm(h, h), h)
    assert torch.equal(ops.keeping_norm(h, torch.zeros_like(h)), torch.zeros_like(h))


def test_half_of_an_edit_is_half_way() -> None:
    h, u = drawn(3)
    torch.testing.assert_close(
        edit("ablate", h, u, 0.0, 0.5) @ u, (h @ u) / 2, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        edit("clamp", h, u, 4.0, 0.5) @ u, ((h @ u) + 4) / 2, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        edit("rotate", h, u, 30.0, 0.5), edit("rotate", h, u, 15.0), rtol=1e-5, atol=1e-5
    )
    assert math.isclose(float(ops.add(h, u, 0.5)[0, 0] @ u - h[0, 0] @ u), 0.5, rel_tol=1e-4)


@each_op
def test_what_an_op_says_of_itself_holds(name: str) -> None:
    """Baking uses `linear`, engines use `moves`, and the counting of idle steers `bounded`."""
    op = registry.ops().named(name)
    h, u = drawn(4)
    h = torch.cat([h, -h, h * 0.1])
    level, p = level_of(name), h @ u
    for weight in (1.0, 0.5, 2.0):
        edited = edit(name, h, u, level, weight)
        if op.linear is not None:
            expected = h + op.linear * weight * p[..., None] * u
            torch.testing.assert_close(edited, expected, rtol=1e-5, atol=1e-5)
        if op.moves is not None:
            expected = h + weight * (level - p).clamp(*op.moves)[..., None] * u
            torch.testing.assert_close(edited, expected, rtol=1e-5, atol=1e-5)
        left_alone = (edited == h).all(-1)
        assert bool(left_alone.any()) == op.bounded


@each_op
def test_an_op_is_typed_as_its_example(name: str) -> None:
    op = registry.ops().named(name)
    read = parse_operation(op.example, name)
    assert read.name == name and str(read) == op.example and read.op is op
    assert op.help and op.formula and op.title
    writes = parse_operation(f"{name}=writes", name) if op.linear is not None else None
    assert writes is None or writes.writes


def test_every_format_and_engine_names_ops_that_are_known() -> None:
    for each in formats():
        assert each.writer is None or all(name in registry.ops() for name in each.writer.ops)
    assert {op.name for op in registry.ops() if can_do(op)} >= {"add", "ablate", "cap"}


def test_the_table_of_the_manual_is_that_of_the_registry() -> None:
    """Run `python tests/test_ops.py` to write it anew."""
    assert table() in DOCS.read_text()


def table() -> str:
    lines = ["| op | result | |", "|---|---|---|"]
    lines += [f"| `{op.typed}` | {op.formula} | {op.help} |" for op in registry.ops()]
    return "\n".join(lines)


if __name__ == "__main__":
    text = DOCS.read_text()
    start = text.index("| op | result |")
    DOCS.write_text(text[:start] + table() + text[text.find("\n\n", start) :])
