"""`steer extract "patient" "impatient"`: vectors from words, and the options for concepts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from steer.base.errors import UsageError
from steer.cli import options, output
from steer.contrasts.contrasts import ContrastSource
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.concepts.make import Report
    from steer.concepts.settings import MakeSettings
    from steer.concepts.words import TokenContrast

PhraseOption = Annotated[
    str | None,
    typer.Option(help='The condition for a word: "[mood: {}]".'),
]
QuestionsOption = Annotated[
    Path | None,
    typer.Option(help="A file of questions, instead of steer's own."),
]
WeakOption = Annotated[
    bool, typer.Option("--allow-weak", help="Also write a vector that fails its checks.")
]


def is_words(contrasts: ContrastSource, against: str | None) -> bool:
    """Whether the arguments are words rather than a file of contrasts.

    Raises:
        UsageError: there is a second word, but the contrasts are named by options.
    """
    from steer.concepts.words import looks_like_file

    if contrasts.file is None:
        if against is not None:
            raise UsageError("name words, or contrasts with options; not both")
        return False
    return against is not None or not looks_like_file(contrasts.file)


def check_files(**values: Any) -> None:
    """Refuse options that apply only to words.

    Raises:
        UsageError: an option is set; the message names it.
    """
    needless = [f"--{name.replace('_', '-')}" for name, value in values.items() if value]
    if needless:
        raise UsageError(
            f"{', '.join(needless)} applies to words, not to a file of contrasts",
            hint='such as: steer extract "patient" "impatient"',
        )


def settings_of(
    contrasts: ContrastSource,
    *,
    method: str,
    site: str,
    parts: str | None,
    layers: str | None,
    phrase: str | None,
    questions: Path | None,
    license: str,
) -> MakeSettings:
    """The settings for making a concept, from the options of the command.

    Raises:
        UsageError: there are several sites, or the method does not exist.
    """
    from steer.concepts.settings import make_settings
    from steer.vectors.sites import parse_layers

    if "," in site:
        first = site.partition(",")[0]
        raise UsageError("a vector of words is read at one site", hint=f"--site {first}")
    return make_settings(
        method,
        site=site,
        parts=options.parts_to_keep(parts, options.site_names(site)),
        layers=None if layers is None else parse_layers(layers),
        chat=True if contrasts.frame.chat else None,
        phrase=phrase,
        questions=read_questions(questions),
        license=license,
    )


def check_alone(contrasts: ContrastSource, **refused: Any) -> None:
    """Refuse options that apply only to files of contrasts.

    Raises:
        UsageError: an option is set; the message names it.
    """
    values = {
        "--template": contrasts.frame.template,
        "--system": contrasts.frame.system,
        "--map": contrasts.names.mapping or None,
        **{f"--{name.replace('_', '-')}": value for name, value in refused.items()},
    }
    needless = [option for option, value in values.items() if value]
    if needless:
        raise UsageError(
            f"{', '.join(needless)} applies to a file of contrasts, and"
            f" {str(contrasts.file)[:60]!r} is a word",
            hint="name a file, or leave it out",
        )


def read_questions(path: Path | None) -> list[str] | None:
    """The questions of a file; None without a file.

    Raises:
        InputError: the file holds no questions.
    """
    if path is None:
        return None
    from steer.cli.texts import records_of
    from steer.contrasts import prompts
    from steer.contrasts.schema import Names

    names = Names()
    questions, _ = prompts.read(records_of(str(path), names), names, field="prompt")
    return questions


def distill_words(
    contrasts: ContrastSource,
    against: str | None,
    *,
    form: str,
    method: str,
    site: str,
    parts: str | None,
    layers: str | None,
    phrase: str | None,
    questions: Path | None,
    name: str | None,
    description: str,
    license: str,
    out: Path | None,
    force: bool,
    json: bool,
    source: ModelSource,
) -> None:
    """Make an edit, or a token, that imitates the condition of a word.

    Raises:
        UsageError: an option that means nothing for it.
        InputError: the words name nothing, or the condition changes nothing.
    """
    from steer.base.files import check_writable
    from steer.cli.distill import report_distilled
    from steer.concepts.concept import check_phrase
    from steer.concepts.words import interpret
    from steer.distillation.settings import Form
    from steer.library.models import Model
    from steer.library.tasks import distill_concept
    from steer.methods.registry import is_distill_method
    from steer.vectors import store
    from steer.vectors.sites import parse_layers

    if site != "resid_post" or parts is not None:
        raise UsageError(
            "--site and --parts go with methods that fit activations",
            hint="leave them out, or --as and this --method",
        )
    if form not in get_args(Form):
        raise UsageError(f"{form!r} is not a form of a prompt", hint="use --as edit or --as token")
    is_token = form == "token"
    if is_token and is_distill_method(method):
        raise UsageError("a token has no --method", hint="leave --method or --as token out")
    assert contrasts.file is not None
    check_phrase(phrase)
    interpreted = interpret(contrasts.file, against, name=name)
    concept = replace(
        interpreted.concept, description=description or interpreted.concept.description
    )
    path = out or _usual_path(concept.name)
    store.check_path(path)
    check_writable(path, force=force)
    output.note(f"interpret {interpreted.note}")
    chosen = read_questions(questions)
    model = options.load_model(source)
    vector = distill_concept(
        Model(model),
        concept,
        form=form,
        method=method if is_distill_method(method) else None,
        layers=None if layers is None else parse_layers(layers),
        chat=True if contrasts.frame.chat else None,
        phrase=phrase,
        questions=chosen,
        license=license,
        progress=output.progress,
    )
    sealed = store.write(path, vector.data, force=force)
    report_distilled(model, path, sealed.metadata, source.name, json=json)


def _usual_path(name: str) -> Path:
    """The file of a vector for which no -o was given."""
    from steer.vectors.store import SUFFIX

    folder = Path("vectors")
    return (folder if folder.is_dir() else Path()) / f"{name}{SUFFIX}"


def extract_words(
    contrasts: ContrastSource,
    against: str | None,
    *,
    settings: MakeSettings,
    name: str | None,
    description: str,
    out: Path | None,
    allow_weak: bool,
    force: bool,
    json: bool,
    source: ModelSource,
) -> None:
    """Make a vector from words, and report whether it passes its checks.

    Raises:
        InputError: the words name no concept, or the model does not follow them.
    """
    from steer.base.files import check_writable
    from steer.cli import tables
    from steer.concepts.concept import check_phrase
    from steer.concepts.words import interpret
    from steer.vectors import store
    from steer.vectors.metadata import to_json

    assert contrasts.file is not None
    check_phrase(settings.phrase)
    interpreted = interpret(contrasts.file, against, name=name)
    concept = replace(
        interpreted.concept, description=description or interpreted.concept.description
    )
    path = out or _usual_path(concept.name)
    store.check_path(path)
    check_writable(path, force=force)
    output.note(f"interpret {interpreted.note}")
    model = options.load_model(source)
    from steer.concepts.make import conditions_of, is_chat, make_one

    chat = is_chat(model, settings)
    poles = conditions_of(concept, chat=chat, phrase=settings.phrase)
    place = "as a system message" if chat else "before the text, as for a base model"
    output.note(f"{model.describe()} · {' against '.join(map(repr, filter(None, poles)))}, {place}")
    vector, report = make_one(
        model, concept, settings, allow_weak=allow_weak, progress=output.progress
    )
    sealed = store.write(path, vector, force=force)
    if not report.works:
        output.warning(report.line)
    if json:
        output.as_json({"path": str(path), **to_json(sealed.metadata), "concept": report.to_dict()})
        return
    tables.layer_table(sealed.metadata)
    output.line()
    show_example(report)
    output.note(report.line)
    tables.written(path, sealed.metadata, source.name)


def extract_tokens(
    tokens: TokenContrast,
    *,
    name: str | None,
    description: str,
    license: str,
    out: Path | None,
    force: bool,
    json: bool,
    source: ModelSource,
    **refused: Any,
) -> None:
    """Make a vector from the unembedding that raises some tokens and lowers others.

    Raises:
        UsageError: an option applies only to texts.
        InputError: a text is not a single token of the model.
    """
    from steer.base.files import check_writable
    from steer.cli import tables
    from steer.vectors import store
    from steer.vectors.metadata import to_json

    needless = [f"--{option.replace('_', '-')}" for option, value in refused.items() if value]
    if needless:
        raise UsageError(f"{', '.join(needless)} applies to texts, not to --raises and --lowers")
    name = name or tokens.name
    path = out or _usual_path(name)
    store.check_path(path)
    check_writable(path, force=force)
    model = options.load_model(source)
    from steer.concepts.unembedding import from_tokens

    vector = from_tokens(
        model, tokens.raises, tokens.lowers, name=name, description=description, license=license
    )
    sealed = store.write(path, vector, force=force)
    if json:
        output.as_json({"path": str(path), **to_json(sealed.metadata)})
        return
    tables.layer_table(sealed.metadata)
    output.note(
        f"coefficient 1 is 10 % of the activations' mean length; see steer show {path} --lens"
    )
    tables.written(path, sealed.metadata, source.name)


def show_example(report: Report) -> None:
    """Print a held-out question with its unsteered, prompted and steered answers."""
    if not report.example:
        return
    question = report.example["question"]
    output.heading(question)
    for name in ("unsteered", "prompted", "steered"):
        text = " ".join(report.example[name].split())
        output.line(f"  {name:<10} {text}")
    output.line()
