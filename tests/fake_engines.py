"""Small servers with the steering APIs of engines, as their documentation and sources give them.

Each steers the pocket model by adding what it was sent at the outputs of blocks, with hooks of
torch alone: it shares no code with the drivers, so a wrong name, layer, shape or sign shows.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steer.models.model import Model

Reply = tuple[int, Any]
Rows = dict[int, np.ndarray]


class Engine:
    """An OpenAI-compatible server that adds `deltas` at blocks, and applies `clamps` after them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.requests: list[tuple[str, str, Any]] = []

    def __call__(self, method: str, path: str, body: Any) -> Reply:
        self.requests.append((method, path, body))
        if path == "/v1/models":
            return 200, {"data": [{"id": "made"}]}
        if path == "/v1/completions" and method == "POST":
            return 200, self.complete(body)
        return self.api(method, path, body)

    def api(self, method: str, path: str, body: Any) -> Reply:
        """The engine's own endpoints."""
        return 404, {"detail": "Not Found"}

    def deltas(self, body: dict[str, Any], first: int) -> list[tuple[slice, Rows]]:
        """What is added, at which positions. first: the first position of the response."""
        return []

    def clamps(self) -> dict[int, dict[str, Any]]:
        """A clamp by layer, as RhizoNymph's vLLM gets it."""
        return {}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """A greedy completion, forwarded whole at each token."""
        ids = self.model.encode(body["prompt"])
        n_prompt, values = len(ids), []
        with torch.no_grad(), self._steered(body, n_prompt - 1):
            for _ in range(body["max_tokens"]):
                scores = self.model.network(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                ids.append(int(scores.argmax()))
                values.append(float(scores.max()))
                if ids[-1] == self.model.tokenizer.eos_token_id:
                    break
        text = self.model.decode(ids[n_prompt:])
        return {"choices": [{"text": text, "logprobs": {"token_logprobs": values}}]}

    @contextmanager
    def _steered(self, body: dict[str, Any], first: int) -> Iterator[None]:
        added, clamped = self.deltas(body, first), self.clamps()
        with ExitStack() as stack:
            for number, block in enumerate(self.model.network.model.layers):

                def edit(_module: Any, _inputs: Any, output: Any, layer: int = number) -> Any:
                    h = (output[0] if isinstance(output, tuple) else output).clone()
                    for where, rows in added:
                        if layer in rows:
                            h[:, where] += torch.from_numpy(rows[layer].copy())
                    if layer in clamped:
                        h = _clamp(h, clamped[layer])
                    return (h, *output[1:]) if isinstance(output, tuple) else h

                stack.enter_context(_removed(block.register_forward_hook(edit)))
            yield


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    yield
    handle.remove()


def _clamp(h: torch.Tensor, clamp: dict[str, Any]) -> torch.Tensor:
    unit = torch.tensor(clamp["vector"])
    unit = unit / unit.norm()
    p = h @ unit
    least = clamp.get("min", clamp.get("value"))
    most = clamp.get("max", clamp.get("value"))
    bounded = p.clamp(least, most)
    return h + (clamp.get("strength", 1.0) * (bounded - p)).unsqueeze(-1) * unit


class IkLlama(Engine):
    """ik_llama.cpp's server: reads files when they are loaded, and sums layer by layer."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.vectors: list[dict[str, Any]] = []

    def api(self, method: str, path: str, body: Any) -> Reply:
        if (method, path) == ("GET", "/control-vectors"):
            names = ("path", "scale", "layer_start", "layer_end", "applied")
            return 200, [
                {"id": i, **{name: vector[name] for name in names}}
                for i, vector in enumerate(self.vectors)
            ]
        if (method, path) == ("POST", "/control-vectors/load"):
            for vector in self.vectors:
                if vector["path"] == body["path"]:  # not read again
                    vector |= {"scale": body.get("scale", 1.0)}
                    return 200, {"success": True, "id": self.vectors.index(vector)}
            try:
                rows = read_gguf(Path(body["path"]).read_bytes())
            except OSError:
                error = f"Failed to load control vector from {body['path']}"
                return 400, {"success": False, "error": error}
            n = self.model.n_layers
            fields = {"scale": 1.0, "layer_start": 1, "layer_end": n, **body, "applied": True}
            self.vectors.append({**fields, "rows": rows})
            return 200, {"success": True, "id": len(self.vectors) - 1}
        if (method, path) == ("POST", "/control-vectors/unload"):
            if not 0 <= body["id"] < len(self.vectors):
                return 400, {"success": False, "error": "Invalid control vector ID"}
            del self.vectors[body["id"]]
            return 200, {"success": True}
        return 404, {"error": "not found"}

    def deltas(self, body: dict[str, Any], first: int) -> list[tuple[slice, Rows]]:
        low = min((vector["layer_start"] for vector in self.vectors), default=0)
        high = max((vector["layer_end"] for vector in self.vectors), default=0)
        return [
            (
                slice(None),
                {n: vector["scale"] * row for n, row in vector["rows"].items() if low <= n <= high},
            )
            for vector in self.vectors
        ]


class Llama(Engine):
    """llama.cpp's server, started with control vectors, whose scales can be set."""

    def __init__(self, model: Model, *paths: Path) -> None:
        super().__init__(model)
        self.paths, self.scales = list(paths), [1.0] * len(paths)
        self.rows = [read_gguf(path.read_bytes()) for path in paths]

    def api(self, method: str, path: str, body: Any) -> Reply:
        if path != "/cvectors":
            return 404, {"error": {"message": "not found"}}
        if method == "GET":
            listed = enumerate(zip(self.paths, self.scales, strict=True))
            return 200, [{"id": i, "path": str(p), "scale": scale} for i, (p, scale) in listed]
        if not isinstance(body, list):
            return 400, {"error": {"message": "Request body must be an array"}}
        for key in body:
            if not 0 <= key["id"] < len(self.scales):
                return 400, {"error": {"message": "invalid id"}}
            self.scales[key["id"]] = key["scale"]
        return 200, {"success": True}

    def deltas(self, body: dict[str, Any], first: int) -> list[tuple[slice, Rows]]:
        both = zip(self.rows, self.scales, strict=True)
        return [(slice(None), {n: s * row for n, row in rows.items()}) for rows, s in both]


class RhizoNymph(Engine):
    """RhizoNymph's vLLM."""

    key: str | None = None

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.vectors: Rows = {}
        self.clamp: dict[int, dict[str, Any]] = {}

    def api(self, method: str, path: str, body: Any) -> Reply:
        if (method, path) == ("GET", "/v1/steering"):
            return 200, {"active_layers": {str(n): {} for n in {*self.vectors, *self.clamp}}}
        if (method, path) == ("POST", "/v1/steering/clear"):
            self.vectors, self.clamp = {}, {}
            return 200, {"status": "ok"}
        if (method, path) != ("POST", "/v1/steering/set"):
            return 404, {"detail": "Not Found"}
        tiers = ("vectors", "prefill_vectors", "decode_vectors")
        clamps = ("clamps", "prefill_clamps", "decode_clamps")
        if unknown := set(body) - {*tiers, *clamps, "replace"}:
            return 422, {"detail": f"extra fields {unknown}"}
        if body.get("replace"):
            self.vectors, self.clamp = {}, {}
        table = body.get("vectors", {}).get("post_block")
        if table is not None:
            raw = np.frombuffer(base64.b64decode(table["data"]), table["dtype"])
            rows = raw.reshape(table["shape"])
            layers = table["layer_indices"]
            if missing := [n for n in layers if n >= self.model.n_layers]:
                return 400, {"error": f"Layer(s) {missing} not found in model."}
            self.vectors = dict(zip(layers, rows, strict=True))
        for layer, entries in body.get("clamps", {}).get("post_block", {}).items():
            (self.clamp[int(layer)],) = entries
        return 200, {"status": "ok"}

    def deltas(self, body: dict[str, Any], first: int) -> list[tuple[slice, Rows]]:
        return [(slice(None), self.vectors)]

    def clamps(self) -> dict[int, dict[str, Any]]:
        return self.clamp


class EasySteer(Engine):
    """EasySteer's vLLM, with a default steering."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.spec: dict[str, Any] | None = None

    def api(self, method: str, path: str, body: Any) -> Reply:
        if path != "/v1/steering":
            return 404, {"detail": "Not Found"}
        if method == "POST":
            for vector in (body["spec"] or {}).get("vectors", []):
                data = vector["data"]
                if data["sha256"] != _easysteer_digest(data):
                    return 400, {"error": "payload sha256 does not match its content"}
            self.spec = body["spec"]
        return 200, {"active": self.spec is not None}

    def deltas(self, body: dict[str, Any], first: int) -> list[tuple[slice, Rows]]:
        added = []
        for vector in (self.spec or {}).get("vectors", []):
            rows = {
                int(name.removeprefix("layer.")): vector["scale"]
                * np.frombuffer(base64.b64decode(tensor["data"]), np.float32)
                for name, tensor in vector["data"]["tensors"].items()
            }
            added += [(where, rows) for where in _easysteer_slices(vector["apply"], first)]
        return added


def _easysteer_slices(apply: dict[str, Any], first: int) -> list[slice]:
    """Where a clause applies; `first` is the last token of the prompt."""
    match apply:
        case {"prompt": "all", "generation": "all"}:
            return [slice(None)]
        case {"prompt_window": [0, -1]}:
            return [slice(0, first)]
        case {"prompt_positions": [-1], "generation": "all"}:
            return [slice(first, None)]
    raise ValueError(apply)


def _easysteer_digest(payload: dict[str, Any]) -> str:
    digest = hashlib.sha256(f"{payload['kind']}:{payload['version']}".encode())
    for name, tensor in sorted(payload["tensors"].items()):
        digest.update(name.encode())
        digest.update(str(tuple(tensor["shape"])).encode())
        digest.update(base64.b64decode(tensor["data"], validate=True))
    return digest.hexdigest()


class VllmLens(Engine):
    """A vLLM with the plugin vllm-lens: each request brings its vectors."""

    def api(self, method: str, path: str, body: Any) -> Reply:
        return (405 if path == "/v1/hooks/register" else 404), {"detail": "no"}

    def deltas(self, body: dict[str, Any], first: int) -> list[tuple[slice, Rows]]:
        field = body.get("vllm_xargs", {}).get("apply_steering_vectors", "[]")
        added = []
        for vector in json.loads(field):
            stored = vector["activations"]
            table = np.frombuffer(base64.b64decode(stored["data"]), stored["dtype"])
            rows = vector["scale"] * table.reshape(stored["shape"])
            layers = vector["layer_indices"]
            added.append((slice(None), dict(zip(layers, rows, strict=True))))
        return added


class Hotwire(Engine):
    """A vLLM with the plugin hotwire-vllm, and the vectors of its operator, [layer, d_model]."""

    def __init__(self, model: Model, vectors: dict[str, np.ndarray]) -> None:
        super().__init__(model)
        self.vectors = vectors

    def deltas(self, body: dict[str, Any], first: int) -> list[tuple[slice, Rows]]:
        entries = json.loads(body.get("vllm_xargs", {}).get("hotwire", "[]"))
        return [
            (
                slice(None),
                {entry["layer"]: entry["scale"] * self.vectors[entry["id"]][entry["layer"]]},
            )
            for entry in entries
            if entry["id"] in self.vectors  # as it does: an unknown name is not an error
        ]


def read_gguf(data: bytes) -> Rows:
    """`direction.N` of a GGUF control vector; as llama.cpp reads it, only float32 in one row."""
    magic, version, n_tensors, n_values = struct.unpack_from("<4sIQQ", data)
    assert (magic, version) == (b"GGUF", 3)
    place = 24

    def text() -> str:
        nonlocal place
        (length,) = struct.unpack_from("<Q", data, place)
        place += 8 + length
        return data[place - length : place].decode()

    alignment = 32
    for _ in range(n_values):
        name = text()
        (kind,) = struct.unpack_from("<I", data, place)
        place += 4
        if kind == 8:
            text()
            continue
        size = {4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q"}[kind]
        (value,) = struct.unpack_from(size, data, place)
        place += struct.calcsize(size)
        if name == "general.alignment":
            alignment = value
    infos = []
    for _ in range(n_tensors):
        name = text()
        n_dims, length, kind, offset = struct.unpack_from("<IQIQ", data, place)
        assert (n_dims, kind) == (1, 0)
        place += 24
        infos.append((name, length, offset))
    start = -(-place // alignment) * alignment
    rows = {}
    for name, length, offset in infos:
        layer = int(name.removeprefix("direction."))
        assert layer > 0, "llama.cpp refuses direction.0"
        rows[layer] = np.frombuffer(data, np.float32, length, start + offset).copy()
    return rows
