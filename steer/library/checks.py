"""Check contrast sets, and an installation with a model.

torch is imported as late as possible, so that a broken one can be reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from steer.base.diagnosis import Check, check, packages
from steer.base.diagnosis import versions as versions
from steer.contrasts.check import giveaways
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.split import split as divide
from steer.library.data import Data, contrast_set, names_of, records_of
from steer.library.options import ContrastOptions, NameOptions, spelled_out
from steer.library.vectors import html_table
from steer.vectors.giveaways import Giveaways

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from steer.library.models import Model
    from steer.models import model as models
    from steer.models.templates import ChatTemplate


@dataclass(frozen=True, slots=True)
class ContrastReport:
    """A contrast set, and superficial differences between its sides.

    Lengths are in tokens if a tokenizer was given, else in words: `giveaways.unit`.
    """

    contrasts: Contrasts
    giveaways: Giveaways

    @property
    def warnings(self) -> list[str]:
        """Problems of the set, each with advice; empty if there are none."""
        return self.giveaways.warnings(paired=self.contrasts.paired)

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON, with the keys of `steer contrasts check --json`."""
        contrasts = self.contrasts
        return {
            "kind": contrasts.kind,
            "paired": contrasts.paired,
            "n_positive": len(contrasts.positive),
            "n_negative": len(contrasts.negative),
            "sha256": contrasts.sha256,
            **msgspec.to_builtins(self.giveaways),
            "warnings": self.warnings,
        }

    def _repr_html_(self) -> str:
        facts = self.to_dict()
        rows = [(key, value) for key, value in facts.items() if not isinstance(value, (dict, list))]
        return html_table("contrast set", ("fact", "value"), rows)


@spelled_out(by=contrast_set)
def check_contrasts(
    contrasts: Data | Contrasts | None = None,
    *,
    model: Model | None = None,
    **options: Unpack[ContrastOptions],
) -> ContrastReport:
    """Report the contents of a contrast set, and superficial differences such as length.

    The arguments are those of `contrast_set`. model: to count tokens instead of words.

    Raises:
        InputError: a record is invalid; the message names it.
    """
    if not isinstance(contrasts, Contrasts):
        contrasts = contrast_set(contrasts, **options)
    return report_contrasts(contrasts, None if model is None else model.inner.template)


def report_contrasts(contrasts: Contrasts, template: ChatTemplate | None) -> ContrastReport:
    """The report on a set, in tokens of the template's tokenizer if there is one, else in words."""
    if template is None:
        return ContrastReport(contrasts, giveaways(contrasts))
    from steer.models.encoding import encode_passages

    template.check_arguments()
    positive, negative = (
        encode_passages(template, side) for side in (contrasts.positive, contrasts.negative)
    )
    return ContrastReport(contrasts, giveaways(contrasts, (positive, negative)))


@spelled_out(by=names_of)
def split(
    data: Data, held_out: float = 0.25, *, seed: int = 0, **options: Unpack[NameOptions]
) -> tuple[list[Any], list[Any]]:
    """Divide records into those to make a vector from and those to hold out, in order.

    held_out: the share of records to hold out. Near-duplicates stay together, and so do records
    with the same prompt if there are ten prompts or more. The same data, share and seed give the
    same parts. The other options are those of `contrast_set`.

    Raises:
        UsageError: the share is not between 0 and 1.
        InputError: the records are too similar to divide.
    """
    names = names_of(**options)
    return divide(list(records_of(data, names)), held_out, seed=seed, names=names)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The installed packages, and the result of each check."""

    versions: dict[str, str]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON, with the keys of `steer doctor --json`."""
        checks = [asdict(check) for check in self.checks]
        return {"passed": self.passed, **self.versions, "checks": checks}

    def _repr_html_(self) -> str:
        rows = [
            ("ok" if check.passed else "FAILED", check.name, check.detail) for check in self.checks
        ]
        return html_table("steer doctor", ("", "check", "detail"), rows)


def doctor(
    model: Model | str | Callable[[], models.Model] = "pocket",
    *,
    on_check: Callable[[Check], None] = lambda check: None,
) -> Diagnosis:
    """Check the installation, and that steering works on a model.

    model: as for `load`, or a model. on_check: called with each check when it is done. Failures are
    in the result, with advice; no error is raised.
    """
    checks = []
    for done in _checks(model):
        checks.append(done)
        on_check(done)
    return Diagnosis(versions(), tuple(checks))


def _checks(model: Model | str | Callable[[], models.Model]) -> Iterator[Check]:
    """All checks, one by one; they end if the model does not load."""
    yield packages()
    loaded: list[models.Model] = []

    def load() -> str:
        loaded.append(_loaded(model))
        hooks = loaded[0].hooks
        shape = f"{hooks.architecture}, {hooks.n_layers} layers, width {hooks.d_model}"
        return f"{loaded[0].describe()} ({shape})"

    def devices() -> str:
        from steer.selftest import devices

        return devices()

    yield check("devices", devices, "python -m pip install --force-reinstall torch")
    yield check("model loads", load, "try -m pocket, which needs no network")
    if loaded:
        from steer.selftest import examine

        yield from examine(loaded[0])


def _loaded(model: Model | str | Callable[[], models.Model]) -> models.Model:
    if isinstance(model, str):
        from steer.library.models import load

        return load(model).inner
    return model() if callable(model) else model.inner
