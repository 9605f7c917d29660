"""`steer demo`."""

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("demo")(demo)


def demo() -> None:
    """See it work."""
