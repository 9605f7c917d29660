"""Compile a system prompt into a short text and an edit, or a learned token, for the rest.

Clauses stay text one after another, the one that helps most first, until text and edit (or token)
together recover enough of the prompt's effect on validation texts. The order is found with
regressions, which take seconds each; a token is trained along the same order. Recovery is always of
the whole prompt's effect on the model without a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import torch

from steer.base.errors import InputError, UsageError
from steer.base.journal import Journal
from steer.base.progress import Progress, silent
from steer.contrasts import prompts as everyday
from steer.distillation.clauses import clauses, kept_text
from steer.distillation.compiled import CompiledPrompt, FormRow, Kept, Kind
from steer.distillation.distill import measured_vector
from steer.distillation.lessons import Conditions, Lesson, beginnings, nats_per_token, rewritten
from steer.distillation.lowrank import Edits, divergences
from steer.distillation.quick import quick
from steer.distillation.recovery import recovery
from steer.distillation.sequence import SequentialRegression
from steer.distillation.settings import DistillSettings, sizes
from steer.distillation.task import Task
from steer.distillation.texts import Texts, journal, write
from steer.distillation.token import Learner, check_name, fit_token
from steer.distillation.unrelated import UnrelatedTexts
from steer.methods.method import FittedEdit
from steer.models.model import Model
from steer.steering.operation import Coefficient
from steer.steering.scope import Scope
from steer.steering.steers import Steer
from steer.vectors.vector import SteeringVector

#: The forms to make; of both, the one that saves more tokens is chosen.
Forms = Literal["edit", "token", "both"]
#: Gives the journal of a distillation.
Journals = Callable[[Conditions, DistillSettings], Journal]

#: Rank and ridge of the edits, at all layers: those that `steer distill` tries first.
RANK, RIDGE = 32, 0.1
#: The number of texts for the regressions that compare clauses, and of clauses that are compared in
#: each round after the first.
COMPARED_TEXTS, COMPARED_CLAUSES = 64, 3


@dataclass(frozen=True, slots=True)
class CompileSettings:
    """Settings of a compilation.

    goal: the recovery on validation texts at which no more clauses stay text. samples, held_out:
    numbers of texts, of max_tokens at most. tokens, steps: embeddings of a token, and the steps of
    its descent; by default those of `sizes`.

    Raises:
        UsageError: a number is out of range, or an edit has tokens or steps.
    """

    name: str
    goal: float = 0.9
    forms: Forms = "edit"
    samples: int = 192
    held_out: int = 64
    max_tokens: int = 48
    tokens: int | None = None
    steps: int | None = None
    seed: int = 0
    description: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        if self.forms == "edit" and (self.tokens is not None or self.steps is not None):
            raise UsageError("--tokens and --steps go with --as token or --as both")
        if self.forms not in get_args(Forms):
            raise UsageError(f"{self.forms!r} is not a form", hint="use edit, token or both")
        if not 0 < self.goal <= 1:
            raise UsageError("the recovery to reach is above 0, and at most 1")
        _ = self.edit, self.token

    @property
    def edit(self) -> DistillSettings:
        """The settings of an edit."""
        return DistillSettings(
            self.name,
            method="ridge",
            rank=RANK,
            layers=(),
            scope="response",
            samples=self.samples,
            held_out=self.held_out,
            max_tokens=self.max_tokens,
            seed=self.seed,
            description=self.description,
            license=self.license,
        )

    @property
    def token(self) -> DistillSettings:
        """The settings of a token."""
        numbers = sizes(
            "token",
            chat=True,
            samples=self.samples,
            held_out=self.held_out,
            max_tokens=self.max_tokens,
            tokens=self.tokens,
            steps=self.steps,
        )
        return DistillSettings(
            self.name,
            form="token",
            seed=self.seed,
            description=self.description,
            license=self.license,
            steps=numbers["steps"],
            samples=numbers["samples"],
            held_out=numbers["held_out"],
            max_tokens=numbers["max_tokens"],
            batch_size=numbers["batch_size"],
            tokens=numbers["tokens"],
        )


def compile_prompt(
    model: Model,
    prompt: str,
    questions: Sequence[str] | None,
    settings: CompileSettings,
    progress: Progress = silent,
    journals: Journals = lambda conditions, settings: Journal(None),
    *,
    resumable: bool = False,
) -> CompiledPrompt:
    """The shortest text that, with an edit or a token, recovers enough of a system prompt's effect.

    questions: of users; None for everyday questions. journals: where finished work is stored.
    resumable: store it on disk, so that the same compilation can be resumed.

    Raises:
        InputError: the prompt is empty, or changes nothing.
        ModelError: the chat template takes no system message.
        UsageError: the vocabulary has the token's name already.
    """
    if not prompt.strip():
        raise InputError("the prompt is empty")
    if settings.forms != "edit":
        check_name(model, settings.name)
    questions = everyday.training_messages() if questions is None else everyday.different(questions)
    if resumable:
        journals = journals_of(model, questions)
    model = quick(model)
    conditions = Conditions(prompt, chat=True)
    kept = journals(conditions, settings.edit)
    texts = write(model, conditions, questions, settings.edit, progress, kept)
    task = Task.of(model, texts, progress=progress)
    return _Compiler(task, settings, progress, kept, journals).compile()


@dataclass(frozen=True, slots=True)
class _Form:
    """An edit or a token beside the clauses that stay text.

    value: recovery on validation texts. sums: gives the sum over the tokens of each lesson of
    KL(p_conditioned || p_steered).
    """

    kind: Kind
    kept: Kept
    value: float
    sums: Callable[[Sequence[Lesson]], list[float]]
    vector: Callable[[], SteeringVector]


@dataclass
class _Compiler:
    """The search for the clauses that stay text."""

    task: Task
    settings: CompileSettings
    progress: Progress
    kept_work: Journal
    journals: Journals
    tried: list[dict[str, Any]] = field(default_factory=list)
    _parts: dict[Kept, Task] = field(default_factory=dict)
    _forms: dict[tuple[Kind, Kept], _Form] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = self.task.model
        self.prompt = self.task.texts.conditions.condition
        self.pieces = clauses(self.prompt)

    def compile(self) -> CompiledPrompt:
        """Search each form, choose one, and measure everything on held-out texts."""
        forms, goal = self.settings.forms, self.settings.goal
        kinds: tuple[Kind, ...] = get_args(Kind) if forms == "both" else (forms,)
        order = list(self._order())
        shown: list[tuple[Kept, _Form | None]] = [(self._all, None)]
        for kind in kinds:
            form = self._first_to_reach_goal(kind, order)
            if form is None:
                continue
            shown += [(form.kept, None)] if form.kept else []
            # A form that recovers no more than its text alone is left out.
            alone = self._forms.get((kind, ()))
            shown += [
                (shown_form.kept, shown_form)
                for shown_form in (alone, form)
                if shown_form is not None
                and shown_form.value > self._text_recovery(shown_form.kept)
            ]
        shown = list(dict.fromkeys(shown))
        values = [self._text_recovery(kept) if form is None else form.value for kept, form in shown]
        enough = [index for index, value in enumerate(values) if value >= goal] or [0]
        chosen = min(enough, key=lambda index: (self._tokens(*shown[index]), -values[index]))
        kept, best = shown[chosen]
        with self.progress("measuring on held-out texts", len(shown)) as advance:
            rows = []
            for pair in shown:
                rows.append(self._row(*pair))
                advance(1)
        return CompiledPrompt(
            prompt=self.prompt,
            clauses=tuple(self.pieces),
            kept=kept,
            text=self._text(kept),
            vector=None if best is None else best.vector(),
            rows=tuple(rows),
            chosen=chosen,
            tried=tuple(self.tried),
            nats=self.task.per_token,
        )

    @property
    def _all(self) -> Kept:
        return tuple(range(len(self.pieces)))

    def _text(self, kept: Kept) -> str:
        return kept_text(self.pieces, kept)

    def _first_to_reach_goal(self, kind: Kind, order: Sequence[Kept]) -> _Form | None:
        """The first form, in this order, that reaches the goal; otherwise the best one. None if no
        form recovers anything."""
        best: _Form | None = None
        for kept in order:
            form = self._form(kind, kept)
            if form is not None and (best is None or form.value > best.value):
                best = form
            if best is not None and best.value >= self.settings.goal:
                break
        return best

    def _order(self) -> Iterator[Kept]:
        """Sets of clauses that stay text: first none, then each set with the clause that helps
        most.

        It ends when a set reaches the goal, alone or beside an edit, or only one clause is left.
        """
        kept: Kept = ()
        ranked = list(self._all)
        most = len(self.pieces) - 1
        n_fits = 1 + sum(1 + (len(ranked) if not n else COMPARED_CLAUSES) for n in range(most))
        with self.progress("comparing clauses", n_fits) as advance:
            while True:
                yield kept
                value = self._value(kept, None)
                advance(1, f"recovery {value:.2f}, {len(kept)} of {len(ranked)} clauses as text")
                reached = max(value, self._text_recovery(kept)) >= self.settings.goal
                if reached or len(kept) >= most:
                    return
                left = [index for index in ranked if index not in kept]
                gains = {}
                for index in left[: COMPARED_CLAUSES if kept else None]:
                    gains[index] = self._value(tuple(sorted((*kept, index))), COMPARED_TEXTS)
                    advance(1)
                if not kept:
                    ranked.sort(key=lambda index: -gains[index])
                kept = tuple(sorted((*kept, max(gains, key=lambda index: gains[index]))))

    def _value(self, kept: Kept, n_texts: int | None) -> float:
        """Recovery of an edit beside some clauses on validation texts. n_texts: the number of texts
        to regress on; None for all."""

        def value() -> float:
            return (self._edit(kept, n_texts) if n_texts else self._form("edit", kept)).value  # type: ignore[union-attr]

        key = f"edit beside clauses {list(kept)}, {n_texts or 'all'} texts"
        result = float(self.kept_work.kept(key, value))
        self.tried.append(
            {
                "kept": list(kept),
                "steer": "edit",
                "texts": min(n_texts or len(self.task.lessons), len(self.task.lessons)),
                "recovery": result,
                "text_alone": self._text_recovery(kept),
            }
        )
        return result

    def _form(self, kind: Kind, kept: Kept) -> _Form | None:
        """The edit or token beside some clauses; None if no token recovers anything."""
        if (kind, kept) not in self._forms:
            form = self._edit(kept) if kind == "edit" else self._token(kept)
            if form is None:
                return None
            self._forms[kind, kept] = form
        return self._forms[kind, kept]

    def _edit(self, kept: Kept, n_texts: int | None = None) -> _Form:
        part, teacher = self._part(kept), self.task.teacher
        layers = list(self.model.hooks.layers("resid_post"))
        regressions = SequentialRegression(self.model, part.lessons[:n_texts], layers, None)
        affines = regressions.fit(layers, min(RANK, self.model.identity.d_model), RIDGE)
        edits = Edits.of(self.model, affines, start=None)
        sums = partial(divergences, self.model, teacher=teacher, edits=edits)

        def vector() -> SteeringVector:
            held_out = part.texts.held_out
            base = divergences(self.model, held_out, teacher, None)
            recovered = recovery(sums(held_out), base)
            fitted = FittedEdit(edits, ridge=RIDGE)
            with self.progress("measuring the edit", 4) as advance:
                return measured_vector(part, self.settings.edit, fitted, recovered, advance)

        return _Form("edit", kept, self._recovery(part, sums), sums, _cached(vector))

    def _token(self, kept: Kept) -> _Form | None:
        part, settings = self._part(kept), self.settings.token
        journal = self.journals(part.texts.conditions, settings)
        try:
            vector = fit_token(part, settings, self.progress, journal)
        except InputError:
            return None
        learner = Learner.of(part, vector.name, torch.from_numpy(vector.embeddings(1.0).copy()))
        value = self._recovery(part, learner.sums)
        self.tried.append({"kept": list(kept), "steer": "token", "recovery": value})
        return _Form("token", kept, value, learner.sums, lambda: vector)

    def _text_recovery(self, kept: Kept) -> float:
        """Recovery of some clauses alone on validation texts."""
        return 1.0 if kept == self._all else 1 - self._part(kept).base / self.task.base

    def _recovery(self, part: Task, sums: Callable[[Sequence[Lesson]], list[float]]) -> float:
        return 1 - sum(sums(part.texts.validation)) / self.task.base

    def _part(self, kept: Kept) -> Task:
        """The task that remains beside some clauses: the same texts, with these clauses as the
        baseline."""
        if kept not in self._parts:
            task, text = self.task, self._text(kept)
            if not kept:
                self._parts[kept] = task
            else:
                texts = self._with_baseline(text)
                base = sum(divergences(self.model, texts.validation, task.teacher, None))
                self._parts[kept] = Task(self.model, texts, task.teacher, base)
        return self._parts[kept]

    def _with_baseline(self, text: str) -> Texts:
        """The texts with a system message as the baseline."""
        texts = self.task.texts

        def begun(system: str) -> list[tuple[int, ...]]:
            conditions = Conditions(system, chat=True)
            return [beginnings(self.model, conditions, question)[0] for question in texts.prompts]

        starts = dict(zip(begun(self.prompt), begun(text), strict=True))

        def changed(lessons: Sequence[Lesson]) -> list[Lesson]:
            return [
                replace(lesson, baseline=(*starts[before], *lesson.conditioned[-lesson.n :]))
                for lesson in lessons
                for before in [lesson.conditioned[: -lesson.n]]
            ]

        same = text == self.prompt
        return Texts(
            texts.conditions if same else Conditions(self.prompt, text, chat=True),
            texts.prompts,
            changed(texts.lessons),
            changed(texts.validation),
            changed(texts.held_out),
        )

    def _tokens(self, kept: Kept, form: _Form | None) -> int:
        """Tokens of the system message, including the embeddings of a token."""
        text = self._text(kept)
        n = len(self.model.encode(text, special=False)) if text else 0
        return n + (self.settings.token.tokens if form is not None and form.kind == "token" else 0)

    def _row(self, kept: Kept, form: _Form | None) -> FormRow:
        """Measure some clauses as text, alone or beside a form, on held-out texts."""
        model, task, text = self.model, self.task, self._text(kept)
        held_out = self._part(kept).texts.held_out

        def unedited(lessons: Sequence[Lesson]) -> list[float]:
            return divergences(model, lessons, task.teacher, None)

        sums = unedited if form is None else form.sums
        own = UnrelatedTexts.of(model, Conditions(text or self.prompt, chat=True))
        unrelated = [
            Lesson(lesson.baseline, lesson.conditioned if text else lesson.baseline, lesson.n)
            for lesson in own.lessons
        ]
        return FormRow(
            text,
            None if form is None else form.kind,
            self._tokens(kept, form),
            recovery(sums(held_out), unedited(task.texts.held_out)),
            self._nats(kept, form) - task.own_nats((), self.settings.seed),
            own.per_token(sums(unrelated)),
        )

    def _nats(self, kept: Kept, form: _Form | None) -> float:
        """Nats per token, under the plain model, of the texts that a form generates."""
        held_out = self._part(kept).texts.held_out
        if kept == self._all:
            return nats_per_token(
                self.model, [(lesson.baseline, lesson.n) for lesson in self.task.texts.held_out]
            )
        steers: tuple[Steer, ...] = ()
        if form is not None:
            vector = form.vector()
            scope = Scope("response" if form.kind == "edit" else "all")
            steers = (Steer(vector, Coefficient(1.0), vector.metadata.layers, scope),)
        written = rewritten(self.model, held_out, steers, seed=self.settings.seed)
        plain_starts = [lesson.baseline[: -lesson.n] for lesson in self.task.texts.held_out]
        rows = [
            ((*start, *ids[len(ids) - n :]), n)
            for start, (ids, n) in zip(plain_starts, written, strict=True)
            if n
        ]
        return nats_per_token(self.model, rows)


def _cached(make: Callable[[], SteeringVector]) -> Callable[[], SteeringVector]:
    """A function that calls `make` once and caches the result."""
    results: list[SteeringVector] = []

    def cached() -> SteeringVector:
        if not results:
            results.append(make())
        return results[0]

    return cached


def journals_of(model: Model, questions: Sequence[str]) -> Journals:
    """Gives the journals of distillations on a model, each keyed by everything that its results
    depend on."""
    return lambda conditions, settings: journal(model, conditions, questions, settings)
