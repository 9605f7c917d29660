"""The methods that make vectors: one file for each, in `builtin` or in another package.

`FitMethod` fits a direction to recorded activations (`steer extract`, `steer fit`); `DistillMethod`
finds an edit with the effect of a prompt (`steer distill`). No torch.
"""

from __future__ import annotations

from steer.methods.method import DistillMethod as DistillMethod
from steer.methods.method import FitMethod as FitMethod
from steer.methods.method import FittedEdit as FittedEdit
from steer.methods.method import Option as Option

#: The former name.
Fitted = FittedEdit
