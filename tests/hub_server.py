"""A hub on this machine: the calls by which huggingface_hub uploads, lists and downloads.

Models, and datasets to read, one branch each. Commits are whole and stand on the one that their
author saw; what goes by LFS lies elsewhere and is redirected to, as the hub does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"


@dataclass
class Repository:
    """commits: from each commit to its files, path to bytes, in their order."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes]) -> str:
        number = f"{len(self.commits)} {sorted(files)}"
        oid = hashlib.sha1(number.encode()).hexdigest()
        self.commits[oid] = files
        return oid


class Hub(ThreadingHTTPServer):
    """cut: bytes after which a download breaks off. sent: bytes of downloads so far. ranges: what
    was asked for by them. contacts: connections and requests so far.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.cut: int | None = None
        self.sent = 0
        self.ranges: list[str | None] = []
        self.contacts = 0

    def verify_request(self, request: Any, client_address: Any) -> bool:
        self.contacts += 1
        return True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def elsewhere(self) -> str:
        """Where what goes by LFS lies: to a client another host."""
        return f"http://localhost:{self.server_address[1]}/lfs/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        self.server.contacts += 1

    def do_GET(self) -> None:
        path = _as_model(unquote(urlsplit(self.path).path))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", path):
            self._tree(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups())
        elif match := re.fullmatch(r"/lfs/([0-9a-f]+)", path):
            self._send_file(self.server.lfs[match[1]])
        else:
            self._json(404, {"error": "no such call"})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self._body()
        if match := re.fullmatch(
            r"/api/models/([^/]+/[^/]+)/paths-info/([^/]+)", _as_model(unquote(self.path))
        ):
            self._paths(*match.groups(), json.loads(body)["paths"])
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json(401, {"error": "Invalid credentials"})
        elif self.path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
            files = json.loads(body)["files"]
            modes = [
                {"path": path, "uploadMode": "lfs" if "safetensors" in path else "regular"}
                | {"shouldIgnore": False}
                for path in (file["path"] for file in files)
            ]
            self._json(200, {"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._json(404, {"error": "no such call"})

    def do_PUT(self) -> None:
        data = self._body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.lfs[oid] = data
        self._json(200, {})

    def _create(self, request: dict[str, Any]) -> None:
        name = f"{request['organization']}/{request['name']}"
        with self.server.lock:
            if name in self.server.repositories:
                self._json(409, {"error": "exists", "url": f"{self.server.url}/{name}"})
                return
            self.server.repositories[name] = Repository()
            self.server.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json(200, {"url": f"{self.server.url}/{name}"})

    def _batch(self, request: dict[str, Any]) -> None:
        objects = [
            entry | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}}
            for entry in request["objects"]
        ]
        self._json(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        with self.server.lock:
            repository = self.server.repositories[name]
            head, *rest = (line["value"] for line in lines)
            if head.get("parentCommit") not in (None, repository.head):
                self._json(412, {"error": "The branch has moved"})
                return
            files = dict(repository.commits[repository.head])
            for part in rest:
                stored = base64.b64decode(part["content"]) if "content" in part else None
                files[part["path"]] = self.server.lfs[part["oid"]] if stored is None else stored
            oid = repository.commit(files)
        self._json(200, {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})

    def _found(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.server.repositories.get(name)
        if repository is None:
            self._error("RepoNotFound")
            return None
        commit = repository.head if revision == "main" else revision
        if commit not in repository.commits:
            self._error("RevisionNotFound")
            return None
        return commit, repository.commits[commit]

    def _info(self, name: str, revision: str) -> None:
        if entry := self._found(name, revision):
            self._json(200, {"id": name, "sha": entry[0], "siblings": [], "tags": []})

    def _tree(self, name: str, revision: str, folder: str) -> None:
        if entry := self._found(name, revision):
            prefix = f"{folder}/" if folder else ""
            inside = {p: d for p, d in entry[1].items() if p.startswith(prefix)}
            if folder and not inside:
                self._error("EntryNotFound")
                return
            self._json(
                200, [_entry(p, d) for p, d in inside.items() if "/" not in p[len(prefix) :]]
            )

    def _paths(self, name: str, revision: str, paths: list[str]) -> None:
        if entry := self._found(name, revision):
            self._json(200, [_entry(path, entry[1][path]) for path in paths if path in entry[1]])

    def _resolve(self, name: str, revision: str, path: str) -> None:
        if not (entry := self._found(name, revision)):
            return
        commit, files = entry
        if path not in files:
            self._error("EntryNotFound", {"X-Repo-Commit": commit})
            return
        data = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        oid = hashlib.sha256(data).hexdigest()
        if oid not in self.server.lfs:
            self._send_file(data, headers)
            return
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{oid}"'}
        self._answer(302, b"", headers | {"Location": self.server.elsewhere + oid})

    def _send_file(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        requested_range = self.headers.get("Range")
        status, part = 200, data
        headers = {"Accept-Ranges": "bytes"} | (headers or {})
        if requested_range and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", requested_range)):
            start, stop = int(match[1]), int(match[2] or len(data) - 1)
            status, part = 206, data[start : stop + 1]
            headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        if self.command == "GET":
            self.server.ranges.append(requested_range)
            self.server.sent += len(part)
        self._answer(status, part, headers, self.server.cut)

    def _error(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code} | (headers or {}))

    def _json(self, status: int, value: Any) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if cut is None else data[:cut])
        if cut is not None and len(data) > cut:
            self.wfile.flush()
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


def _as_model(path: str) -> str:
    """Datasets are asked for as models are, one word aside."""
    return path.replace("/api/datasets/", "/api/models/").removeprefix("/datasets")


def _entry(path: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(data).hexdigest()
    return {"type": "file", "path": path, "size": len(data), "oid": oid}


@contextmanager
def served() -> Iterator[Hub]:
    """A hub that runs as long as the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
