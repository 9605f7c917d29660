"""The metadata of a vector file: typed, validated once, and byte-stable as JSON.

The JSON has sorted keys and no timestamp, so that the same inputs give the same bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from steer.base.errors import VectorError
from steer.base.strict_json import load_strict_json
from steer.vectors.parts import Parts
from steer.vectors.provenance import (
    ContrastSummary,
    Method,
    ModelIdentity,
    Read,
    Unit,
)
from steer.vectors.record import Record, finite
from steer.vectors.sites import EMBEDDING, SITE_KINDS, SiteName, VectorSite, format_layers

FORMAT = 1
#: The first release that reads `FORMAT`. Older releases read it and name the release to install.
NEEDS = "0.1.0"

#: The form of an op in `-v`; `steer.steering.operation` parses it.
_OP = re.compile(r"[a-z]{1,20}(=[a-z0-9.+-]{1,40})?")
#: The scopes that a file may recommend; `steer.steering.scope` parses them.
_SCOPE = re.compile(r"all|prompt|response(=\d{1,9})?|[1-9]\d{0,8}-")


def can_be_saved(scope: str | None) -> bool:
    """Whether a file can recommend this scope."""
    return scope is None or _SCOPE.fullmatch(scope) is not None


class Spread(Record, frozen=True):
    """Mean and standard deviation of a projection, in activation units."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        finite(self.mean, self.std)


class LayerStatistics(Record, frozen=True):
    """Statistics of one layer, from the texts that the vector was made from.

    norm: length of the stored vector, in activation units; for a low-rank edit, the mean length of
        what it adds to the mean activation of a text (for combined edits, an upper bound).
    resid_norm: mean length of the activations; None for an imported vector.
    separability: AUC of the projection on held-out folds; 0.5 is chance; None with too few pairs.
    positive, negative: projection of each side's activations on the unit vector.
    coherence: mean cosine of the pair differences with the vector; None without pairs.
    agreement: cosine with the mean difference.
    A combined vector has neither sides nor separability, since its activations are not known.
    """

    layer: int
    norm: float
    resid_norm: float | None
    positive: Spread | None = None
    negative: Spread | None = None
    separability: float | None = None
    coherence: float | None = None
    agreement: float | None = None

    def __post_init__(self) -> None:
        optional = (self.resid_norm, self.separability, self.coherence, self.agreement)
        finite(self.norm, *(value or 0.0 for value in optional))
        if self.layer < 0 or self.norm < 0 or (self.resid_norm or 0) < 0:
            raise ValueError("layer, norm and resid_norm are not negative")

    @property
    def share(self) -> float:
        """The vector's length as a share of the mean activation's length."""
        return self.norm / self.resid_norm if self.resid_norm else math.nan


class Recommendation(Record, frozen=True):
    """The settings of a plain `-v NAME`, and the evidence for them.

    coefficient: a multiple of the stored vector or, if `unit` is residual, the length of the
    addition at each layer as a share of the mean activation's length; for ops other than `add`, the
    fraction of the edit. op: in the grammar of `-v`, such as `add`, `ablate` or `cap=2.5`. scope:
    the positions to steer, in the grammar of `-v`; None for the op's default. chosen_on: short
    hashes of the held-out texts that a sweep chose by; None without a sweep, and in earlier files.
    limit: the nearest coefficient further out, in the same unit, that a sweep found too costly for
    its budget, if any.
    """

    layers: tuple[int, ...]
    coefficient: float
    evidence: str
    op: str = "add"
    unit: Unit = "vector"
    scope: str | None = None
    chosen_on: str | None = None
    limit: float | None = None

    def __post_init__(self) -> None:
        finite(self.coefficient, self.limit or 0.0)
        if self.limit is not None and not self.limit / (self.coefficient or math.nan) > 1:
            raise ValueError("the limit is not further out than the coefficient")
        if not can_be_saved(self.scope):
            raise ValueError(f"{str(self.scope)[:60]!r} is not a scope that a file can recommend")
        if not _OP.fullmatch(self.op):
            raise ValueError(f"{self.op[:60]!r} is not an op")
        if self.unit == "residual" and self.op not in ("add", "norm=keep"):
            raise ValueError(f"{self.op} adds no length, so its unit cannot be residual")

    @property
    def op_name(self) -> str:
        """The op without its value; `norm=keep` is an addition."""
        return "add" if self.op == "norm=keep" else self.op.partition("=")[0]


