"""What a vector was made from, and how: the typed records of a vector file's JSON."""

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
#: Stands between conditions, where there are several.
SEVERAL = " | "
#: Of vectors that no recording was made for: where a distilled one acts, its parts differ, or
#: another tool made it.
UNREAD = ("all", "response", "mixed", "unknown")
_METHOD_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,59}", re.ASCII)
CombineOp = Literal["sum", "mean"]
#: Of a coefficient: times the stored vector, or a share of the mean activation's length.
Unit = Literal["vector", "residual"]


class ModelIdentity(Record, frozen=True):
    """Which model a vector was made on, and so which models it fits.

    `fingerprint` is a hash over samples of every weight (see `steer.models.fingerprint`);
    `tokenizer` and `chat_template` are sha256 of what they do, or None where the model has none.
    A vector from another tool's file that was converted without its model is unbound: architecture
    and fingerprint are empty, and n_layers counts no further than its last layer.
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
        """Whether it is known which weights these are."""
        return bool(self.fingerprint)


class Distillation(Record, frozen=True, omit_defaults=True):
    """Settings of a distilled edit, and what became of them.

    samples, held_out: continuations to learn from, and to judge by. max_tokens: their length at
    most. batch_size, steps, learning_rate, seed: of the optimiser; best_step is the state that was
    kept. recovery: on the held-out samples (`steer.distillation.recovery`), with its 95 % interval.
    extra_nats: nats per token that the edit's own texts have under the unsteered model, more than
    the model's own texts have; condition_extra_nats: the same of the condition's texts.

    method: its name (`steer.methods`); of another package, the reader may not have it. ridge: what
    was added to the diagonal of the regression, as a share of its mean. A method that does not
    descend, such as `ridge`, took no steps.

    Of the objective `pairs` (`steer.distillation.pairs`) these are pairs of completions, recovery
    is the share of the loss that the edit takes away, and the condition's texts are the positive
    completions.
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

    def __post_init__(self) -> None:
        check_name(self.method)
        finite(self.ridge, self.learning_rate, self.recovery, *self.interval)
        finite(self.extra_nats, self.condition_extra_nats)


class Part(Record, frozen=True, omit_defaults=True):
    """A vector that another was combined from; sha256 is its file's own.

    coefficient: times the stored vector or, where `unit` is residual, the share of the mean
    activation's length that it was brought to at each layer.
    """

    name: str
    sha256: str
    coefficient: float = 1.0
    unit: Unit = "vector"

    def __post_init__(self) -> None:
        finite(self.coefficient)


class Combination(Record, frozen=True, omit_defaults=True):
    """How a vector was combined from others, in the order in which they were named.

    orthogonal_to: vectors whose directions were taken out of the result, at each layer.
    """

    op: CombineOp
    parts: tuple[Part, ...]
    orthogonal_to: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a combination of nothing")


class Import(Record, frozen=True, omit_defaults=True):
    """The file of another tool that a vector was read from.

    format: one of `steer.formats`. sha256: of the file, or of all files in the order of their
    layers. convention: where the format's numbers of layers lie. offset: a layer here, less its
    number in the file. model: what the file says of its model.
    """

    format: str
    sha256: str
    convention: str
    offset: int
    model: str = ""


class Method(Record, frozen=True, omit_defaults=True):
    """How the vector was fitted, combined from others, or where another tool's was.

    name: `distill`, `combine`, `import`, or the method that fitted recorded activations
    (`steer.methods`). options: the values of the method's own options. package: the package that
    the method came from, if it was not one of steer's own. Files can be read without the method.
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
            raise ValueError("a distilled vector, and no other, says how it was distilled")
        if (self.name == "combine") != (self.combination is not None):
            raise ValueError("a combined vector, and no other, names its parts")
        if (self.name == "import") != (self.source is not None):
            raise ValueError("an imported vector, and no other, names its source")

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
        ValueError: it is none.
    """
    if not _METHOD_NAME.fullmatch(name):
        raise ValueError(f"{name[:60]!r} is not the name of a method")


class Read(Record, frozen=True):
    """Which tokens were read, in `steer.vectors.positions`' words, and what stood round the texts.

    A distilled edit was made to act on `all` tokens, or on those of the `response`. The parts of a
    combined vector may differ: `mixed`. chat: in the model's chat template; system, template: as
    the user gave them. template_args, date: what the chat template got beside messages; the date
    (YYYY-MM-DD) where it used one. All but the first are left out of files where there was nothing
    of the kind.
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
        """Whether the texts were in a chat template; None where the file does not say."""
        if self.chat is True:
            return True
        # A template of the user's own may be a chat's, written out.
        unknown = self.positions in ("unknown", "mixed") or isinstance(self.template, str)
        return None if unknown else False

    @property
    def at_end(self) -> bool:
        """Whether it was the last token of all that was run, whose output is what comes next."""
        return self.positions in ("last", "-1")

    @property
    def before_end(self) -> bool:
        """Whether it was one token that is counted from the end, and not the last."""
        return self.positions.startswith("-") and ":" not in self.positions and not self.at_end


class ContrastSummary(Record, frozen=True):
    """What the vector was made from: the number of pairs and a hash of all of them.

    Where there are no pairs n counts the positive texts, n_negative the others. `positive` and
    `negative` are the conditions, with `SEVERAL` between, where the contrast is of that kind. Of
    the kind `condition`, n counts the texts that the model wrote under the positive one, and the
    hash is of both conditions and the prompts. Of the kind `vectors`, n counts the parts, and the
    hash is of what `Combination` says. Of an imported vector it is `unknown`.

    items: hashes of the texts (`steer.contrasts.overlap`), by which held-out texts are told from
    them; giveaways: what tells the sides apart beside their meaning. Files of earlier versions have
    neither.
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
        things = _COUNTED.get(self.kind, self.kind)
        if self.n_negative is not msgspec.UNSET:
            return f"{self.n} and {self.n_negative} {things}"
        return f"{self.n} {things.removesuffix('s') if self.n == 1 else things}"


_COUNTED = {"choice": "choices", "condition": "texts", "unpaired": "unpaired texts"}
