"""Write a steer to a file of another tool, if its format can represent it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steer.base.errors import UsageError, VectorError
from steer.formats.imported import norm
from steer.formats.registry import FileContents, Format, Writer, others_code, registry
from steer.steering.scope import CONSTANT, EVERYWHERE
from steer.steering.steers import Steer, usual_scope
from steer.vectors import store
from steer.vectors.sites import SiteName, listed
from steer.vectors.vector import Directions


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """The bytes of a file, its format, and the lengths of its directions by its layer numbers."""

    data: bytes
    format: Format
    norms: Mapping[int, float]

    def use(self, path: Path) -> str:
        """How to use the file, or ""."""
        writer = self.format.writer
        return "" if writer is None else writer.use.replace("OUT", str(path))


def check_path(path: Path, format: str | None = None) -> Format:
    """The format in which to write a file: the one that the user names, or the default of its
    suffix.

    Raises:
        UsageError: an unknown suffix, or a format that cannot be written with it.
    """
    known = registry()
    if format is not None:
        named = known.named(format)
        if named.writer is None:
            names = [each.name for each in known if each.writer]
            raise UsageError(
                f"{named.name} files can be read, but not written", hint=f"use {listed(names)}"
            )
        if path.suffix not in named.suffixes:
            raise UsageError(f"{path}: {named.name} files end in {named.kinds}")
        return named
    writers = known.writers(path.suffix)
    if not writers:
        raise UsageError(
            f"{path}: the suffix chooses the format, and {path.suffix or 'this name'} has none",
            hint=f"use one of {listed([store.SUFFIX, *known.suffixes(written=True)])}",
        )
    return writers[0]


def write(steer: Steer, path: Path, *, offset: int = 0, format: str | None = None) -> ExportedFile:
    """The contents of the file `path` for a steer.

    offset: our layer number minus the file's. format: a name, in place of the suffix's default.

    Raises:
        VectorError: the format cannot represent the steer.
        UsageError: the offset gives a negative layer number.
    """
    each = check_path(path, format)
    assert each.writer is not None
    site, rows = _layer_vectors(steer, each, each.writer, path.suffix)
    if offset:
        rows = {layer - offset: row for layer, row in rows.items()}
        if min(rows) < 0:
            raise UsageError(f"with an offset of {offset} a layer would be numbered {min(rows)}")
    outgoing = FileContents(
        directions=rows,
        site=site,
        op=steer.op,
        coefficient=1.0 if steer.op.op.adds else steer.coefficient.value,
        vector=steer.vector,
        model=_model_type(steer),
    )
    with others_code(each, f"to write {path}"):
        data = each.writer.write(outgoing)
    return ExportedFile(data, each, {number: norm(row) for number, row in rows.items()})


def _layer_vectors(
    steer: Steer, each: Format, writer: Writer, suffix: str
) -> tuple[SiteName, dict[int, Directions]]:
    """The site, and float32 [d_model] for each layer.

    Raises:
        VectorError: the format cannot represent the steer.
    """
    name = steer.vector.name
    if steer.op.name not in writer.ops or steer.op.writes or steer.op.keep_norm:
        others = [
            other.name
            for other in registry().writers(suffix)
            if other.writer and steer.op.name in other.writer.ops and other is not each
        ]
        plain = not (steer.op.writes or steer.op.keep_norm)
        raise VectorError(
            f"the op of {name} is {steer.op} here, which a file of {each.title} cannot represent",
            hint=f"--format={others[0]} can"
            if others and plain
            else "`steer bake` writes ablations into a model's weights",
        )
    # Other tools add to every token, as `/all` does. A distilled vector's default scope is
    # accepted too, since the user did not choose it.
    usual = (EVERYWHERE, usual_scope(steer.vector.metadata))
    positioned = steer.scope not in usual or steer.schedule != CONSTANT
    if positioned or steer.gate is not None:
        raise VectorError(
            f"{name} has a scope, schedule or gate here, which a vector file cannot represent"
        )
    if steer.vector.metadata.rank:
        raise VectorError(
            f"{name} is a low-rank edit: {each.title} would add only its constant part",
            hint="steer distill --rank 0 makes a plain vector of the same condition",
        )
    adds = steer.op.op.adds
    placed = {
        site: steer.delta(layer) if adds else steer.vector.direction(layer)
        for site, layer in steer.sites().items()
    }
    if not any(row.any() for row in placed.values()):
        raise VectorError(
            f"{steer} adds 0: the file would steer nothing", hint="use a larger coefficient"
        )
    names = {site.name for site in placed}
    if len(names) > 1 or not names <= set(writer.sites):
        raise VectorError(
            f"{name} acts on {listed(sorted(names))}, but a file of {each.title} is for"
            f" {listed(writer.sites)}",
            hint="a .npz records its site; extract with --site=resid_post for other tools",
        )
    return names.pop(), {site.layer: row for site, row in sorted(placed.items())}


def _model_type(steer: Steer) -> str:
    """`llama` for LlamaForCausalLM: Hugging Face's model_type, for most families."""
    metadata = steer.vector.metadata
    if not metadata.model.bound:
        source = metadata.method.source
        return source.model if source is not None else ""
    architecture = metadata.model.architecture
    for ending in ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"):
        architecture = architecture.removesuffix(ending)
    return architecture.lower()
