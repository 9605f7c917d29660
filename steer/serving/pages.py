"""What a browser sees: the front page, and the API described. Nothing comes from another host."""

from __future__ import annotations

import html
import json
from typing import Any

import msgspec

from steer import __version__
from steer.serving import library, requests

#: Of every page: it runs no script, and asks no other host for anything.
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
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
    ("get", "/v1/models", "The model, and it under each vector and recipe.", None),
    ("get", "/v1/vectors", "What requests can name in `steer`.", None),
    ("post", "/tokenize", "Token ids of a text or of messages.", requests.Tokenize),
    ("post", "/detokenize", "The text of token ids.", requests.Detokenize),
    ("get", "/health", "Whether the server is up.", None),
    ("get", "/metrics", "Counters, for Prometheus.", None),
]


def front(served: str, known: library.Library) -> str:
    """The page at `/`."""
    names = "".join(f"<li>{html.escape(name)}</li>" for name in sorted(known.vectors))
    return _PAGE.format(
        body=f"<h1>steer</h1><p>{html.escape(served)} is served here. <a href=/docs>The API</a></p>"
        f"<h2>Vectors</h2><ul>{names}</ul>"
    )


def docs() -> str:
    """The description of the API for people."""
    parts = ["<h1>The API</h1><p><a href=/openapi.json>As OpenAPI</a></p>"]
    described = openapi()
    for method, path, told, body in _PATHS:
        parts.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(told)}</p>")
        if body is not None:
            schema = described["components"]["schemas"][body.__name__]
            parts.append(f"<pre>{html.escape(json.dumps(schema['properties'], indent=1))}</pre>")
    return _PAGE.format(body="".join(parts))


def openapi() -> dict[str, Any]:
    """The description of the API for programs."""
    bodies = [body for _, _, _, body in _PATHS if body is not None]
    _, schemas = msgspec.json.schema_components(
        [*bodies, library.Fields], ref_template="#/components/schemas/{name}"
    )
    steering = schemas[library.Fields.__name__]["properties"]
    for kind in (requests.Chat, requests.Completion):
        schemas[kind.__name__]["properties"] |= steering
    paths: dict[str, Any] = {}
    for method, path, told, body in _PATHS:
        one: dict[str, Any] = {"summary": told, "responses": {"200": {"description": "The answer"}}}
        if body is not None:
            schema = {"$ref": f"#/components/schemas/{body.__name__}"}
            one["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": schema}},
            }
        paths[path] = {method: one}
    return {
        "openapi": "3.1.0",
        "info": {"title": "steer", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }
