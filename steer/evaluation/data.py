"""What a vector is measured on, from what a user gives: held-out data, condition, prompts.

No torch: whatever is wrong with the data shows before a model is loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer.base.errors import InputError
from steer.base.files import read_bytes
from steer.base.wording import worded
from steer.contrasts import heldout, overlap, prompts
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.heldout import HeldOut
from steer.contrasts.passages import Passage
from steer.contrasts.records import MOST_BYTES, records
from steer.contrasts.schema import Names
from steer.measures.concepts import Judge
from steer.steering.readers import check_readers, hint
from steer.steering.steers import Steer, resolve
from steer.vectors.metadata import Metadata
from steer.vectors.provenance import SEVERAL
from steer.vectors.vector import SteeringVector

if TYPE_CHECKING:
    from steer.evaluation.cells import Cell
    from steer.evaluation.task import Task
    from steer.measures.grids import Grid, Scores
    from steer.models.model import Model

#: Held-out pairs or texts: a file, records, or what was read of them.
Texts = str | Path | Iterable[Any] | Contrasts | HeldOut
#: A model, or what loads it once the data are known to be right.
ModelOrLoader = "Model | Callable[[], Model]"
Warn = Callable[[str], None]
#: What writes texts in place of the model, for a model and the cells that will be asked for.
Engine = Callable[["Model", "Sequence[Cell]"], Any]


@dataclass(frozen=True, slots=True)
class Step:
    """Where an evaluation, a sweep or a suite stands, for `progress`.

    what: what is being done. share: how much of all is done, from 0 to 1. grid, scores: of a sweep,
    the cells and what is known of them so far.
    """

    what: str
    share: float
    grid: Grid | None = None
    scores: Scores | None = None


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """No report of progress."""


def warn_python(text: str) -> None:
    """A warning of Python's, for who calls from a notebook."""
    warnings.warn(worded(text), stacklevel=4)


@dataclass(frozen=True)
class Data:
    """What to measure on.

    condition: the prompt that the vector is to stand for; None is the one that the vectors know of,
    and an empty one is none. baseline: what stands there instead. chat: whether prompts are asked
    in the chat template; it is so, too, where the vectors' condition was a system message. prompts:
    what texts begin with; by default those of the pairs. unrelated: texts for the divergence; by
    default the unsteered model's own. samples: texts that each row writes, of max_tokens.
    """

    held_out: HeldOut = field(default_factory=HeldOut)
    condition: str | None = None
    baseline: str = ""
    chat: bool = False
    prompts: tuple[str, ...] | None = None
    unrelated: tuple[Passage, ...] | None = None
    samples: int = 48
    max_tokens: int = 64
    seed: int = 0

    def condition_of(self, vectors: Sequence[Metadata]) -> tuple[str, str] | None:
        """The condition and what stands there instead: as given, or as all vectors know it."""
        if self.condition is not None:
            return (self.condition, self.baseline) if self.condition else None
        known = _known_condition(vectors, self.baseline)
        return None if known is None else (known[0], known[1])

    def in_chat(self, vectors: Sequence[Metadata]) -> bool:
        """Whether prompts are asked: as given, or as the condition was, where vectors know it."""
        known = _known_condition(vectors, self.baseline) if self.condition is None else None
        return self.chat or (known is not None and known[2])

    def task(self, vectors: Sequence[Metadata], judge: Judge | None = None) -> Task:
        """The task for an evaluation; torch comes with it.

        Raises:
            InputError: the condition and the baseline are the same.
        """
        from steer.distillation.lessons import Conditions
        from steer.evaluation.task import Task
        from steer.evaluation.written import Writing

        condition = self.condition_of(vectors)
        chat = self.in_chat(vectors) or self.held_out.chat
        chosen: Sequence[str] = prompts.OTHER_QUESTIONS if chat else prompts.OPENINGS
        if self.prompts is not None:
            chosen = self.prompts
        elif self.held_out.prompts:
            chosen = self.held_out.prompts[: self.samples]
        writing = Writing(
            prompts=tuple(chosen),
            conditions=None if condition is None else Conditions(*condition, chat),
            chat=chat,
            samples=self.samples,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )
        return Task(self.held_out, writing, self.unrelated, judge)


def data_of(
    vectors: Sequence[Metadata],
    texts: Texts | None,
    *,
    unrelated: Texts | None = None,
    prompts: Sequence[str] | None = None,
    names: Mapping[str, str] | Names | None = None,
    allow_overlap: bool = False,
    others: Sequence[Metadata] = (),
    warn: Warn = warn_python,
    **settings: Any,
) -> Data:
    """What to measure on, of what a user gives, checked.

    names: what a file calls our fields, such as `{"positive": "chosen"}`. others: vectors that
    have a say, such as those of gates. settings: as `Data`.

    Raises:
        InputError: data that cannot be used, or that a vector was made from.
    """
    fields = names if isinstance(names, Names) else Names(dict(names or {}))
    plain = Data(**settings)
    held_out = HeldOut()
    if texts is not None:
        held_out = _held_out(texts, fields, chat=plain.in_chat(vectors))
    every = {one.sha256 or str(id(one)): one for one in (*vectors, *others)}.values()
    if texts is not None:
        for text in heldout.check_unseen(every, held_out.all_texts, allowed=allow_overlap):
            warn(text)
    chosen = None if prompts is None else tuple(dict.fromkeys(prompts))
    if chosen == ():
        raise InputError("there are no prompts", hint="give at least one, or none to have ours")
    return Data(**settings, held_out=held_out, prompts=chosen, unrelated=_passages(unrelated))