class Metadata(Record, frozen=True):
    """The metadata of a vector file. `layers[i]` is the layer of row i of the tensors.

    rank: of a low-rank edit; 0 for a plain vector. parts: of the site's activations, at `heads` and
    `router`; None where they are as wide as the model.

    A learned token has the site `embedding`, and layer 0 alone. tokens: its number of embeddings, 0
    of a vector. coefficients: the lowest and the highest coefficient that it was trained for; None
    where it was trained for 1 alone.
    """

    name: str
    model: ModelIdentity
    site: VectorSite
    layers: tuple[int, ...]
    method: Method
    read: Read
    contrast: ContrastSummary
    statistics: tuple[LayerStatistics, ...]
    recommended: Recommendation
    description: str = ""
    license: str = ""
    sha256: str = ""
    rank: int = 0
    tokens: int = 0
    coefficients: tuple[float, float] | None = None
    parts: Parts | None = None
    format: int = FORMAT
    needs: str = NEEDS

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= self.width:
            raise ValueError(f"rank is outside 0-{self.width}")
        if (self.parts is not None) != bool(self.site != EMBEDDING and SITE_KINDS[self.site].part):
            raise ValueError(f"{self.site} has no such parts")
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError("layers are not a rising list")
        if self.layers[0] < 0 or self.layers[-1] >= self.model.n_layers:
            raise ValueError(f"layers are outside 0-{self.model.n_layers - 1}")
        if tuple(row.layer for row in self.statistics) != self.layers:
            raise ValueError("statistics are not one for each layer")
        if not self.recommended.layers or not set(self.recommended.layers) <= set(self.layers):
            raise ValueError("recommended layers are not among the stored ones")
        if (self.site == EMBEDDING) != (self.tokens > 0):
            raise ValueError("a learned token, and no other vector, has embeddings")
        if self.coefficients is not None and not self.tokens:
            raise ValueError("only a learned token has a range of coefficients")
        if self.coefficients is not None and not self.coefficients[0] < self.coefficients[1]:
            raise ValueError("the range of coefficients is empty")
        if self.tokens < 0 or (self.tokens and (self.layers != (0,) or self.rank)):
            raise ValueError("a learned token has layer 0 alone, and no low-rank part")

    @property
    def width(self) -> int:
        """The number of numbers in an activation of the site."""
        return self.model.d_model if self.parts is None else self.parts.total

    @property
    def space(self) -> tuple[str, int]:
        """The space of the directions: those of two vectors can only be compared in the same."""
        return ("" if self.parts is None else self.site), self.width

    @property
    def activation_site(self) -> SiteName:
        """Where in each layer the vector is read or written.

        Raises:
            VectorError: it is a learned token, which is at no layer.
        """
        if self.site == EMBEDDING:
            raise VectorError(
                f"{self.name!r} is a learned token: it stands in a prompt, and has no direction at"
                " a layer",
                hint="use it with apply, chat, eval or serve, or distill an edit: --method ridge",
            )
        return self.site

    def at(self, layer: int) -> LayerStatistics:
        """Statistics of one stored layer.

        Raises:
            VectorError: the vector has no such layer.
        """
        self.check_layers([layer])
        return self.statistics[self.layers.index(layer)]

    def check_layers(self, layers: Iterable[int]) -> None:
        """Refuse layers that are not stored.

        Raises:
            VectorError: naming all of them.
        """
        missing = set(layers).difference(self.layers)
        if missing:
            several = "layers" if len(missing) > 1 else "layer"
            raise VectorError(
                f"vector {self.name!r} has no {several} {format_layers(missing)}",
                hint=f"it has layers {format_layers(self.layers)}",
            )


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
    """Plain dicts, lists, numbers and strings.

    Newer fields with their default value are left out, so that earlier files keep their bytes.
    """
    plain = dict(msgspec.to_builtins(metadata))
    for name in ("rank", "tokens", "coefficients", "parts"):
        if not plain[name]:
            del plain[name]
    if metadata.contrast.items is None:
        del plain["contrast"]["items"]
    if metadata.recommended.unit == "vector":
        del plain["recommended"]["unit"]
    for name in ("scope", "chosen_on", "limit"):
        if plain["recommended"][name] is None:
            del plain["recommended"][name]
    return plain


def decode(text: str, subject: str) -> Metadata:
    """Metadata from JSON; `subject` names the file in errors.

    Raises:
        VectorError: not JSON, a duplicate key, a newer format, or missing or wrong fields.
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
