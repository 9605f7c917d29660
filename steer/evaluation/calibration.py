"""Recommend layers and a coefficient for a chat vector, from answers that the model generates.

How well a layer separates the two sides of a contrast says little about where steering works: in a
chat model most layers separate them perfectly. So the vector is added at all layers of the upper
middle of the model at once, a little at each, and the model answers a few questions at rising
strengths. The recommendation is the greatest strength at which the answers are still coherent.

The answers are greedy. At temperature 1 the errors of a small steered model add up within a few
words, so that no strength with a visible effect would be coherent.

Strength 1 adds the vector once in total: 1/n of it at each of n layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from steer.base.processes import several
from steer.base.progress import Progress, silent
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.prompts import QUESTIONS
from steer.distillation.lessons import Conditions
from steer.evaluation.batches import log_prob
from steer.evaluation.cells import UNSTEERED
from steer.evaluation.choice import CHAT_NATS
from steer.evaluation.scoring import score
from steer.evaluation.shift import text_positions
from steer.evaluation.written import GeneratedText, TextSettings, write_together
from steer.extraction import ReadSettings, extract
from steer.fitting.fitting import FitSettings
from steer.generate.strength import coefficients_at, is_coherent, middle_layers, strongest
from steer.measures.formulas import distinct
from steer.models.model import Model
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer, usual_scope
from steer.vectors.metadata import Recommendation
from steer.vectors.vector import SteeringVector
from steer.workers import LocalWorker, Workers

#: Strengths that are tried.
STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.25, 1.5)
#: Answers that are written at each strength, and their tokens.
ANSWERS, TOKENS = 8, 32


@dataclass(frozen=True, slots=True)
class Trial:
    """The answers at one strength and their measures.

    coefficient: of the vector at each layer. shift: how far the answers lie towards the positive
    side when the unsteered model reads them: 0 is the place of its own answers, 1 is one distance
    of the two sides further. extra_nats: nats per token under the unsteered model, above those of
    its own answers. distinct: the share of different bigrams. coherent: whether extra_nats and
    distinct are close enough to those of its own answers.
    """

    strength: float
    coefficient: float
    shift: float
    extra_nats: float
    distinct: float
    coherent: bool
    answers: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Calibration:
    """A vector with its calibrated recommendation, and every trial, by rising strength.

    questions: those that the model answered. chosen: None if no strength moves the answers and
    keeps them coherent; the vector then recommends the weakest strength.
    """

    vector: SteeringVector
    questions: tuple[str, ...]
    unsteered: tuple[str, ...]
    trials: tuple[Trial, ...]
    chosen: Trial | None


@dataclass(frozen=True, slots=True)
class CalibratedExtraction:
    """A vector for a contrast set. vector: recommends the calibrated strength, if there is a
    calibration. compared, described: as in `steer.extraction.ExtractedVectors`."""

    vector: SteeringVector
    compared: tuple[SteeringVector, ...]
    described: str
    calibration: Calibration | None


def extract_calibrated(
    workers: Workers,
    contrasts: Contrasts,
    read: ReadSettings,
    fit: FitSettings,
    *,
    calibrate: bool = True,
    part: Path | None = None,
    keep: Path | None = None,
    progress: Progress = silent,
) -> CalibratedExtraction:
    """Extract a vector, and calibrate it if the contrasts are answers of a chat model.

    part, keep: as in `steer.extraction.extract`.

    Raises:
        SteerError: as in `steer.extraction.extract` and `calibrate`.
    """
    extracted = extract(workers, contrasts, read, fit, part=part, keep=keep, progress=progress)
    calibration = None
    if calibrate:
        calibration = calibrated(workers, contrasts, extracted.best, progress)
    vector = extracted.best if calibration is None else calibration.vector
    return CalibratedExtraction(vector, extracted.compared, extracted.described, calibration)


def calibrated(
    workers: Workers, contrasts: Contrasts, vector: SteeringVector, progress: Progress = silent
) -> Calibration | None:
    """`calibrate` a vector that was made from a chat model's answers; None for any other vector,
    for a zero vector, and if the model is in another process.

    Raises:
        SteerError: as `calibrate`.
    """
    if not contrasts.are_answers or not isinstance(workers, LocalWorker) or several():
        return None
    return calibrate(workers.model, vector, progress=progress)


def calibrate(
    model: Model,
    vector: SteeringVector,
    *,
    layers: Sequence[int] | None = None,
    questions: Sequence[str] = QUESTIONS[:ANSWERS],
    strengths: Sequence[float] = STRENGTHS,
    max_tokens: int = TOKENS,
    progress: Progress = silent,
) -> Calibration:
    """Find the greatest strength at which a chat vector leaves answers coherent, and recommend it.

    layers: where the vector is added; by default `middle_layers`. strengths: to try, rising.

    Raises:
        VectorError: a layer that is not stored.
        ModelError: the model has no chat template.
        HookError: a steer was never applied.
    """
    chosen_layers = tuple(layers) if layers is not None else middle_layers(vector)
    written = _AnswerSets(model, vector, chosen_layers, questions, strengths, max_tokens, progress)
    trials = [written.trial(number) for number in range(len(strengths))]
    best = best_trial(trials)
    recommended = _recommended(vector, chosen_layers, best or trials[0], coherent=best is not None)
    metadata = msgspec.structs.replace(vector.metadata, recommended=recommended, sha256="")
    calibrated = SteeringVector(metadata, vector.directions, vector.down, vector.up)
    return Calibration(calibrated, tuple(questions), written.unsteered, tuple(trials), best)


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The strongest coherent trial before the first incoherent one; None if it moves nothing."""
    last = strongest([trial.coherent for trial in trials])
    return trials[last] if last is not None and trials[last].shift > 0 else None


