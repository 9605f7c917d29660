"""Distil a prompt condition into a learned token: embeddings in place of the prompt.

Only the embeddings are trained (prompt tuning: Lester et al. 2021, arXiv 2104.08691); they
minimise, per token, KL(p(. | condition, prompt, text) || p(. | token, prompt, text)) over texts
that the conditioned model has generated. The result depends on the initial embeddings: words of
the prompt and words in the direction of the gradient are compared, and the best are trained for a
few steps each, to find the one to train further.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from steer.base.errors import InputError, UsageError
from steer.base.journal import Journal
from steer.base.progress import Progress, silent
from steer.contrasts.frame import joinable
from steer.distillation.distilled import with_evidence
from steer.distillation.lessons import (
    Conditions,
    Lesson,
    micro_batches,
    nats_per_token,
    picked_logits,
)
from steer.distillation.lowrank import by_lesson, divergences
from steer.distillation.quick import quick
from steer.distillation.recovery import Divergence, recovery
from steer.distillation.scalar import MEASURED, RANGE, ScalarLearner, plain_texts
from steer.distillation.settings import DistillSettings
from steer.distillation.task import Task
from steer.distillation.texts import Texts, write
from steer.distillation.unrelated import UnrelatedTexts
from steer.fitting.fitting import rounded
from steer.hooks.tokens import embedded, substitute_tokens
from steer.methods.method import FittedEdit
from steer.models.model import Model
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.steering.tokens import LearnedToken, mark, separate
from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation
from steer.vectors.provenance import Method, Part, Read
from steer.vectors.sites import EMBEDDING
from steer.vectors.vector import SteeringVector

#: Texts for comparing starts, the number of starts in the race, and its steps.
COMPARED, RACERS, RACE_STEPS = 12, 3, 10
#: The most words of the prompt, and words from a gradient, to try.
WORDS, POINTED = 12, 6
#: Words to try for the one with the least effect.
INERT = 16
#: Adam's learning rate, in units of the root mean square entry of embeddings.
LEARNING_RATE = 0.2
#: Steps between validations, and steps without a gain after which a descent ends.
CHECKED, PATIENCE = 15, 45
#: The length of the exponential mean of states.
AVERAGED = 8
#: A gradient is clipped to this multiple of the median length of the last ones.
CLIP, REMEMBERED = 1.5, 30


Item = TypeVar("Item")


@dataclass
class Learner:
    """The embeddings of one token in training.

    state: float32 [K, d_model], in units of `scale`, the root mean square entry of the model's
    own embeddings, so that one learning rate suits every model.
    """

    task: Task
    token: LearnedToken
    scale: float
    state: Tensor
    _rows: dict[Lesson, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, name: str, embeddings: Tensor) -> Learner:
        """A learner that starts from embeddings, float32 [K, d_model]."""
        scale = float(vocabulary_rows(task.model).pow(2).mean().sqrt())
        token = LearnedToken(name, embeddings.detach().cpu().numpy().astype(np.float32))
        return cls(task, token, scale, (embeddings / scale).detach().clone())

    def embeddings(self) -> Tensor:
        """float32 [K, d_model]."""
        return self.state * self.scale

    def row(self, lesson: Lesson) -> tuple[int, ...]:
        """The token ids of a lesson with the token in place of the condition."""
        if lesson not in self._rows:
            self._rows[lesson] = tuple(
                substitute_tokens(self.task.model, [self.token], lesson.baseline)
            )
        return self._rows[lesson]

    def losses(self, lessons: Sequence[Lesson], state: Tensor | None = None) -> Tensor:
        """KL(p_condition || p_token) of each token, float32 [sum of n]; gradients go to `state`."""
        targets = self.task.teacher(lessons)
        rows = (self.state if state is None else state) * self.scale
        with embedded(self.task.model, [self.token], rows):
            logits = picked_logits(
                self.task.model, [(self.row(lesson), lesson.n) for lesson in lessons]
            )
        losses: Tensor = Divergence.apply(logits, targets)  # type: ignore[no-untyped-call]
        return losses

    @torch.no_grad()
    def sums(self, lessons: Sequence[Lesson], state: Tensor | None = None) -> list[float]:
        """The divergence of each lesson, summed over its tokens."""
        sums: list[float] = []
        for start in range(0, len(lessons), 32):
            for part in micro_batches(self.task.model, lessons[start : start + 32]):
                sums += [
                    float(divergences.sum())
                    for divergences in by_lesson(self.losses(part, state), part)
                ]
        return sums

    def gradient(self, lessons: Sequence[Lesson], state: Tensor) -> Tensor:
        """The gradient of the mean divergence per token, in units of the full effect."""
        state = state.detach().clone().requires_grad_()
        denominator = self.task.per_token * sum(lesson.n for lesson in lessons)
        for part in micro_batches(self.task.model, lessons):
            (self.losses(part, state).sum() / denominator).backward()  # type: ignore[no-untyped-call]
        assert state.grad is not None
        return state.grad

    @property
    def lessons(self) -> list[Lesson]:
        return self.task.lessons

    def recovered(self, state: Tensor) -> float:
        """R on the validation texts."""
        return 1 - sum(self.sums(self.task.texts.validation, state)) / self.task.base


class Trainable(Protocol[Item]):
    """A trainable state; `lessons` are its training data."""

    state: Tensor

    @property
    def lessons(self) -> list[Item]: ...

    def gradient(self, lessons: Sequence[Item], state: Tensor) -> Tensor: ...

    def recovered(self, state: Tensor) -> float: ...


@dataclass
class Descent(Generic[Item]):
    """Adam on one learner, which can resume from its journal.

    The rate warms up and decays to 0; the mean of the last states is validated. It ends early if
    the validation texts stop improving.
    """

    learner: Trainable[Item]
    settings: DistillSettings
    kept: Journal
    key: str
    on_step: Callable[[float | None], None] = lambda recovered: None

    def run(self) -> tuple[Tensor, float, int]:
        """The best state on the validation texts, its R there, and its step."""
        at = self._begin()
        while at["step"] < at["end"]:
            step = at["step"]
            gradient = self.learner.gradient(self._batch(step), at["state"])
            self._adam(at, gradient)
            at["step"] = step + 1
            n = min(at["step"], AVERAGED)
            at["mean"] = at["mean"] + (at["state"] - at["mean"]) / n
            if at["step"] % CHECKED == 0 or at["step"] == at["end"]:
                now = self.learner.recovered(at["mean"])
                if now > at["best"]:
                    at["best"], at["best_step"], at["found"] = now, at["step"], at["mean"]
                if at["step"] - at["best_step"] >= PATIENCE:
                    at["end"] = at["step"]
                self.kept.put(self.key, {name: _plain(value) for name, value in at.items()})
                self.on_step(at["best"])
            else:
                self.on_step(None)
        return at["found"], at["best"], at["best_step"]

    def _begin(self) -> dict[str, Any]:
        kept = self.kept.get(self.key)
        if kept is not None:
            return {
                name: torch.tensor(value) if name in _TENSORS else value
                for name, value in kept.items()
            }
        state = self.learner.state
        first = self.learner.recovered(state)
        return {
            "step": 0,
            "end": self.settings.steps,
            "state": state,
            "mean": state,
            "found": state,
            "first": torch.zeros_like(state),
            "second": torch.zeros_like(state),
            "best": first,
            "best_step": 0,
            "lengths": [],
        }

    def _batch(self, step: int) -> list[Item]:
        """The lessons of a step: all equally often, in an order given by the seed."""
        lessons, size = self.learner.lessons, self.settings.batch_size
        start = step * size
        chosen = []
        for position in range(start, start + size):
            turn, place = divmod(position, len(lessons))
            order = np.random.default_rng([self.settings.seed, 3, turn]).permutation(len(lessons))
            chosen.append(lessons[int(order[place])])
        return chosen

    def _adam(self, at: dict[str, Any], gradient: Tensor) -> None:
        length = float(gradient.norm())
        most = CLIP * statistics.median(at["lengths"]) if at["lengths"] else length
        at["lengths"] = [*at["lengths"], length][-REMEMBERED:]
        if length > most:
            gradient = gradient * (most / length)
        n = at["step"] + 1
        at["first"] = 0.9 * at["first"] + 0.1 * gradient
        at["second"] = 0.99 * at["second"] + 0.01 * gradient**2
        first, second = at["first"] / (1 - 0.9**n), at["second"] / (1 - 0.99**n)
        end = at["end"]
        rate = LEARNING_RATE * min(n / 5, (end - n + 1) / end)
        at["state"] = at["state"] - rate * first / (second.sqrt() + 1e-8)


_TENSORS = ("state", "mean", "found", "first", "second")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def distill_token(
    model: Model,
    conditions: Conditions,
    prompts: Sequence[str],
    settings: DistillSettings,
    progress: Progress = silent,
    kept: Journal | None = None,
    within: Sequence[Steer] = (),
) -> SteeringVector:
    """Train the token that recovers most of the condition's effect; measure its recovery and cost.

    within: learned tokens that the condition contains, written as `<|name|>`.

    Raises:
        InputError: the condition changes nothing, there is no room for the token, or no token
            recovers any of the effect.
        UsageError: the vocabulary has the name already, or `within` has no learned token.
    """
    check_name(model, settings.name)
    inner, others = separate(within)
    if others:
        raise UsageError(
            f"{others[0].vector.name!r} is not a learned token, so a condition cannot contain it",
            hint="name with -v the tokens that the condition contains as <|name|>",
        )
    model = quick(model).with_learned_tokens(inner)
    kept = Journal(None) if kept is None else kept
    with embedded(model, inner):
        texts = write(model, conditions, prompts, settings, progress, kept)
        task = Task.of(model, texts, progress=progress)
        parts = [Part(name=steer.vector.name, sha256=steer.vector.sha256) for steer in within]
        return fit_token(task, settings, progress, kept, parts)


def _scalar(
    learner: Learner, settings: DistillSettings, progress: Progress, kept: Journal
) -> tuple[ScalarLearner, int]:
    """The line e0 + c (e1 - e0) from embeddings without effect, e0, to the trained token, e1; and
    the step of its best state."""
    task = learner.task
    plain = plain_texts(task.model, task.texts, settings, progress, kept)
    inert = _inert(task, settings, learner.scale)
    state = torch.stack([inert, learner.state - inert])
    scalar = ScalarLearner(task, plain, learner.scale, state, settings.seed)
    with progress("training the coefficient", settings.steps) as advance:

        def on_step(recovered: float | None) -> None:
            advance(1, None if recovered is None else f"recovery {recovered:.2f}")

        key = _key("scalar", settings)
        scalar.state, _, best_step = Descent(scalar, settings, kept, key, on_step).run()
    return scalar, best_step


def _inert(task: Task, settings: DistillSettings, scale: float) -> Tensor:
    """Embeddings of the special or common token with the least effect, float32 [K, d_model], in
    units of `scale`."""
    model = task.model
    own = vocabulary_rows(model)
    offered = [*sorted(model.special_ids), *model.encode("The. a,\n and of", special=False)]
    lessons = [
        replace(lesson, conditioned=lesson.baseline) for lesson in task.texts.validation[:COMPARED]
    ]
    sums = {
        id_: sum(Learner.of(task, settings.name, own[[id_] * settings.tokens]).sums(lessons))
        for id_ in dict.fromkeys(offered[:INERT])
        if id_ < len(own)
    }
    best = min(sums, key=lambda id_: sums[id_])
    return own[[best] * settings.tokens] / scale


def fit_token(
    task: Task,
    settings: DistillSettings,
    progress: Progress = silent,
    kept: Journal | None = None,
    within: Sequence[Part] = (),
) -> SteeringVector:
    """Fit a token to existing texts; see `distill_token`. within: the files of the tokens that the
    condition contains."""
    kept = Journal(None) if kept is None else kept
    model, texts = task.model, task.texts
    _check_room(task, settings.tokens)
    lessons = [*texts.lessons, *texts.validation, *texts.held_out]
    with progress("reading the conditioned texts", len(lessons)) as advance:
        task.teacher.keep(lessons, advance)
    learner, began = _best_start(task, settings, progress, kept)
    with progress("training the token", settings.steps) as advance:

        def on_step(recovered: float | None) -> None:
            advance(1, None if recovered is None else f"recovery {recovered:.2f}")

        descent = Descent(learner, settings, kept, _key("descent", settings), on_step)
        state, _, best_step = descent.run()
    learner.state = state
    scalar = None
    if settings.scalar:
        scalar, best_step = _scalar(learner, settings, progress, kept)
        learner.state = scalar.state.sum(0)
    with progress("measuring on held-out texts", 5) as advance:
        base = divergences(model, texts.held_out, task.teacher, None)
        advance(1)
        share = recovery(learner.sums(texts.held_out), base)
        advance(1)
        if share.value <= 0:
            raise InputError(
                "no token was found that recovers any of the effect",
                hint="try more --tokens, --samples or --steps, or --method ridge",
            )
        vector = as_token(model, texts, settings, learner, scalar)
        baseline = [(lesson.baseline, lesson.n) for lesson in texts.held_out]
        own = task.own_nats((), settings.seed)
        own_texts = task.plain(settings.seed)
        plain_base = divergences(model, own_texts, task.teacher, None)
        plain = recovery(learner.sums(own_texts), plain_base)
        advance(1)
        steer = Steer(vector, Coefficient(1.0), vector.metadata.layers)
        extra_nats = task.own_nats((steer,), settings.seed) - own
        advance(1)
        unrelated = UnrelatedTexts.of(model, texts.conditions)
        side_effects = unrelated.beside_condition(lambda: unrelated.steered(learner.sums))
        advance(1)
        return with_evidence(
            vector,
            replace(settings, learning_rate=LEARNING_RATE),
            FittedEdit(None, best_step=best_step),
            share,
            held_out=len(baseline),
            extra_nats=extra_nats,
            condition_extra_nats=nats_per_token(model, baseline) - own,
            evidence=f"recovery {share} on {len(baseline)} held-out texts; began at {began}",
            plain=plain,
            unrelated=side_effects,
            within=within,
            by_coefficient=_by_coefficient(scalar, texts),
        )


def _by_coefficient(
    scalar: ScalarLearner | None, texts: Texts
) -> tuple[tuple[float, float, float, float], ...]:
    """The recovery of the guided distribution on held-out texts at each coefficient: (coefficient,
    recovery, ends of its interval)."""
    if scalar is None:
        return ()
    recoveries = {
        value: scalar.recovery(value, scalar.state, texts.held_out, scalar.plain.held_out)
        for value in MEASURED
    }
    return tuple(
        (value, rounded(interval.value), rounded(interval.low), rounded(interval.high))
        for value, interval in recoveries.items()
    )


def as_token(
    model: Model,
    texts: Texts,
    settings: DistillSettings,
    learner: Learner,
    scalar: ScalarLearner | None = None,
) -> SteeringVector:
    """The vector of the learned token; its method and evidence are filled in later."""
    chat = texts.conditions.chat
    embeddings, origin = learner.embeddings().numpy(), None
    if scalar is not None:
        origin, embeddings = (scalar.state * scalar.scale).numpy()
        origin = np.ascontiguousarray(origin)
    metadata = Metadata(
        name=settings.name,
        description=settings.description,
        license=settings.license,
        model=model.identity,
        site=EMBEDDING,
        layers=(0,),
        tokens=len(embeddings),
        coefficients=None if scalar is None else RANGE,
        method=Method(name="mean_diff"),  # a placeholder: the evidence is measured with a vector
        read=Read(
            positions="all",
            chat=chat or msgspec.UNSET,
            **(model.template.recorded if chat else {}),
        ),
        contrast=texts.contrast,
        statistics=(
            LayerStatistics(
                layer=0,
                norm=rounded(float(np.linalg.norm(embeddings, axis=1).mean())),
                resid_norm=rounded(float(vocabulary_rows(model).norm(dim=1).mean())),
            ),
        ),
        recommended=Recommendation(layers=(0,), coefficient=1.0, evidence=""),
    )
    return SteeringVector(metadata, np.ascontiguousarray(embeddings, np.float32), origin=origin)


def check_name(model: Model, name: str) -> None:
    """Check that the token's name can be used in a prompt.

    Raises:
        UsageError: the vocabulary has it, or the tokenizer cannot separate it from other text.
    """
    if mark(name) in model.tokenizer.get_vocab():
        raise UsageError(
            f"the vocabulary of {model.identity.id} has {mark(name)} already",
            hint="give the token another --name",
        )


def _check_room(task: Task, n: int) -> None:
    context = task.model.context
    longest = max(len(lesson.baseline) for lesson in task.lessons)
    if context is not None and longest + n > context:
        raise InputError(
            f"{n:,} tokens before texts of {longest:,} exceed the context of {context:,} tokens of"
            f" {task.model.identity.id}",
            hint="pass fewer --tokens or --max-tokens",
        )


def _key(subject: str, settings: DistillSettings) -> str:
    return f"{subject} {settings.tokens} {settings.steps} {settings.batch_size} {settings.seed}"


def _best_start(
    task: Task, settings: DistillSettings, progress: Progress, kept: Journal
) -> tuple[Learner, str]:
    """The start that recovers most after a few steps of training, and its name."""
    starts = _starts(task, settings, progress)
    if len(starts) == 1:
        return starts[0][1], starts[0][0]
    short = replace(settings, steps=RACE_STEPS, batch_size=-(-settings.batch_size // 2))
    ends = []
    with progress("training the best starts", len(starts) * RACE_STEPS) as advance:
        for name, learner in starts:
            key = _key(f"race {name!r}", settings)
            state, recovered, _ = Descent(learner, short, kept, key, lambda _: advance(1)).run()
            ends.append((recovered, name, state))
    _, name, state = max(ends, key=lambda end: end[0])
    return replace(starts[0][1], state=state), name


def _starts(task: Task, settings: DistillSettings, progress: Progress) -> list[tuple[str, Learner]]:
    """The starts with the least divergence, with names; only one if the whole prompt fits."""
    model, count = task.model, settings.tokens
    own = vocabulary_rows(model)
    condition = joinable(task.texts.conditions.condition).strip()
    inside = {
        id_: row
        for token in model.tokens
        for id_, row in zip(token.ids, token.embeddings, strict=True)
    }
    prompt = model.encode(condition, special=False)
    if len(prompt) <= count:
        prompt = [*prompt, *prompt[-1:] * (count - len(prompt))]
    lessons = task.texts.validation[:COMPARED]

    def rows(ids: Sequence[int]) -> Tensor:
        return torch.stack(
            [torch.from_numpy(inside[i].copy()) if i in inside else own[i] for i in ids]
        )

    def learner(ids: Sequence[int]) -> Learner:
        return Learner.of(task, settings.name, rows(ids))

    def named(ids: Sequence[int]) -> str:
        names = {id_: token.mark for token in model.tokens for id_ in token.ids}
        shown = dict.fromkeys(names.get(id_) or model.token(id_) for id_ in ids)
        return " ".join(repr(text) for text in shown)

    if len(prompt) == count:
        return [(named(prompt), learner(prompt))]
    words = [*inside, *words_of(model, condition)] or prompt[:WORDS]
    tried: dict[tuple[int, ...], float] = {}
    with progress("trying starts", len(words) + POINTED + 2) as advance:

        def attempt(ids: Sequence[int]) -> None:
            if tuple(ids) not in tried:
                tried[tuple(ids)] = sum(learner(ids).sums(lessons))
            advance(1)

        for word in words:
            attempt([word] * count)
        best = min(tried, key=lambda ids: tried[ids])
        at = learner(best)
        slope = at.gradient(lessons, at.state).sum(0)
        order = (own @ slope).argsort().tolist()
        pointed = [i for i in order if i not in model.special_ids and (i,) * count not in tried]
        for word in pointed[:POINTED]:
            attempt([word] * count)
        if count > 1:
            ranked = sorted(words, key=lambda word: tried[(word,) * count])[:count]
            chosen = sorted(ranked, key=words.index)
            attempt([*chosen, *chosen[-1:] * (count - len(chosen))])
            attempt([prompt[i] for i in np.linspace(0, len(prompt) - 1, count).round().astype(int)])
    ranking = sorted(tried, key=lambda ids: tried[ids])[:RACERS]
    return [(named(ids), learner(ids)) for ids in ranking]


def vocabulary_rows(model: Model) -> Tensor:
    """The model's own embeddings, float32 [vocabulary, d_model], on the CPU."""
    weight: Tensor = model.network.get_input_embeddings().weight
    return weight.detach().float().cpu()


def words_of(model: Model, text: str) -> list[int]:
    """The tokens of a text as candidate starts: only those with letters, the longest first. Words
    count both with a space before them and without."""
    ids = [*model.encode(text, special=False)]
    for word in text.split():
        bare = word.strip(".,;:!?\"'()[]<>|*")
        for form in (f" {bare}", bare):
            encoded = model.encode(form, special=False)
            if len(encoded) == 1:
                ids += encoded
    known = [
        id_
        for id_ in dict.fromkeys(ids)
        if id_ < len(vocabulary_rows(model)) and any(map(str.isalpha, model.token(id_)))
    ]
    return sorted(known, key=lambda id_: -len(model.token(id_).strip()))[:WORDS]
