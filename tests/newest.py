"""Whether a failure of the laws on the newest releases is ours: exit 1 where steer allows them all.

Run by `make test-newest-quick` after a failure. A release above our bounds is not installed for
users, so its failure is a warning to us; one within them reaches users today.
"""

from __future__ import annotations

import sys
from importlib import metadata

from steer.base.diagnosis import complaints

beyond = complaints()
versions = ", ".join(
    f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "transformer-lens")
)
print(f"the laws FAIL on {versions}", file=sys.stderr)
if beyond:
    print(f"not allowed by our bounds, so users are safe: {'; '.join(beyond)}", file=sys.stderr)
sys.exit(0 if beyond else 1)
