"""Laws over every registered format and its examples, by no list of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import make_vector
from foreign_files import Example, examples

from steer.base.errors import SteerError, UsageError, VectorError
from steer.formats import reading, writing
from steer.formats.registry import Format, builtin, registry
from steer.formats.source import Options
from steer.models import torch_files
from steer.steering import spec
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer, resolve
from steer.vectors import store
from steer.vectors.provenance import ModelIdentity
from steer.vectors.vector import SteeringVector

MODEL = ModelIdentity(
    id="tiny", architecture="TinyForCausalLM", d_model=8, n_layers=6, fingerprint="0" * 16
)
FORMATS = list(builtin())
WRITERS = [each for each in FORMATS if each.writer is not None]
OPS = ["add", "norm=keep", "ablate", "ablate=writes", "clamp=2.5", "cap=-1", "floor=0", "rotate=20"]


def identity(example: Example) -> str:
    return f"{example.format}-{example.path or 'folder'}"


@pytest.mark.parametrize("example", examples(), ids=identity)
def test_a_file_means_here_what_it_means_there(example: Example, tmp_path: Path) -> None:
    """Its format is told from its own marks; layers, op, site and strength are carried."""
    path = example.written(tmp_path)
    imported = reading.read(path, example.chosen(tmp_path), torch_files.read)
    assert imported.format.name == example.format
    vector = reading.steering_vector(imported, None, name="x")
    assert set(vector.metadata.layers) == set(example.directions)
    for layer, row in example.directions.items():
        assert np.allclose(vector.direction(layer), row, atol=1e-6), layer
    recommended = vector.metadata.recommended
    assert (recommended.op, vector.metadata.site) == (example.op, example.site)
    assert recommended.coefficient == pytest.approx(example.coefficient)
    assert recommended.layers == example.layers or not example.layers
    assert imported.assumed.startswith(f"read as {example.format}: ")
    assert store.from_bytes(store.to_bytes(vector.sealed()), "x").metadata.rank == 0
    if recommended.op != "ablate=writes":
        assert str(resolve(spec.parse("x"), vector).op) == recommended.op


@pytest.mark.parametrize("example", examples(), ids=identity)
def test_naming_the_format_reads_the_same(example: Example, tmp_path: Path) -> None:
    path, chosen = example.written(tmp_path), example.chosen(tmp_path)
    named = Options(
        **{**{s: getattr(chosen, s) for s in chosen.__slots__}, "format": example.format}
    )
    first, second = (reading.read(path, each, torch_files.read) for each in (chosen, named))
    assert first.sha256 == second.sha256
    assert first.imported.op == second.imported.op
    assert first.offset == second.offset


def test_every_format_has_an_example_and_says_what_it_is() -> None:
    known = {example.format for example in examples()}
    for each in FORMATS:
        assert each.read is None or each.name in known, each.name
        assert each.title and each.help and each.suffixes, each.name
        assert set(each.options) <= {"layers", "row", "pick", "minus", "encoder"}, each.name
    names = [name for each in FORMATS for name in each.names]
    assert len(names) == len(set(names))
    for suffix in registry().suffixes():
        assert sum(each.fallback for each in registry().readers(suffix)) <= 1, suffix
        usual = [each for each in registry().writers(suffix) if each.writer and each.writer.default]
        assert len(usual) <= 1, suffix


def sample(site: str) -> SteeringVector:
    return make_vector(MODEL, layers=(1, 3, 4), site=site)


def carried(steer: Steer, each: Format, folder: Path) -> SteeringVector | None:
    """The steer written and read back; None where the format refuses it."""
    path = folder / f"x{each.suffixes[0]}"
    try:
        data = writing.write(steer, path, format=each.name).data
    except VectorError:
        return None
    path.write_bytes(data)
    imported = reading.read(path, Options(), torch_files.read)
    assert imported.format is each
    vector = reading.steering_vector(imported, MODEL, name=steer.vector.name)
    # Written, read and written again: the same bytes.
    again = writing.write(resolve(spec.parse("x"), vector), path, format=each.name).data
    assert again == data
    return vector


@pytest.mark.parametrize("each", WRITERS, ids=lambda each: each.name)
@pytest.mark.parametrize("site", ["resid_post", "resid_pre", "mlp_out", "attn_out"])
@pytest.mark.parametrize("op", OPS)
def test_no_conversion_changes_the_op_or_the_site(
    each: Format, site: str, op: str, tmp_path: Path
) -> None:
    vector = sample(site)
    layers = "@1" if op == "ablate=writes" else "@all"
    steer = resolve(spec.parse(f"x:0.5,{op}{layers}"), vector)
    back = carried(steer, each, tmp_path)
    assert each.writer is not None
    if back is None:
        assert op not in each.writer.ops or site not in ("resid_post", *each.writer.sites)
        return
    assert str(resolve(spec.parse("x"), back).op) == op
    now, then = resolve(spec.parse("x"), back), steer
    assert now.sites().keys() == then.sites().keys()
    for (_, new), (_, old) in zip(now.sites().items(), then.sites().items(), strict=True):
        if op == "add":
            assert np.allclose(now.delta(new), then.delta(old), atol=1e-6)
        else:
            assert now.coefficient == Coefficient(0.5)
            direction, other = back.direction(new), vector.direction(old)
            assert np.allclose(
                direction / np.linalg.norm(direction), other / np.linalg.norm(other), atol=1e-6
            )


@pytest.mark.parametrize("each", WRITERS, ids=lambda each: each.name)
def test_what_is_written_is_read_back_bit_for_bit(each: Format, tmp_path: Path) -> None:
    vector = sample("resid_post")
    steer = Steer(vector, Coefficient(1.0), vector.metadata.layers)
    assert writing.write(steer, Path(f"x{each.suffixes[0]}"), format=each.name).data
    back = carried(steer, each, tmp_path)
    assert back is not None
    assert np.array_equal(back.directions, vector.directions)
    assert back.metadata.layers == vector.metadata.layers


@pytest.mark.parametrize("each", WRITERS, ids=lambda each: each.name)
def test_what_no_file_can_say_is_refused(each: Format) -> None:
    path = Path(f"x{each.suffixes[0]}")
    for text in ("x:1@1/response", "x:1@1/decay=3", "x:1@1/0-3"):
        with pytest.raises(VectorError, match="has a scope, schedule or gate"):
            writing.write(resolve(spec.parse(text), sample("resid_post")), path, format=each.name)


@pytest.mark.parametrize("example", examples(), ids=identity)
def test_a_file_cut_short_is_refused(example: Example, tmp_path: Path) -> None:
    """Of several files, at least of one: not all are needed by what was chosen."""
    path, refused = example.written(tmp_path), set()
    for name, content in example.files.items():
        for length in (0, 1, len(content) // 3, len(content) - 1):
            (tmp_path / name).write_bytes(content[:length])
            try:
                reading.read(path, example.chosen(tmp_path), torch_files.read)
            except SteerError:
                refused.add((name, length))
        (tmp_path / name).write_bytes(content)
        if len([1 for each, _ in refused if each == name]) == 4:
            return
    raise AssertionError(f"read though cut; refused only {refused}")


def test_a_folder_of_several_models_is_told_apart_or_asked_about(tmp_path: Path) -> None:
    example = next(each for each in examples() if "model" in each.options)
    path = example.written(tmp_path)
    with pytest.raises(UsageError, match="several models") as caught:
        reading.read(path, Options(), torch_files.read)
    assert "Llama-2-7b" in str(caught.value.hint)
    for chosen in (Options(pick="Llama-2-7b"), Options(model="Llama-2-7b")):
        assert reading.read(path, chosen, torch_files.read).imported.model == "Llama-2-7b"
    with pytest.raises(UsageError, match="has no"):
        reading.read(path, Options(pick="Mistral"), torch_files.read)
