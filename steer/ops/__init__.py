"""Operations on activations: one file for each op, in `builtin` or in another package.

An `Op` holds its name, the syntax of its value, its formula and its function. No torch.
"""

from __future__ import annotations

from steer.ops.op import DEGREES as DEGREES
from steer.ops.op import LEVEL as LEVEL
from steer.ops.op import Op as Op
from steer.ops.op import Value as Value
