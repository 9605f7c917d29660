"""The options that name a contrast set, shared by all commands that take one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from steer.base.errors import UsageError
from steer.cli import options, output
from steer.cli.texts import records_of, with_names
from steer.concepts.words import TokenContrast
from steer.contrasts.contrasts import ContrastSource
from steer.contrasts.schema import Names

if TYPE_CHECKING:
    from steer.contrasts.contrasts import Contrasts


def with_contrasts(command: options.Command) -> options.Command:
    """Add the options that name a contrast set; the command gets them as `contrasts`."""
    return options.with_options("contrasts", _source)(command)


def with_contrasts_or_tokens(command: options.Command) -> options.Command:
    """Add these options, and `--raises` and `--lowers`, which name tokens instead."""
    return options.with_options("contrasts", _or_tokens)(command)


@with_names
def _builder(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="CONTRASTS",
            help="A word, a file, - or hf:NAME.",
        ),
    ] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option(help="A condition, instead of a file. Repeatable."),
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help="The opposite condition. Default: nothing.")
    ] = None,
    texts: Annotated[
        str | None, typer.Option(help="A file of texts to put conditions before.")
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
) -> Callable[[], ContrastSource]:
    if file is not None and not file.strip():
        raise UsageError("a word is empty", hint='such as: steer extract "patient" "impatient"')
    from steer.base.text import unescaped
    from steer.contrasts.frame import Frame

    if template is not None:
        template = unescaped(template)
    return partial(
        ContrastSource,
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


@options.with_options("build", _builder)
def _source(build: Callable[[], ContrastSource]) -> ContrastSource:
    return build()


@options.with_options("build", _builder)
def _or_tokens(
    build: Callable[[], ContrastSource],
    raises: Annotated[
        list[str] | None,
        typer.Option(help='A token to make likelier: " orange".'),
    ] = None,
    lowers: Annotated[list[str] | None, typer.Option(help="A token to make less likely.")] = None,
) -> ContrastSource | TokenContrast:
    if not raises and not lowers:
        return build()
    try:
        build()
    except UsageError:
        pass  # no contrast set is named
    else:
        raise UsageError(
            "--raises and --lowers go without contrasts", hint="name tokens alone, or contrasts"
        )
    return TokenContrast(tuple(raises or ()), tuple(lowers or ()))


def read_contrasts(source: ContrastSource) -> Contrasts:
    """Read a contrast set, and note which records were left out.

    Raises:
        SteerError: the contrast set cannot be read.
    """
    from steer.contrasts.contrast_files import read

    contrasts = read(source, lambda name: records_of(name, source.names))
    for text in contrasts.notes:
        output.note(text)
    return contrasts
