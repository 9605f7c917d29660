"""From concepts to vectors, and whether each is worth keeping.

The model answers everyday questions under both poles; the vector is fitted to the answers. A layer
and a coefficient are chosen on questions that it was not fitted to, and what is reported was
measured on questions that decided nothing. Concepts are made in groups, so that answers of several
are written in one batch; one that fails never stops the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from steer.base.errors import SteerError
from steer.base.intervals import Interval, plain
from steer.base.progress import Progress, silent
from steer.concepts import answers as answering
from steer.concepts.answers import Answer, Asked
from steer.concepts.concept import Concept, condition
from steer.concepts.effect import Scores, Writer, cost, effect, heeded, scores
from steer.concepts.questions import Questions, everyday
from steer.concepts.settings import MakeSettings
from steer.contrasts.contrasts import Contrasts
from steer.extraction import ReadSettings, extract
from steer.fitting.fitting import FitSettings
from steer.models.model import Model
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors.metadata import Recommended
from steer.vectors.positions import Position
from steer.vectors.vector import SteeringVector
from steer.workers import InProcess

#: The least share of the way between the poles that a vector worth keeping moves answers.
LEAST_EFFECT = 0.2
#: Nats a token by which the answers under the two poles have to differ, else the model does not
#: heed them: less is what any other words in a prompt do.
LEAST_HEEDED = 0.03
#: Tokens by which another question may be longer than the one with the most letters.
_SPARE = 8
#: Concepts whose answers are written together.
TOGETHER = 6


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of one concept on one model.

    works: whether its vector is worth keeping; else reason says why not, and hint what to try.
    heeded: how far apart the answers under the poles are, in nats a token. separability: of
    held-out folds at the layer. effect: share of the way between the poles, and cost: extra nats a
    token, at the layer and coefficient; prompt_cost: those of the prompt. example: a held-out
    question and what was answered to it: unsteered, under the condition, and steered. words: the
    share of these answers that hold one of the concept's words, where it has such.
    """

    concept: Concept
    conditions: tuple[str, str]
    works: bool
    reason: str = ""
    hint: str = ""
    layer: int | None = None
    coefficient: float | None = None
    separability: float | None = None
    heeded: Interval | None = None
    effect: Interval | None = None
    cost: Interval | None = None
    prompt_cost: float | None = None
    example: dict[str, str] = field(default_factory=dict)
    words: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {
            "name": self.concept.name,
            "poles": [pole for pole in self.concept.poles if pole],
            "conditions": list(self.conditions),
            "works": self.works,
            "reason": self.reason,
            "hint": self.hint,
            "layer": self.layer,
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
            f" at {self.coefficient:g}@{self.layer},"
            f" cost {self.cost.value:.2f} nats a token (the prompt: {self.prompt_cost:.2f})"
        )


@dataclass(frozen=True, slots=True)
class Made:
    """A concept's report, and its vector where one could be fitted."""

    report: Report
    vector: SteeringVector | None = None


def is_chat(model: Model, settings: MakeSettings) -> bool:
    """Whether conditions and questions go into the model's chat template."""
    return model.template.exists if settings.chat is None else settings.chat


def conditions_of(concept: Concept, *, chat: bool, phrase: str | None) -> tuple[str, str]:
    """The conditions of both poles."""
    made = [condition(pole, chat=chat, phrase=phrase) for pole in concept.poles]
    return made[0], made[1]


def make(
    model: Model,
    concepts: Iterable[Concept],
    settings: MakeSettings | None = None,
    progress: Progress = silent,
) -> Iterator[Made]:
    """Make a vector of each concept, in their order.

    What fails of one concept, as the model does not heed it or its template refuses it, is said in
    its report.
    """
    maker = _Maker(model, settings or MakeSettings(), progress)
    rest = iter(concepts)
    while group := list(islice(rest, TOGETHER)):
        yield from maker.make(group)


