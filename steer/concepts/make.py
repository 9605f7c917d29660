"""Make vectors from concepts, and measure whether each works.

The model answers everyday questions under both poles, and the vector is fitted to the answers. The
vector is spread over all layers of the upper middle. The questions are divided into three sets: to
fit the vector, to choose its strength, and to measure it. Concepts are made in groups, so that
answers of several are generated in one batch; a concept that fails does not stop the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from steer.base.errors import InputError, SteerError
from steer.base.intervals import Interval, plain
from steer.base.progress import Progress, silent
from steer.concepts import answers as answering
from steer.concepts.answers import Answer, Query
from steer.concepts.concept import Concept, condition
from steer.concepts.effect import Costs, Writer, costs, effect_sums
from steer.concepts.questions import Questions, everyday
from steer.concepts.settings import MakeSettings
from steer.contrasts.contrasts import Contrasts
from steer.extraction import ReadSettings, extract
from steer.fitting.fitting import FitSettings, rounded
from steer.generate.strength import coefficients_at, is_coherent, middle_layers, strongest
from steer.measures.formulas import distinct
from steer.models.model import Model
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors.metadata import Recommendation
from steer.vectors.positions import Position
from steer.vectors.sites import Site, format_layers
from steer.vectors.vector import SteeringVector
from steer.workers import LocalWorker, workers_of

#: A vector works if it moves answers at least this share of the way between the poles.
LEAST_EFFECT = 0.2
#: The least divergence of the two poles, in nats per token. Below it the model ignores the words:
#: arbitrary words in a prompt have as much effect.
LEAST_HEEDED = 0.03
#: Room for questions with fewer letters than the longest one, but more tokens.
_SPARE = 8
#: Concepts whose answers are generated together.
TOGETHER = 6


@dataclass(frozen=True, slots=True)
class Report:
    """The result for one concept on one model.

    works: whether its vector has a useful effect. reason, hint: if not, why, and what to try.
    heeded: the symmetric divergence of the predictions under the two poles, in nats per token.
    separability: AUC on held-out folds, the mean over the layers. effect: how far the vector moves
    predictions, as a share of the way between the poles. cost: its extra nats per token; both at
    the layers and the coefficient. prompt_cost: extra nats per token of the prompt. example: a
    held-out question and its answers: unsteered, under the condition, and steered. words: for each
    of these three, the share of answers with one of the concept's words, if it has any.
    """

    concept: Concept
    conditions: tuple[str, str]
    works: bool
    reason: str = ""
    hint: str = ""
    layers: tuple[int, ...] = ()
    coefficient: float | None = None
    separability: float | None = None
    heeded: Interval | None = None
    effect: Interval | None = None
    cost: Interval | None = None
    prompt_cost: float | None = None
    example: dict[str, str] = field(default_factory=dict)
    words: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The values for JSON."""
        return {
            "name": self.concept.name,
            "poles": [pole for pole in self.concept.poles if pole],
            "conditions": list(self.conditions),
            "works": self.works,
            "reason": self.reason,
            "hint": self.hint,
            "layers": list(self.layers),
            "coefficient": self.coefficient,
            "separability": self.separability,
            "heeded": plain(self.heeded),
            "effect": plain(self.effect),
            "cost": plain(self.cost),
            "prompt_cost": self.prompt_cost,
            "example": self.example,
            **({"words": self.words} if self.words else {}),
        }

    @property
    def line(self) -> str:
        """One line for the user."""
        name = self.concept.name
        if not self.works:
            return f"{name} does not work on this model: {self.reason}"
        assert self.effect is not None and self.cost is not None
        return (
            f"{name}: moves answers {self.effect.value:.0%} of the way between the poles"
            f" [{self.effect.low:.0%}, {self.effect.high:.0%}]"
            f" at {self.coefficient:g}@{format_layers(self.layers)},"
            f" cost {self.cost.value:.2f} nats per token (the prompt: {self.prompt_cost:.2f})"
        )


