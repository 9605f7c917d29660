"""A socket for a server, before the server is."""

from __future__ import annotations

import socket

from steer.base.errors import SteerError


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 is any that is free.

    Raises:
        SteerError: it is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SteerError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            hint="name another with --port; --port 0 takes any that is free",
        ) from None