@dataclass
class _Work:
    """A concept while it is made. asked: of each set of questions. poles: the answers under both
    conditions to what it is fitted to, and to what is held out."""

    concept: Concept
    conditions: tuple[str, str]
    asked: Questions
    poles: dict[str, list[Answer]] = field(default_factory=dict)
    scored: dict[str, Scores] = field(default_factory=dict)
    vector: SteeringVector | None = None
    cells: list[Steer] = field(default_factory=list)
    best: int = 0
    heeded: Interval | None = None
    report: Report | None = None

    def fail(self, error: SteerError) -> None:
        self.report = Report(
            self.concept,
            self.conditions,
            works=False,
            reason=str(error),
            hint=error.hint or "",
            heeded=self.heeded,
        )


class _Maker:
    def __init__(self, model: Model, settings: MakeSettings, progress: Progress) -> None:
        self.model, self.settings, self.progress = model, settings, progress
        self.chat = is_chat(model, settings)
        self._unsteered: dict[str, Answer] = {}

    def make(self, concepts: Sequence[Concept]) -> list[Made]:
        """Make a group together."""
        works = [self._begin(concept) for concept in concepts]
        self._answer(works)
        for work in self._left(works):
            self._try(work, self._fit)
        self._choose(works)
        self._measure(works)
        made = []
        for work in works:
            assert work.report is not None
            made.append(Made(work.report, work.vector if work.report.layer is not None else None))
        return made

    def _try(self, work: _Work, step: Any) -> None:
        try:
            step(work)
        except SteerError as error:
            work.fail(error)

    @staticmethod
    def _left(works: Sequence[_Work]) -> list[_Work]:
        return [work for work in works if work.report is None]

    def _begin(self, concept: Concept) -> _Work:
        settings = self.settings
        every = (settings.questions or everyday(chat=self.chat)).beside(concept.questions)
        asked = every.first(settings.train, settings.choice, settings.held_out)
        phrased = conditions_of(concept, chat=self.chat, phrase=settings.phrase)
        work = _Work(concept, phrased, asked)
        self._try(work, self._check)
        return work

    def _check(self, work: _Work) -> None:
        """Refuse conditions that the template refuses or drops, or that leave no room.

        Raises:
            SteerError: it does, or they do not.
        """
        question = work.asked.held_out[0]
        both = [Asked(one, question, self.chat).ids(self.model) for one in work.conditions]
        every = (*work.asked.train, *work.asked.choice, *work.asked.held_out)
        longest = max(
            len(Asked(one, max(every, key=len), self.chat).ids(self.model))
            for one in work.conditions
        )
        context = self.model.context
        if context is not None and longest + self.settings.max_tokens + _SPARE > context:
            raise SteerError(
                f"a condition and a question have {longest:,} tokens, and"
                f" {self.model.identity.id} takes {context:,}",
                hint="say it in fewer words",
            )
        if both[0] == both[1]:
            raise SteerError(
                f"the chat template of {self.model.identity.id} drops the condition",
                hint="say it as plain text: leave --chat out, or use another template",
            )

    # -- answers under the poles --------------------------------------------------------------

    def _answer(self, works: Sequence[_Work]) -> None:
        left = self._left(works)
        if not left:
            return
        asked: list[Asked] = []
        places: list[tuple[_Work, str]] = []
        for work in left:
            for side, pole in zip(("positive", "negative"), work.conditions, strict=True):
                for kind, questions in (
                    ("train", work.asked.train),
                    ("held-out", work.asked.held_out),
                ):
                    if kind == "held-out" and not pole:
                        continue  # these are the unsteered answers
                    asked += [Asked(pole, question, self.chat) for question in questions]
                    places += [(work, f"{side} {kind}")] * len(questions)
        fresh = dict.fromkeys(
            question
            for work in left
            for question in (*work.asked.choice, *work.asked.held_out)
            if question not in self._unsteered
        )
        plain_asked = [Asked("", question, self.chat) for question in fresh]
        written = answering.write(
            self.model,
            [*asked, *plain_asked],
            max_tokens=self.settings.max_tokens,
            seed=self.settings.seed,
            progress=self.progress,
        )
        self._unsteered |= dict(zip(fresh, written[len(asked) :], strict=True))
        for (work, place), answer in zip(places, written, strict=False):
            work.poles.setdefault(place, []).append(answer)
        for work in left:
            work.poles.setdefault("negative held-out", self._plain(work.asked.held_out))

    def _plain(self, questions: Sequence[str]) -> list[Answer]:
        return [self._unsteered[question] for question in questions]

    # -- the vector ----------------------------------------------------------------------------

    def _fit(self, work: _Work) -> None:
        settings = self.settings
        n = len(work.asked.held_out)
        plus, minus = work.conditions
        texts = [*work.poles["positive held-out"], *self._plain(work.asked.held_out)]
        writers: list[Writer] = [*[plus] * n, *[""] * n]
        if minus:
            texts += work.poles["negative held-out"]
            writers += [minus] * n
        found = scores(self.model, texts, writers, work.conditions)
        # Without a negative pole its answers are the unsteered ones.
        work.scored = {
            "positive": found[:n],
            "unsteered": found[n : 2 * n],
            "negative": found[len(texts) - n :],
        }
        work.heeded = heeded(work.scored["positive"], work.scored["negative"])
        if work.heeded.value < LEAST_HEEDED:
            raise SteerError(
                f"the model does not heed {plus!r}: its answers are as likely"
                f" {'under the other pole' if minus else 'without it'}",
                hint="say it in other words, give an opposite, or use a larger model",
            )
        set_ = self.contrasts(work)
        extracted = extract(
            InProcess(self.model),
            set_,
            ReadSettings((settings.site,), None, (Position("completion"),)),
            FitSettings(
                work.concept.name,
                settings.method,
                options=settings.options,
                description=work.concept.description,
                license=settings.license,
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
        layers = settings.layers or _depths(settings.depths, self.model.n_layers)
        for layer in layers:
            work.vector.metadata.at(layer)
        work.cells = [
            Steer(work.vector, Coefficient(value), (layer,))
            for layer in layers
            for value in settings.coefficients
        ]

    def contrasts(self, work: _Work) -> Contrasts:
        """The contrast set of a concept's answers."""
        return answering.contrasts(
            work.poles["positive train"],
            work.poles["negative train"],
            keep_condition=self.settings.keep_condition,
        )

    # -- layer and coefficient -------------------------------------------------------------------

    def _choose(self, works: Sequence[_Work]) -> None:
        left = self._left(works)
        jobs = [(work, cell, work.asked.choice) for work in left for cell in work.cells]
        written = self._steered(jobs, "trying layers and coefficients")
        start = 0
        for work in left:
            n = len(work.asked.choice)
            texts = written[start : start + n * len(work.cells)]
            start += len(texts)
            writers: list[Writer] = []
            for cell in work.cells:
                writers += [(cell,)] * n
            writers += [""] * n
            every = [*texts, *self._plain(work.asked.choice)]
            found = scores(self.model, every, writers, work.conditions)
            unsteered = found[len(texts) :]
            prompt = work.scored["positive"].nats_per_token
            allowed = prompt - work.scored["unsteered"].nats_per_token + self.settings.budget
            best, most = 0, -np.inf
            for index in range(len(work.cells)):
                here = found[index * n : (index + 1) * n]
                extra = here.nats_per_token - unsteered.nats_per_token
                gain = here.per_token - unsteered.per_token
                # Beyond the budget only what does least harm is left to choose from.
                worth = gain if extra <= allowed else -1e3 - extra
                if worth > most:
                    best, most = index, worth
            work.best = best

    # -- what is reported ------------------------------------------------------------------------

    def _measure(self, works: Sequence[_Work]) -> None:
        left = self._left(works)
        jobs = [(work, work.cells[work.best], work.asked.held_out) for work in left]
        written = self._steered(jobs, "measuring on held-out questions")
        start = 0
        for work in left:
            texts = written[start : start + len(work.asked.held_out)]
            start += len(texts)
            self._report(work, texts)

    def _steered(
        self, jobs: Sequence[tuple[_Work, Steer, Sequence[str]]], what: str
    ) -> list[Answer]:
        asked: list[Asked] = []
        steerings: list[tuple[Steer, ...]] = []
        for _, steer, questions in jobs:
            asked += [Asked("", question, self.chat) for question in questions]
            steerings += [(steer,)] * len(questions)
        if not asked:
            return []
        return answering.write(
            self.model,
            asked,
            steerings=steerings,
            max_tokens=self.settings.max_tokens,
            seed=self.settings.seed,
            what=what,
            progress=self.progress,
        )

    def _report(self, work: _Work, texts: Sequence[Answer]) -> None:
        assert work.vector is not None
        own = (work.cells[work.best],)
        found = scores(self.model, texts, [own] * len(texts), work.conditions)
        positive, unsteered = work.scored["positive"], work.scored["unsteered"]
        share = effect(found, unsteered, positive, work.scored["negative"])
        extra = cost(found, unsteered)
        prompt_cost = cost(positive, unsteered).value
        steer = work.cells[work.best]
        (layer,) = steer.layers
        value = steer.coefficient.value
        reason, hint = "", ""
        if extra.value > prompt_cost + self.settings.budget:
            reason = (
                f"what moves the answers breaks them: {extra.value:.1f} extra nats a token,"
                f" where the prompt takes {prompt_cost:.1f}"
            )
            hint = "try a smaller coefficient, or `steer distill --chat`"
        elif not (share.value >= LEAST_EFFECT and share.low > 0):
            reason = (
                f"steering moves answers to held-out questions {share.value:.0%} of the way between"
                f" the poles [{share.low:.0%}, {share.high:.0%}]"
            )
            hint = "the model heeds the prompt, but no one direction carries it: `steer distill`"
        statistics = work.vector.metadata.at(layer)
        work.vector = _recommending(work.vector, layer, value, share, extra)
        work.report = Report(
            work.concept,
            work.conditions,
            works=not reason,
            reason=reason,
            hint=hint,
            layer=layer,
            coefficient=value,
            separability=statistics.separability,
            heeded=work.heeded,
            effect=share,
            cost=extra,
            prompt_cost=prompt_cost,
            example=self._example(work, texts),
            words=self._words(work, texts),
        )

    def _words(self, work: _Work, texts: Sequence[Answer]) -> dict[str, float]:
        words = work.concept.words
        if not words:
            return {}
        pattern = re.compile("|".join(rf"(?<!\w){re.escape(w)}(?!\w)" for w in words), re.I)
        sides = {
            "unsteered": self._plain(work.asked.held_out),
            "prompted": work.poles["positive held-out"],
            "steered": texts,
        }
        return {
            name: sum(pattern.search(one.text) is not None for one in side) / len(side)
            for name, side in sides.items()
        }

    def _example(self, work: _Work, texts: Sequence[Answer]) -> dict[str, str]:
        question = work.asked.held_out[0]
        return {
            "question": question,
            "unsteered": self._unsteered[question].text,
            "prompted": work.poles["positive held-out"][0].text,
            "steered": texts[0].text,
        }


def _recommending(
    vector: SteeringVector, layer: int, coefficient: float, share: Interval, extra: Interval
) -> SteeringVector:
    """The vector with what was measured as its recommendation."""
    evidence = (
        f"moves answers {share.value:.0%} of the way between the poles [{share.low:.0%},"
        f" {share.high:.0%}] at {extra.value:.2f} extra nats a token, on held-out questions"
    )
    recommended = Recommended(layers=(layer,), coefficient=coefficient, evidence=evidence)
    metadata = msgspec.structs.replace(vector.metadata, recommended=recommended)
    return replace(vector, metadata=metadata)


def _depths(shares: Sequence[float], n_layers: int) -> tuple[int, ...]:
    return tuple(sorted({min(n_layers - 1, round(share * n_layers)) for share in shares}))
