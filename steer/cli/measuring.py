"""What `steer eval` and `steer sweep` have in common: held-out data, conditions, concepts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options, output
from steer.cli.texts import read_prompts, records_of, with_names
from steer.contrasts.schema import Names

if TYPE_CHECKING:
    from steer.contrasts.heldout import HeldOut
    from steer.evaluation.task import Task
    from steer.measures.concepts import Judge
    from steer.vectors.metadata import Metadata

#: Of `steer suite` too.
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="What texts begin with, a file of prompts. Default: those of the pairs, or none;"
        " with --chat everyday questions, others than `distill` learns from."
    ),
]
MaxTokens = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="Tokens of a written text at most.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the written texts.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="Write everything here, as JSON.")]


def with_asked(command: options.Command) -> options.Command:
    """Give a command the options that say on what to measure: `asked`."""
    return options.with_options("asked", with_names(_asked))(command)


def _asked(
    texts: Annotated[
        str | None,
        typer.Option(
            help="Held-out pairs or texts for a condition, as `steer contrasts check` reads them."
        ),
    ] = None,
    *,
    names: Names,
    condition: Annotated[
        str | None,
        typer.Option(
            help="The prompt that the vector is to stand for. Default: what the file knows of; ''"
            " is none."
        ),
    ] = None,
    baseline: Annotated[str, typer.Option(help="What stands there instead of the condition.")] = "",
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Prompts are asked, and the condition is a system message."),
    ] = False,
    prompts: Prompts = None,
    unrelated: Annotated[
        str | None,
        typer.Option(help="Texts for the divergence. Default: the unsteered model writes its own."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=2, max=100_000, help="Texts to write, unsteered and with what is measured."
        ),
    ] = 48,
    max_tokens: MaxTokens = 64,
    seed: Seed = 0,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Measure on texts that the vector was made from."),
    ] = False,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Use a vector on a finetune of its model.")
    ] = False,
) -> Asked:
    names.check_files("texts", "prompts", "unrelated")
    return Asked(
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
        allow_overlap=allow_overlap,
        allow_other_model=allow_other_model,
    )


@dataclass(frozen=True)
class Asked:
    """What was typed, as far as both commands have it."""

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
    allow_overlap: bool
    allow_other_model: bool

    def held_out(self, vectors: Sequence[Metadata], others: Sequence[Metadata] = ()) -> HeldOut:
        """The held-out data, which no vector was made from, nor others that have a say.

        Raises:
            InputError: the file cannot be used, or a vector was made from some of it.
        """
        from steer.contrasts import heldout

        if self.texts is None:
            return heldout.HeldOut()
        names = self.names.of("texts")
        records = records_of(self.texts, names)
        found = heldout.read(records, names, chat=self.in_chat(vectors))
        for text in found.notes:
            output.note(text)
        seen = {one.sha256: one for one in (*vectors, *others)}.values()
        for text in heldout.check_unseen(seen, found.all_texts, allowed=self.allow_overlap):
            output.warning(text)
        return found

    def condition_of(self, vectors: Sequence[Metadata]) -> tuple[str, str] | None:
        """The condition and what stands there instead; as typed, or as all vectors know it."""
        if self.condition is not None:
            return (self.condition, self.baseline) if self.condition else None
        known = self._known(vectors)
        return None if known is None else (known[0], known[1])

    def in_chat(self, vectors: Sequence[Metadata]) -> bool:
        """Whether prompts are asked: as typed, or as the condition was, where files know it."""
        known = self._known(vectors) if self.condition is None else None
        return self.chat or (known is not None and known[2])

    def _known(self, vectors: Sequence[Metadata]) -> tuple[str, str, bool] | None:
        """Condition, baseline, and whether they are system messages, if the files agree."""
        known = {
            (positive, self.baseline or _baseline(one), one.read.chat is True)
            for one in vectors
            if (positive := _condition(one)) is not None
        }
        return known.pop() if len(known) == 1 else None

    def task(
        self, held_out: HeldOut, vectors: Sequence[Metadata], judge: Judge | None = None
    ) -> Task:
        """What to measure on; torch comes with it.

        Raises:
            InputError: a file that cannot be used.
        """
        from steer.contrasts import heldout, prompts
        from steer.distillation.lessons import Conditions
        from steer.evaluation.task import Task
        from steer.evaluation.written import Writing

        told = self.condition_of(vectors)
        chat = self.in_chat(vectors) or held_out.chat
        chosen: Sequence[str] = prompts.OTHER_QUESTIONS if chat else prompts.OPENINGS
        if self.prompts is not None:
            chosen = prompts.different(read_prompts(self.prompts, self.names))
        elif held_out.prompts:
            chosen = held_out.prompts[: self.samples]
        unrelated = None
        if self.unrelated is not None:
            names = self.names.of("unrelated")
            unrelated = heldout.texts(records_of(self.unrelated, names), names).texts
        writing = Writing(
            prompts=tuple(chosen),
            conditions=None if told is None else Conditions(*told, chat),
            chat=chat,
            samples=self.samples,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )
        return Task(held_out, writing, unrelated, judge)


def _condition(metadata: Metadata) -> str | None:
    """The one condition that a file knows, if it stood before the texts and in no template."""
    from steer.vectors.provenance import SEVERAL

    positive = metadata.contrast.positive
    if positive is None or metadata.read.template or SEVERAL in positive:
        return None
    return positive


def _baseline(metadata: Metadata) -> str:
    # Of two conditions over the same texts the other one is no baseline: the vector is added to
    # a model that is told neither.
    return (metadata.contrast.negative or "") if metadata.contrast.kind == "condition" else ""


def concept(
    text: str | None, judge_model: str | None, judge_url: str | None, seed: int
) -> Judge | None:
    """A judge by what was typed.

    Raises:
        UsageError: it means nothing.
        ModelError: a classifier that cannot be loaded.
        SteerError: a judge that does not answer.
    """
    from steer.measures import concepts

    if text is None:
        return None
    kind, rest = concepts.judge(text)
    if kind == "words":
        return concepts.by_words(rest)
    if kind == "grammar":
        return concepts.by_grammar(rest)
    from steer.base.errors import UsageError

    if kind == "judge":
        from steer.evaluation.endpoint import Endpoint, Grader

        if not judge_model:
            raise UsageError(
                "a judge needs a model", hint="pass --judge-model, or set $STEER_JUDGE_MODEL"
            )
        with output.status(f"asking {judge_model}"):
            return Grader(Endpoint(judge_model, judge_url, seed), rest, output.warning)
    location, equals, label = rest.rpartition("=")
    if not equals:
        raise UsageError("a classifier needs a label", hint=f"write classifier:{rest}=LABEL")
    with output.status(f"loading {location}"):
        from steer.evaluation.classifier import load

        return concepts.by_classifier(load(location), label)


def command_line(context: typer.Context) -> str:
    """The command with every option that was given, to be run again; it is shown and shared, so
    passwords in addresses are left out."""
    from steer.sharing.address import without_passwords

    words = ["steer", str(context.info_name)]
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        value: Any = context.params.get(str(parameter.name))
        name = max(parameter.opts, key=len) if parameter.opts else ""
        if source is None or source.name == "DEFAULT" or parameter.name in ("json", "force"):
            continue
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if parameter.param_type_name == "argument":
                words.append(str(one))
            else:
                words += [name] if one is True else [name, str(one)]
    return shlex.join(map(without_passwords, words))
