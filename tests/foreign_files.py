"""Small files of other tools, each made by code of our own: what a format's reader has to take.

Every format that steer registers has an example here; the tests and the fuzzer go through all.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_tensors

from steer.formats import gguf
from steer.formats.source import Options

WIDTH = 8
ROW = np.linspace(-1, 2, WIDTH).astype(np.float32)
UNIT = ROW / np.linalg.norm(ROW)
#: Orthogonal to UNIT.
OTHER = np.zeros(WIDTH, np.float32)
OTHER[:2] = UNIT[1], -UNIT[0]
OTHER /= np.linalg.norm(OTHER)


@dataclass(frozen=True)
class Example:
    """Files in a folder, of which `path` is the one to read, and what it means.

    layers: those that the file recommends, if it says so.
    """

    format: str
    path: str
    files: Mapping[str, bytes]
    directions: Mapping[int, np.ndarray]
    op: str = "add"
    coefficient: float = 1.0
    site: str = "resid_post"
    layers: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def written(self, folder: Path) -> Path:
        """Write the files; the path of the one to read."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / self.path if self.path else folder

    def chosen(self, folder: Path) -> Options:
        """The options, with paths in the folder."""
        typed = dict(self.options)
        if "minus" in typed:
            typed["minus"] = folder / typed["minus"]
        return Options(**typed)

    @property
    def main(self) -> str:
        """The file whose bytes matter most."""
        return self.path if self.path in self.files else max(self.files, key=self._size)

    def _size(self, name: str) -> int:
        return len(self.files[name])


