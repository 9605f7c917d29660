"""Whether the Hugging Face hub may be asked, and answers: known in seconds, without retries."""

from __future__ import annotations

import os
import socket
import sys
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

#: Seconds to wait for the hub before it counts as unreachable.
HUB_TIMEOUT = 4.0
#: The reasons for not asking the hub, as messages name them.
OFFLINE = "--offline or HF_HUB_OFFLINE"
#: Variables that the Hugging Face libraries read once, when they are imported.
_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
#: Their values that mean yes.
_TRUE = ("1", "ON", "YES", "TRUE")
#: Modules that keep the value of `HF_HUB_OFFLINE`.
_KEEPING = ("huggingface_hub.constants", "datasets.config")


def go_offline() -> None:
    """Ask the hub nothing from now on, in this process and those that it starts: models, adapters,
    vectors and datasets are read from the caches of the Hugging Face libraries only."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in _KEEPING:
        if name in sys.modules:
            sys.modules[name].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def is_offline_mode() -> bool:
    """Whether the hub is not to be asked: after `go_offline`, or if the user has set
    `HF_HUB_OFFLINE`. Imports nothing."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        return bool(constants.HF_HUB_OFFLINE)
    value = next(filter(None, map(os.environ.get, _VARIABLES)), "")
    return value.upper() in _TRUE


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
