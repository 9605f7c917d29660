"""`steer fit`: fit a vector to activations that `steer extract --keep` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options, tables
from steer.cli.methods import FitCommand


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("fit", cls=FitCommand)(fit)


def fit(
    activations: Annotated[Path, typer.Argument(help="The file of `steer extract --keep`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    method: options.MethodOption = "mean_diff",
    positions: Annotated[
        str | None, typer.Option(help="Positions that were kept. Default: all, compared.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Sites that were kept. Default: all, compared.")
    ] = None,
    parts: options.PartsOption = None,
    layers: Annotated[str | None, typer.Option(help="Such as 3, 2,5 or 4-7. Default: all.")] = None,
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    license: Annotated[str, typer.Option(help="Such as CC0-1.0.")] = "",
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Fit another vector to kept activations, without the model.

    \b
    steer fit acts.safetensors --method lda -o lda.safetensors
    steer fit acts.safetensors --positions last --site attn_out \\
        -o last.safetensors
    steer extract pairs.jsonl --positions mean,last --site resid_post,attn_out \\
        --keep acts.safetensors
    """
    from steer.base.files import check_apart, check_writable
    from steer.fitting.activations import open_kept
    from steer.fitting.fitting import FitSettings
    from steer.vectors import store
    from steer.vectors.positions import parse_list
    from steer.vectors.sites import parse_layers

    store.check_path(out)
    check_apart(activations, out)
    check_writable(out, force=force)
    sites = None if site is None else options.site_names(site)
    settings = FitSettings(
        name=name or out.stem,
        **options.fit_method(method),
        sites=sites,
        keep=options.parts_to_keep(parts, sites),
        layers=None if layers is None else parse_layers(layers),
        positions=None if positions is None else tuple(map(str, parse_list(positions))),
        description=description,
        license=license,
    )
    with open_kept(activations) as recorded:
        vectors = options.fitted(recorded, settings)
    vectors[0] = store.write(out, vectors[0], force=force)
    tables.report_vector(out, vectors, described=recorded.recording.model.id, json=json)
