"""Make vectors on the page with the server's model: from pairs of texts, or from words, for which
the model answers everyday questions.

    POST /page/vectors   {"name": "warm", "pairs": [{"positive": "...", "negative": "..."}]}
    POST /page/vectors   {"name": "warm", "word": "warm", "against": "cold"}
    POST /page/save      {"name": "warm"}

The first streams events: the progress, and then the vector with its diagnostics, as in
`GET /v1/vectors`. Requests can then name it. The second writes it into the server's folder. Both
are only for servers that listen on this machine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from steer.base.errors import InputError, SteerError
from steer.base.files import safe_name
from steer.base.progress import Advance, Picture, Progress
from steer.concepts.make import make
from steer.concepts.settings import QUICK, MakeSettings
from steer.concepts.words import interpret
from steer.contrasts import contrast_files
from steer.contrasts.contrasts import ContrastSource
from steer.contrasts.frame import Frame
from steer.contrasts.records import records_in
from steer.contrasts.schema import Names
from steer.extraction import ReadSettings, extract
from steer.fitting.fitting import FitSettings
from steer.fitting.warnings import warnings
from steer.models.model import Model
from steer.serving.batching import Batcher, Between
from steer.serving.errors import RequestError
from steer.serving.library import Library, describe
from steer.vectors import store
from steer.vectors.vector import SteeringVector
from steer.workers import LocalWorker

VECTORS, SAVE = "/page/vectors", "/page/save"
#: Pairs, and characters in all of them.
MOST_PAIRS, MOST_CHARACTERS = 2_000, 1_000_000
_Name = Annotated[str, Meta(min_length=1, max_length=60)]
_Word = Annotated[str, Meta(min_length=1, max_length=2_000)]
_Text = Annotated[str, Meta(min_length=1, max_length=20_000)]


#: Makes a vector, and returns it with its diagnostics.
Work = Callable[[Progress], tuple[SteeringVector, dict[str, Any]]]


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two texts that differ in the intended effect of the vector."""

    positive: _Text
    negative: _Text


class MakeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /page/vectors: from pairs, or from a word, alone or against another one. chat: put each
    text of a pair into the chat template as a user's message."""

    name: _Name
    pairs: Annotated[tuple[Pair, ...], Meta(min_length=2, max_length=MOST_PAIRS)] | None = None
    word: _Word | None = None
    against: _Word | None = None
    description: Annotated[str, Meta(max_length=500)] = ""
    chat: bool = False


class SaveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /page/save."""

    name: _Name


@dataclass
class Workshop:
    """Makes vectors, and saves them in a folder."""

    model: Model
    batcher: Batcher
    library: Library
    folder: Path

    def make_vector(self, body: dict[str, Any]) -> AsyncIterator[str]:
        """The events of making a vector, each as a piece of a stream.

        Raises:
            RequestError: the request is invalid.
        """
        parsed = _read(body, MakeRequest)
        self._check_name(parsed.name)
        if (parsed.pairs is None) == (parsed.word is None) or (parsed.against and not parsed.word):
            raise RequestError("name pairs, or a word and perhaps another one", param="pairs")
        try:
            work = self._from_pairs(parsed) if parsed.word is None else self._from_words(parsed)
        except SteerError as error:
            param = "pairs" if parsed.word is None else "word"
            raise RequestError(_message(error), param=param) from None
        return self._events(parsed.name, work)

    def _from_pairs(self, parsed: MakeRequest) -> Work:
        """The work of making a vector from pairs.

        Raises:
            SteerError: the pairs are invalid.
            RequestError: they are too long.
        """
        pairs = parsed.pairs or ()
        if sum(len(pair.positive) + len(pair.negative) for pair in pairs) > MOST_CHARACTERS:
            raise RequestError(
                f"the pairs have more than {MOST_CHARACTERS:,} characters: use steer extract",
                param="pairs",
            )
        source = ContrastSource(file="pairs", names=Names(), frame=Frame(None, parsed.chat, None))
        rows = [msgspec.to_builtins(pair) for pair in pairs]
        contrasts = contrast_files.read(source, lambda _: records_in(rows, "pairs"))
        fit = FitSettings(name=parsed.name, description=parsed.description)

        def work(progress: Progress) -> tuple[SteeringVector, dict[str, Any]]:
            workers = LocalWorker(self.model)
            done = extract(workers, contrasts, ReadSettings(), fit, progress=progress)
            return done.best.sealed(), {"warnings": warnings(done.best.metadata)}

        return work

    def _from_words(self, parsed: MakeRequest) -> Work:
        """The work of making a vector from words.

        Raises:
            SteerError: the words name no concept.
        """
        concept = interpret(parsed.word or "", parsed.against, name=parsed.name).concept
        if parsed.description:
            concept = replace(concept, description=parsed.description)

        def work(progress: Progress) -> tuple[SteeringVector, dict[str, Any]]:
            [result] = make(self.model, [concept], MakeSettings(**QUICK), progress)
            report = result.report
            if result.vector is None:
                raise InputError(report.reason, hint=report.hint)
            weak = [] if report.works else [f"it is hardly worth keeping: {report.reason}"]
            notes = [*weak, *warnings(result.vector.metadata)]
            return result.vector.sealed(), {"warnings": notes, "report": report.to_dict()}

        return work

    async def _events(self, name: str, work: Work) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def tell(event: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            future = self.batcher.run(lambda between: work(_progress_events(tell, between)))
        except RequestError as refusal:
            yield _line(refusal.body)
            return
        future.add_done_callback(lambda _: tell(None))
        try:
            while (event := await events.get()) is not None:
                yield _line(event)
            vector, more = future.result()
            self._check_name(name)
            self.library.vectors[name] = vector
            self.library.unsaved.add(name)
            yield _line({"vector": describe(name, vector.metadata) | {"saved": False}} | more)
        except CancelledError:  # the server ends
            yield _line(RequestError("the server is stopped", 503).body)
        except SteerError as error:
            yield _line(RequestError(_message(error)).body)
        except Exception as error:
            yield _line(self.batcher.error(error).body)
        finally:
            future.cancel()
        yield "data: [DONE]\n\n"

    def save(self, body: dict[str, Any]) -> dict[str, Any]:
        """Write a vector that was made here.

        Raises:
            RequestError: there is no unsaved vector of that name, or the file cannot be written.
        """
        name = _read(body, SaveRequest).name
        if name not in self.library.unsaved:
            raise RequestError(f"no vector {name!r} was made here and not saved", param="name")
        path = self.folder / f"{name}{store.SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            store.write(path, self.library.vectors[name])
        except SteerError as error:
            raise RequestError(str(error), param="name") from None
        except OSError as error:
            raise RequestError(f"{self.folder}: {error.strerror}", param="name") from None
        self.library.unsaved.discard(name)
        return {"file": f"{self.folder.name}/{path.name}"}

    def _check_name(self, name: str) -> None:
        if not safe_name(name):
            raise RequestError("a name has letters, digits, - and _", param="name", code="bad_name")
        taken = name in self.library.vectors or name in self.library.recipes
        if (taken and name not in self.library.unsaved) or (
            self.folder / f"{name}{store.SUFFIX}"
        ).exists():
            raise RequestError(
                f"there is a {name!r} already: choose another name", param="name", code="taken"
            )


def _read(body: dict[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise RequestError(str(error), code="bad_request") from None


def _message(error: SteerError) -> str:
    """The text of an error with its hint, for the page."""
    return f"{error} ({error.hint})" if error.hint else str(error)


def _progress_events(tell: Callable[[dict[str, Any]], None], between: Between) -> Progress:
    """Progress that is sent as events. between: called after each step, so that other requests get
    their turn."""

    @contextmanager
    def progress(activity: str, total: int) -> Iterator[Advance]:
        done = 0.0

        def advance(count: float, note: str | None = None, picture: Picture | None = None) -> None:
            nonlocal done
            done += count
            share = done / total if total else 0.0
            event = {"what": activity, "done": int(done), "total": total, "share": share}
            tell({"progress": event})
            between()

        tell({"progress": {"what": activity, "done": 0, "total": total}})
        yield advance

    def opened(activity: str, total: int) -> AbstractContextManager[Advance]:
        return progress(activity, total)

    return opened


def _line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event)}\n\n"
