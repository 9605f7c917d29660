"""hotwire-vllm: a plugin of vLLM with vectors that its operator gave it.

    {"vllm_xargs": {"hotwire": "[{\"id\", \"layer\", \"scale\"}]"},    in the body; JSON as text
     "cache_salt": TEXT}

The engine has the numbers from a folder of .pt files, and a request only names a file. A name or a
layer that it does not have leaves the request unsteered, without an error.
"""

from __future__ import annotations

import json

from steer.engines.drivers.vllm_lens import salt
from steer.engines.driving import Driver, Outcome, Steering
from steer.engines.endpoint import Server


def _steer(server: Server, steering: Steering) -> Outcome:
    entries = [
        {"id": steer.vector.name, "layer": site.layer, "scale": steer.coefficient.value}
        for steer in steering.steers
        for site in steer.sites()
    ]
    names = ", ".join(dict.fromkeys(f"{steer.vector.name}.pt" for steer in steering.steers))
    listed = json.dumps(entries)
    return Outcome(
        {"vllm_xargs": {"hotwire": listed}, "cache_salt": salt(listed)},
        notes=(
            f"it steers only if its folder HOTWIRE_VECTORS has the same vectors as {names}, and"
            " says nothing otherwise: test it with `steer check-server`",
        ),
    )


DRIVER = Driver(
    name="hotwire",
    title="hotwire-vllm",
    help="vllm serve where the package hotwire-vllm is installed, with HOTWIRE_VECTORS set",
    steer=_steer,
    by_name=True,
    limits=("vectors that it was not started with",),
)