@dataclass(frozen=True, slots=True)
class ConceptVector:
    """The report and, if one could be fitted, the vector of a concept."""

    report: Report
    vector: SteeringVector | None = None


def is_chat(model: Model, settings: MakeSettings) -> bool:
    """Whether conditions and questions go into the model's chat template."""
    return model.template.exists if settings.chat is None else settings.chat


def conditions_of(concept: Concept, *, chat: bool, phrase: str | None) -> tuple[str, str]:
    """The conditions of both poles."""
    conditions = [condition(pole, chat=chat, phrase=phrase) for pole in concept.poles]
    return conditions[0], conditions[1]


def make_one(
    model: Model,
    concept: Concept,
    settings: MakeSettings,
    *,
    allow_weak: bool = False,
    progress: Progress = silent,
) -> tuple[SteeringVector, Report]:
    """Make the vector of one concept. allow_weak: also return a vector that fails its checks.

    Raises:
        InputError: the concept does not work on the model.
    """
    [result] = make(model, [concept], settings, progress)
    report = result.report
    if result.vector is None or not (report.works or allow_weak):
        raise InputError(
            f"{concept.name} does not work on this model: {report.reason}",
            hint=report.hint + ("; --allow-weak writes it anyway" if result.vector else ""),
        )
    return result.vector, report


def make(
    model: Model,
    concepts: Iterable[Concept],
    settings: MakeSettings | None = None,
    progress: Progress = silent,
) -> Iterator[ConceptVector]:
    """Make a vector of each concept: in order, or with several workers as each group finishes.

    If a concept fails, for example because the model ignores it, its report has the reason.

    Raises:
        SiteError: the model has no such site or layer.
    """
    settings = settings or MakeSettings()
    for layer in settings.layers or model.hooks.layers(settings.site)[:1] or (0,):
        model.hooks.place(Site(layer, settings.site))
    workers = workers_of(model)
    job = _GroupJob(settings, progress if isinstance(workers, LocalWorker) else silent)
    for _, vectors in workers.map(job, _groups(concepts)):
        yield from vectors


def _groups(concepts: Iterable[Concept]) -> Iterator[list[Concept]]:
    rest = iter(concepts)
    while group := list(islice(rest, TOGETHER)):
        yield group


@dataclass(frozen=True, slots=True)
class _GroupJob:
    """The job of making groups of concepts on a model."""

    settings: MakeSettings
    progress: Progress

    def __call__(self, model: Model) -> Callable[[list[Concept]], list[ConceptVector]]:
        return _ConceptMaker(model, self.settings, self.progress).make


@dataclass
class _Work:
    """A concept in progress.

    poles: the answers to the training questions under both conditions, and to the held-out ones
    under the positive condition. cells: the steers to choose from, by rising strength. best: the
    index of the chosen cell.
    """

    concept: Concept
    conditions: tuple[str, str]
    questions: Questions
    poles: dict[str, list[Answer]] = field(default_factory=dict)
    prompt_costs: Costs | None = None
    vector: SteeringVector | None = None
    cells: list[Steer] = field(default_factory=list)
    best: int = 0
    report: Report | None = None

    def fail(self, error: SteerError) -> None:
        self.report = Report(
            self.concept,
            self.conditions,
            works=False,
            reason=str(error),
            hint=error.hint or "",
        )


