"""The `steer` command: it loads the subcommands and turns errors into messages."""

from __future__ import annotations

import errno
import signal
import sys
from typing import Annotated, Any

import typer

from steer import __version__
from steer.base.errors import SteerError
from steer.base.processes import (
    hear_termination,
    open_streams,
    silence_followers,
    silence_stdout,
)
from steer.base.wording import for_commands
from steer.cli import output
from steer.cli.command import LazyGroup

#: How a shell reports a process that wrote into a closed pipe.
_CLOSED_PIPE = 128 + getattr(signal, "SIGPIPE", 13)


class SteerGroup(LazyGroup):
    """Prints errors that a user can cause in a line or two; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        output.show_log()
        try:
            with for_commands():
                result = super().invoke(ctx)
            sys.stdout.flush()  # here, so that a closed pipe raises inside this block
            return result
        except BrokenPipeError:
            silence_stdout()
            raise typer.Exit(_CLOSED_PIPE) from None
        except SteerError as error:
            with for_commands():
                output.error(str(error), hint=error.hint)
            raise typer.Exit(error.exit_code) from None
        except UnicodeEncodeError as error:
            # A library that takes only UTF-8 got the name of an existing file or folder.
            if error.reason != "surrogates not allowed":
                raise
            output.error(
                f"a name has bytes that are not UTF-8: {error.object!r}", hint="rename it in UTF-8"
            )
            raise typer.Exit(1) from None
        except OSError as error:
            # Other errors of files were converted where they arose; typer handles closed pipes.
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


def _version(is_set: bool) -> None:
    if is_set:
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
    steer demo                                      see it work
    steer apply "One day" -v joyful --compare       on the model inside
    steer extract pairs.jsonl -m MODEL -o vectors/warm.safetensors
    steer apply "How was your day?" --chat -m MODEL -v warm --compare
    """


def main() -> None:
    """Run the command line of this process."""
    open_streams()
    silence_followers()
    hear_termination()
    app()
