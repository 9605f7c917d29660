"""Bake, write the folder with a card and a report, and hold it against the hooks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from steer import __version__
from steer.baking.bake import Baked, bake
from steer.baking.check import TEXTS, Difference, compare, reference
from steer.baking.edits import describe
from steer.baking.target import REPORT, new_folder
from steer.base.files import shown
from steer.models.checkpoint import save
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.steers import Steer


@dataclass(frozen=True, slots=True)
class Report:
    """What was baked, from what, and how near it is to the hooks.

    vectors: name and sha256 of each. architecture: of the result; untied, matrices, constants: as
    of `steer.baking.bake.Baked`. approximations: empty where it was to be exact. tokens: name,
    ids, and the text to write in a prompt, of each learned token.
    """

    model: str
    revision: str | None
    fingerprint: str
    architecture: str
    dtype: str
    steers: list[str]
    vectors: list[dict[str, str]]
    edits: str
    matrices: int
    constants: int
    untied: bool
    approximations: list[str]
    difference: Difference
    tokens: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = asdict(self)
        if not self.tokens:
            del told["tokens"], told["difference"]["new_token"]
        told["difference"] |= {
            "tolerance": self.difference.tolerance,
            "passed": self.difference.passed,
        }
        return {"steer": __version__, **told}


#: How often `export` says what it is doing.
N_STAGES = 4


def export(
    model: Model,
    steers: Sequence[Steer],
    folder: Path,
    source: ModelSource,
    *,
    dtype: str,
    max_shard_size: str = "5GB",
    approximate: bool = False,
    texts: Sequence[str] = TEXTS,
    force: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Report:
    """Bake `steers` into `model`, write the folder, reload it, and compare it with the hooks.

    model: loaded from `source`, in float32. The folder stays also where the comparison fails, and
    says so.

    Raises:
        VectorError, ModelError: what cannot be baked.
        SteerError: the folder cannot be written.
    """
    on_stage("editing the weights")
    made = bake(model, steers, dtype=getattr(torch, dtype), approximate=approximate)
    on_stage("asking the hooks")
    expected = reference(model, steers, texts, made.added)
    with new_folder(folder, force=force) as temporary:
        on_stage(f"writing {folder}")
        save(temporary, made.network, made.tokenizer, source, max_shard_size=max_shard_size)
        on_stage("reloading it and comparing")
        baked = ModelSource(
            str(temporary), device=source.device, device_map=source.device_map, dtype="float32"
        )
        exact = not made.placement.approximations
        difference = compare(baked, expected, dtype=dtype, exact=exact, added=made.added)
        report = _report(model, steers, made, difference)
        text = json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (temporary / REPORT).write_text(text + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(_card(report), encoding="utf-8")
    return report


def _report(model: Model, steers: Sequence[Steer], made: Baked, difference: Difference) -> Report:
    vectors = dict.fromkeys(steer.vector for steer in steers)
    return Report(
        model=model.identity.id,
        revision=model.identity.revision,
        fingerprint=model.identity.fingerprint,
        architecture=type(made.network).__name__,
        dtype=difference.dtype,
        steers=[str(steer) for steer in steers],
        vectors=[{"name": one.name, "sha256": one.sha256} for one in vectors],
        edits=describe(made.edits, len(made.added)),
        matrices=made.n_matrices,
        constants=made.n_constants,
        untied=made.untied,
        tokens=[
            {"name": one.name, "text": one.written, "ids": list(one.ids)} for one in made.added
        ],
        approximations=made.placement.approximations,
        difference=difference,
    )


def _card(report: Report) -> str:
    """A model card that the hub reads too."""
    base = f"base_model: {report.model}\n" if "/" in report.model else ""
    vectors = "".join(
        f"- vector `{_plain(one['name'])}`, sha256 `{one['sha256']}`\n" for one in report.vectors
    )
    written = "".join(f"- write `{_plain(one['text'])}` in a prompt\n" for one in report.tokens)
    status = "Does what the hooks do, as far as its precision goes."
    if report.approximations:
        reasons = "; ".join(report.approximations)
        status = f"**Approximate, not equal to steering with hooks:** {reasons}."
    elif not report.difference.passed:
        status = "**It does not do what the hooks do: use it for nothing but finding out why.**"
    return (
        f"---\n{base}library_name: transformers\npipeline_tag: text-generation\n"
        "tags: [steer, activation-steering]\n---\n\n"
        f"# {_plain(report.model)}, steered\n\n"
        f"`{_plain(' + '.join(report.steers))}`, baked into the weights: {report.edits}.\n\n"
        f"{status}\n\n"
        f"- made from: `{_plain(report.model)}`, weights {report.fingerprint}\n{vectors}{written}"
        f"- architecture: {report.architecture}, {report.dtype}\n"
        f"- checked on {report.difference.n_tokens} tokens: {report.difference}\n"
        f"- made by: steer {__version__}; `{REPORT}` has the figures\n\n"
        "The licence is that of the model it was made from. An engine that does not expect a bias"
        " may drop it in silence: `steer probe` says whether a running server steers.\n"
    )


def _plain(text: str) -> str:
    """`text` as it can stand between backticks."""
    return shown(text).replace("`", "'").replace("\n", " ")
