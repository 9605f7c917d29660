"""What a vector file says about itself: typed, checked once, and byte-stable as JSON.

The JSON has sorted keys and no timestamp, so that the same inputs give the same bytes.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import msgspec

from steer.errors import VectorError
from steer.sites import SiteName, format_layers
from steer.strict_json import load_strict_json

FORMAT = 1
#: The first release that reads `FORMAT`: an older one can then say what to install.
NEEDS = "0.1.0"

Op = Literal["add"]
ContrastKind = Literal["pairs", "conditions", "condition", "vectors"]
Positions = Literal["last", "mean", "all", "response", "mixed"]
CombineOp = Literal["sum", "mean"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frozen, and unknown fields are refused: a misspelt one would be lost in silence."""


class ModelIdentity(_Record, frozen=True):
    """Which model a vector was made on, and so which models it fits.

    `fingerprint` is a hash over samples of every weight (see `steer.fingerprint`); `tokenizer` and
    `chat_template` are sha256 of what they do, or None where the model has none.
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


class Distillation(_Record, frozen=True):
    """Settings of a distilled edit, and what became of them.

    samples, held_out: continuations to learn from, and to judge by. max_tokens: their length at
    most. batch_size, steps, learning_rate, seed: of the optimiser; best_step is the state that was
    kept. recovery: on the held-out samples (`steer.recovery`), with its 95 % interval.
    extra_nats: nats per token that the edit's own texts have under the unsteered model, more than
    the model's own texts have; condition_extra_nats: the same of the condition's texts.
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

    def __post_init__(self) -> None:
        _finite(self.learning_rate, self.recovery, *self.interval)
        _finite(self.extra_nats, self.condition_extra_nats)


class Part(_Record, frozen=True, omit_defaults=True):
    """A vector that another was combined from; sha256 is its file's own.

    coefficient: times the stored vector or, where `unit` is residual, the share of the mean
    activation's length that it was brought to at each layer.
    """

    name: str
    sha256: str
    coefficient: float = 1.0
    unit: Literal["vector", "residual"] = "vector"

    def __post_init__(self) -> None:
        _finite(self.coefficient)


class Combination(_Record, frozen=True, omit_defaults=True):
    """How a vector was combined from others, in the order in which they were named.

    orthogonal_to: vectors whose directions were taken out of the result, at each layer.
    """

    op: CombineOp
    parts: tuple[Part, ...]
    orthogonal_to: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a combination of nothing")


class Method(_Record, frozen=True, omit_defaults=True):
    """How the vector was fitted, or combined from others."""

    name: Literal["mean_diff", "distill", "combine"]
    distillation: Distillation | None = None
    combination: Combination | None = None

    def __post_init__(self) -> None:
        if (self.name == "distill") != (self.distillation is not None):
            raise ValueError("a distilled vector, and no other, says how it was distilled")
        if (self.name == "combine") != (self.combination is not None):
            raise ValueError("a combined vector, and no other, names its parts")


class Read(_Record, frozen=True):
    """Which tokens were read: `last`, or `mean` over the text's own tokens (`steer.reading`).

    A distilled edit was made to act on `all` tokens, or on those of the `response`. The parts of a
    combined vector may differ: `mixed`.
    """

    positions: Positions


class ContrastSummary(_Record, frozen=True):
    """What the vector was made from: the number of pairs and a hash of all of them.

    `positive` and `negative` are the two conditions, where the contrast is of that kind. Of the
    kind `condition`, n counts the texts that the model wrote under the positive one, and the hash
    is of both conditions and the prompts. Of the kind `vectors`, n counts the parts, and the hash
    is of what `Combination` says.
    """

    kind: ContrastKind
    n: int
    sha256: str
    positive: str | None = None
    negative: str | None = None


