"""How a vector is made: one file for each method, in `builtin`, or in another package.

`FitMethod` fits a direction to recorded activations (`steer extract`, `steer fit`); `DistillMethod`
finds an edit that does what a prompt does (`steer distill`). No torch.
"""

from __future__ import annotations

from steer.methods.method import DistillMethod as DistillMethod
from steer.methods.method import FitMethod as FitMethod
from steer.methods.method import Fitted as Fitted
from steer.methods.method import Option as Option
