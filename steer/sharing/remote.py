"""A folder that fsspec reaches: an object store, another machine, a web server, or a shared folder.

Writes are atomic: an object store shows an upload once it is complete, and a folder gets the file
under a temporary name first.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from steer.base.errors import SteerError
from steer.base.files import open_regular, write_atomic
from steer.sharing.address import LOCAL, Address
from steer.sharing.places import ChangedError, MissingError, network_errors

#: The extra of this package that installs what a protocol needs besides fsspec.
EXTRAS = {
    "s3": "s3", "s3a": "s3",
    "gs": "gs", "gcs": "gs",
    "sftp": "ssh", "ssh": "ssh",
    "github": "http", "http": "http", "https": "http",
}  # fmt: skip
#: They show an object once it is complete, and cannot rename atomically.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "oci", "oss", "tos", "memory"}
#: Protocols that wrap other addresses, run code or read templates; they are refused.
_NO_PLACES = {
    "reference", "generic", "dir", "data", "zip", "tar", "libarchive", "cached", "blockcache",
    "filecache", "simplecache", "async_wrapper", "asyncwrapper", "dask", "jupyter", "jlab",
}  # fmt: skip


class Folder:
    """A folder behind an address. It has no commits."""

    revision: str | None = None

    def __init__(self, address: Address) -> None:
        self.address = address
        with network_errors(address):
            self._fs = _file_system(address)
            place = str(Path(address.place).absolute()) if self._local else address.place
            self._root = str(self._fs._strip_protocol(place))

    @property
    def _local(self) -> bool:
        return self.address.protocol == LOCAL

    def files(self) -> dict[str, int]:
        """Names and sizes in bytes; empty for a folder that does not exist yet."""
        try:
            with network_errors(self.address):
                if self._local:
                    return _local_files(self._root)
                self._fs.invalidate_cache()
                entries = self._fs.ls(self._root, detail=True)
        except MissingError:
            return {}
        sized = [(str(entry["name"]).rpartition("/")[2], entry.get("size")) for entry in entries]
        return {name: int(size) for name, size in sized if isinstance(size, int)}

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`."""
        if start >= stop:
            return b""
        with network_errors(f"{self.address}/{name}"):
            if self._local:
                # A link in a shared folder could point at any file of its reader.
                with open_regular(Path(self._path(name)), follow_links=False) as file:
                    file.seek(start)
                    return file.read(stop - start)
            return bytes(self._fs.cat_file(self._path(name), start=start, end=stop))

    def write(
        self, files: dict[str, bytes], message: str, *, replace: frozenset[str]
    ) -> str | None:
        """Write one file after the other, each atomically."""
        with network_errors(self.address):
            if self.address.protocol not in _OBJECT_STORES:
                self._fs.makedirs(self._root, exist_ok=True)
        for name, data in files.items():
            with network_errors(f"{self.address}/{name}"):
                self._put(name, data, force=name in replace)
        return None

    def _put(self, name: str, data: bytes, *, force: bool) -> None:
        path = self._path(name)
        if self._local:
            try:
                write_atomic(Path(path), data, force=force)
            except SteerError:
                if not force and Path(path).exists():
                    raise ChangedError(f"{self.address}/{name} exists already") from None
                raise
            return
        try:
            if self.address.protocol in _OBJECT_STORES:
                self._fs.pipe_file(path, data, mode="overwrite" if force else "create")
                return
            if not force and self._fs.exists(path):
                raise FileExistsError
            self._put_renamed(path, data)
        except FileExistsError:
            raise ChangedError(f"{self.address}/{name} exists already") from None
        except NotImplementedError:
            raise SteerError(f"{self.address} can be read, not written") from None

    def _put_renamed(self, path: str, data: bytes) -> None:
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.{name}.{secrets.token_hex(4)}.tmp"
        try:
            self._fs.pipe_file(temporary, data)
            self._fs.mv(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(temporary)
            raise

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def _local_files(folder: str) -> dict[str, int]:
    """Names and sizes of everything in a folder.

    An entry that is not a regular file gets a size above 0, so that it is read and refused then.
    """
    sizes = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            regular = stat.S_ISREG(status.st_mode)
            sizes[entry.name] = status.st_size if regular else max(status.st_size, 1)
    return sizes


def _file_system(address: Address) -> Any:
    import fsspec

    protocol = address.protocol
    if protocol in _NO_PLACES or protocol not in {*fsspec.available_protocols(), "memory"}:
        raise SteerError(
            f"{address}: {protocol}:// cannot hold vectors",
            hint="use hf://, s3://, gs://, ssh://, github://, https://, or a folder",
        )
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        hint = f"pip install 'steer-activations[{extra}]'" if extra else str(error)
        raise SteerError(f"{protocol}:// needs another library", hint=hint) from None
    options = dict(kind._get_kwargs_from_urls(address.place))
    if protocol in ("ssh", "sftp"):
        options |= {"host_key_policy": known_hosts_only(), "timeout": 30}
    # No cached instance: it could show the folder as it was earlier.
    return kind(skip_instance_cache=True, **options)


def known_hosts_only() -> Any:
    """A policy for paramiko that refuses hosts that are not in ~/.ssh/known_hosts, as ssh does."""
    import paramiko

    class KnownHosts(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # it is untyped
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            known = paramiko.HostKeys()
            file = Path("~/.ssh/known_hosts").expanduser()
            with contextlib.suppress(OSError):
                known.load(str(file))
            if not known.check(hostname, key):
                raise SteerError(
                    f"the host {hostname} is not in {file}, or has another key there",
                    hint="connect once with ssh, and compare its key with the one its owner gives",
                )

    return KnownHosts()
