"""Run tasks of lm-evaluation-harness on a steered model. An extra.

A task requests log-probabilities of endings, of whole texts, or generated texts; our hooks answer
under a cell, like everything else that is measured.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from steer.base.errors import InputError
from steer.base.intervals import Interval
from steer.contrasts.frame import joinable
from steer.contrasts.passages import Message
from steer.distillation.lessons import Conditions
from steer.evaluation.batches import Part, Text, log_prob
from steer.evaluation.cells import Cell, PromptedCell, UnsteeredCell, steers_of
from steer.evaluation.scoring import check_acted, scored
from steer.generate.apply import Sampling, generate
from steer.models.model import Model

SEED = 0
#: Bootstrap samples for the standard error of metrics that are not means.
RESAMPLES = 1_000
#: The default number of tokens in an answer.
MAX_TOKENS = 256


def load(tasks: Sequence[str]) -> Any:
    """Load tasks and their data, by the harness's names or from .yaml files.

    Raises:
        InputError: there is no such task, or its data cannot be loaded.
    """
    own = all(Path(task).suffix in (".yaml", ".yml") for task in tasks)
    try:
        with _quiet():
            loaded = TaskManager(include_defaults=not own).load(list(tasks))
    except Exception as error:  # yaml, datasets and the task's own code may raise anything
        reason = next(iter(str(error).strip("'\" \n").splitlines()), "") or type(error).__name__
        raise InputError(
            f"cannot load the task {', '.join(tasks)}: {reason}",
            hint="give a name that `lm-eval ls tasks` lists, or a task's .yaml file",
        ) from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return loaded


def run(
    model: Model, loaded: Any, cell: Cell, conditions: Conditions | None, limit: int | None
) -> dict[str, Interval]:
    """Metrics of the tasks under a cell, by `TASK metric`, with intervals of ± 1.96 of the
    harness's standard errors. Metrics without a standard error are left out.

    Raises:
        IdleError: a steer changed nothing in any text.
        HookError: a steer was never applied.
    """
    chat = conditions is not None and conditions.chat
    condition = (
        conditions.condition if conditions is not None and isinstance(cell, PromptedCell) else ""
    )
    steered = HarnessModel(model, cell, "" if chat else condition, special=not chat)
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=SEED)
    with _quiet():
        report = evaluate(
            steered,
            loaded,
            limit=limit,
            bootstrap_iters=RESAMPLES,
            log_samples=False,
            apply_chat_template=chat,
            system_instruction=(condition or None) if chat else None,
        )
    check_acted(steered.idle or (), steered.n_texts)
    return _metrics(report["results"])


def _metrics(results: dict[str, dict[str, Any]]) -> dict[str, Interval]:
    metrics = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            error = values.get(f"{metric}_stderr,{filtered}")
            if isinstance(error, float) and not math.isnan(error):
                name = f"{task} {metric}" + ("" if filtered == "none" else f" {filtered}")
                metrics[name] = Interval(value, value - 1.96 * error, value + 1.96 * error)
    return metrics


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the harness has no types that mypy could follow
    """The model under a cell, with the harness's interface. before: a text before every context."""

    def __init__(self, model: Model, cell: Cell, before: str, *, special: bool) -> None:
        super().__init__()
        # The condition is part of the texts.
        self.cell = UnsteeredCell() if isinstance(cell, PromptedCell) else cell
        self.model, self.before = model, joinable(before)
        self.special = special
        self.limit = model.context or 2_048
        #: The steers that changed nothing in any text; None before there is one.
        self.idle: frozenset[str] | None = None
        self.n_texts = 0

    @property
    def tokenizer_name(self) -> str:
        return self.model.identity.id

    @property
    def eot_token_id(self) -> int:
        return min(self.model.end_ids, default=self.model.pad_id)

    @property
    def prefix_token_id(self) -> int:
        first = self.model.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_other: Any
    ) -> list[int]:
        special = self.special if add_special_tokens is None else add_special_tokens
        return self.model.encode(string, special=special)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        turns = [Message(turn["role"], turn["content"]) for turn in chat_history]
        return self.model.template.render(turns, ask=add_generation_prompt)

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        conditioned = [
            replace(request, arguments=(self.before + request.args[0], request.args[1]))
            for request in requests
        ]
        return list(super().loglikelihood(conditioned, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, **_other: Any
    ) -> list[tuple[float, bool]]:
        texts = [self._text(context, continuation) for _, context, continuation in requests]
        (sums, idle), (likeliest, _) = (
            scored(self.model, texts, [self.cell], measure) for measure in (log_prob, _likeliest)
        )
        self._note(idle, len(texts))
        return [
            (float(total), int(n) == len(text.scored))
            for total, n, text in zip(sums[0], likeliest[0], texts, strict=True)
        ]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        totals = []
        for (string,) in (request.args for request in requests):
            # As in the harness's own models, BOS comes twice; a condition replaces one of them.
            ids = self.tok_encode(string, add_special_tokens=False if self.before else None)
            start = self.tok_encode(self.before.rstrip()) if self.before else [self.prefix_token_id]
            room = self.limit - len(start)
            windows = get_rolling_token_windows(ids, start[-1], room, 1)
            parts = [
                (None, [*start[:-1], *context], continuation)
                for context, continuation in map(make_disjoint_window, windows)
            ]
            totals.append(sum(total for total, _ in self._loglikelihood_tokens(parts)))
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return [self._generate_one(*request.args) for request in requests]

    def _generate_one(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or ()
        stops = (until,) if isinstance(until, str) else tuple(stop for stop in until if stop)
        ids = self.tok_encode(self.before + context)
        most = min(int(settings.get("max_gen_toks", MAX_TOKENS)), self.limit - len(ids))
        temperature = float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0
        sampling = Sampling(max(1, most), temperature, stop=stops, seed=SEED)
        prompts = [self.before + context]
        [generation] = generate(
            self.model,
            prompts,
            list(steers_of(self.cell)),
            sampling,
            special=self.special,
            allow_idle=True,  # a single item does not show whether the steer acts
        )
        self._note(generation.idle, 1)
        return generation.text

    def _note(self, idle: Iterable[str], n_texts: int) -> None:
        """Keep which steers have changed nothing in any text so far."""
        self.n_texts += n_texts
        self.idle = frozenset(idle) if self.idle is None else self.idle.intersection(idle)

    def _text(self, context: Sequence[int], continuation: Sequence[int]) -> Text:
        """The text to score; a context that is too long is cut at its beginning."""
        ids = (*context, *continuation)[-self.limit :]
        start = max(1, len(ids) - len(continuation))
        return Text(ids, tuple(range(start, len(ids))), start)


def _likeliest(cells: Tensor, part: Part) -> Tensor:
    """1 where the next token is the most probable one."""
    targets = part.targets.to(cells.device).expand(cells.shape[:-1])
    return (cells.argmax(-1) == targets).to(torch.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the harness's log and progress bars; steer reports progress itself."""
    from tqdm import tqdm

    logger, original = logging.getLogger("lm_eval"), tqdm.__init__
    before = logger.level
    logger.setLevel(logging.ERROR)

    def silent(self: Any, *arguments: Any, **settings: Any) -> None:
        original(self, *arguments, **{**settings, "disable": True})

    tqdm.__init__ = silent
    try:
        yield
    finally:
        tqdm.__init__ = original
        logger.setLevel(before)