class _ConceptMaker:
    def __init__(self, model: Model, settings: MakeSettings, progress: Progress) -> None:
        self.model, self.settings, self.progress = model, settings, progress
        self.chat = is_chat(model, settings)
        self._unsteered: dict[str, Answer] = {}
        self._costs: dict[tuple[str, ...], Costs] = {}

    def make(self, concepts: Sequence[Concept]) -> list[ConceptVector]:
        """Make a group of concepts together. If that fails, make each alone, so that one failure
        does not affect the others."""
        works = [self._begin(concept) for concept in concepts]
        try:
            self._answer(works)
            for work in self._unfinished(works):
                self._try(work, self._fit)
            self._choose(works)
            self._measure(works)
        except SteerError as error:
            if len(concepts) > 1:
                return [vector for concept in concepts for vector in self.make([concept])]
            works[0].fail(error)
        vectors = []
        for work in works:
            assert work.report is not None
            vectors.append(ConceptVector(work.report, work.vector if work.report.layers else None))
        return vectors

    def _try(self, work: _Work, step: Any) -> None:
        try:
            step(work)
        except SteerError as error:
            work.fail(error)

    @staticmethod
    def _unfinished(works: Sequence[_Work]) -> list[_Work]:
        return [work for work in works if work.report is None]

    def _begin(self, concept: Concept) -> _Work:
        settings = self.settings
        every = (settings.questions or everyday(chat=self.chat)).beside(concept.questions)
        questions = every.first(settings.train, settings.choice, settings.held_out)
        conditions = conditions_of(concept, chat=self.chat, phrase=settings.phrase)
        work = _Work(concept, conditions, questions)
        self._try(work, self._check)
        return work

    def _check(self, work: _Work) -> None:
        """Check that the template includes the condition, and that there is room for an answer.

        Raises:
            SteerError: it refuses or drops the condition, or there is no room.
        """
        question = work.questions.held_out[0]
        both = [
            Query(condition, question, self.chat).ids(self.model) for condition in work.conditions
        ]
        every = (*work.questions.train, *work.questions.choice, *work.questions.held_out)
        longest = max(
            len(Query(condition, max(every, key=len), self.chat).ids(self.model))
            for condition in work.conditions
        )
        context = self.model.context
        if context is not None and longest + self.settings.max_tokens + _SPARE > context:
            raise SteerError(
                f"a condition and a question have {longest:,} tokens, and"
                f" {self.model.identity.id} takes {context:,}",
                hint="use fewer words",
            )
        if both[0] == both[1]:
            raise SteerError(
                f"the chat template of {self.model.identity.id} drops the condition",
                hint="leave --chat out, or use another template",
            )

    # -- answers under the poles --------------------------------------------------------------

    def _answer(self, works: Sequence[_Work]) -> None:
        left = self._unfinished(works)
        if not left:
            return
        queries: list[Query] = []
        places: list[tuple[_Work, str]] = []
        for work in left:
            for side, pole in zip(("positive", "negative"), work.conditions, strict=True):
                if not pole:
                    continue  # its answers are the unsteered ones
                kinds = {"train": work.questions.train}
                if side == "positive":
                    kinds["held-out"] = work.questions.held_out
                for kind, questions in kinds.items():
                    queries += [Query(pole, question, self.chat) for question in questions]
                    places += [(work, f"{side} {kind}")] * len(questions)
        unsteered = [(*work.questions.choice, *work.questions.held_out) for work in left]
        unsteered += [work.questions.train for work in left if not work.conditions[1]]
        fresh = dict.fromkeys(
            question
            for questions in unsteered
            for question in questions
            if question not in self._unsteered
        )
        plain_queries = [Query("", question, self.chat) for question in fresh]
        written = answering.write(
            self.model,
            [*queries, *plain_queries],
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=self.settings.seed,
            progress=self.progress,
        )
        self._unsteered |= dict(zip(fresh, written[len(queries) :], strict=True))
        for (work, place), answer in zip(places, written, strict=False):
            work.poles.setdefault(place, []).append(answer)
        for work in left:
            if not work.conditions[1]:
                work.poles["negative train"] = self._plain(work.questions.train)

    def _plain(self, questions: Sequence[str]) -> list[Answer]:
        return [self._unsteered[question] for question in questions]

    # -- the vector ----------------------------------------------------------------------------

    def _fit(self, work: _Work) -> None:
        settings = self.settings
        set_ = self.contrasts(work)
        extracted = extract(
            LocalWorker(self.model),
            set_,
            ReadSettings((settings.site,), None, (Position("completion"),)),
            FitSettings(
                work.concept.name,
                settings.method,
                options=settings.options,
                description=work.concept.description,
                license=settings.license,
                keep=settings.parts,
            ),
        )
        vector = extracted.best
        contrast = msgspec.structs.replace(
            vector.metadata.contrast,
            positive=work.conditions[0],
            negative=work.conditions[1] or None,
        )
        metadata = msgspec.structs.replace(vector.metadata, contrast=contrast)
        work.vector = replace(vector, metadata=metadata)
        layers = settings.layers or middle_layers(work.vector)
        work.cells = [
            Steer(work.vector, Coefficient(coefficient), layers)
            for coefficient in coefficients_at(work.vector, settings.strengths, layers)
        ]

    def contrasts(self, work: _Work) -> Contrasts:
        """The contrast set of a concept's answers."""
        return answering.contrasts(
            work.poles["positive train"],
            work.poles["negative train"],
            keep_condition=self.settings.keep_condition,
        )

    # -- the coefficient -------------------------------------------------------------------------

    def _choose(self, works: Sequence[_Work]) -> None:
        """Choose the strongest cell whose answers are coherent."""
        left = self._unfinished(works)
        jobs = [(work, cell, work.questions.choice) for work in left for cell in work.cells]
        written = self._steered(jobs, "trying strengths")
        start = 0
        for work in left:
            n = len(work.questions.choice)
            texts = written[start : start + n * len(work.cells)]
            start += len(texts)
            writers: list[Writer] = [(cell,) for cell in work.cells for _ in range(n)]
            unsteered = self._plain(work.questions.choice)
            every = costs(self.model, [*texts, *unsteered], [*writers, *[""] * n])
            prompt = self._prompt_costs(work).above(self._unsteered_costs(work))
            coherent = []
            for index in range(len(work.cells)):
                here = slice(index * n, (index + 1) * n)
                extra = every[here].per_token - every[len(texts) :].per_token
                repeated = _distinct(unsteered) - _distinct(texts[here])
                coherent.append(is_coherent(extra, repeated, allowed=prompt.value))
            work.best = strongest(coherent) or 0

    def _prompt_costs(self, work: _Work) -> Costs:
        """Costs of the answers to the held-out questions under the positive condition."""
        if work.prompt_costs is None:
            answers = work.poles["positive held-out"]
            writers: list[Writer] = [work.conditions[0]] * len(answers)
            work.prompt_costs = costs(self.model, answers, writers)
        return work.prompt_costs

    def _unsteered_costs(self, work: _Work) -> Costs:
        """Costs of the unsteered answers to the held-out questions."""
        questions = work.questions.held_out
        if questions not in self._costs:
            answers = self._plain(questions)
            self._costs[questions] = costs(self.model, answers, [""] * len(answers))
        return self._costs[questions]

    # -- what is reported ------------------------------------------------------------------------

    def _measure(self, works: Sequence[_Work]) -> None:
        """Measure each vector on the held-out questions. If its answers to them are incoherent,
        although those to the few questions for choosing were not, take the next weaker strength."""
        left = self._unfinished(works)
        while left:
            jobs = [(work, work.cells[work.best], work.questions.held_out) for work in left]
            written = self._steered(jobs, "measuring on held-out questions")
            weaker = []
            start = 0
            for work in left:
                texts = written[start : start + len(work.questions.held_out)]
                start += len(texts)
                if not self._report(work, texts) and work.best > 0:
                    work.best -= 1
                    weaker.append(work)
            left = weaker

    def _steered(
        self, jobs: Sequence[tuple[_Work, Steer, Sequence[str]]], activity: str
    ) -> list[Answer]:
        queries: list[Query] = []
        steerings: list[tuple[Steer, ...]] = []
        for _, steer, questions in jobs:
            queries += [Query("", question, self.chat) for question in questions]
            steerings += [(steer,)] * len(questions)
        if not queries:
            return []
        return answering.write(
            self.model,
            queries,
            steerings=steerings,
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=self.settings.seed,
            activity=activity,
            progress=self.progress,
        )

    def _report(self, work: _Work, texts: Sequence[Answer]) -> bool:
        """Report on the chosen strength; returns whether the answers to the held-out questions are
        coherent."""
        assert work.vector is not None
        steer = work.cells[work.best]
        plain_answers = self._plain(work.questions.held_out)
        unsteered = self._unsteered_costs(work)
        extra = costs(self.model, texts, [(steer,)] * len(texts)).above(unsteered)
        prompt_cost = self._prompt_costs(work).above(unsteered).value
        repeated = _distinct(plain_answers) - _distinct(texts)
        coherent = is_coherent(extra.value, repeated, allowed=prompt_cost)
        if not coherent and work.best > 0:
            return False
        every = [*plain_answers, *work.poles["positive held-out"]]
        moved = effect_sums(self.model, every, work.conditions, (steer,))
        share, divergence = moved.effect, moved.pole_divergence
        reason, hint = "", ""
        if divergence.value < LEAST_HEEDED:
            pole, other = work.conditions
            reason = (
                f"the model ignores {pole!r}: its answers are as likely"
                f" {'under the other pole' if other else 'without it'}"
            )
            hint = "use other words, give an opposite, or use a larger model"
        elif not coherent:
            reason = (
                f"the answers degrade before they move: {extra.value:.1f} extra nats per token"
                f" (the prompt {prompt_cost:.1f}), {max(0.0, repeated):.0%} more repetition"
            )
            hint = "try a smaller coefficient, or `steer distill --chat`"
        elif not (share.value >= LEAST_EFFECT and share.low > 0):
            reason = (
                f"steering moves answers to held-out questions {share.value:.0%} of the way between"
                f" the poles [{share.low:.0%}, {share.high:.0%}]"
            )
            hint = "no single direction reproduces the prompt's effect; try `steer distill`"
        apart = [work.vector.metadata.at(layer).separability for layer in steer.layers]
        known = [value for value in apart if value is not None]
        work.vector = _with_recommendation(work.vector, steer, share, extra)
        work.report = Report(
            work.concept,
            work.conditions,
            works=not reason,
            reason=reason,
            hint=hint,
            layers=steer.layers,
            coefficient=steer.coefficient.value,
            separability=rounded(float(np.mean(known))) if known else None,
            heeded=divergence,
            effect=share,
            cost=extra,
            prompt_cost=prompt_cost,
            example=self._example(work, texts),
            words=self._words(work, texts),
        )
        return coherent

    def _words(self, work: _Work, texts: Sequence[Answer]) -> dict[str, float]:
        words = work.concept.words
        if not words:
            return {}
        pattern = re.compile("|".join(rf"(?<!\w){re.escape(w)}(?!\w)" for w in words), re.I)
        sides = {
            "unsteered": self._plain(work.questions.held_out),
            "prompted": work.poles["positive held-out"],
            "steered": texts,
        }
        return {
            name: sum(pattern.search(answer.text) is not None for answer in side) / len(side)
            for name, side in sides.items()
        }

    def _example(self, work: _Work, texts: Sequence[Answer]) -> dict[str, str]:
        question = work.questions.held_out[0]
        return {
            "question": question,
            "unsteered": self._unsteered[question].text,
            "prompted": work.poles["positive held-out"][0].text,
            "steered": texts[0].text,
        }


def _distinct(answers: Sequence[Answer]) -> float:
    """The share of different pairs of neighbouring tokens."""
    pairs = [distinct(answer.ids) for answer in answers]
    return sum(different for different, _ in pairs) / max(1, sum(n for _, n in pairs))


def _with_recommendation(
    vector: SteeringVector, steer: Steer, share: Interval, extra: Interval
) -> SteeringVector:
    """The vector with the measured steer as its recommendation."""
    evidence = (
        f"moves answers {share.value:.0%} of the way between the poles [{share.low:.0%},"
        f" {share.high:.0%}] at {extra.value:.2f} extra nats per token, on held-out questions"
    )
    recommended = Recommendation(
        layers=steer.layers, coefficient=steer.coefficient.value, evidence=evidence
    )
    metadata = msgspec.structs.replace(vector.metadata, recommended=recommended)
    return replace(vector, metadata=metadata)