class Spread(_Record, frozen=True):
    """Mean and standard deviation of a projection, in activation units."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        _finite(self.mean, self.std)


class LayerStatistics(_Record, frozen=True):
    """What was seen at one layer while the vector was made.

    norm: length of the stored vector, in activation units; of a low-rank edit, the mean length of
        what it adds.
    resid_norm: mean length of the activations read there.
    separability: AUC of the projection on held-out folds, 0.5 is chance; None with too few pairs.
    positive, negative: projection of each side's activations on the unit vector.
    The last three are None of a combined vector: they would need the activations again.
    """

    layer: int
    norm: float
    resid_norm: float
    positive: Spread | None = None
    negative: Spread | None = None
    separability: float | None = None

    def __post_init__(self) -> None:
        _finite(self.norm, self.resid_norm, self.separability or 0.0)
        if self.layer < 0 or self.norm < 0 or self.resid_norm < 0:
            raise ValueError("layer, norm and resid_norm are not negative")

    @property
    def share(self) -> float:
        """The vector's length as a share of the mean activation's length."""
        return self.norm / self.resid_norm if self.resid_norm else math.nan


class Recommended(_Record, frozen=True):
    """What `-v NAME` does when no numbers are given, and why."""

    layers: tuple[int, ...]
    coefficient: float
    evidence: str
    op: Op = "add"

    def __post_init__(self) -> None:
        _finite(self.coefficient)


class Metadata(_Record, frozen=True):
    """The JSON of a vector file. `layers[i]` is the layer of row i of the tensors.

    rank: of the low-rank part; 0 where there is only a vector.
    """

    name: str
    model: ModelIdentity
    site: SiteName
    layers: tuple[int, ...]
    method: Method
    read: Read
    contrast: ContrastSummary
    statistics: tuple[LayerStatistics, ...]
    recommended: Recommended
    description: str = ""
    license: str = ""
    sha256: str = ""
    rank: int = 0
    format: int = FORMAT
    needs: str = NEEDS

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= self.model.d_model:
            raise ValueError(f"rank is outside 0-{self.model.d_model}")
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError("layers are not a rising list")
        if self.layers[0] < 0 or self.layers[-1] >= self.model.n_layers:
            raise ValueError(f"layers are outside 0-{self.model.n_layers - 1}")
        if tuple(row.layer for row in self.statistics) != self.layers:
            raise ValueError("statistics are not one for each layer")
        if not self.recommended.layers or not set(self.recommended.layers) <= set(self.layers):
            raise ValueError("recommended layers are not among the stored ones")

    def at(self, layer: int) -> LayerStatistics:
        """Statistics of one stored layer.

        Raises:
            VectorError: the vector has no such layer.
        """
        if layer not in self.layers:
            raise VectorError(
                f"vector {self.name!r} has no layer {layer}",
                hint=f"it has layers {format_layers(self.layers)}",
            )
        return self.statistics[self.layers.index(layer)]


def encode(metadata: Metadata) -> str:
    """One line of JSON, keys sorted: equal metadata give equal bytes."""
    return json.dumps(
        to_json(metadata),
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )


def to_json(metadata: Metadata) -> dict[str, Any]:
    """Plain dicts, lists, numbers and strings; without a rank where there is only a vector."""
    plain = dict(msgspec.to_builtins(metadata))
    if not metadata.rank:
        del plain["rank"]
    return plain


def decode(text: str, subject: str) -> Metadata:
    """Metadata from JSON; `subject` names the file in errors.

    Raises:
        VectorError: not JSON, a key twice, a newer format, or fields that are missing or wrong.
    """
    raw = load_strict_json(text, subject)
    if not isinstance(raw, dict):
        raise VectorError(f"{subject}: the metadata are not a JSON object")
    version = raw.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise VectorError(
            f"{subject}: written in format {version}; this steer reads up to {FORMAT}",
            hint=f"install steer {str(raw.get('needs', ''))[:20] or 'of a later version'} or later",
        )
    if version != FORMAT:
        raise VectorError(f"{subject}: {version!r} is not a format number")
    try:
        return msgspec.convert(raw, Metadata)
    except msgspec.ValidationError as error:
        raise VectorError(f"{subject}: metadata are wrong: {error}") from None


def _finite(*values: float) -> None:
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a number is not finite")
