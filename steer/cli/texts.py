"""Reading of files that the user names, and the options that say how to read them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from steer.cli import options, output
from steer.contrasts.records import MOST_BYTES
from steer.contrasts.schema import Names

if TYPE_CHECKING:
    from steer.contrasts.records import Record

Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="OURS=THEIRS",
        help="A field's name: positive=chosen. Repeatable.",
    ),
]


def with_names(command: options.Command) -> options.Command:
    """Add the options that say how to read a contrast set; the command gets them as `names`."""
    return options.with_options("names", _names)(command)


def _names(
    map: Map = None,
    positive_label: Annotated[
        list[str] | None,
        typer.Option(
            "--positive-label",
            metavar="VALUE",
            help="A label of the positive side. Default: 1.",
        ),
    ] = None,
    negative_label: Annotated[
        list[str] | None,
        typer.Option(
            "--negative-label",
            metavar="VALUE",
            help="A label of the negative side. Default: 0.",
        ),
    ] = None,
    lists: Annotated[
        str | None,
        typer.Option(
            metavar="all|first|sets",
            help="Pairs of all texts in a list, the first, or sets.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Cut a field into several texts here, such as ';'."),
    ] = None,
) -> Names:
    from steer.base.text import unescaped
    from steer.contrasts.schema import parse_mapping

    return parse_mapping(
        map or (),
        positive_labels=positive_label or (),
        negative_labels=negative_label or (),
        lists=lists,
        split=None if split is None else unescaped(split),
    )


def with_map(*files: str) -> Callable[[options.Command], options.Command]:
    """Add the option `--map` to a command that reads only prompts or texts; the command gets it as
    `names`. files: which of its files `--map` may name."""

    def names(map: Map = None) -> Names:
        from steer.contrasts.schema import parse_mapping

        mapping = parse_mapping(map or ())
        mapping.check_files(*files)
        return mapping

    return options.with_options("names", names)


def records_of(name: str, names: Names) -> Iterable[Record]:
    """The records of a file, of stdin for `-`, or of a dataset on the hub.

    Raises:
        SteerError: the records cannot be read.
    """
    from steer.base.errors import InputError
    from steer.contrasts.hubdata import PREFIX, rows
    from steer.contrasts.records import records

    if name.startswith(PREFIX):
        with output.status(f"loading {name}"):
            return list(rows(name))
    if name.count("/") == 1 and not Path(name).parent.exists():
        raise InputError(f"there is no file {name}", hint=f"on the hub? write hf:{name}")
    return records(*read_input(Path(name)), columns=names.known)


def read_prompts(
    name: str | Path, names: Names, *, field: Literal["prompt", "text"] = "prompt"
) -> list[str]:
    """The prompts or texts of a file, with a note about records that were left out.

    names: as typed, including names for this file only.

    Raises:
        SteerError: the file cannot be read.
    """
    from steer.contrasts import prompts

    names = names.of(f"{field}s")
    texts, notes = prompts.read(records_of(str(name), names), names, field=field)
    for text in notes:
        output.note(text)
    return texts


def given_texts(
    argument: str | None,
    path: Path | None,
    names: Names,
    field: Literal["prompt", "text"],
    example: str,
) -> list[str]:
    """The prompts or texts from the argument, the file, or stdin. example: a command for the hint.

    Raises:
        UsageError: both an argument and a file are named, or neither.
        InputError: the file holds no prompts or texts.
    """
    from steer.base.errors import UsageError
    from steer.contrasts import prompts

    if path is not None:
        if argument is not None:
            raise UsageError(f"name a {field} or --{field}s, not both")
        return read_prompts(path, names, field=field)
    if argument is None and sys.stdin.isatty():
        raise UsageError(f"no {field}", hint=f"write {example}, or pipe one in")
    if argument is None or argument == "-":
        return [prompts.read_one(read_input(Path("-"))[0])]
    return [argument]


def read_input(path: Path) -> tuple[bytes, str]:
    """The bytes of a file, or of stdin for `-`, and its name for messages.

    Raises:
        SteerError: the file cannot be read, or has more than `MOST_BYTES` bytes.
    """
    from steer.base.files import read_typed

    return read_typed(path, limit=MOST_BYTES), "stdin" if str(path) == "-" else str(path)
