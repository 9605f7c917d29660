"""`steer ui`: the page of `steer serve`, opened in a browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options
from steer.cli.serve import report, run
from steer.models.source import ModelSource


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("ui")(ui)


@options.with_model(default="pocket", chat=True)
def ui(
    *,
    vector: Annotated[
        list[str] | None,
        typer.Option("-v", "--vector", help="A steer that is on at first, as in apply."),
    ] = None,
    vectors: Annotated[
        Path, typer.Option(help="A folder: the vectors and recipes on the page.")
    ] = Path("vectors"),
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Default: 8000, or one that is free."),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, and open no browser.")
    ] = False,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Use vectors on a finetune of their model.")
    ] = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Open a page on which you steer by hand.

    Chat with the model, unsteered and steered side by side; move a slider for each vector; see the
    projection of each token and its alternatives; make vectors from pairs of texts. It is the page
    of `steer serve` (pip install 'steer-activations[serve]'), reachable only from this machine.

    \b
    steer ui
    steer ui -m MODEL --vectors vectors -v warm:2
    """
    from steer.serving.serve import ServedContent, ServerInfo, ServerSettings
    from steer.steering.named import NamedSteer

    def on_up(served: ServerInfo) -> None:
        report(served, json=json)
        if not no_browser:
            _open(served.page)

    defaults = [NamedSteer(text) for text in vector or []]
    content = ServedContent(vectors, defaults=defaults, may_be_empty=True)
    ports = [8000, 0] if port is None else [port]
    run(content, source, ServerSettings(ports=ports, allow_other_model=allow_other_model), on_up)


def _open(url: str) -> None:
    """Open a page in the user's browser, if this machine has a screen."""
    import sys
    import threading
    import webbrowser

    has_screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if has_screen:  # in a thread of its own: some browsers return only when they are closed
        threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
