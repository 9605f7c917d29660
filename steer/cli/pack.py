"""`steer pack`: check packs of concepts, and make the vectors of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import from_words, options, output, workers
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.concepts.index import BuiltPack, IndexRow

PackArgument = Annotated[
    str,
    typer.Argument(metavar="PACK", help="A TOML file, or the name of a pack of steer's."),
]


def register(app: typer.Typer) -> None:
    """Add the group to the app."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("check")(check)
    group.command("build")(build)
    group.command("report")(report)
    app.add_typer(
        group,
        name="pack",
        help="Make vectors of many concepts at once, from a TOML file.\n\nSee docs/packs.md.",
        short_help="Make vectors of many concepts at once, from a TOML file.",
    )


def check(
    pack: Annotated[
        str | None,
        typer.Argument(
            metavar="PACK", help="A TOML file, or a pack of steer's. Default: list those."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Read a pack, and list its concepts. No model is loaded.

    \b
    steer pack check
    steer pack check emotions
    steer pack check mine.toml --json
    """
    from steer.concepts import pack as packs

    if pack is None:
        read = [packs.read(packs.BUNDLED + name) for name in packs.bundled()]
        if json:
            output.as_json({"packs": [{"name": p.name, "n": len(p)} for p in read]})
            return
        rows = [[p.name, p.title, str(len(p)), _some(p.concepts)] for p in read]
        output.table(["pack", "title", "concepts", "such as"], rows, left=2)
        output.note(f"{sum(map(len, read))} concepts; try: steer pack check {read[0].name}")
        return
    loaded = packs.read(pack)
    if json:
        output.as_json(
            {
                "name": loaded.name,
                "title": loaded.title,
                "license": loaded.license,
                "concepts": [
                    {
                        "name": concept.name,
                        "poles": [pole for pole in concept.poles if pole],
                        "description": concept.description,
                        "synonyms": list(concept.synonyms),
                        "questions": list(concept.questions),
                        "words": list(concept.words),
                    }
                    for concept in loaded.concepts
                ],
            }
        )
        return
    rows = [[concept.name, str(concept), concept.description] for concept in loaded.concepts]
    output.table(["concept", "poles", "description"], rows, left=3)
    output.note(f"{loaded.title}: {len(loaded)} concepts")


def _some(concepts: Any) -> str:
    return ", ".join(concept.name for concept in concepts[:4])


@options.with_model(default="pocket", fast=True)
@workers.with_cluster
def build(
    *,
    context: typer.Context,
    pack: PackArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")],
    only: Annotated[
        list[str] | None, typer.Option(help="This concept of the pack. Repeatable.")
    ] = None,
    method: options.MethodOption = "mean_diff",
    site: Annotated[str, typer.Option(help="resid_pre, resid_post, attn_out, mlp_out.")] = (
        "resid_post"
    ),
    layers: Annotated[
        str | None, typer.Option(help="Where vectors are added, such as 12-20.")
    ] = None,
    phrase: from_words.PhraseOption = None,
    questions: from_words.QuestionsOption = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Ask in the chat template. Default: if there is."),
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="As many answers as steer extract takes.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the answers.")] = 0,
    cluster: workers.Cluster | None,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Make the vectors of all concepts of a pack in one run.

    The folder gets a file for each concept that works on the model, and an index, pack.json, with
    the effect and cost of each vector, or the reason why a concept does not work. If the command is
    stopped, the same command continues. A concept that fails does not stop the others.

    \b
    steer pack build emotions -m MODEL -o vectors/
    steer pack build mine.toml -m MODEL -o vectors/ --only calm --only proud
    steer pack build emotions -m MODEL -o vectors/ --ray auto
    steer pack report vectors/ --html report.html
    """
    from steer.concepts import pack as packs
    from steer.concepts.concept import check_phrase
    from steer.concepts.settings import QUICK, make_settings
    from steer.vectors.sites import parse_layers

    workers.check(cluster, source)
    check_phrase(phrase)
    loaded = packs.read(pack)
    if only:
        loaded = loaded.only(only)
    settings = make_settings(
        method,
        site=site,
        layers=None if layers is None else parse_layers(layers),
        chat=chat,
        phrase=phrase,
        questions=from_words.read_questions(questions),
        seed=seed,
        license=loaded.license,
        **({} if thorough else QUICK),
    )
    model = workers.model(context, cluster, source)
    from steer.concepts.build import build as run

    def on_made(row: IndexRow, is_new: bool) -> None:
        if is_new:
            output.note(row.line())

    output.note(f"{model.describe()} · {loaded.title}, {len(loaded)} concepts")
    built = run(
        model, loaded, out, settings, force=force, progress=output.progress, on_made=on_made
    )
    if json:
        output.as_json(built.to_dict())
        return
    _print(built)
    output.note(f"wrote {out}; try: steer list {out}, or steer pack report {out} --html FILE")


def report(
    folder: Annotated[Path, typer.Argument(help="The folder that steer pack build wrote.")],
    page: Annotated[
        Path | None, typer.Option("--html", help="Write a page, which needs no network.")
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Show the effect and cost of each vector of a built pack. No model is loaded.

    \b
    steer pack report vectors/
    steer pack report vectors/ --html report.html
    """
    from steer.base.files import check_writable, write_atomic
    from steer.concepts.index import read

    if page is not None:
        check_writable(page, force=force)
    built = read(folder)
    if page is not None:
        write_atomic(page, built.to_html().encode("utf-8", "surrogatepass"), force=force)
        output.note(f"wrote {page}")
    if json:
        output.as_json(built.to_dict())
    elif page is None:
        _print(built)


def _print(built: BuiltPack) -> None:
    from steer.concepts.index import HEADINGS

    output.table(HEADINGS[:-1], [row.cells()[:-1] for row in built.rows], left=4)
    reasons = [row for row in built.rows if not row.works]
    if reasons:
        output.line()
    for row in reasons:
        output.line(row.line())
    output.line()
    for name, (works, total) in built.by_pack().items():
        output.line(f"{name}: {works} of {total} work")
    if len(built.by_pack()) > 1:
        output.line(f"in all: {len(built.working_rows)} of {len(built.rows)} work")
