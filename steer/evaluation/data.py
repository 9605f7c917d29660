"""The data to measure a vector on: held-out texts, condition and prompts, checked.

No torch: faults of the data are detected before a model is loaded.
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
    from steer.models.model import Model

#: Held-out pairs or texts: a file, records, or data that were read already.
Texts = str | Path | Iterable[Any] | Contrasts | HeldOut
#: A model, or a function that loads it, which is called after the data are checked.
ModelOrLoader = "Model | Callable[[], Model]"
Warn = Callable[[str], None]
#: Generates texts instead of the model, given the model and all cells that will be needed.
Engine = Callable[["Model", "Sequence[Cell]"], Any]


def warn_python(text: str) -> None:
    """Issue a Python warning, for callers from a notebook."""
    warnings.warn(worded(text), stacklevel=4)


@dataclass(frozen=True)
class Data:
    """The data to measure on.

    condition: the prompt that the vector stands for; None takes the one that the vectors record,
    and "" means no condition. baseline: the prompt in its place without the condition. chat:
    whether prompts are put in the chat template, as they also are if the vectors' condition was a
    system message. prompts: the beginnings of generated texts; by default those of the pairs.
    unrelated: texts for KL; by default the unsteered model's own. samples: generated texts per row,
    of max_tokens.
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
        """The condition and the baseline: the user's, or those that all vectors record."""
        if self.condition is not None:
            return (self.condition, self.baseline) if self.condition else None
        known = _known_condition(vectors, self.baseline)
        return None if known is None else (known[0], known[1])

    def in_chat(self, vectors: Sequence[Metadata]) -> bool:
        """Whether prompts are put in the chat template, from the user or the vectors' condition."""
        known = _known_condition(vectors, self.baseline) if self.condition is None else None
        return self.chat or (known is not None and known[2])

    def task(self, vectors: Sequence[Metadata], judge: Judge | None = None) -> Task:
        """The task for an evaluation. Imports torch.

        Raises:
            InputError: the condition and the baseline are the same.
        """
        from steer.distillation.lessons import Conditions
        from steer.evaluation.task import Task
        from steer.evaluation.written import TextSettings

        condition = self.condition_of(vectors)
        chat = self.in_chat(vectors) or self.held_out.chat
        chosen: Sequence[str] = prompts.OTHER_QUESTIONS if chat else prompts.OPENINGS
        if self.prompts is not None:
            chosen = self.prompts
        elif self.held_out.prompts:
            chosen = self.held_out.prompts[: self.samples]
        writing = TextSettings(
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
    """Check the user's data and combine them.

    names: from our field names to the file's, such as `{"positive": "chosen"}`. others: further
    vectors that are used, such as those of gates. settings: the fields of `Data`.

    Raises:
        InputError: data that cannot be used, or that a vector was made from.
    """
    fields = names if isinstance(names, Names) else Names(dict(names or {}))
    plain = Data(**settings)
    held_out = HeldOut()
    if texts is not None:
        held_out = _held_out(texts, fields, chat=plain.in_chat(vectors))
    every = {vector.sha256 or str(id(vector)): vector for vector in (*vectors, *others)}.values()
    if texts is not None:
        if not allow_overlap:
            held_out, line = heldout.without_seen(every, held_out)
            if line:
                warn(line)
        for text in heldout.check_unseen(every, held_out.all_texts, allowed=allow_overlap):
            warn(text)
    chosen = None if prompts is None else tuple(dict.fromkeys(prompts))
    if chosen == ():
        raise InputError("there are no prompts", hint="give at least one, or use the default ones")
    return Data(**settings, held_out=held_out, prompts=chosen, unrelated=_passages(unrelated))


def chosen_on(vectors: Sequence[Metadata], held_out: HeldOut) -> dict[str, int]:
    """For each vector, the number of these texts that its recommendation was chosen on."""
    every = held_out.all_texts
    counts = {}
    for metadata in vectors:
        kept = metadata.recommended.chosen_on
        n = len(overlap.known(every, kept)) if kept is not None else 0
        if n:
            counts[metadata.name] = n
    return counts


def user_steers(
    vectors: str | Path | SteeringVector | Steer | Sequence[Any],
    find: Callable[[str], Path] | None = None,
) -> list[Steer]:
    """Steers from one or several steers, vectors, or specs in the grammar of `-v`.

    Raises:
        SteerError: a vector cannot be found or read, or a spec is invalid.
    """
    from steer.steering.named import NamedSteer, resolved
    from steer.steering.spec import SteerSpec
    from steer.vectors import store

    if isinstance(vectors, (str, Path, SteeringVector, Steer)):
        vectors = [vectors]
    steers: list[Steer] = []
    for item in vectors:
        if isinstance(item, Steer):
            steers.append(item)
        elif isinstance(item, SteeringVector):
            steers.append(resolve(SteerSpec(item.name), item))
        else:
            steers += resolved([NamedSteer(str(item))], find or store.find)
    return steers


def warn_of_readers(
    task: Task, warn: Warn, *, steers: Sequence[Steer] = (), vectors: Sequence[SteeringVector] = ()
) -> None:
    """Warn of gates and vectors that were read from another kind of text, chat or plain, than the
    task has (`steer.steering.readers`)."""
    chat = task.writing.chat
    for text in check_readers(chat=chat, steers=steers, vectors=dict.fromkeys(vectors)):
        warn(f"{text}: {hint(chat=chat)}")


def loaded(model: Any) -> Model:
    """The model; loads it if `model` is a function."""
    from steer.models.model import Model

    return model if isinstance(model, Model) else model()


@contextmanager
def writer_of(engine: Engine | None, model: Model, cells: Sequence[Cell]) -> Iterator[Any]:
    """The function that generates texts instead of the model here; None if the model does."""
    from functools import partial

    from steer.generate.apply import continue_each
    from steer.workers import RemoteModel

    if engine is not None:
        with engine(model, cells) as write:
            yield write
    else:
        yield partial(continue_each, model.workers) if isinstance(model, RemoteModel) else None


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
    """Condition, baseline, and whether they are system messages, if the vectors agree.

    Raises:
        InputError: the condition contains learned tokens, which are not there.
    """
    for vector in vectors:
        distillation = vector.method.distillation
        if distillation is not None and distillation.within:
            named = ", ".join(f"<|{part.name}|>" for part in distillation.within)
            raise InputError(
                f"the condition of {vector.name!r} contains the learned tokens {named}",
                hint="pass --condition with the whole text spelled out",
            )
    known = {
        (positive, baseline or _baseline(metadata), metadata.read.chat is True)
        for metadata in vectors
        if (positive := _condition(metadata)) is not None
    }
    return known.pop() if len(known) == 1 else None


def _condition(metadata: Metadata) -> str | None:
    """The condition of a vector, if there is exactly one and it was not put in a template."""
    positive = metadata.contrast.positive
    if positive is None or metadata.read.template or SEVERAL in positive:
        return None
    return positive


def _baseline(metadata: Metadata) -> str:
    # If a vector contrasts two conditions, the negative one is not a baseline: the vector is added
    # to a model without either.
    return (metadata.contrast.negative or "") if metadata.contrast.kind == "condition" else ""
