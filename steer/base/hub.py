"""Whether the Hugging Face hub may be asked, and answers: known in seconds, without retries."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

#: Seconds to wait for the hub before it counts as unreachable.
HUB_TIMEOUT = 4.0


def is_offline_mode() -> bool:
    """Whether the user has set `HF_HUB_OFFLINE`."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def hub_answers() -> bool:
    """Whether the hub, or the proxy before it, accepts a connection."""
    from huggingface_hub.constants import ENDPOINT

    hub = urlsplit(ENDPOINT)
    proxy = getproxies().get(hub.scheme)
    if proxy and not proxy_bypass(hub.hostname or ""):
        hub = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme=hub.scheme)
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        socket.create_connection((hub.hostname or "", port), HUB_TIMEOUT).close()
    except OSError:
        return False
    return True