def _recommended(
    vector: SteeringVector, layers: tuple[int, ...], trial: Trial, *, coherent: bool
) -> Recommendation:
    evidence = (
        f"they lie {trial.shift:.2f} of the way to the positive side,"
        f" extra nats {trial.extra_nats:.2f} per token, distinct-2 {trial.distinct:.2f}"
    )
    return Recommendation(
        layers=layers,
        coefficient=trial.coefficient,
        scope=vector.metadata.recommended.scope,
        evidence=f"calibrated on {len(trial.answers)} greedy answers: {evidence}"
        + ("" if coherent else "; no strength that was tried does more and stays coherent"),
    )


class _AnswerSets:
    """Answers of one model to the same questions, unsteered and under a vector at each strength."""

    def __init__(
        self,
        model: Model,
        vector: SteeringVector,
        layers: tuple[int, ...],
        questions: Sequence[str],
        strengths: Sequence[float],
        max_tokens: int,
        progress: Progress,
    ) -> None:
        self.model, self.vector, self.layers, self.strengths = model, vector, layers, strengths
        system = vector.metadata.read.system
        before = Conditions("", system, chat=True) if isinstance(system, str) and system else None
        writing = TextSettings(
            tuple(questions), before, chat=True, samples=len(questions), max_tokens=max_tokens
        )
        scope = usual_scope(vector.metadata)
        self.coefficients = coefficients_at(vector, strengths, layers)
        self.steers = [
            Steer(vector, Coefficient(coefficient), layers, scope)
            for coefficient in self.coefficients
        ]
        cells = [(), *([steer] for steer in self.steers)]
        n_answers = len(questions) * len(cells)
        activity = f"calibrating: {len(questions)} answers at each of {len(strengths)} strengths"
        with progress(activity, n_answers) as advance:
            self._cells = write_together(model, writing, cells, advance, temperature=0.0)
        with progress("calibrating: reading the answers", 2 * n_answers) as advance:
            self._nats = self._costs(advance)
            self._places = text_positions(model, vector, layers, self._cells, advance)
        self.unsteered = self._texts(self._cells[0])

    def trial(self, number: int) -> Trial:
        """The measures of the answers at one strength."""
        cell = number + 1
        written = self._cells[cell]
        nats = self._nats[cell] - self._nats[0]
        different = _distinct(written)
        repeats = _distinct(self._cells[0]) - different
        return Trial(
            strength=self.strengths[number],
            coefficient=self.coefficients[number],
            shift=self._places[cell] - self._places[0],
            extra_nats=nats,
            distinct=different,
            coherent=is_coherent(nats, repeats, most=CHAT_NATS),
            answers=self._texts(written),
        )

    def _texts(self, written: Sequence[GeneratedText]) -> tuple[str, ...]:
        return tuple(self.model.decode(text.own) for text in written)

    def _costs(self, on_done: Callable[[int], None]) -> list[float]:
        """Nats per token of the answers of each cell under the unsteered model."""
        texts = [text.scored for written in self._cells for text in written]
        sums = iter(-score(self.model, texts, [UNSTEERED], log_prob, on_done)[0])
        costs = []
        for written in self._cells:
            total = sum(next(sums) for _ in written)
            costs.append(float(total) / max(1, sum(len(text.scored.scored) for text in written)))
        return costs


def _distinct(written: Sequence[GeneratedText]) -> float:
    """The share of different bigrams."""
    pairs = [distinct(text.own) for text in written]
    return sum(n for n, _ in pairs) / max(1, sum(n for _, n in pairs))
