"""`steer recipe`: show recipes; and the option `--recipe` of other commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options, output

if TYPE_CHECKING:
    from steer.steering.named import NamedSteer

RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="A TOML file of vectors and settings.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("show")(show)
    summary = "Show a recipe of vectors and settings with all that it includes."
    app.add_typer(group, name="recipe", help=summary)


def show(
    recipe: Annotated[Path, typer.Argument(help="A TOML file.")],
    json: options.Json = False,
) -> None:
    """Print a recipe with everything that it includes, as one recipe.

    A recipe lists steers in the syntax of -v, a gate in the syntax of --when for all or for one of
    them, and settings of `steer apply`. It can include other recipes:

    \b
    include = ["seafarer.toml"]
    when = "joyful>mid"
    steers = ["formal:1.5@2", { vector = "./calm.safetensors", sha256 = "..." }]
    [generation]
    temperature = 0.5

    \b
    steers = [{ vector = "formal:1.5@2/response", when = "sea>0.2" }]

    \b
    steer recipe show captain.toml
    steer recipe show captain.toml > flat.toml
    """
    from steer.library.files import read_recipe

    flat = read_recipe(recipe)
    if json:
        output.as_json(flat.to_dict())
    else:
        output.write(flat.to_toml())


def settings(
    context: typer.Context, recipe: Path | None, typed: dict[str, Any], vectors: list[str]
) -> tuple[list[NamedSteer], dict[str, Any]]:
    """Combine a recipe with the command line: the steers of both, and the typed settings, filled up
    from the recipe.

    Raises:
        SteerError: the file is not a recipe.
    """
    from steer.steering.named import NamedSteer
    from steer.steering.recipe import read

    added = [NamedSteer(text) for text in vectors]
    if recipe is None:
        return added, typed
    loaded = read(recipe)
    # Compared by name, since typer does not export its copy of click's enumeration.
    explicit = {
        name
        for name in typed
        if context.get_parameter_source(name).name != "DEFAULT"  # type: ignore[union-attr]
    }
    chosen, unused = loaded.fill(typed, explicit)
    if unused:
        output.note(f"ignored settings of the recipe, which only apply uses: {', '.join(unused)}")
    return [*loaded.steers, *added], chosen
