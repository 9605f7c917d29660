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
    from steer.base.progress import Lines, Progress
    from steer.distillation.compiled import CompiledPrompt
    from steer.evaluation import Evaluation, SuiteResult, SweepResult
    from steer.library.checks import ContrastReport, Diagnosis, check_contrasts, doctor, split
    from steer.library.concepts import (
        Concept,
        build_pack,
        describe,
        discover,
        geometry,
        profile,
        read_pack,
        write_contrasts,
    )
    from steer.library.data import contrast_set
    from steer.library.files import (
        Comparison,
        FileWarning,
        VectorFile,
        VerifiedFile,
        combine,
        compare,
        list_vectors,
        new_key,
        pull,
        push,
        read_recipe,
        sign,
        verify,
    )
    from steer.library.models import Conversation, FitWarning, Model, load, wrap
    from steer.library.servers import EngineSteering, ServerCheck, check_server, drive, serve
    from steer.library.tasks import (
        ImportNote,
        Readings,
        bake,
        compile,
        convert,
        distill,
        evaluate,
        export,
        extract,
        fit,
        make,
        monitor,
        record,
        suite,
        sweep,
    )
    from steer.library.vectors import Vector, parse, read
    from steer.serving.serve import ServerInfo
    from steer.steering.generation import Generation
    from steer.steering.recipe import Recipe
    from steer.steering.steers import Steer

#: The public API: each name, and the module that has it.
_PUBLIC = {
    "Comparison": "library.files",
    "CompiledPrompt": "distillation.compiled",
    "Concept": "library.concepts",
    "ContrastReport": "library.checks",
    "Conversation": "library.models",
    "Diagnosis": "library.checks",
    "EngineSteering": "library.servers",
    "Evaluation": "evaluation",
    "FileWarning": "library.files",
    "FitWarning": "library.models",
    "Generation": "steering.generation",
    "GuardError": "base.errors",
    "HookError": "base.errors",
    "ImportNote": "library.tasks",
    "InputError": "base.errors",
    "Lines": "base.progress",
    "Model": "library.models",
    "ModelError": "base.errors",
    "Progress": "base.progress",
    "Readings": "library.tasks",
    "Recipe": "steering.recipe",
    "ServerCheck": "library.servers",
    "ServerInfo": "serving.serve",
    "SiteError": "base.errors",
    "Steer": "steering.steers",
    "SteerError": "base.errors",
    "SuiteResult": "evaluation",
    "SweepResult": "evaluation",
    "UsageError": "base.errors",
    "Vector": "library.vectors",
    "VectorError": "base.errors",
    "VectorFile": "library.files",
    "VerifiedFile": "library.files",
    "bake": "library.tasks",
    "build_pack": "library.concepts",
    "check_contrasts": "library.checks",
    "check_server": "library.servers",
    "combine": "library.files",
    "compare": "library.files",
    "compile": "library.tasks",
    "contrast_set": "library.data",
    "convert": "library.tasks",
    "describe": "library.concepts",
    "discover": "library.concepts",
    "distill": "library.tasks",
    "doctor": "library.checks",
    "drive": "library.servers",
    "evaluate": "library.tasks",
    "export": "library.tasks",
    "extract": "library.tasks",
    "fit": "library.tasks",
    "geometry": "library.concepts",
    "list_vectors": "library.files",
    "load": "library.models",
    "make": "library.tasks",
    "monitor": "library.tasks",
    "new_key": "library.files",
    "parse": "library.vectors",
    "profile": "library.concepts",
    "pull": "library.files",
    "push": "library.files",
    "read": "library.vectors",
    "read_pack": "library.concepts",
    "read_recipe": "library.files",
    "record": "library.tasks",
    "serve": "library.servers",
    "sign": "library.files",
    "split": "library.checks",
    "suite": "library.tasks",
    "sweep": "library.tasks",
    "verify": "library.files",
    "wrap": "library.models",
    "write_contrasts": "library.concepts",
}

#: Former public names, which still work, and the present name of each.
_FORMER = {
    "Compiled": "CompiledPrompt",
    "Driven": "EngineSteering",
    "ServerProbe": "ServerCheck",
    "Verified": "VerifiedFile",
    "probe": "check_server",
}

__all__ = [
    "Comparison",
    "CompiledPrompt",
    "Concept",
    "ContrastReport",
    "Conversation",
    "Diagnosis",
    "EngineSteering",
    "Evaluation",
    "FileWarning",
    "FitWarning",
    "Generation",
    "GuardError",
    "HookError",
    "ImportNote",
    "InputError",
    "Lines",
    "Model",
    "ModelError",
    "Progress",
    "Readings",
    "Recipe",
    "ServerCheck",
    "ServerInfo",
    "SiteError",
    "Steer",
    "SteerError",
    "SuiteResult",
    "SweepResult",
    "UsageError",
    "Vector",
    "VectorError",
    "VectorFile",
    "VerifiedFile",
    "__version__",
    "bake",
    "build_pack",
    "check_contrasts",
    "check_server",
    "combine",
    "compare",
    "compile",
    "contrast_set",
    "convert",
    "describe",
    "discover",
    "distill",
    "doctor",
    "drive",
    "evaluate",
    "export",
    "extract",
    "fit",
    "geometry",
    "list_vectors",
    "load",
    "make",
    "monitor",
    "new_key",
    "parse",
    "profile",
    "pull",
    "push",
    "read",
    "read_pack",
    "read_recipe",
    "record",
    "serve",
    "sign",
    "split",
    "suite",
    "sweep",
    "verify",
    "wrap",
    "write_contrasts",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    present = _FORMER.get(name, name)
    if present not in _PUBLIC:
        raise AttributeError(f"module 'steer' has no attribute {name!r}")
    value = getattr(import_module(f"steer.{_PUBLIC[present]}"), present)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
