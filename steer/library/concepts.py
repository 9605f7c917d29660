"""Concepts from Python: vectors from words, packs, and concepts near texts and vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from steer.base.progress import Progress, silent
from steer.base.wording import worded
from steer.concepts import answers, discovery
from steer.concepts import build as building
from steer.concepts import geometry as geometries
from steer.concepts import index as indexes
from steer.concepts import pack as packs
from steer.concepts.answers import Query
from steer.concepts.concept import Concept, check_phrase
from steer.concepts.discovery import Direction
from steer.concepts.geometry import Geometry, Neighbour
from steer.concepts.index import BuiltPack, IndexRow
from steer.concepts.make import Report, make_one
from steer.concepts.pack import Pack
from steer.concepts.profile import N_BASELINE, ConversationProfile, Profile, Profiler
from steer.concepts.questions import Questions
from steer.concepts.settings import QUICK, make_settings
from steer.concepts.words import interpret
from steer.concepts.writing import write_contrast_set
from steer.contrasts import prompts
from steer.contrasts.records import is_conversation
from steer.library.data import Data, names_of, records_of, text_list
from steer.library.models import FitWarning, Model
from steer.library.vectors import Vector, as_vector
from steer.methods.method import Value
from steer.vectors.parts import parse_parts

__all__ = [
    "BuiltPack",
    "Concept",
    "Geometry",
    "Neighbour",
    "Pack",
    "Profile",
    "Report",
    "build_pack",
    "describe",
    "discover",
    "from_words",
    "geometry",
    "profile",
    "read_pack",
    "write_contrasts",
]


def from_words(
    model: Model,
    word: str,
    against: str | None = None,
    *,
    name: str | None = None,
    description: str = "",
    method: str = "mean_diff",
    options: Mapping[str, Value] | None = None,
    site: str = "resid_post",
    parts: str | int | None = None,
    layers: Sequence[int] | None = None,
    chat: bool | None = None,
    phrase: str | None = None,
    questions: Data | None = None,
    license: str = "",
    allow_weak: bool = False,
    progress: Progress = silent,
) -> tuple[Vector, Report]:
    """A vector from two words, or from one word or sentence against the unchanged model, and its
    report.

    Raises:
        InputError: a word is empty, both are equal, the model ignores them, or the vector has no
            useful effect (see allow_weak).
    """
    check_phrase(phrase)
    concept = interpret(word, against, name=name).concept
    settings = make_settings(
        method,
        options,
        site=site,
        parts=None if parts is None else parse_parts(str(parts)),
        layers=layers,
        chat=chat,
        phrase=phrase,
        questions=None if questions is None else text_list(questions),
        license=license,
    )
    concept = replace(concept, description=description or concept.description)
    vector, report = make_one(
        model.inner, concept, settings, allow_weak=allow_weak, progress=progress
    )
    return Vector(vector.sealed()), report


def write_contrasts(
    model: Model,
    word: str,
    against: str | None = None,
    *,
    n: int = 64,
    max_tokens: int = 40,
    phrase: str | None = None,
    questions: Data | None = None,
    chat: bool | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Have the model write a contrast set: `n` pairs of answers under two words, or fewer if not
    enough are usable. Review them before you pass them to `extract`.

    chat: in the chat template, by default if there is one. max_tokens: of an answer.

    Raises:
        InputError: a word is empty, both are equal, or no pair is usable.
    """
    check_phrase(phrase)

    def answerer(queries: Sequence[Query], numbers: Sequence[int]) -> list[str]:
        written = answers.write(
            model.inner,
            queries,
            samples=numbers,
            max_tokens=max_tokens,
            seed=seed,
            progress=progress,
        )
        return [answer.text for answer in written]

    pairs = write_contrast_set(
        answerer,
        interpret(word, against).concept,
        n,
        chat=model.inner.template.exists if chat is None else chat,
        phrase=phrase,
        questions=None if questions is None else Questions.split(text_list(questions)),
    )
    return [pair.record() for pair in pairs]


def read_pack(reference: str | PathLike[str]) -> Pack:
    """Read a pack of concepts: a TOML file, or the name of one of steer's own ("emotions").

    Raises:
        InputError: it is not a pack; the message has file and line.
    """
    return packs.read(str(reference))


