"""`steer combine`: vectors to one vector file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.cli.recipe import RecipeOption

if TYPE_CHECKING:
    from steer.steering.steers import Steer
    from steer.vectors.vector import SteeringVector


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("combine")(combine)


def combine(
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="NAME[:COEFFICIENT][@LAYERS], such as joyful, calm:-0.5, formal:15%@2-4."
            " Without a coefficient: 1."
        ),
    ] = None,
    recipe: RecipeOption = None,
    op: Annotated[str, typer.Option(help="sum, or mean (sum by the number of parts).")] = "sum",
    orthogonal_to: Annotated[
        list[str] | None,
        typer.Option(
            "--orthogonal-to",
            "--without",
            help="Take this vector's direction out. Repeatable, or with commas.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    license: Annotated[str, typer.Option(help="Default: the parts', if it is one.")] = "",
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Make one vector of several: sum, mean, difference, multiple.

    Or one without the directions of others. The result has the layers that all of them have, and
    says what it was made from. Applied once it does what all parts do together. No model is loaded.

    A recipe may hold low-rank edits, and each part acts at its own layers: the result has them all.

    \b
    steer combine joyful formal:-0.5 -o vectors/playful.safetensors
    steer combine run1 run2 run3 --op mean -o vectors/joyful.safetensors
    steer combine gloomy:-1 -o vectors/cheer.safetensors
    steer combine joyful --without formal,excited -o vectors/joy-alone.safetensors
    steer combine --recipe examples/recipes/captain.toml -o captain.safetensors
    """
    from steer.base.errors import UsageError
    from steer.base.files import check_writable
    from steer.steering import algebra
    from steer.vectors import store

    others = [name for text in orthogonal_to or () for name in text.split(",") if name.strip()]
    if op not in ("sum", "mean"):
        raise UsageError(f"{op!r} is not a way to combine", hint="use sum or mean")
    if bool(parts) == (recipe is not None):
        raise UsageError("give vectors to combine, or --recipe")
    store.check_path(out)
    check_writable(out, force=force)
    if recipe is not None:
        if op != "sum" or others:
            raise UsageError("a recipe is a sum", hint="leave --op and --orthogonal-to out")
        combined = _collapsed(recipe, name or out.stem, description, license)
    else:
        combined = algebra.combine(
            [_part(text) for text in parts or ()],
            name=name or out.stem,
            op=op,  # type: ignore[arg-type]  # checked above
            orthogonal_to=[store.read(options.find(other.strip())) for other in others],
            description=description,
            license=license,
        )
    metadata = store.write(out, combined, force=force).metadata
    if json:
        from steer.vectors.metadata import to_json

        output.as_json({"path": str(out), **to_json(metadata)})
        return
    from steer.cli.tables import layer_table, written

    layer_table(metadata)
    written(out, metadata)


def _collapsed(recipe: Path, name: str, description: str, license: str) -> SteeringVector:
    """All that a recipe steers, as one vector.

    Raises:
        SteerError: no recipe, a vector that is missing, or steers that no one vector stands for.
    """
    from steer.base.errors import InputError
    from steer.steering.collapse import collapse
    from steer.steering.named import resolved
    from steer.steering.recipe import read

    found = read(recipe)
    if not found.steers:
        raise InputError(f"{recipe} steers nothing", hint='write steers = ["joyful:1.5@2"] in it')
    description = description or found.description
    return collapse(
        resolved(found.steers, options.find), name=name, description=description, license=license
    )


def _part(text: str) -> Steer:
    """A part as typed.

    Raises:
        UsageError: it names positions, which a vector does not have.
    """
    from steer.base.errors import UsageError
    from steer.steering import spec
    from steer.steering.operation import ADD, Coefficient
    from steer.steering.scope import CONSTANT
    from steer.steering.steers import Steer
    from steer.vectors import store

    typed = spec.parse(text)
    if (typed.scope, typed.skip_special, typed.schedule) != (None, False, CONSTANT):
        when = typed.scope or ("skip-special" if typed.skip_special else typed.schedule)
        raise UsageError(
            f"{text!r}: a vector has no positions; {str(when)!r} is a matter of its use",
            hint=f"leave /{when} out, and write it after -v when you apply the result",
        )
    if typed.op not in (None, ADD):
        raise UsageError(
            f"{text!r}: {typed.op} depends on the activations, and cannot be summed beforehand",
            hint="combine adds multiples of vectors, such as joyful:0.5",
        )
    vector = store.read(options.find(typed.reference))
    layers = typed.layers if isinstance(typed.layers, tuple) else vector.metadata.layers
    return Steer(vector, typed.coefficient or Coefficient(1.0), layers)
