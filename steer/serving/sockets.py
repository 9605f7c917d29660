"""Open a server's socket before the model loads, so that a taken port is reported at once."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from steer.base.errors import SteerError


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 takes any free port.

    Raises:
        SteerError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SteerError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            hint="name another with --port; --port 0 takes any that is free",
        ) from None


def first_free(host: str, ports: Sequence[int]) -> socket.socket:
    """A socket that listens at the first free one of these ports.

    Raises:
        SteerError: no port is free.
    """
    for port in ports[:-1]:
        try:
            return listening_socket(host, port)
        except SteerError:
            continue
    return listening_socket(host, ports[-1])
