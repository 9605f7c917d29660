"""The house rules that a reader relies on, read from the imports themselves."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import steer

ROOT = Path(steer.__file__).parent

#: From the ground up; a room imports only rooms that stand above it here.
LAYERS = [
    ["base", "pocket"],
    ["ops"],
    ["ops.builtin"],
    ["vectors"],
    ["methods"],
    ["fitting"],
    ["contrasts"],
    ["steering"],
    ["measures", "formats"],
    ["measures.builtin"],
    ["sharing"],
    ["models"],
    ["hooks", "workers"],
    ["resuming"],
    ["generate", "extraction", "monitoring", "selftest", "baking"],
    ["distillation", "demo"],
    ["concepts", "methods.builtin"],
    ["evaluation"],
    ["engines"],
    ["serving"],
    ["library"],
    ["cli"],
    ["__main__"],
]
#: Nothing up to here may import torch, so that it loads at once.
LAST_WITHOUT_TORCH = "sharing"
HEAVY = {"torch", "transformers", "transformer_lens"}
#: Only `python -m steer.pocket.train` comes here.
TRAINING = {"pocket.train", "pocket.optimizer", "pocket.lessons"}
DOORS = {
    "transformers": {
        "models.model",
        "models.caches",
        "models.checkpoint",
        "models.loading",
        "models.tokenizers",
        "models.gguf",
        "models.templates",
        "evaluation.classifier",
        "pocket.train",
        "pocket.lessons",
    },
    "transformer_lens": {"models.adapters"},
}


@cache
def modules() -> dict[str, Path]:
    files = ROOT.rglob("*.py")
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}


def imported(file: Path, *, only_at_top: bool = False, without_types: bool = False) -> set[str]:
    """Names of the modules that a file imports, `steer.` left in. without_types: leave out what
    only a type checker imports."""
    tree = ast.parse(file.read_text())
    modules_found: set[str] = set()
    typed = [
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    ]
    for node in tree.body if only_at_top else ast.walk(tree):
        if without_types and node in typed:
            continue
        if isinstance(node, ast.Import):
            modules_found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "steer":
                modules_found |= {f"steer.{alias.name}" for alias in node.names}
            else:
                modules_found |= {
                    node.module,
                    *(f"{node.module}.{alias.name}" for alias in node.names),
                }
    return modules_found


#: Rooms inside a room, of extensions: a registry finds them as it finds those of other packages, so
#: nothing imports them, and they may import what they extend.
PLUGGED_IN = {"methods.builtin", "ops.builtin", "measures.builtin"}

#: Extensions that the help of commands lists, which is not to wait for numpy.
LISTED_IN_HELP = {"methods.builtin", "ops.builtin"}


def room(module: str) -> str:
    parts = module.removeprefix("steer.").split(".")
    inner = ".".join(parts[:2])
    return inner if inner in PLUGGED_IN else parts[0]


RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}


def ours(module: str) -> set[str]:
    """The modules of this package that a module imports, without `steer.`."""
    modules_found = imported(modules()[module])
    return {name.removeprefix("steer.") for name in modules_found if name.startswith("steer.")}


@pytest.mark.parametrize("module", [name for name in modules() if name != "__init__"])
def test_imports_point_down(module: str) -> None:
    assert room(module) in RANK, f"say where {room(module)} belongs"
    for name in ours(module) - {"__version__"}:
        if room(name) != room(module):
            assert RANK[room(name)] < RANK[room(module)], f"{module} imports {name} from above"


@pytest.mark.parametrize("module", modules())
def test_nothing_imports_an_extension_by_name(module: str) -> None:
    for name in ours(module):
        assert room(name) == room(module) or room(name) not in PLUGGED_IN, name


def test_no_circles() -> None:
    every = modules()
    graph = {name: ours(name) & set(every) for name in every}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", modules())
def test_heavy_libraries_have_their_doors(module: str) -> None:
    tops = {name.split(".")[0] for name in imported(modules()[module], without_types=True)}
    for library, doors in DOORS.items():
        if library in tops:
            assert module in doors, f"{module} imports {library}"
    light = module != "__init__" and RANK[room(module)] <= RANK[LAST_WITHOUT_TORCH]
    if light and module not in TRAINING:
        assert not tops & HEAVY
    if room(module) in LISTED_IN_HELP:
        at_top = imported(modules()[module], only_at_top=True)
        assert not {name.split(".")[0] for name in at_top} & (HEAVY | {"numpy"})


def test_help_is_light() -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from steer.cli.main import app

assert CliRunner().invoke(app, ["apply", "--help"]).exit_code == 0
sys.exit(", ".join({HEAVY | {"numpy"}!r} & set(sys.modules)) or 0)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


#: Calls that read or write a file by its name, as attributes (`path.read_text`) or by themselves.
FILE_CALLS = {
    "open", "read_text", "read_bytes", "write_text", "write_bytes", "fdopen", "fromfile", "memmap",
    "loadtxt", "genfromtxt", "safe_open", "load_file", "save_file", "copyfile", "copy2", "copy",
}  # fmt: skip
#: Modules of which `load` takes a path.
LOADERS = {"np", "numpy", "torch", "pickle", "joblib"}
#: Text that is written or read in the encoding of the locale, unless one is named.
TEXTUAL = {"open", "read_text", "write_text"}
#: Where files may be opened in another way than by `steer.base.files`, and why.
OPENERS = {
    "base.files": "the one place that opens files",
    "base.processes": "the null device, in place of a closed stream",
    "baking.folder": "writes into a new folder of its own",
    "baking.lora": "writes into a new folder of its own",
    "formats.archives": "a member of an archive in memory",
    "models.checkpoint": "copies a file of the model that is baked",
    "models.torch_files": "bytes in memory",
    "pocket.train": "writes the folder that the user named",
}


@cache
def calls_of(module: str) -> list[ast.Call]:
    return file_calls(ast.parse(modules()[module].read_text(encoding="utf-8")))


def file_calls(tree: ast.AST) -> list[ast.Call]:
    """The calls that read or write a file, by the names in `FILE_CALLS` and `LOADERS`."""
    calls = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(name) if name in FILE_CALLS and name != "read_bytes" and name != "copy":
                calls.append(node)
            case ast.Attribute(value, name) if name in FILE_CALLS:
                # `tensor.copy()`; `files.read_bytes(path, limit=...)` is the function of the house.
                limited = any(word.arg == "limit" for word in node.keywords)
                if getattr(value, "id", "") == "formatter":  # of click, which writes help
                    continue
                if name not in ("copy", "copy2") or getattr(value, "id", "") == "shutil":
                    calls += [] if limited else [node]
            case ast.Attribute(ast.Name(module), "load") if module in LOADERS:
                calls.append(node)
    return calls


@pytest.mark.parametrize("module", modules())
def test_files_are_opened_in_one_place(module: str) -> None:
    """Elsewhere a pipe would hang, a device would fill the memory, and a link lead astray."""
    lines = [node.lineno for node in calls_of(module)]
    if module in OPENERS:
        assert lines, f"{module} opens no files any more; take it out of OPENERS"
    else:
        assert not lines, f"{module} opens files at {lines}; use steer.base.files"


@pytest.mark.parametrize("module", modules())
def test_texts_have_an_encoding_that_no_locale_changes(module: str) -> None:
    for node in calls_of(module):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id  # type: ignore[attr-defined]
        words = [*node.args, *(keyword.value for keyword in node.keywords)]
        constants = [word.value for word in words if isinstance(word, ast.Constant)]
        binary = any(isinstance(value, str) and "b" in value for value in constants)
        encoded = any(word.arg == "encoding" for word in node.keywords)
        if name in TEXTUAL and not binary and module != "formats.archives":
            own = isinstance(node.func, ast.Attribute) and ast.unparse(node.func).startswith("os.")
            assert encoded or own, f"{module}:{node.lineno} names no encoding"


@pytest.mark.parametrize(
    ("code", "n"),
    [
        ("open(path)", 1),
        ("path.read_text()", 1),
        ("Path(x).read_bytes()", 1),
        ("np.load(path)", 1),
        ("safe_open(path, 'np')", 1),
        ("os.open(path, 0)", 1),
        ("torch.load(path)", 1),
        ("shutil.copy(a, b)", 1),
        ("read_bytes(path, limit=3)", 0),
        ("files.read_bytes(path, limit=3)", 0),
        ("array.copy()", 0),
    ],
)
def test_the_rule_sees_what_opens_a_file(code: str, n: int) -> None:
    assert len(file_calls(ast.parse(code))) == n


#: Names that say nothing about what a variable holds.
EMPTY_NAMES = {
    "told", "asked", "made", "found", "said", "heard", "meant", "one", "given", "what", "whole",
    "those", "these", "such", "thing", "things", "stuff",
}  # fmt: skip
#: Names of classes and functions with several meanings in this field, and the one meaning of each.
ONE_MEANING = {
    "Row": "steering.generation",  # a continuation to generate
    "Batch": "generate.batch",  # rows that are generated together
    "Plan": "extraction",  # the passages and spans that are to be read
    "Place": "sharing.places",  # where vectors are shared
    "Judge": "measures.concepts",  # grades texts
}


def empty_names(tree: ast.AST) -> list[str]:
    """Variables, parameters and functions with such a name, by line."""
    names = [(n.lineno, n.id) for n in ast.walk(tree)
             if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]  # fmt: skip
    names += [(node.lineno, node.arg) for node in ast.walk(tree) if isinstance(node, ast.arg)]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names += [(node.lineno, node.name) for node in ast.walk(tree) if isinstance(node, functions)]
    return [f"{line}: {name}" for line, name in names if name in EMPTY_NAMES]


@pytest.mark.parametrize("folder", [ROOT, Path(__file__).parent], ids=["steer", "tests"])
def test_names_say_what_they_hold(folder: Path) -> None:
    bad = [
        f"{file.relative_to(folder)}:{name}"
        for file in folder.rglob("*.py")
        for name in empty_names(ast.parse(file.read_text("utf-8")))
    ]
    assert not bad, f"name these by what they hold or do: {bad}"


def test_a_word_has_one_meaning() -> None:
    homes: dict[str, list[str]] = {name: [] for name in ONE_MEANING}
    for module, file in modules().items():
        for node in ast.parse(file.read_text("utf-8")).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [t.id for t in node.targets if isinstance(t, ast.Name)]
            for name in set(names) & set(homes):
                homes[name].append(module)
    assert homes == {name: [module] for name, module in ONE_MEANING.items()}


def test_the_rule_sees_variables_parameters_and_functions() -> None:
    code = "def told(asked):\n    made = x.found(told=1)\n    return made\n"
    assert empty_names(ast.parse(code)) == ["2: made", "1: asked", "1: told"]
