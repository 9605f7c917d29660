"""The provenance of a vector: typed records of its model, method and contrast set, for its file."""

from __future__ import annotations

import datetime
import re
from typing import Any, Literal

import msgspec

from steer.vectors.giveaways import Giveaways
from steer.vectors.positions import parse
from steer.vectors.record import Record, finite

ContrastKind = Literal[
    "pairs", "choice", "conditions", "unpaired", "condition", "vectors", "unknown"
]
#: Separates several conditions.
SEVERAL = " | "
#: Values of `Read.positions` without a recording: where a distilled edit acts (all, response), a
#: combined vector whose parts differ (mixed), or an imported vector (unknown).
UNREAD = ("all", "response", "mixed", "unknown")
_METHOD_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,59}", re.ASCII)
CombineOp = Literal["sum", "mean", "span"]
#: Units of a coefficient: multiples of the stored vector, or of the mean activation's length.
Unit = Literal["vector", "residual"]


class ModelIdentity(Record, frozen=True):
    """The model that a vector was made on and fits.

    `fingerprint` is a hash over samples of every weight (see `steer.models.fingerprint`);
    `tokenizer` and `chat_template` are hashes of their behaviour, or None if the model has none.
    A vector that was imported without its model is unbound: architecture and fingerprint are empty,
    and n_layers only reaches to its last layer.
    """

    id: str
    architecture: str
    d_model: int
    n_layers: int
    fingerprint: str
    revision: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.d_model < 1 or self.n_layers < 1:
            raise ValueError("d_model and n_layers are at least 1")

    @property
    def bound(self) -> bool:
        """Whether the weights are known."""
        return bool(self.fingerprint)


class Distillation(Record, frozen=True, omit_defaults=True):
    """Settings and results of a distilled edit.

    samples, held_out: number of training and held-out continuations. max_tokens: their maximum
    length. batch_size, steps, learning_rate, seed: of the optimiser; best_step: the step whose
    state was kept. recovery: on the held-out samples (`steer.distillation.recovery`), with its 95 %
    interval. extra_nats: extra nats per token of texts generated with the edit, under the unsteered
    model; condition_extra_nats: the same for texts generated under the condition.

    method: its name (`steer.methods`), perhaps of another package that the reader does not have.
    ridge: the regularisation of the regression, as a share of the mean diagonal. Methods without a
    descent, such as `ridge`, have no steps.

    objective `pairs` (`steer.distillation.pairs`): the samples are pairs of completions, recovery
    is the share of the loss that the edit removes, and the condition's texts are the positive
    completions.

    plain_recovery: recovery on the unconditioned model's own texts, with its interval: what is low
    here drifts on texts that the condition would not have led to; None in earlier files.

    within: learned tokens that the condition contains, written as `<|name|>`. by_coefficient: of a
    token for a range of coefficients, each with the recovery of its guided distribution (`steer.
    distillation.scalar`) and the interval.
    """

    samples: int
    held_out: int
    max_tokens: int
    batch_size: int
    steps: int
    best_step: int
    learning_rate: float
    seed: int
    recovery: float
    interval: tuple[float, float]
    extra_nats: float
    condition_extra_nats: float
    objective: Literal["condition", "pairs"] = "condition"
    method: str = "descent"
    ridge: float = 0.0
    plain_recovery: tuple[float, float, float] | None = None
    within: tuple[Part, ...] = ()
    by_coefficient: tuple[tuple[float, float, float, float], ...] = ()

    def __post_init__(self) -> None:
        check_name(self.method)
        finite(self.ridge, self.learning_rate, self.recovery, *self.interval)
        finite(self.extra_nats, self.condition_extra_nats)


class Part(Record, frozen=True, omit_defaults=True):
    """A vector that another was combined from; sha256 is its hash.

    coefficient: a multiple of the stored vector or, if `unit` is residual, its length at each layer
    as a share of the mean activation's length.
    """

    name: str
    sha256: str
    coefficient: float = 1.0
    unit: Unit = "vector"

    def __post_init__(self) -> None:
        finite(self.coefficient)


class Combination(Record, frozen=True, omit_defaults=True):
    """The vectors that a vector was combined from, in the order in which they were named.

    orthogonal_to: vectors whose directions were projected out of the result at each layer.
    """

    op: CombineOp
    parts: tuple[Part, ...]
    orthogonal_to: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a combination of nothing")


class Import(Record, frozen=True, omit_defaults=True):
    """The file of another tool that a vector was imported from.

    format: one of `steer.formats`. sha256: of the file, or of all files in the order of their
    layers. convention: how the format numbers layers. offset: our layer number minus the file's.
    model: the file's description of its model.
    """

    format: str
    sha256: str
    convention: str
    offset: int
    model: str = ""


class Method(Record, frozen=True, omit_defaults=True):
    """How the vector was made: fitted, distilled, combined or imported.

    name: `distill`, `combine`, `import`, or the method that fitted recorded activations
    (`steer.methods`). options: the values of the method's own options. package: the package of the
    method, if it is not steer's. Files can be read without the method.
    """

    name: str
    options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)
    package: str = ""
    distillation: Distillation | None = None
    combination: Combination | None = None
    source: Import | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        finite(*(value for value in self.options.values() if isinstance(value, float)))
        if (self.name == "distill") != (self.distillation is not None):
            raise ValueError("`distillation` belongs to distilled vectors, and only to them")
        if (self.name == "combine") != (self.combination is not None):
            raise ValueError("`combination` belongs to combined vectors, and only to them")
        if (self.name == "import") != (self.source is not None):
            raise ValueError("`source` belongs to imported vectors, and only to them")

    @property
    def fitted(self) -> bool:
        """Whether the vector was fitted to recorded activations."""
        return not (self.distillation or self.combination or self.source)

    def __str__(self) -> str:
        """The name and options as `--method` takes them, such as `probe:penalty=2`."""
        options = ",".join(
            f"{name}={_typed(value)}" for name, value in sorted(self.options.items())
        )
        return f"{self.name}:{options}" if options else self.name


def _typed(value: bool | int | float | str) -> str:
    """The value of an option as it is typed: `true`, `2`, `0.5`."""
    return str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0")


def check_name(name: str) -> None:
    """Refuse a text that cannot be the name of a method.

    Raises:
        ValueError: it cannot be one.
    """
    if not _METHOD_NAME.fullmatch(name):
        raise ValueError(f"{name[:60]!r} is not the name of a method")


class Read(Record, frozen=True):
    """The position that was read (`steer.vectors.positions`), and the context of the texts.

    positions: for a distilled edit, where it acts: `all` tokens or those of the `response`; for a
    combined vector whose parts differ, `mixed`. chat: whether the texts were in the model's chat
    template. system, template: the user's. template_args: the chat template's arguments. date:
    YYYY-MM-DD, if the chat template used one. Files leave out all unset fields.
    """

    positions: str
    chat: bool | msgspec.UnsetType = msgspec.UNSET
    system: str | msgspec.UnsetType = msgspec.UNSET
    template: str | msgspec.UnsetType = msgspec.UNSET
    template_args: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    date: str | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.positions not in UNREAD and str(parse(self.positions)) != self.positions:
            raise ValueError(f"{self.positions!r} is not a position")
        if isinstance(self.date, str):
            datetime.date.fromisoformat(self.date)

    @property
    def in_chat(self) -> bool | None:
        """Whether the texts were in a chat template; None if that is not known."""
        if self.chat is True:
            return True
        # The user's own template may spell out a chat template.
        unknown = self.positions in ("unknown", "mixed") or isinstance(self.template, str)
        return None if unknown else False

    @property
    def at_end(self) -> bool:
        """Whether the last token of the input was read, which predicts the next one."""
        return self.positions in ("last", "-1")

    @property
    def before_end(self) -> bool:
        """Whether a single token counted from the end was read, other than the last."""
        return self.positions.startswith("-") and ":" not in self.positions and not self.at_end


class ContrastSummary(Record, frozen=True):
    """The contrast set that a vector was made from: its kind, its size and its hash.

    n: the number of pairs; of unpaired texts, the positive ones, with n_negative for the others.
    positive, negative: the conditions, joined by `SEVERAL`. Kind `condition` (distilled): n counts
    the texts that the model generated under the positive condition, and the hash covers both
    conditions and the prompts. Kind `vectors` (combined): n counts the parts, and the hash covers
    the `Combination`. Kind `unknown`: an imported vector.

    items: a sketch of the texts (`steer.contrasts.overlap`), to detect overlap with held-out texts.
    giveaways: confounds of the set. Files of earlier versions have neither.
    """

    kind: ContrastKind
    n: int
    sha256: str
    positive: str | None = None
    negative: str | None = None
    n_negative: int | msgspec.UnsetType = msgspec.UNSET
    items: str | None = None
    giveaways: Giveaways | msgspec.UnsetType = msgspec.UNSET

    @property
    def paired(self) -> bool:
        """Whether the texts are pairs."""
        return self.n_negative is msgspec.UNSET

    def __str__(self) -> str:
        items = _COUNTED.get(self.kind, self.kind)
        if self.n_negative is not msgspec.UNSET:
            return f"{self.n} and {self.n_negative} {items}"
        return f"{self.n} {items.removesuffix('s') if self.n == 1 else items}"


_COUNTED = {"choice": "choices", "condition": "texts", "unpaired": "unpaired texts"}
