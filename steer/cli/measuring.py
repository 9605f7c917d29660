"""The options that `steer eval`, `steer sweep` and `steer suite` share, and how results print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import engine as engines
from steer.cli import options, output
from steer.cli.texts import read_prompts, records_of, with_names
from steer.contrasts.schema import Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.evaluation.cells import Cell
    from steer.evaluation.data import Engine
    from steer.evaluation.evaluations import Evaluation
    from steer.evaluation.suites import SuiteResult
    from steer.evaluation.sweep_result import SweepResult
    from steer.models.model import Model
    from steer.vectors.metadata import Metadata

#: Options that `steer suite` has too.
Prompts = Annotated[
    Path | None,
    typer.Option(help="A file of prompts that generated texts begin with."),
]
MaxTokens = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="Tokens of a generated text at most.")
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed for generated texts.")]
BudgetOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Fit into a time, such as 5m; prints what it omits."),
]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="Write everything here, as JSON.")]


def with_common(command: options.Command) -> options.Command:
    """Add the shared options to a command; it gets them as `common`."""
    return options.with_options("common", with_names(_common))(command)


def _common(
    texts: Annotated[
        str | None,
        typer.Option(help="Held-out pairs, or texts for a condition."),
    ] = None,
    *,
    names: Names,
    condition: Annotated[
        str | None,
        typer.Option(help="The prompt that it imitates. Default: the file's."),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="The condition to compare with. Default: nothing.")
    ] = "",
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Chat template; the condition is a system message."),
    ] = False,
    prompts: Prompts = None,
    unrelated: Annotated[
        str | None,
        typer.Option(help="A file of texts for KL. Default: generated ones."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(min=2, max=100_000, help="Texts to generate with each vector."),
    ] = 48,
    max_tokens: MaxTokens = 64,
    seed: Seed = 0,
    budget: BudgetOption = None,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Allow texts that the vector was fitted on."),
    ] = False,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Use a vector on a finetune of its model.")
    ] = False,
) -> CommonOptions:
    names.check_files("texts", "prompts", "unrelated")
    return CommonOptions(
        texts=texts,
        names=names,
        condition=condition,
        baseline=baseline,
        chat=chat,
        prompts=prompts,
        unrelated=unrelated,
        samples=samples,
        max_tokens=max_tokens,
        seed=seed,
        budget=budget,
        allow_overlap=allow_overlap,
        allow_other_model=allow_other_model,
    )


@dataclass(frozen=True)
class CommonOptions:
    """The options that `eval` and `sweep` share."""

    texts: str | None
    names: Names
    condition: str | None
    baseline: str
    chat: bool
    prompts: Path | None
    unrelated: str | None
    samples: int
    max_tokens: int
    seed: int
    budget: str | None
    allow_overlap: bool
    allow_other_model: bool

    def arguments(self, vectors: Sequence[Metadata]) -> dict[str, Any]:
        """The arguments of the library's `evaluate` and `sweep`, with the contents of files.

        Raises:
            InputError: a file cannot be read or has unusable content.
        """
        from steer.base.durations import seconds_of
        from steer.contrasts import heldout, prompts
        from steer.evaluation.data import Data

        if self.budget is not None:
            seconds_of(self.budget)
        data = Data(condition=self.condition, baseline=self.baseline, chat=self.chat)
        chat = data.in_chat(vectors)
        texts = unrelated = beginnings = None
        if self.texts is not None:
            names = self.names.of("texts")
            texts = heldout.read(records_of(self.texts, names), names, chat=chat)
            for text in texts.notes:
                output.note(text)
        if self.prompts is not None:
            beginnings = prompts.different(read_prompts(self.prompts, self.names))
        if self.unrelated is not None:
            names = self.names.of("unrelated")
            unrelated = heldout.texts(records_of(self.unrelated, names), names)
        return {
            "texts": texts,
            "condition": self.condition,
            "baseline": self.baseline,
            "chat": chat,
            "prompts": beginnings,
            "unrelated": unrelated,
            "samples": self.samples,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "budget": self.budget,
            "allow_overlap": self.allow_overlap,
            "allow_other_model": self.allow_other_model,
        }


def in_chat(arguments: dict[str, Any]) -> bool:
    """Whether measuring with these arguments of `CommonOptions` uses the chat template."""
    texts = arguments["texts"]
    return bool(arguments["chat"] or (texts is not None and texts.chat))


def writer(engine: str | None, source: ModelSource, settings: dict[str, Any]) -> Engine | None:
    """The engine that generates texts, as an argument for the library; None for the model itself.

    settings: keyword arguments of the engine.
    """
    if engine is None:
        return None

    def start(model: Model, cells: Sequence[Cell]) -> Any:
        from steer.evaluation.cells import steers_of

        return engines.writer(source, list(map(steers_of, cells)), settings)

    return start


def show(result: Evaluation | SweepResult | SuiteResult) -> None:
    """Print a result as text and tables."""
    for part in result.view(output.table_width()):
        if isinstance(part, str):
            output.line(part)
        else:
            output.show(part)


def write_json(path: Path, value: dict[str, Any], *, force: bool) -> None:
    """Write a result to a JSON file, and note the path.

    Raises:
        SteerError: the file cannot be written.
    """
    from steer.base.files import write_atomic

    data = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, data.encode(), force=force)
    output.note(f"wrote {path}")


def command_line(context: typer.Context) -> str:
    """The command line that repeats this run, without passwords in addresses, as results are
    shared."""
    from steer.base.urls import without_passwords

    words = ["steer", str(context.info_name)]
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        value: Any = context.params.get(str(parameter.name))
        name = max(parameter.opts, key=len) if parameter.opts else ""
        if source is None or source.name == "DEFAULT" or parameter.name in ("json", "force"):
            continue
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if parameter.param_type_name == "argument":
                words.append(str(item))
            else:
                words += [name] if item is True else [name, str(item)]
    return shlex.join(map(without_passwords, words))
