"""Servers of vectors on this machine, for as long as a block runs: the hub, S3 and SFTP.

In threads of the tests' own process; or, since a fork takes the locks of threads along, each in a
process of its own: `python tests/servers.py KIND FOLDER` says its address and waits for the end of
its input.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import hub_server
import pytest


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """The address of a hub that starts empty."""
    with hub_server.served() as running:
        yield running.url


@contextmanager
def s3(folder: Path) -> Iterator[str]:
    """The address of an S3 server without buckets."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    # Its buckets belong to the process, and another server may have been here.
    urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()
    yield address
    server.stop()


@contextmanager
def sftp(folder: Path) -> Iterator[str]:
    """The address, with the password of ada, of an SFTP server of this machine's files.

    Its host key is in `.ssh/known_hosts` of the folder.
    """
    import asyncssh

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    connections: list[asyncssh.SSHServerConnection] = []

    class Anybody(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            connections.append(conn)

        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == ("ada", "secret")

    key = asyncssh.generate_private_key("ssh-ed25519")

    async def start() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[key], server_factory=Anybody, sftp_factory=True
        )

    listening = asyncio.run_coroutine_threadsafe(start(), loop).result()
    port = listening.get_port()
    (folder / ".ssh").mkdir()
    public = key.export_public_key().decode()
    (folder / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    yield f"sftp://ada:secret@127.0.0.1:{port}"

    async def stop() -> None:
        listening.close()
        await listening.wait_closed()
        for connection in connections:
            connection.abort()
            await connection.wait_closed()

    asyncio.run_coroutine_threadsafe(stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


KINDS: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
    "hub": hub,
    "s3": s3,
    "sftp": sftp,
}


def use(kind: str, address: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the clients in this process, which stay as they are, talk to a server."""
    if kind == "hub":
        from huggingface_hub import constants

        patch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", hub_server.TOKEN)
    elif kind == "s3":
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    else:
        patch.setenv("HOME", str(folder))


@contextmanager
def processes(folder: Path, *kinds: str) -> Iterator[dict[str, str]]:
    """Servers in processes of their own, which this process's clients use; their addresses."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        settings = {}
        for kind in kinds:
            home = folder / kind
            home.mkdir()
            words = [sys.executable, __file__, kind, str(home)]
            started = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            process = stack.enter_context(started)
            assert process.stdout is not None
            settings[kind] = process.stdout.readline().strip()
            use(kind, settings[kind], home, patch)
        yield settings
        # Leaving closes their input, at which they end.


if __name__ == "__main__":
    with KINDS[sys.argv[1]](Path(sys.argv[2])) as instance:
        sys.stdout.write(instance + "\n")
        sys.stdout.flush()
        sys.stdin.read()
