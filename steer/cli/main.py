"""The `steer` command: its subcommands, and the one place where errors become text."""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from steer import __version__
from steer.base.errors import SteerError
from steer.base.processes import open_streams, silence_followers, silence_stdout
from steer.base.wording import for_commands
from steer.cli import (
    apply,
    bake,
    chat,
    combine,
    compare,
    contrasts,
    convert,
    demo,
    distill,
    doctor,
    evaluate,
    extract,
    fit,
    list_vectors,
    monitor,
    output,
    probe,
    pull,
    push,
    recipe,
    serve,
    show,
    sign,
    suite,
    sweep,
    verify,
)
from steer.cli.command import SteerCommand

#: The commands as `steer --help` groups them.
SECTIONS = {
    "Begin here": ["demo", "doctor"],
    "Make vectors": ["contrasts", "extract", "fit", "distill", "combine", "convert"],
    "Steer": ["apply", "chat", "recipe", "serve", "probe", "bake"],
    "Read and measure": ["monitor", "sweep", "eval", "suite", "show", "compare"],
    "Share": ["list", "push", "pull", "verify", "sign"],
}


class SteerGroup(TyperGroup):
    """Reports what a user can cause in a line or two; a bug keeps its traceback."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands, section by section."""
        width = max(map(len, self.commands)) + 2
        for title, names in SECTIONS.items():
            rows = [
                (name.ljust(width - 2), self.commands[name].get_short_help_str(78 - width - 4))
                for name in names
            ]
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        output.show_log()
        try:
            with for_commands():
                return super().invoke(ctx)
        except SteerError as error:
            with for_commands():
                output.error(str(error), hint=error.hint)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            # Of files the rooms tell themselves; a closed pipe is the app's.
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            output.error(f"stdout: {error.strerror}")
            silence_stdout()
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            output.note("interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=SteerGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"steer {__version__}")
        raise typer.Exit


@app.callback()
def steer(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Activation steering of language models.

    \b
    steer demo                                            see it work
    steer extract pairs.jsonl -m MODEL -o joyful.safetensors
    steer apply "One day" -m MODEL -v joyful:1.5 --compare
    """


for command in (
    extract,
    contrasts,
    fit,
    distill,
    apply,
    chat,
    monitor,
    evaluate,
    sweep,
    suite,
    show,
    compare,
    combine,
    convert,
    recipe,
    bake,
    serve,
    probe,
    list_vectors,
    push,
    pull,
    verify,
    sign,
    doctor,
    demo,
):
    command.register(app)
for registered in [app, *(group.typer_instance for group in app.registered_groups)]:
    assert registered is not None
    for info in registered.registered_commands:
        if info.cls is None or not issubclass(info.cls, SteerCommand):
            info.cls = SteerCommand


def main() -> None:
    """Run the command line of this process."""
    open_streams()
    silence_followers()
    app()