def chosen_on(vectors: Sequence[Metadata], held_out: HeldOut) -> dict[str, int]:
    """By vector, how many of the texts its recommendation was chosen on."""
    every = held_out.all_texts
    found = {}
    for metadata in vectors:
        kept = metadata.recommended.chosen_on
        n = len(overlap.known(every, kept)) if kept is not None else 0
        if n:
            found[metadata.name] = n
    return found


def user_steers(
    vectors: str | Path | SteeringVector | Steer | Sequence[Any],
    find: Callable[[str], Path] | None = None,
) -> list[Steer]:
    """Steers, of what a user gives: steers, vectors, or what `-v` takes, one or several.

    Raises:
        SteerError: a vector cannot be found or read, or a spec means nothing.
    """
    from steer.steering.named import NamedSteer, resolved
    from steer.steering.spec import SteerSpec
    from steer.vectors import store

    if isinstance(vectors, (str, Path, SteeringVector, Steer)):
        vectors = [vectors]
    found: list[Steer] = []
    for one in vectors:
        if isinstance(one, Steer):
            found.append(one)
        elif isinstance(one, SteeringVector):
            found.append(resolve(SteerSpec(one.name), one))
        else:
            found += resolved([NamedSteer(str(one))], find or store.find)
    return found


def warn_of_readers(
    task: Task, warn: Warn, *, steers: Sequence[Steer] = (), vectors: Sequence[SteeringVector] = ()
) -> None:
    """Warn of gates and vectors that were read from texts of another kind than those of the task
    (`steer.steering.readers`)."""
    chat = task.writing.chat
    for text in check_readers(chat=chat, steers=steers, vectors=dict.fromkeys(vectors)):
        warn(f"{text}: {hint(chat=chat)}")


def loaded(model: Any) -> Model:
    """The model, loaded now where it was not yet."""
    from steer.models.model import Model

    return model if isinstance(model, Model) else model()


@contextmanager
def writer_of(engine: Engine | None, model: Model, cells: Sequence[Cell]) -> Iterator[Any]:
    """What continues token ids in place of the model here; None where the model does."""
    from functools import partial

    from steer.generate.apply import continue_each
    from steer.workers import Elsewhere

    if engine is not None:
        with engine(model, cells) as write:
            yield write
    else:
        yield partial(continue_each, model.workers) if isinstance(model, Elsewhere) else None


def _held_out(texts: Texts, names: Names, *, chat: bool) -> HeldOut:
    if isinstance(texts, HeldOut):
        return texts
    if isinstance(texts, Contrasts):
        if not texts.paired or texts.conditions is not None:
            raise InputError("this contrast set is not pairs", hint="give pairs, or plain texts")
        return HeldOut(texts)
    return heldout.read(_records(texts, names), names, chat=chat)


def _passages(texts: Texts | None) -> tuple[Passage, ...] | None:
    if texts is None:
        return None
    if isinstance(texts, HeldOut):
        return texts.texts
    if isinstance(texts, Contrasts):
        return (*texts.positive, *texts.negative)
    return heldout.texts(_records(texts, Names())).texts


def _records(texts: str | Path | Iterable[Any], names: Names) -> Iterable[tuple[str, Any]]:
    if isinstance(texts, (str, Path)):
        path = Path(texts)
        return records(read_bytes(path, limit=MOST_BYTES), str(path), columns=names.known)
    return [(f"record {number + 1}", record) for number, record in enumerate(texts)]


def _known_condition(vectors: Sequence[Metadata], baseline: str) -> tuple[str, str, bool] | None:
    """Condition, baseline, and whether they are system messages, if the vectors agree."""
    known = {
        (positive, baseline or _baseline(one), one.read.chat is True)
        for one in vectors
        if (positive := _condition(one)) is not None
    }
    return known.pop() if len(known) == 1 else None


def _condition(metadata: Metadata) -> str | None:
    """The one condition that a vector knows, if it stood before the texts and in no template."""
    positive = metadata.contrast.positive
    if positive is None or metadata.read.template or SEVERAL in positive:
        return None
    return positive


def _baseline(metadata: Metadata) -> str:
    # Of two conditions over the same texts the other one is no baseline: the vector is added to
    # a model that is told neither.
    return (metadata.contrast.negative or "") if metadata.contrast.kind == "condition" else ""
