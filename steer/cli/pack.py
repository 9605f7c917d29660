"""`steer pack`: files of concepts, and the vectors of all of them."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.base.page import html_page
from steer.cli import from_words, options, output
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.concepts.index import Built, Row

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
                        "name": one.name,
                        "poles": [pole for pole in one.poles if pole],
                        "description": one.description,
                        "synonyms": list(one.synonyms),
                        "questions": list(one.questions),
                        "words": list(one.words),
                    }
                    for one in loaded.concepts
                ],
            }
        )
        return
    rows = [[one.name, str(one), one.description] for one in loaded.concepts]
    output.table(["concept", "poles", "description"], rows, left=3)
    output.note(f"{loaded.title}: {len(loaded)} concepts")


def _some(concepts: Any) -> str:
    return ", ".join(one.name for one in concepts[:4])


@options.with_model(default="pocket", fast=True)
def build(
    *,
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
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Make the vectors of all concepts of a pack in one run.

    The folder gets a file for each concept that works on the model, and an index, pack.json, that
    says of every concept how far its vector moves answers, at which cost, or why it does not work.
    The same command goes on where it was stopped. A concept that fails never stops the others.

    \b
    steer pack build emotions -m MODEL -o vectors/
    steer pack build mine.toml -m MODEL -o vectors/ --only calm --only proud
    steer pack report vectors/ --html report.html
    """
    from steer.concepts import pack as packs
    from steer.concepts.concept import check_phrase
    from steer.concepts.settings import QUICK, MakeSettings
    from steer.vectors.sites import parse_layers

    check_phrase(phrase)
    loaded = packs.read(pack)
    if only:
        loaded = loaded.only(only)
    settings = MakeSettings(
        **options.fit_method(method),
        site=options.site_names(site)[0],
        layers=None if layers is None else parse_layers(layers),
        chat=chat,
        phrase=phrase,
        questions=from_words.questions_of(questions),
        seed=seed,
        license=loaded.license,
        **({} if thorough else QUICK),
    )
    model = options.load_model(source)
    from steer.concepts.build import build as run

    def on_made(row: Row, is_new: bool) -> None:
        if is_new:
            output.note(_line(row))

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
    folder: Annotated[Path, typer.Argument(help="What steer pack build wrote.")],
    page: Annotated[
        Path | None, typer.Option("--html", help="Write a page, which needs no network.")
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Show how good each vector of a built pack is. No model is loaded.

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
        write_atomic(page, _page(built).encode("utf-8", "surrogatepass"), force=force)
        output.note(f"wrote {page}")
    if json:
        output.as_json(built.to_dict())
    elif page is None:
        _print(built)


def _line(row: Row) -> str:
    if not row.works:
        return f"{row.name} does not work on this model: {row.reason}"
    effect, cost = row.number("effect"), row.number("cost")
    return (
        f"{row.name}: moves answers {effect or 0:.0%} of the way between the poles,"
        f" {cost or 0:+.2f} nats per token"
    )


def _cells(row: Row) -> list[str]:
    from steer.vectors.sites import format_layers

    def shown(name: str, form: str) -> str:
        value = row.number(name)
        return output.NOTHING if value is None else format(value, form)

    where = output.NOTHING
    if row.layers:
        where = f"{shown('coefficient', '.3g')}@{format_layers(row.layers)}"
    return [
        row.name,
        row.pack,
        "yes" if row.works else "no",
        where,
        shown("heeded", ".2f"),
        shown("separability", ".2f"),
        shown("effect", ".0%"),
        shown("cost", ".2f"),
        row.reason,
    ]


_HEADS = ["concept", "pack", "works", "at", "heeded", "AUC", "effect", "cost", "why not"]


def _print(built: Built) -> None:
    output.table(_HEADS[:-1], [_cells(row)[:-1] for row in built.rows], left=4)
    reasons = [row for row in built.rows if not row.works]
    if reasons:
        output.line()
    for row in reasons:
        output.line(_line(row))
    output.line()
    for name, (works, every) in built.by_pack().items():
        output.line(f"{name}: {works} of {every} work")
    if len(built.by_pack()) > 1:
        output.line(f"in all: {len(built.working)} of {len(built.rows)} work")


_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #8884 }
.fails td { opacity: .6 }
dt { font-weight: 600 }
.wide { overflow-x: auto }
"""


def _page(built: Built) -> str:
    """One page, with everything in it escaped."""
    escape = html.escape
    rows = []
    for row in built.rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row))
        rows.append(f"<tr class={'works' if row.works else 'fails'}>{cells}</tr>")
        example = row.values.get("example") or {}
        if isinstance(example, dict) and example:
            items = "".join(
                f"<dt>{escape(str(name))}</dt><dd>{escape(str(text))}</dd>"
                for name, text in example.items()
            )
            rows.append(
                f"<tr><td colspan={len(_HEADS)}><details><summary>answers</summary>"
                f"<dl>{items}</dl></details></td></tr>"
            )
    head = "".join(f"<th>{escape(name)}</th>" for name in _HEADS)
    summary = "; ".join(f"{n}: {works} of {every}" for n, (works, every) in built.by_pack().items())
    title = f"{built.title} on {built.model}"
    body = f"""<h1>{escape(title)}</h1>
<p>{len(built.working)} of {len(built.rows)} concepts work. {escape(summary)}.
Effect: how far steering moves answers to held-out questions, as a share of the way between the
poles. Cost: extra nats per token. Heeded: how far apart the answers under the poles are, in nats a
token. AUC: separability of held-out answers.</p>
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>
{"".join(rows)}
</tbody></table></div>"""
    return html_page(title, _STYLE, body)
