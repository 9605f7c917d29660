"""A request for a distillation: its options are checked before a model loads; then it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast, get_args

from steer import resuming
from steer.base.durations import seconds_of
from steer.base.errors import UsageError
from steer.base.intervals import Interval
from steer.base.journal import Journal
from steer.base.progress import Progress, silent
from steer.contrasts import prompts as everyday
from steer.contrasts.contrasts import Contrasts
from steer.distillation.ceiling import ceiling
from steer.distillation.checkpoints import Checkpoints
from steer.distillation.distill import distill, fit_pairs
from steer.distillation.lessons import Conditions
from steer.distillation.pairs import preference
from steer.distillation.quick import quick
from steer.distillation.settings import DistillSettings, Form, sizes
from steer.distillation.task import Task
from steer.distillation.texts import journal, write
from steer.distillation.time_limit import fit_to_time
from steer.distillation.token import distill_token
from steer.methods.method import Value
from steer.methods.registry import distill_methods, parse_method, usual_distill_method
from steer.models.model import Model
from steer.steering.steers import Steer, check_all_fit
from steer.steering.tokens import mark, separate
from steer.vectors.vector import SteeringVector


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRequest:
    """What to distil, and how.

    source: the condition to imitate, or pairs whose positive completions are to become likelier.
    prompts: the beginnings of the texts to sample. inside: learned tokens that the condition
    contains as `<|NAME|>`. seconds: the run is reduced until it takes about this long.
    """

    source: Conditions | Contrasts
    settings: DistillSettings
    prompts: Sequence[str] = ()
    inside: Sequence[Steer] = ()
    seconds: float | None = None

    def run(
        self,
        model: Model,
        progress: Progress = silent,
        *,
        resumable: bool = False,
        note: Callable[[str], None] = lambda text: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> SteeringVector:
        """Train the edit or the token.

        resumable: save finished work on disk, so that the same request continues it. note: called
        with what the time limit leaves out, and with whether saved work is used. warn: called with
        warnings about tokens that were made on a similar model.

        Raises:
            InputError: the condition has no effect, or nothing recovers any of it.
            SiteError: the model has no such layer.
            ModelError: a token inside the condition was made on another model.
        """
        if self.seconds is not None:
            request = self.in_time(model, note)
            return request.run(model, progress, resumable=resumable, note=note, warn=warn)
        for text in check_all_fit([steer.vector for steer in self.inside], model.identity):
            warn(text)
        if isinstance(self.source, Contrasts):
            return self._run_pairs(model, self.source, progress, resumable=resumable)
        kept = self._journal(model) if resumable else None
        if kept is not None and len(kept):
            note("texts of this condition were kept from an earlier run")
        arguments = (model, self.source, self.prompts, self.settings, progress, kept)
        if self.settings.form == "token":
            return distill_token(*arguments, within=self.inside)
        return distill(*arguments)

    def in_time(self, model: Model, note: Callable[[str], None]) -> DistillRequest:
        """The request with as many texts, tokens and steps as its time allows.

        note: called with what is left out.
        """
        if self.seconds is None:
            return self
        settings = fit_to_time(self.seconds, model, self.settings, note)
        return replace(self, settings=settings, seconds=None)

    def with_tokens(self, tokens: Iterable[Steer]) -> DistillRequest:
        """The request with those learned tokens inside that its condition contains."""
        assert isinstance(self.source, Conditions)
        text = self.source.condition
        inside = [token for token in tokens if mark(token.vector.name) in text]
        return replace(self, inside=inside)

    def ceiling(self, model: Model, progress: Progress = silent) -> dict[int, Interval]:
        """The recovery of the condition's own activations, by layer, on the same held-out texts.

        Raises:
            InputError: the condition has no effect.
        """
        assert isinstance(self.source, Conditions)
        kept = self._journal(model)
        model = quick(model)
        texts = write(model, self.source, self.prompts, self.settings, kept=kept)
        return ceiling(Task.of(model, texts), model.hooks.layers("resid_post"), progress)

    def _journal(self, model: Model) -> Journal:
        assert isinstance(self.source, Conditions)
        tokens, _ = separate(self.inside)
        return journal(model.with_learned_tokens(tokens), self.source, self.prompts, self.settings)

    def _run_pairs(
        self, model: Model, contrasts: Contrasts, progress: Progress, *, resumable: bool
    ) -> SteeringVector:
        checkpoints = None
        if resumable:
            kept = resuming.journal(model, "descents", contrasts.sha256, asdict(self.settings))
            checkpoints = Checkpoints.of(kept)
        pairs = preference(model, contrasts, self.settings, checkpoints)
        return fit_pairs(pairs, self.settings, progress)


def distill_request(
    *,
    condition: str | None = None,
    contrasts: Callable[[], Contrasts] | None = None,
    baseline: str = "",
    prompts: Sequence[str] | None = None,
    chat: bool = False,
    form: str = "edit",
    tokens: int | None = None,
    scalar: bool = False,
    inside: Sequence[Steer] = (),
    method: str | None = None,
    options: Mapping[str, Value] | None = None,
    rank: int | None = None,
    layers: tuple[int, ...] | None = None,
    scope: str | None = None,
    steps: int | None = None,
    samples: int | None = None,
    held_out: int | None = None,
    max_tokens: int | None = None,
    budget: str | float | None = None,
    **settings: Any,
) -> DistillRequest:
    """Check the options of a distillation, and fill in the defaults for its kind.

    contrasts: reads the pairs; called once the options are known to be valid. prompts: by default
    everyday questions in a chat, and openings outside of one. method: a name,
    with options as in `descent:penalty=2`; by default ridge in a chat, or descent. layers: None
    chooses the best; empty is all. scope: by default `question` for a condition in a chat, or
    `all`. budget: a time such as `5m`. settings: the other fields of `DistillSettings`.

    Raises:
        UsageError: an option is invalid, or options exclude each other.
    """
    if form not in get_args(Form):
        raise UsageError(f"--as {form!r} is unknown", hint="use --as edit or --as token")
    if (condition is None) == (contrasts is None):
        raise UsageError(
            "name either a condition or pairs", hint="--condition TEXT or --contrasts FILE"
        )
    if contrasts is not None and (baseline or prompts is not None):
        raise UsageError("--baseline and --prompts need --condition")
    if form == "token":
        _check_token(contrasts=contrasts, method=method, rank=rank, layers=layers, scope=scope)
        method, scope = "descent", "all"
    elif tokens is not None or scalar or inside:
        raise UsageError("--tokens, --scalar and tokens inside the condition need --as token")
    seconds = None if budget is None else seconds_of(budget)
    if seconds is not None and (contrasts is not None or form == "token"):
        raise UsageError("--budget needs one --condition and an edit", hint="use fewer --steps")
    in_chat = chat and contrasts is None
    chosen, values = parse_method(method or usual_distill_method(chat=in_chat), distill_methods())
    if contrasts is not None:
        chosen.of_pairs()
    if scope is None:
        scope = "response" if chosen.response_only else "all"
        scope = "question" if in_chat else scope
    if scope not in ("all", "question", "response"):
        raise UsageError(
            f"{scope!r} is not a scope to distil into", hint="use question, response or all"
        )
    if scope == "question" and not in_chat:
        raise UsageError(
            "the scope question needs a --condition in a --chat", hint="use response or all"
        )
    usual = everyday.training_messages() if chat else everyday.OPENINGS
    numbers: dict[str, Any] = sizes(
        form,
        chat=chat,
        steps=steps,
        samples=samples,
        held_out=held_out,
        max_tokens=max_tokens,
        tokens=tokens,
    )
    return DistillRequest(
        source=Conditions(condition or "", baseline, chat) if contrasts is None else contrasts(),
        settings=DistillSettings(
            method=chosen.name,
            options=values | dict(options or {}),
            rank=rank,
            layers=layers,
            scope=cast(Any, scope),
            scalar=scalar,
            form=cast(Form, form),
            **numbers,
            **settings,
        ),
        prompts=list(usual) if prompts is None else everyday.different(prompts),
        inside=inside,
        seconds=seconds,
    )


def _check_token(*, contrasts: Callable[[], Contrasts] | None, **edit: Any) -> None:
    """Refuse options that do not apply to learned tokens.

    Raises:
        UsageError: an option applies only to edits; the message names it.
    """
    if contrasts is not None:
        raise UsageError("a token replaces a condition, not pairs", hint="name a --condition")
    for option, value in edit.items():
        if value is not None:
            raise UsageError(
                f"--{option} applies only to edits: a token is part of the prompt, at no layer",
                hint=f"leave --{option} or --as token out",
            )