def pt(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def tensor(row: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(row))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def to_json(content: object) -> bytes:
    return json.dumps(content).encode()


def controlvector(
    rows: Mapping[str, np.ndarray], *, int32: Mapping[str, int] | None = None, **values: Any
) -> bytes:
    """A GGUF control vector; keys are written with `__` for a dot."""
    named = {"general.architecture": "controlvector"}
    named |= {key.replace("__", "."): value for key, value in values.items()}
    named |= int32 or {}
    data = gguf.build(named, {f"direction.{number}": row for number, row in rows.items()})
    for key in int32 or {}:
        raw = key.encode()
        data = data.replace(raw + struct.pack("<I", 4), raw + struct.pack("<I", 5))
    return data


def glp(rows: Mapping[str, np.ndarray], **values: Any) -> bytes:
    digest = hashlib.sha256()
    for row in rows.values():
        digest.update(np.ascontiguousarray(row, "<f4").tobytes())
    keys = {"glp__mode": "project", "glp__spec_version": 1, "glp__alpha_default": 4.0}
    keys |= {"glp__hook_point": "residual_stream_post_layer"}
    keys |= {"glp__content_sha256": digest.hexdigest(), "glp__rank": 1, "glp__orthonormal": True}
    return controlvector(rows, **(keys | values))


def repsteer(**changes: Any) -> dict[str, bytes]:
    site = {"stream": "language", "component": "mlp_out", "layer": 2, "io": "output"}
    manifest = {"schema_version": "1.0", "artifact_type": "direction", "site": site}
    manifest |= {"model": {"id": "a/b", "hidden_size": WIDTH}, "tensor_keys": ["direction"]}
    files = {
        "manifest.json": to_json(manifest | changes),
        "tensors.safetensors": save_tensors({"direction": ROW, "weight": ROW[None]}),
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {**files, "checksums.json": to_json({"algorithm": "sha256", "files": hashes})}


def spipe(
    rows: Mapping[str, np.ndarray],
    method: str = "state_control/caa",
    *,
    location: str | None = None,
    others: tuple[dict[str, Any], ...] = (),
    **args: Any,
) -> dict[str, bytes]:
    """A bundle of one fitted control; `others` are more entries of it."""
    data = save_tensors(dict(rows))
    digest = hashlib.sha256(data).hexdigest()
    record = {"id": f"sha256:{digest}", "encoding": "tensors", "type": "SteeringVector"}
    text = json.dumps({"method": method, "args": args}).replace("@ID", f"sha256:{digest}")
    resolved = [{**json.loads(text), "artifacts": {"vector": record}}, *others]
    control = {"method": method, "enabled": True, "args": {}}
    control["resolved"] = resolved if others else resolved[0]
    manifest = {"format": "spipe/1", "model": {"ref": "a/b"}, "controls": [control]}
    meta = {"model_type": "llama"} | ({"meta": {"location": location}} if location else {})
    return {
        "spipe.json": to_json(manifest),
        f"artifacts/sha256-{digest}/artifact.safetensors": data,
        f"artifacts/sha256-{digest}/artifact.json": to_json({**record, "type_meta": meta}),
    }


#: A reference to the artifact of `spipe`, as its manifest writes it.
STORED = {"$artifact": "@ID"}


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def reprobe(layer: int, mode: str = "token") -> bytes:
    meta = {"layer": layer, "model_id": "a/b", "training_mode": mode, "concepts": ["x"]}
    state = {"model.0.weight": tensor(ROW[None]), "model.0.bias": torch.zeros(1)}
    ones = torch.full((WIDTH,), 2.0)
    return pt({"meta": meta, "state_dict": state, "mean_act": ones, "std_act": ones})


def vllm_lens(rows: Mapping[int, np.ndarray]) -> bytes:
    stacked = np.stack(list(rows.values())).astype("<f4")
    data = base64.b64encode(stacked.tobytes()).decode()
    stored = {"data": data, "dtype": "float32", "shape": list(stacked.shape)}
    vector = {"activations": stored, "layer_indices": list(rows), "scale": 2.0}
    return to_json({"vllm_xargs": {"apply_steering_vectors": json.dumps([vector])}})


TWO = {1: ROW, 2: -ROW}
NAMED = {str(number): row for number, row in TWO.items()}
STEERKIT = {"schema_version": "3", "layer": "2", "n_total_layers": "6", "model_id": "a/b"}
STEERKIT |= {"hook_site": "resid_post", "default_method": "logistic", "auto_alpha": "2.500000"}


@cache
def examples() -> tuple[Example, ...]:
    """All of them."""
    lists = {str(number): row.tolist() for number, row in TWO.items()}
    decoder = np.stack([OTHER, ROW, UNIT])
    encoder = np.zeros((WIDTH, 3), np.float32)
    return (
        Example("llama.cpp", "x.gguf", {"x.gguf": controlvector(NAMED)}, TWO),
        Example(
            "llama.cpp",
            "x.gguf",
            # A count of the whole model, or as int32, says nothing of who wrote it.
            {"x.gguf": controlvector(NAMED, int32={"controlvector.layer_count": 9})},
            TWO,
        ),
        Example(
            "cvector-generator",
            "x.gguf",
            {"x.gguf": controlvector(NAMED)},
            {0: ROW, 1: -ROW},
            options={"format": "cvector-generator"},
        ),
        Example(
            "jukofyork",
            "x.gguf",
            {"x.gguf": controlvector(NAMED)},
            {0: ROW, 1: -ROW},
            options={"format": "jukofyork"},
        ),
        Example("glp", "x.gguf", {"x.gguf": glp({"3": UNIT})}, {3: UNIT}, "ablate", 4.0),
        Example(
            "glp",
            "x.gguf",
            {"x.gguf": glp(NAMED, glp__mode="add", glp__hook_point="ffn_out_pre_residual")},
            TWO,
            coefficient=4.0,
            site="mlp_out",
        ),
        Example(
            "turbospark",
            "x.gguf",
            {
                "x.gguf": controlvector(
                    {"3": UNIT}, turbospark__steering_mode="project", turbospark__layer_base=0
                )
            },
            {2: UNIT},
            "ablate",
        ),
        Example(
            "ds4",
            "x.f32",
            {
                "x.f32": np.stack([0 * UNIT, UNIT]).astype("<f4").tobytes(),
                "x.json": to_json({"shape": [2, WIDTH], "component": "ffn_out"}),
            },
            {1: UNIT},
            "ablate",
            site="mlp_out",
        ),
        Example("ibm-svec", "x.svec", {"x.svec": to_json({"directions": lists})}, TWO),
        Example(
            "aisteer360",
            "x.svec",
            {"x.svec": to_json({"directions": {key: [row] for key, row in lists.items()}})},
            TWO,
        ),
        Example(
            "ster",
            "x.json",
            {
                "x.json": to_json(
                    {"product": "ster", "schema_version": 1, "hidden_size": WIDTH, "model": "a"}
                    | {"vectors": [{"layer": n, "values": r.tolist()} for n, r in TWO.items()]}
                )
            },
            TWO,
        ),
        Example("vllm-lens", "x.json", {"x.json": vllm_lens(TWO)}, TWO, coefficient=2.0),
        Example(
            "rhizonymph",
            "x.json",
            {"x.json": to_json({"vectors": {"post_block": lists}})},
            TWO,
        ),
        Example(
            "rhizonymph",
            "x.json",
            {
                "x.json": to_json(
                    {"clamps": {"pre_attn": {"2": [{"vector": UNIT.tolist(), "max": 1.5}]}}}
                )
            },
            {2: UNIT},
            "cap=1.5",
            site="resid_pre",
        ),
        Example("npy", "x.npy", {"x.npy": npy(ROW)}, {4: ROW}, options={"layers": (4,)}),
        Example(
            "npy",
            "x.npy",
            {"x.npy": npy(np.stack([ROW, -ROW]))},
            {4: -ROW},
            options={"layers": (4,), "row": 1},
        ),
        Example(
            "npz",
            "x.npz",
            {
                "x.npz": npz(
                    directions=np.stack([ROW, -ROW]),
                    layers=np.array([1, 2]),
                    site=np.array("attn_out"),
                )
            },
            TWO,
            site="attn_out",
        ),
        Example("npz", "x.npz", {"x.npz": npz(**{"layer.1": ROW, "layer.2": -ROW})}, TWO),
        Example(
            "safetensors",
            "x.safetensors",
            {"x.safetensors": save_tensors({"blocks.1.hook_mlp_out": ROW})},
            {1: ROW},
            site="mlp_out",
        ),
        Example(
            "safetensors",
            "x.safetensors",
            {"x.safetensors": save_tensors({"model.layers.1": ROW, "model.layers.2": -ROW})},
            TWO,
        ),
        Example(
            "steering-lite",
            "x.safetensors",
            {
                "x.safetensors": save_tensors(
                    {"layer1.v": ROW}, metadata={"cfg": '{"method": "pca", "coeff": -0.5}'}
                )
            },
            {1: ROW},
            coefficient=-0.5,
        ),
        Example("pt", "x.pt", {"x.pt": pt(tensor(ROW))}, {3: ROW}, options={"layers": (3,)}),
        Example(
            "pt",
            "x.pt",
            {"x.pt": pt({"layer": 2, "vector": tensor(ROW), "model": "pocket"})},
            {2: ROW},
        ),
        Example(
            "pt",
            "x.pt",
            {"x.pt": pt({f"blocks.{n}.hook_resid_pre": tensor(ROW) for n in (0, 2)})},
            {0: ROW, 2: ROW},
            site="resid_pre",
        ),
        Example(
            "pt",
            "x.pt",
            {"x.pt": pt(torch.stack([torch.zeros(4, WIDTH), tensor(ROW).repeat(4, 1)]))},
            {2: ROW},
            options={"layers": (2,), "row": 1},
        ),
        Example(
            "pt",
            "x.pt",
            {"x.pt": pt({"mean": tensor(ROW), "std": tensor(OTHER)})},
            {2: ROW},
            options={"layers": (2,), "pick": "mean"},
        ),
        Example(
            "caa",
            "vec_layer_13_Llama-2-7b-chat-hf.pt",
            {"vec_layer_13_Llama-2-7b-chat-hf.pt": pt(tensor(ROW))},
            {13: ROW},
        ),
        Example("caa", "", {f"layer_{n}.pt": pt(tensor(row[None])) for n, row in TWO.items()}, TWO),
        Example(
            "caa",
            "",
            {f"vec_layer_2_{model}.pt": pt(tensor(ROW)) for model in ("Llama-2-7b", "Llama-2-13b")},
            {2: ROW},
            options={"model": "meta-llama/Llama-2-13b"},
        ),
        Example(
            "refusal-direction",
            "direction.pt",
            {
                "direction.pt": pt(tensor(ROW.astype(np.float64))),
                "direction_metadata.json": b'{"pos": -1, "layer": 3}',
            },
            {2: ROW},
            "ablate=writes",
        ),
        Example(
            "refusal-direction",
            "mean_diffs.pt",
            {"mean_diffs.pt": pt(tensor(np.tile(ROW.astype(np.float64), (2, 5, 1))))},
            {1: ROW},
            "ablate=writes",
            options={"layers": (2,), "row": 0},
        ),
        Example(
            "persona-vectors",
            "evil_response_avg_diff.pt",
            {"evil_response_avg_diff.pt": pt(tensor(np.stack([OTHER, ROW, -ROW])))},
            {0: ROW, 1: -ROW},
        ),
        Example(
            "persona-activations",
            "a.safetensors",
            {
                "a.safetensors": save_tensors({"activations": np.stack([3 * ROW, ROW])}),
                "b.safetensors": save_tensors({"activations": np.stack([2 * ROW, 2 * ROW])}),
            },
            {0: ROW, 1: -ROW},
            options={"minus": "b.safetensors"},
        ),
        Example(
            "persona-activations",
            "steering_vector.safetensors",
            {
                "steering_vector.safetensors": save_tensors({"steering_vector": ROW[None, None]}),
                "metadata.json": to_json(
                    {"layer": 2, "suggested_alpha": 1.5, "model_id": "a/b", "hidden_size": WIDTH}
                ),
            },
            {2: ROW},
            coefficient=1.5,
        ),
        Example(
            "axbench",
            "DiffMean_weight.pt",
            {"DiffMean_weight.pt": pt(tensor(np.stack([OTHER, ROW])))},
            {2: ROW},
            options={"layers": (2,), "row": 1},
        ),
        Example(
            "lm-eval",
            "x.pt",
            {
                "x.pt": pt(
                    {
                        "layers.3": {
                            "steering_vector": tensor(ROW[None]),
                            "steering_coefficient": 2.0,
                            "action": "add",
                            "bias": torch.zeros(WIDTH),
                        }
                    }
                )
            },
            {3: ROW},
            coefficient=2.0,
        ),
        Example(
            "lm-eval",
            "x.pt",
            {
                "x.pt": pt(
                    {
                        "layers.3.mlp": {
                            "steering_vector": tensor(ROW),
                            "steering_coefficient": 2.0,
                            "action": "clamp",
                        }
                    }
                )
            },
            {3: ROW},
            "clamp=2",
            site="mlp_out",
        ),
        Example(
            "steerkit",
            "x.probe.safetensors",
            {
                "x.probe.safetensors": save_tensors(
                    {"direction.logistic": UNIT, "direction.mass_mean": OTHER}, metadata=STEERKIT
                )
            },
            {2: UNIT},
            coefficient=2.5,
        ),
        Example(
            "steerkit",
            "x.probe.safetensors",
            {
                "x.probe.safetensors": save_tensors(
                    {"direction.logistic": UNIT, "direction.mass_mean": OTHER},
                    metadata=STEERKIT | {"layer": "-1"},
                )
            },
            {0: OTHER},
            coefficient=2.5,
            site="resid_pre",
            options={"pick": "mass_mean"},
        ),
        Example(
            "saklas",
            "a__b.safetensors",
            {
                "a__b.safetensors": save_tensors(
                    {
                        "layer_2.basis": UNIT[None],
                        "layer_2.mean": ROW,
                        "layer_2.node_coords": np.array([[-2.0]], np.float32),
                    }
                ),
                "a__b.json": to_json({"mahalanobis_share_per_layer": {"2": 0.5}}),
            },
            {2: -2 * UNIT},
            coefficient=16.0,
        ),
        Example(
            "saklas",
            "",
            {
                "manifold.json": b"{}",
                "a__b.safetensors": save_tensors(
                    {
                        "layer_1.basis": UNIT[None],
                        "layer_1.node_coords": np.array([[1.0], [-1.0]], np.float32),
                        "layer_2.basis": OTHER[None],
                        "layer_2.node_coords": np.array([[3.0], [-1.0]], np.float32),
                    }
                ),
                "a__b.json": to_json(
                    {
                        "node_labels": ["patient", "impatient"],
                        "mahalanobis_share_per_layer": {"1": 2**0.5, "2": 2 * 2**0.5},
                    }
                ),
            },
            {1: UNIT, 2: 3 * OTHER},
            coefficient=4.0,
        ),
        Example("repsteer", "", repsteer(), {2: ROW}, site="mlp_out"),
        Example(
            "spipe",
            "x.spipe",
            {"x.spipe": zipped(spipe(NAMED, steering_vector=STORED, multiplier=3, layer_id=2))},
            TWO,
            coefficient=3,
            layers=(2,),
        ),
        Example(
            "spipe",
            "",
            spipe(
                {"2": ROW[None]},
                "state_control/activation_adapter",
                location="layer_input",
                others=({"method": "state_control/pasta", "args": {}},),
                hook_point="layer_input",
                layer_ids=[2],
                transform={
                    "$component": "norm_preserving",
                    "inner": {
                        "$component": "projection",
                        "params": {"alpha": 0.5},
                        "artifact": STORED,
                    },
                },
            ),
            {2: UNIT},
            "ablate",
            coefficient=0.5,
            site="resid_pre",
        ),
        Example(
            "reprobe",
            "token_layer_2.pt",
            {"token_layer_2.pt": reprobe(2)},
            {2: UNIT},
            "ablate",
        ),
        Example(
            "reprobe",
            "",
            {
                "registry.json": b"{}",
                "token_layer_2.pt": reprobe(2),
                "prefill_layer_3.pt": reprobe(3, "prefill"),
            },
            {3: UNIT},
            "ablate",
            options={"pick": "prefill"},
        ),
        Example(
            "hidden-directions",
            "v.pt",
            {
                "v.pt": pt(tensor(np.stack([OTHER, ROW])).bfloat16().float()),
                "manifest.json": to_json(
                    {
                        "model": "a/b",
                        "directions": [
                            {"name": "v", "recommended_layer": 1, "recommended_alpha": 1.5}
                        ],
                    }
                ),
            },
            {
                0: tensor(OTHER).bfloat16().float().numpy(),
                1: tensor(ROW).bfloat16().float().numpy(),
            },
            coefficient=1.5,
        ),
        Example(
            "sae",
            "sae_weights.safetensors",
            {
                "sae_weights.safetensors": save_tensors({"W_dec": decoder, "W_enc": encoder}),
                "cfg.json": to_json({"hook_name": "blocks.4.hook_resid_pre", "model_name": "gpt2"}),
            },
            {4: ROW},
            site="resid_pre",
            options={"row": 1},
        ),
        Example(
            "sae",
            "params.npz",
            {"params.npz": npz(W_dec=decoder, W_enc=encoder, threshold=np.zeros(3))},
            {2: ROW},
            options={"row": 1, "layers": (2,)},
        ),
        Example(
            "sae",
            "ae.pt",
            {
                "ae.pt": pt(
                    {"decoder.weight": tensor(decoder.T), "encoder.weight": tensor(encoder.T)}
                ),
                "config.json": to_json({"trainer": {"layer": 3, "submodule_name": "resid_post_3"}}),
            },
            {3: ROW},
            options={"row": 1},
        ),
    )
