"""steer: activation steering of language models.

    import steer

    model = steer.load("pocket")                    # or a hub id, a folder; or steer.wrap(hf, tok)
    warm = steer.extract(model, pairs)              # a list, a file, a dataset, a data frame
    print(model.generate("One day", steer=warm(2, layers=3, scope="response")))
    warm.save("warm.safetensors")

`steer` is a command-line tool too: `steer --help`. Importing the package loads neither torch nor
numpy: what it offers is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from steer.base.errors import (
        GuardError,
        HookError,
        InputError,
        ModelError,
        SiteError,
        SteerError,
        UsageError,
        VectorError,
    )
    from steer.evaluation import Evaluation, Step, SuiteResult, SweepResult
    from steer.library.concepts import (
        Concept,
        build_pack,
        describe,
        discover,
        geometry,
        profile,
        read_pack,
    )
    from steer.library.data import contrast_set
    from steer.library.models import FitWarning, Model, load, wrap
    from steer.library.tasks import (
        ImportNote,
        Readings,
        bake,
        convert,
        distill,
        evaluate,
        export,
        extract,
        fit,
        make,
        monitor,
        pull,
        push,
        record,
        suite,
        sweep,
    )
    from steer.library.vectors import Vector, parse, read
    from steer.steering.generation import Generation
    from steer.steering.steers import Steer

#: The public API: each name, and the module that has it.
_PUBLIC = {
    "Concept": "library.concepts",
    "Evaluation": "evaluation",
    "FitWarning": "library.models",
    "Generation": "steering.generation",
    "GuardError": "base.errors",
    "HookError": "base.errors",
    "ImportNote": "library.tasks",
    "InputError": "base.errors",
    "Model": "library.models",
    "ModelError": "base.errors",
    "Readings": "library.tasks",
    "SiteError": "base.errors",
    "Steer": "steering.steers",
    "SteerError": "base.errors",
    "Step": "evaluation",
    "SuiteResult": "evaluation",
    "SweepResult": "evaluation",
    "UsageError": "base.errors",
    "Vector": "library.vectors",
    "VectorError": "base.errors",
    "bake": "library.tasks",
    "build_pack": "library.concepts",
    "contrast_set": "library.data",
    "convert": "library.tasks",
    "describe": "library.concepts",
    "discover": "library.concepts",
    "distill": "library.tasks",
    "evaluate": "library.tasks",
    "export": "library.tasks",
    "extract": "library.tasks",
    "fit": "library.tasks",
    "geometry": "library.concepts",
    "load": "library.models",
    "make": "library.tasks",
    "monitor": "library.tasks",
    "parse": "library.vectors",
    "profile": "library.concepts",
    "pull": "library.tasks",
    "push": "library.tasks",
    "read": "library.vectors",
    "read_pack": "library.concepts",
    "record": "library.tasks",
    "suite": "library.tasks",
    "sweep": "library.tasks",
    "wrap": "library.models",
}

__all__ = [
    "Concept",
    "Evaluation",
    "FitWarning",
    "Generation",
    "GuardError",
    "HookError",
    "ImportNote",
    "InputError",
    "Model",
    "ModelError",
    "Readings",
    "SiteError",
    "Steer",
    "SteerError",
    "Step",
    "SuiteResult",
    "SweepResult",
    "UsageError",
    "Vector",
    "VectorError",
    "__version__",
    "bake",
    "build_pack",
    "contrast_set",
    "convert",
    "describe",
    "discover",
    "distill",
    "evaluate",
    "export",
    "extract",
    "fit",
    "geometry",
    "load",
    "make",
    "monitor",
    "parse",
    "profile",
    "pull",
    "push",
    "read",
    "read_pack",
    "record",
    "suite",
    "sweep",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, once."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'steer' has no attribute {name!r}")
    value = getattr(import_module(f"steer.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
