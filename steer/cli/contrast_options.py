"""The options that name contrasts, for every command that takes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.contrasts.contrasts import ContrastSource

if TYPE_CHECKING:
    from steer.contrasts.contrasts import Contrasts
    from steer.contrasts.records import Record
    from steer.contrasts.schema import Names

#: The option of every command that reads such files.
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="OURS=THEIRS",
        help="What the file calls positive, negative, prompt, text or label; can be repeated.",
    ),
]


def with_contrasts(command: options.Command) -> options.Command:
    """Give a command the options that name contrasts: `contrasts`."""
    return options.with_options("contrasts", _source)(command)


def _source(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="CONTRASTS",
            help="JSONL, JSON or CSV of contrasts, - for stdin, or hf:OWNER/NAME[:CONFIG][@SPLIT];"
            " see `steer contrasts --help`.",
        ),
    ] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option(help="A prompt condition, instead of CONTRASTS; can be repeated."),
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help="The condition against it. Default: none.")
    ] = None,
    texts: Annotated[
        str | None, typer.Option(help="A file of the texts that each condition stands before.")
    ] = None,
    positive_file: Annotated[
        str | None, typer.Option(help="A file of positive texts alone, a line or a record each.")
    ] = None,
    negative_file: Annotated[str | None, typer.Option(help="And one of negative texts.")] = None,
    paired: Annotated[
        bool, typer.Option("--paired", help="The two files are pairs, line by line.")
    ] = False,
    map: Map = None,
    template: Annotated[
        str | None,
        typer.Option(help="What stands round each text: {text}, {prompt}, {condition}, \\n."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the texts into the model's chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="A system message; with --chat.")] = None,
) -> ContrastSource:
    from steer.contrasts.frame import Frame
    from steer.contrasts.schema import parse_mapping

    if template is not None:
        template = template.replace("\\n", "\n")
    return ContrastSource(
        file=file,
        positive=tuple(positive or ()),
        negative=tuple(negative or ()),
        texts=texts,
        positive_file=positive_file,
        negative_file=negative_file,
        paired=paired,
        names=parse_mapping(map or ()),
        frame=Frame(template, chat, system),
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


def records_of(name: str, names: Names) -> Iterable[Record]:
    """The records of a file, of stdin for `-`, or of a dataset of the hub.

    Raises:
        SteerError: they cannot be read.
    """
    from steer.base.errors import InputError
    from steer.contrasts.hubdata import PREFIX, rows
    from steer.contrasts.records import records

    if name.startswith(PREFIX):
        with output.status(f"loading {name}"):
            return list(rows(name))
    if name.count("/") == 1 and not Path(name).parent.exists():
        raise InputError(f"there is no file {name}", hint=f"on the hub? write hf:{name}")
    return records(*options.read_input(Path(name)), columns=names.known)
