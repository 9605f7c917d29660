"""Bake, write the folder with a card and a report, and compare it with the hooks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from steer import __version__
from steer.baking.bake import BakedNetwork, bake
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
    """The report of a baked folder: its sources, its edits, and the comparison with the hooks.

    vectors: name and sha256 of each. architecture: of the result; untied, matrices, constants: as
    in `steer.baking.bake.BakedNetwork`. approximations: empty if it is exact. tokens: the name, the
    ids and the text for prompts of each learned token.
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
        """The values for JSON."""
        values = asdict(self)
        if not self.tokens:
            del values["tokens"], values["difference"]["new_token"]
        values["difference"] |= {
            "tolerance": self.difference.tolerance,
            "passed": self.difference.passed,
        }
        return {"steer": __version__, **values}


#: The number of stages that `export` reports.
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

    model: loaded from `source`, in float32. If the comparison fails, the folder is kept, and its
    card says so.

    Raises:
        VectorError, ModelError: a steer cannot be baked.
        IdleError: the steers change nothing, or too little to tell.
        SteerError: the folder cannot be written.
    """
    on_stage("editing the weights")
    baked = bake(model, steers, dtype=getattr(torch, dtype), approximate=approximate)
    on_stage("running the hooks")
    expected = reference(model, steers, texts, baked.added)
    exact = not baked.placement.approximations
    if exact:
        expected.check_effect(dtype)
    with new_folder(folder, force=force) as temporary:
        on_stage(f"writing {folder}")
        save(temporary, baked.network, baked.tokenizer, source, max_shard_size=max_shard_size)
        on_stage("reloading it and comparing")
        baked_source = ModelSource(
            str(temporary), device=source.device, device_map=source.device_map, dtype="float32"
        )
        difference = compare(baked_source, expected, dtype=dtype, exact=exact, added=baked.added)
        report = _report(model, steers, baked, difference)
        text = json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (temporary / REPORT).write_text(text + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(_card(report), encoding="utf-8")
    return report


def _report(
    model: Model, steers: Sequence[Steer], baked: BakedNetwork, difference: Difference
) -> Report:
    vectors = dict.fromkeys(steer.vector for steer in steers)
    return Report(
        model=model.identity.id,
        revision=model.identity.revision,
        fingerprint=model.identity.fingerprint,
        architecture=type(baked.network).__name__,
        dtype=difference.dtype,
        steers=[str(steer) for steer in steers],
        vectors=[{"name": vector.name, "sha256": vector.sha256} for vector in vectors],
        edits=describe(baked.edits, len(baked.added)),
        matrices=baked.n_matrices,
        constants=baked.n_constants,
        untied=baked.untied,
        tokens=[
            {"name": token.name, "text": token.written, "ids": list(token.ids)}
            for token in baked.added
        ],
        approximations=baked.placement.approximations,
        difference=difference,
    )


def _card(report: Report) -> str:
    """A model card in the hub's format."""
    base = f"base_model: {report.model}\n" if "/" in report.model else ""
    vectors = "".join(
        f"- vector `{_plain(vector['name'])}`, sha256 `{vector['sha256']}`\n"
        for vector in report.vectors
    )
    written = "".join(f"- write `{_plain(token['text'])}` in a prompt\n" for token in report.tokens)
    status = "Does what the hooks do, within its precision."
    if report.approximations:
        reasons = "; ".join(report.approximations)
        status = f"**Approximate, not equal to steering with hooks:** {reasons}."
    elif not report.difference.passed:
        status = "**It does not do what the hooks do: use it only to find out why.**"
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
        " may silently ignore it: `steer check-server` tests whether a running server steers.\n"
    )


def _plain(text: str) -> str:
    """`text` made safe between backticks."""
    return shown(text).replace("`", "'").replace("\n", " ")
