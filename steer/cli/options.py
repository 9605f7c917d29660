"""Options that several commands share, and the values that they stand for."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from steer.base.errors import UsageError
from steer.base.hub import is_offline_mode
from steer.base.processes import hearing_interrupts
from steer.cli import output
from steer.models.source import POCKET, ModelSource
from steer.vectors.rendering import parse_settings, settings_for

if TYPE_CHECKING:
    from steer.fitting.activations import Activations
    from steer.fitting.fitting import FitSettings
    from steer.models.model import Model
    from steer.steering.projection import Guard, Projection
    from steer.steering.readouts import Readout
    from steer.steering.steers import Steer
    from steer.vectors.parts import Part
    from steer.vectors.provenance import ModelIdentity
    from steer.vectors.sites import SiteName
    from steer.vectors.vector import SteeringVector

Command = TypeVar("Command", bound=Callable[..., Any])

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
PartsOption = Annotated[
    str | None,
    typer.Option(
        "--parts",
        help="Heads or experts to keep: how many, or which, such as 12.3,14.0. Default: 1 of 20.",
    ),
]
AllowIdle = Annotated[
    bool,
    typer.Option("--allow-idle", help="Allow a steer that changes nothing."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]


MethodOption = Annotated[
    str,
    typer.Option(metavar="METHOD", help="Such as probe:penalty=2: see below."),
]

#: An id on the hub, without an adapter or a file name after it.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)

_MODEL_HELP = "pocket, a folder, hub id or .gguf."


def with_model(
    *, default: str | None, fast: bool = False, chat: bool = False
) -> Callable[[Command], Command]:
    """Add the options that name a model and say how to load it; the command gets them as `source`.

    default: the model if none is named; None for a command that does not need one. fast: as in
    `ModelSource`. chat: also add the options of the chat template.
    """

    def source(
        model: Annotated[
            str | None, typer.Option("-m", "--model", envvar="STEER_MODEL", help=_MODEL_HELP)
        ] = None,
        revision: Annotated[
            str | None, typer.Option(help="Branch, tag or commit of a hub model.")
        ] = None,
        device: Annotated[
            str | None,
            typer.Option(envvar="STEER_DEVICE", help="cpu, cuda, cuda:1, mps."),
        ] = None,
        dtype: Annotated[
            str | None,
            typer.Option(help="float32 (default on a CPU), bfloat16, float16."),
        ] = None,
        device_map: Annotated[
            str | None, typer.Option(help="Spread a big model over devices: auto, ...")
        ] = None,
        tensor_parallel: Annotated[
            bool, typer.Option("--tp", help="Spread each matrix over processes, by torchrun.")
        ] = False,
        trust_remote_code: Annotated[
            bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
        ] = False,
        adapter: Annotated[
            str | None, typer.Option(help="A PEFT adapter: a folder or a hub id.")
        ] = None,
    ) -> ModelSource | None:
        name = default if model is None else model
        if name is None:
            if adapter is not None:
                raise UsageError("--adapter needs a model", hint="name its base model with -m")
            return None
        return ModelSource(
            name,
            revision,
            device,
            dtype,
            device_map,
            tensor_parallel=tensor_parallel,
            trust_remote_code=trust_remote_code,
            adapter=adapter,
            offline=is_offline_mode(),
            fast=fast,
            assumed=model is None,
        )

    def template_settings(
        source: ModelSource | None,
        template_arg: Annotated[
            list[str] | None,
            typer.Option(
                "--template-arg",
                metavar="NAME=JSON",
                help="A variable of the chat template. Repeatable.",
            ),
        ] = None,
        date: Annotated[
            str | None,
            typer.Option(
                metavar="YYYY-MM-DD",
                help="The chat template's date. Default: the vectors'.",
            ),
        ] = None,
    ) -> ModelSource | None:
        settings = parse_settings(template_arg or (), date)
        return None if source is None else replace(source, template=settings)

    if chat:
        return with_options("source", with_options("source", source)(template_settings))
    return with_options("source", source)


def for_vectors(
    vectors: Iterable[SteeringVector], source: ModelSource, *, chat: bool = True
) -> ModelSource:
    """The model on which to use vectors, with the chat-template settings that they need.

    If no model was named, it is the model that the vectors were made on. With `chat`, the template
    settings are those that the vectors were read with, unless the user typed others, which causes
    a warning.

    Raises:
        UsageError: no model was named, and the vectors' own model cannot be found.
        ModelError: the configuration of the model shows that a vector does not fit it.
    """
    vectors = list(vectors)
    source = _checked(vectors, _inferred(vectors, source))
    if not chat:
        return source
    reads = [(vector.name, vector.metadata.read) for vector in vectors]
    settings, notes, warnings = settings_for(source.template, reads)
    for text in notes:
        output.note(text)
    for text in warnings:
        output.warning(text)
    return replace(source, template=settings)


def _inferred(vectors: Sequence[SteeringVector], source: ModelSource) -> ModelSource:
    """The model that all vectors were made on, if the user named none."""
    from steer.models import known

    made_on = {vector.metadata.model for vector in vectors if vector.metadata.model.bound}
    if not source.assumed or len({model.fingerprint for model in made_on}) != 1:
        return source
    model = next(iter(made_on))
    if model.id == POCKET:
        return source
    path = known.find(model.fingerprint)
    if path is None and not _HUB_ID.fullmatch(model.id):
        raise UsageError(
            f"vector {vectors[0].name!r} was made on {model.id}, a local model that was never"
            " loaded on this machine, or has been removed",
            hint=f"name the folder of {model.id}: -m FOLDER",
        )
    name = model.id if path is None else str(path)
    output.note(f"the vector's own model: -m {name}")
    revision = model.revision if path is None else None
    return replace(source, name=name, revision=source.revision or revision, assumed=False)


def _checked(vectors: Sequence[SteeringVector], source: ModelSource) -> ModelSource:
    from steer.base.errors import ModelError
    from steer.models import known

    for vector in vectors:
        made_on = vector.metadata.model
        if made_on.bound and source.folder is not None:
            mismatch = known.contradicts(source.folder, made_on)
            if mismatch:
                raise ModelError(
                    f"vector {vector.name!r} was made on {made_on.id} ({made_on.architecture}):"
                    f" {mismatch} ({source.name})",
                    hint=f"name {made_on.id} with -m, or make the vector again on this model",
                )
    return source


def with_options(parameter: str, make: Callable[..., Any]) -> Callable[[Command], Command]:
    """Replace a parameter of a command by options: the parameters of `make`, whose result the
    command gets as `parameter`."""
    added = inspect.signature(make, eval_str=True).parameters

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**values: Any) -> Any:
            value = make(**{name: values.pop(name) for name in added})
            return command(**{parameter: value}, **values)

        own = inspect.signature(command, eval_str=True).parameters
        parameters = [
            option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, unchanged in own.items()
            for option in (added.values() if name == parameter else [unchanged])
        ]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {option.name: option.annotation for option in parameters}
        del wrapper.__wrapped__  # otherwise typer inspects the undecorated command
        return cast(Command, wrapper)

    return decorate


def load_model(source: ModelSource) -> Model:
    """Load a model, and show that it is loading.

    Raises:
        ModelError: the model cannot be loaded.
    """
    # These libraries take seconds to import, and some swallow a KeyboardInterrupt meanwhile.
    with output.status(f"loading {source.name}"), hearing_interrupts():
        from steer.models.loading import load

        model = load(source)
    for text in model.notes:
        output.note(text)
    return model


def load_identity(source: ModelSource) -> Model:
    """Load a model for its identity and tokenizer only, without a copy of its weights in memory.

    Raises:
        ModelError: the model cannot be loaded.
    """
    from steer.models.loading import mapped

    return load_model(mapped(source))


def check_fit(
    vectors: Iterable[SteeringVector], model: ModelIdentity, *, allow_other_model: bool
) -> None:
    """Refuse vectors of another model. If vectors of a finetune's base model are allowed, warn.

    Raises:
        ModelError, SiteError: as `steer.steering.steers.check_fits`.
    """
    from steer.steering.steers import check_all_fit

    for text in check_all_fit(vectors, model, allow_other_model=allow_other_model):
        output.warning(text)


def check_readers(
    *,
    chat: bool,
    steers: Sequence[Steer] = (),
    watched: Sequence[Projection | Readout] = (),
    guards: Sequence[Guard] = (),
) -> None:
    """Check that vectors were read from the kind of text, chat or plain, that they are used on.

    Guards of the other kind are refused; gates and watched vectors of the other kind cause a
    warning.

    Raises:
        UsageError: as `steer.steering.readers.check_readers`.
    """
    from steer.steering import readers

    for text in readers.check_readers(chat=chat, steers=steers, watched=watched, guards=guards):
        output.warning(f"{text}: {readers.hint(chat=chat)}")


def check_marks(texts: Iterable[str], steers: Sequence[Steer]) -> None:
    """Refuse texts that contain the mark `<|NAME|>` of a learned token that no steer names: the
    model would read its letters.

    Raises:
        UsageError: a text contains such a mark; the message names the token.
    """
    from steer.base.errors import SteerError, UsageError
    from steer.steering.tokens import mark, marked_names
    from steer.vectors import store

    named = {steer.vector.name for steer in steers if steer.is_token}
    for name in dict.fromkeys(name for text in texts for name in marked_names(text)):
        if name in named:
            continue
        try:
            is_token = store.read_header(store.find(name)).metadata.tokens > 0
        except SteerError:  # it may be a special token of the model
            continue
        if is_token:
            raise UsageError(
                f"a prompt has {mark(name)}, and the learned token {name!r} is not named",
                hint=f"add -v {name}",
            )


def find(reference: str) -> Path:
    """The file of a name, a path or an address. Addresses are fetched, with a note.

    Raises:
        SteerError: there is no such file, or it cannot be fetched.
    """
    from steer.sharing import fetch

    with output.status(f"looking for {reference}"):
        return fetch.find(reference, output.note)


def fit_method(text: str) -> dict[str, Any]:
    """Parse `NAME` or `NAME:OPTION=VALUE,...` into the arguments `method` and `options` of
    `FitSettings`.

    Raises:
        UsageError: the method or option does not exist.
    """
    from steer.methods.registry import fit_methods, parse_method

    method, values = parse_method(text, fit_methods())
    return {"method": method.name, "options": values}


def parts_to_keep(
    text: str | None, sites: Sequence[SiteName] | None
) -> int | tuple[Part, ...] | None:
    """How many heads or experts to keep, or which. sites: None if they are not known yet.

    Raises:
        UsageError: the text is neither, or no site has parts.
    """
    from steer.base.errors import UsageError
    from steer.vectors.parts import parse_parts
    from steer.vectors.sites import SITE_KINDS

    if text is None:
        return None
    if sites is not None and not any(SITE_KINDS[name].part for name in sites):
        raise UsageError(
            "--parts is for attention heads and experts",
            hint="add --site heads or --site router",
        )
    return parse_parts(text)


def site_names(text: str) -> tuple[SiteName, ...]:
    """Parse site names separated by commas.

    Raises:
        UsageError: a name is not that of a site, or occurs twice.
    """
    from steer.vectors.sites import site_name

    names = tuple(site_name(part.strip()) for part in text.split(","))
    if len(set(names)) < len(names):
        raise UsageError(f"{text!r} names a site twice")
    return names


def fitted(activations: Activations, settings: FitSettings) -> list[SteeringVector]:
    """Fit recorded activations, with a progress bar.

    Returns:
        the best vector, and then all vectors that were compared.
    """
    from steer.fitting.fitting import best, fit_vectors

    with output.progress("fitting", len(activations.recording.columns)) as advance:
        vectors = fit_vectors(activations, settings, advance)
    return [best(vectors), *vectors]