def build_pack(
    model: Model,
    pack: str | PathLike[str] | Pack | Iterable[Concept],
    folder: str | PathLike[str],
    *,
    only: Sequence[str] = (),
    method: str = "mean_diff",
    site: str = "resid_post",
    thorough: bool = False,
    chat: bool | None = None,
    phrase: str | None = None,
    questions: Data | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    force: bool = False,
    on_made: Callable[[IndexRow, bool], None] = lambda row, is_new: None,
    progress: Progress = silent,
) -> BuiltPack:
    """Make the vectors of all concepts of a pack; the same call resumes an interrupted build.

    The folder gets a file for each concept that works, and an index. only: names of the concepts to
    make, by default all. questions: to answer, instead of steer's own. thorough: use as many
    answers as `extract`. on_made: called with each concept, and whether it was made in this call.

    Raises:
        InputError: it is not a pack.
        SteerError: the folder cannot be written.
    """
    check_phrase(phrase)
    if isinstance(pack, (str, PathLike)):
        loaded = packs.read(str(pack))
    elif isinstance(pack, Pack):
        loaded = pack
    else:
        loaded = packs.pack_of(list(pack))
    if only:
        loaded = loaded.only(only)
    settings = make_settings(
        method,
        site=site,
        questions=None if questions is None else text_list(questions),
        layers=layers,
        chat=chat,
        phrase=phrase,
        seed=seed,
        license=loaded.license,
        **({} if thorough else QUICK),
    )
    return building.build(
        model.inner, loaded, Path(folder), settings, force=force, progress=progress, on_made=on_made
    )


def profile(
    model: Model,
    texts: Data,
    pack: str | PathLike[str],
    *,
    chat: bool | None = None,
    baseline: int = N_BASELINE,
    allow_other_model: bool = False,
    mapping: Mapping[str, str] | None = None,
    on_profile: Callable[[Profile], None] = lambda profile: None,
    progress: Progress = silent,
) -> list[Profile | ConversationProfile]:
    """Profiles of texts and conversations over all concepts of a built pack: by how many nats per
    token each concept makes a text likelier than its opposite, beside the model's own texts.

    texts: a text, or records of any kind; one that is a list of messages (or has one as `messages`)
    is a conversation, of which each answer is read after the messages before it. pack: the folder
    that `build_pack` wrote. baseline: the number of the model's own texts, which are kept in the
    cache folder; the finest false-positive rate is one in `baseline` + 1. on_profile: called with
    the profile of each text and answer as soon as it is read, so `texts` can be an endless
    generator.

    Raises:
        InputError: there is no index, or a text has no tokens, or too many; or a conversation has
            no answer.
        ModelError: the pack was built on another model; or there is a conversation, and the model
            has no chat template.
    """
    profiler = Profiler(
        model.inner,
        indexes.read(Path(pack)),
        chat=chat,
        n_baseline=baseline,
        allow_other_model=allow_other_model,
        warn=lambda text: warnings.warn(worded(text), FitWarning, stacklevel=5),
        progress=progress,
    )
    names = names_of(mapping=mapping)
    rows = [texts] if isinstance(texts, str) or is_conversation(texts) else texts
    profiles: list[Profile | ConversationProfile] = []
    for where, content in prompts.read_contents(records_of(rows, names), names):
        if isinstance(content, str):
            read = profiler.read(content, where)
            profiles.append(read)
            on_profile(read)
            continue
        turns = []
        for turn in profiler.read_turns(content, where):
            turns.append(turn)
            on_profile(turn)
        profiles.append(ConversationProfile(tuple(turns)))
    return profiles


def describe(
    vector: str | PathLike[str] | Vector,
    pack: str | PathLike[str] | Sequence[Vector],
    n: int = 5,
) -> list[Neighbour]:
    """Name a vector by the concepts of a built pack with the largest cosines, of either sign.

    Raises:
        VectorError: no concept can be compared with it.
    """
    return geometries.nearest(as_vector(vector).data, _vectors(pack), n)[0]


def discover(
    model: Model,
    texts: Data,
    k: int = 10,
    *,
    layer: int | None = None,
    chat: bool | None = None,
    samples: bool = True,
    mapping: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Direction]:
    """The directions along which the model's activations on texts vary most, without labels.

    Each has the texts and tokens at both ends and, with `samples`, texts that were steered with it.
    `Vector(direction.vector)` makes it usable for steering.

    Raises:
        InputError: there are too few texts, or a text has no tokens.
    """
    return discovery.discover(
        model.inner,
        text_list(texts, mapping=mapping),
        k,
        layer=layer,
        chat=chat,
        samples=samples,
        seed=seed,
        progress=progress,
    )


def geometry(pack: str | PathLike[str] | Sequence[Vector], layer: int | None = None) -> Geometry:
    """Cosines of the concepts of a built pack, and their tree.

    Raises:
        VectorError: there are fewer than two, or they cannot be compared.
    """
    return geometries.geometry(_vectors(pack), layer)


def _vectors(pack: str | PathLike[str] | Sequence[Vector]) -> list[Any]:
    if isinstance(pack, (str, PathLike)):
        return indexes.read(Path(pack)).vectors()
    return [as_vector(vector).data for vector in pack]
