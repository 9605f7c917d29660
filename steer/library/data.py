"""Read contrast sets, prompts and texts from lists, files, datasets and data frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from steer.base.errors import InputError, UsageError
from steer.base.files import read_typed
from steer.contrasts import contrast_files, hubdata, prompts
from steer.contrasts.contrasts import Contrasts, ContrastSource
from steer.contrasts.frame import Frame
from steer.contrasts.records import MOST_BYTES, Record, records, records_in
from steer.contrasts.schema import Names, parse_mapping


class Rows(Protocol):
    """The interface of a pandas DataFrame."""

    def to_dict(self, orient: str) -> Any: ...


#: A file (JSONL, JSON, CSV, Parquet, ...), `hf:owner/name` of the hub, or rows: dicts,
#: (positive, negative) pairs, texts, a `datasets.Dataset`, a pandas DataFrame.
Data: TypeAlias = "str | PathLike[str] | Mapping[str, Any] | Iterable[Any] | Rows"


def contrast_set(
    data: Data | None = None,
    *,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    texts: Data | None = None,
    held_out: float = 0.0,
    mapping: Mapping[str, str] | None = None,
    positive_label: str | Sequence[str] = (),
    negative_label: str | Sequence[str] = (),
    lists: str | None = None,
    split: str | None = None,
    template: str | None = None,
    chat: bool = False,
    system: str | None = None,
) -> Contrasts:
    """A contrast set from data, or from conditions and the texts after them.

    data: pairs, labelled texts or two sets, as `docs/vectors.md` lists them. positive, negative:
    conditions instead, each put before all `texts`. held_out: the share of records to leave out, as
    in `split`. mapping: from our field names to the data's, such as {"positive": "chosen"}.
    positive_label, negative_label: labels of the two sides, by default 1 and 0. lists: how to pair
    lists of texts in a record: `all` pairs, the `first`, or unpaired `sets`. split: the separator
    of several texts in a field. template, chat, system: the text around each text.

    Raises:
        UsageError: both data and conditions are given, or neither.
        InputError: a record is invalid; the message names it.
    """
    names = names_of(
        mapping=mapping,
        positive_label=positive_label,
        negative_label=negative_label,
        lists=lists,
        split=split,
    )
    frame = Frame(template, chat, system)
    if (data is None) == (texts is None):
        raise UsageError("name contrasts in one way", hint="pass data, or positive= and texts=")
    if data is not None:
        if positive is not None or negative is not None:
            raise UsageError("conditions go with texts=", hint="leave positive and negative out")
        source = ContrastSource(file="contrasts", held_out=held_out, names=names, frame=frame)
        return contrast_files.read(source, lambda _: records_of(data, names))
    source = ContrastSource(
        texts="texts",
        positive=as_tuple(positive),
        negative=as_tuple(negative),
        names=names,
        frame=frame,
    )
    assert texts is not None
    return contrast_files.read(source, lambda _: records_of(texts, names))


def text_list(data: Data, *, mapping: Mapping[str, str] | None = None) -> list[str]:
    """Prompts or texts, from data of any kind.

    Raises:
        InputError: a record is invalid; the message names it.
    """
    if isinstance(data, str) and not data.startswith(hubdata.PREFIX) and not Path(data).exists():
        raise UsageError(
            f"there is no file {data!r}", hint="pass texts as a list, even a single one: [text]"
        )
    names = names_of(mapping=mapping)
    texts, _ = prompts.read(records_of(data, names), names, field="prompt")
    return texts


def records_of(data: Data, names: Names) -> Iterable[Record]:
    """The records of a file, of a dataset of the hub, or of rows in memory.

    Raises:
        InputError: the data cannot be read, or have no rows.
        SteerError: the file does not exist.
    """
    if isinstance(data, (str, PathLike)):
        path = str(data)
        if path.startswith(hubdata.PREFIX):
            return list(hubdata.rows(path))
        return records(read_typed(Path(path), limit=MOST_BYTES), path, columns=names.known)
    return records_in(rows(data), "data")


def rows(data: Any) -> Iterable[Any]:
    """The rows of data in memory: dicts, texts or messages; a pair of two texts becomes a dict.

    Raises:
        InputError: it holds none.
    """
    return map(_row, _items(data))


def _items(data: Any) -> Iterable[Any]:
    if isinstance(data, Mapping):
        return [dict(data)]
    if hasattr(data, "iterrows"):  # a pandas DataFrame, which iterates over its columns
        return list(data.to_dict("records"))
    if isinstance(data, Iterable):
        return data
    raise InputError(
        f"{type(data).__name__} holds no records",
        hint="pass a list of pairs or dicts, a file, a datasets.Dataset or a pandas DataFrame",
    )


def _row(item: Any) -> Any:
    if isinstance(item, tuple) and len(item) == 2:
        return {"positive": item[0], "negative": item[1]}
    return dict(item) if isinstance(item, Mapping) else item


def as_tuple(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """One text or several as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def names_of(
    *,
    mapping: Mapping[str, str] | None = None,
    positive_label: str | Sequence[str] = (),
    negative_label: str | Sequence[str] = (),
    lists: str | None = None,
    split: str | None = None,
) -> Names:
    """The names of fields and labels in data, from the options of `contrast_set`.

    Raises:
        UsageError: a field does not exist, or options exclude each other.
    """
    return parse_mapping(
        [f"{ours}={theirs}" for ours, theirs in (mapping or {}).items()],
        positive_labels=as_tuple(positive_label),
        negative_labels=as_tuple(negative_label),
        lists=lists,
        split=split,
    )
