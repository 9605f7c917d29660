"""A model repository of the Hugging Face hub, read at one commit and written in one commit.

Tokens, endpoint and cache are huggingface_hub's own: `hf auth login`, $HF_TOKEN, $HF_ENDPOINT,
$HF_HOME.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from steer.base.errors import SteerError, UsageError
from steer.base.hub import OFFLINE, is_offline_mode
from steer.sharing.address import Address
from steer.sharing.places import ChangedError, MissingError, UnreachableError, network_errors

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Repository:
    """A folder of a repository, at the commit that its branch had at the first request."""

    def __init__(self, address: Address, *, private: bool = False) -> None:
        self.address = address
        self._private = private

    @cached_property
    def _api(self) -> Any:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        return HfApi(library_name="steer")

    @cached_property
    def revision(self) -> str | None:
        """The commit.

        Raises:
            MissingError: there is no such repository or revision.
        """
        with network_errors(self.address):
            info = self._api.model_info(self.address.root, revision=self.address.revision)
            return str(info.sha)

    def files(self) -> dict[str, int]:
        """Names and sizes in bytes; empty for a repository or folder that does not exist yet."""
        try:
            return dict(self._files)
        except MissingError:
            return {}

    @cached_property
    def _files(self) -> dict[str, int]:
        revision = self.revision
        with network_errors(self.address):
            entries = self._api.list_repo_tree(
                self.address.root, path_in_repo=self.address.folder or None, revision=revision
            )
            sized = [(Path(entry.path).name, getattr(entry, "size", None)) for entry in entries]
        return {name: size for name, size in sized if isinstance(size, int)}

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, by a ranged request."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        if start >= stop:
            return b""
        with network_errors(f"{self.address}/{name}"):
            url = hf_hub_url(self.address.root, self._path(name), revision=self.revision)
            headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}"}
            read = bytearray()
            with get_session().stream("GET", url, headers=headers, timeout=60) as response:
                hf_raise_for_status(response)
                # A server without support for ranges sends the whole file.
                skip = start if response.status_code == 200 else 0
                for piece in response.iter_bytes():
                    read += piece
                    if len(read) >= skip + stop - start:
                        break
            return bytes(read[skip : skip + stop - start])

    def write(
        self, files: dict[str, bytes], message: str, *, replace: frozenset[str]
    ) -> str | None:
        """Write all of the files in one commit on top of the one that was read."""
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.errors import HfHubHTTPError

        branch = self.address.revision
        if branch and _COMMIT.fullmatch(branch):
            raise UsageError(f"{branch} is a commit", hint="push to a branch: hf://OWNER/REPO@NAME")
        parent = self._parent()
        existing = sorted(set(files) & set(self.files()) - replace)
        if existing:
            raise ChangedError(f"{self.address}/{existing[0]} is there already")
        operations = [
            CommitOperationAdd(path_in_repo=self._path(name), path_or_fileobj=data)
            for name, data in files.items()
        ]
        with network_errors(self.address):
            try:
                commit = self._api.create_commit(
                    self.address.root,
                    operations,
                    commit_message=message,
                    revision=branch,
                    parent_commit=parent,
                )
            except HfHubHTTPError as error:
                if error.response.status_code in (409, 412):
                    raise ChangedError(f"{self.address} has changed meanwhile") from error
                raise
            return str(commit.oid)

    def _parent(self) -> str | None:
        """The parent commit; creates the repository where there is none."""
        try:
            return self.revision
        except MissingError:
            if self.address.revision is not None:
                raise
        with network_errors(self.address):
            self._api.create_repo(self.address.root, private=self._private or None, exist_ok=True)
        return self.revision

    def _path(self, name: str) -> str:
        return f"{self.address.folder}/{name}" if self.address.folder else name


def cached(address: Address, file: str, limit: int) -> tuple[Path, str, bool]:
    """Fetch a file into huggingface_hub's cache. Gives its path, its commit, and whether the hub
    did not answer and the file was in the cache already.

    Raises:
        SteerError: the file cannot be fetched, or has more than `limit` bytes.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    name = f"{address.folder}/{file}" if address.folder else file
    branch = address.revision or "main"
    subject = f"{address.place}/{file}"
    try:
        with network_errors(subject):
            remote = get_hf_file_metadata(hf_hub_url(address.root, name, revision=branch))
        if remote.size is not None and remote.size > limit:
            raise SteerError(f"{subject} has {remote.size:,} bytes, more than {limit:,}")
        offline = False
    except UnreachableError:
        offline = True
    with network_errors(subject):
        try:
            path = Path(
                hf_hub_download(address.root, name, revision=branch, local_files_only=offline)
            )
        except FileNotFoundError as error:
            if not offline:
                raise
            fact = f"the hub is not used ({OFFLINE})"
            raise UnreachableError(
                f"{subject} is not in the cache, and "
                + (fact if is_offline_mode() else "the hub cannot be reached"),
                hint="fetch it once where the hub can be reached",
            ) from error
    return path, path.parents[name.count("/")].name, offline
