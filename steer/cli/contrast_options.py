"""The options that name contrasts, for every command that takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.cli.texts import records_of, with_names
from steer.contrasts.contrasts import ContrastSource
from steer.contrasts.schema import Names

if TYPE_CHECKING:
    from steer.contrasts.contrasts import Contrasts


def with_contrasts(command: options.Command) -> options.Command:
    """Give a command the options that name contrasts: `contrasts`."""
    return options.with_options("contrasts", _source)(command)


@with_names
def _source(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="CONTRASTS",
            help="A file, - or hf:NAME; see steer contrasts --help.",
        ),
    ] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option(help="A condition, in place of a file. Repeatable."),
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help="The condition against it. Default: nothing.")
    ] = None,
    texts: Annotated[
        str | None, typer.Option(help="A file of texts that conditions stand before.")
    ] = None,
    positive_file: Annotated[str | None, typer.Option(help="A file of positive texts.")] = None,
    negative_file: Annotated[str | None, typer.Option(help="A file of negative texts.")] = None,
    paired: Annotated[
        bool, typer.Option("--paired", help="The two files are pairs, line by line.")
    ] = False,
    held_out: Annotated[
        float, typer.Option(help="Leave this share out, for sweep and eval.")
    ] = 0.0,
    *,
    names: Names,
    template: Annotated[
        str | None,
        typer.Option(help="The frame: {text}, {prompt}, {condition}, \\n."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put texts into the model's chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="A system message; with --chat.")] = None,
) -> ContrastSource:
    from steer.base.text import unescaped
    from steer.contrasts.frame import Frame

    if template is not None:
        template = unescaped(template)
    return ContrastSource(
        file=file,
        positive=tuple(positive or ()),
        negative=tuple(negative or ()),
        texts=texts,
        positive_file=positive_file,
        negative_file=negative_file,
        paired=paired,
        names=names,
        frame=Frame(template, chat, system),
        held_out=held_out,
    )


def read_contrasts(source: ContrastSource) -> Contrasts:
    """The contrasts, with a note of what was left out.

    Raises:
        SteerError: they cannot be read.
    """
    from steer.contrasts.contrast_files import read

    contrasts = read(source, lambda name: records_of(name, source.names))
    for text in contrasts.notes:
        output.note(text)
    return contrasts
