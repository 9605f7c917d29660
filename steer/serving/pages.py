"""The files of the page at `/`, and the description of the API.

Nothing is loaded from other hosts, and the only scripts are files of this package.
"""

from __future__ import annotations

import html
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from steer import __version__
from steer.base.files import read_bytes
from steer.serving import library, requests

if TYPE_CHECKING:
    from steer.models.model import Model

_NOWHERE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
#: Headers of the description of the API, which runs no script.
HEADERS = {"content-security-policy": f"{_NOWHERE}; style-src 'unsafe-inline'"} | _SAFE
#: Headers of the page: only its own files, no inline code, and no text becomes markup.
PAGE_HEADERS = {
    "content-security-policy": f"{_NOWHERE}; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'",
    "cache-control": "no-cache",
} | _SAFE
_LARGEST = 1_000_000
#: Fields of requests that vLLM's server does not have.
FEATURES = ["watch", "guard", "condition", "prefill", "cost"]
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>steer</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem}}
pre{{overflow-x:auto}}</style></head><body>{body}</body></html>
"""
#: Method, path, what it does, and the type of its body.
_PATHS: list[tuple[str, str, str, type | None]] = [
    ("post", "/v1/chat/completions", "Answer messages.", requests.Chat),
    ("post", "/v1/completions", "Continue a text.", requests.Completion),
    ("get", "/v1/models", "The model, alone and with each vector and recipe.", None),
    ("get", "/v1/models/{id}", "One of these.", None),
    ("get", "/v1/vectors", "The vectors that requests can name in `steer`.", None),
    ("post", "/tokenize", "Token ids of a text or of messages.", requests.Tokenize),
    ("post", "/detokenize", "The text of token ids.", requests.Detokenize),
    ("get", "/tokenizer_info", "Special tokens, and the chat template.", None),
    ("post", "/api/chat", "Answer messages, as Ollama does.", None),
    ("post", "/api/generate", "Answer a prompt, as Ollama does.", None),
    ("get", "/api/tags", "The models, as Ollama lists them.", None),
    ("get", "/health", "Whether the server is up.", None),
    ("get", "/metrics", "Counters, for Prometheus.", None),
]


def about(
    model: Model,
    engine: str = "huggingface",
    *,
    makes: bool = False,
    source: str | None = None,
    folder: Path = Path("vectors"),
) -> dict[str, Any]:
    """The model's description for the page. features: the fields that the engine supports in
    requests, and `make` if vectors can be made. source, folder: the model and the folder of
    vectors as commands on this machine name them; by default the model's name and `vectors`."""
    features = FEATURES + ["make"] * makes if engine == "huggingface" else []
    return {
        "model": model.identity.id,
        "source": source or model.identity.id,
        "folder": str(folder),
        "runs_on": model.describe() if engine == "huggingface" else engine,
        "engine": engine,
        "n_layers": model.n_layers,
        "context": model.context,
        "chat": model.template.exists,
        "features": features,
    }


@cache
def page_files() -> dict[str, tuple[bytes, str]]:
    """The files of the page: their contents and media types, by the paths that serve them."""
    files = {
        f"/page/{file.name}": (read_bytes(file, limit=_LARGEST), _TYPES[file.suffix])
        for file in Path(__file__).with_name("page").iterdir()
        if file.suffix in _TYPES
    }
    return {"/": files.pop("/page/index.html")} | files


def docs() -> str:
    """The description of the API as a page."""
    parts = ["<h1>The API</h1><p><a href=/openapi.json>As OpenAPI</a></p>"]
    described = openapi()
    for method, path, summary, body in _PATHS:
        parts.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(summary)}</p>")
        if body is not None:
            schema = described["components"]["schemas"][body.__name__]
            parts.append(f"<pre>{html.escape(json.dumps(schema['properties'], indent=1))}</pre>")
    return _PAGE.format(body="".join(parts))


def openapi() -> dict[str, Any]:
    """The description of the API as OpenAPI."""
    bodies = [body for _, _, _, body in _PATHS if body is not None]
    _, schemas = msgspec.json.schema_components(
        [*bodies, library.SteeringFields], ref_template="#/components/schemas/{name}"
    )
    steering = schemas[library.SteeringFields.__name__]["properties"]
    for kind in (requests.Chat, requests.Completion):
        schemas[kind.__name__]["properties"] |= steering
    paths: dict[str, Any] = {}
    for method, path, summary, body in _PATHS:
        operation: dict[str, Any] = {
            "summary": summary,
            "responses": {"200": {"description": "The answer"}},
        }
        if body is not None:
            schema = {"$ref": f"#/components/schemas/{body.__name__}"}
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": schema}},
            }
        paths[path] = {method: operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "steer", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }
