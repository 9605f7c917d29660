"""`steer extract`: make a vector from two words, from contrasting texts, or from tokens."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from steer.base.processes import several
from steer.cli import contrast_options, from_words, options, output, tables, workers
from steer.cli.methods import FitCommand
from steer.concepts.words import TokenContrast
from steer.contrasts.contrasts import ContrastSource
from steer.models.source import ModelSource


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("extract", cls=FitCommand)(extract)


@contrast_options.with_contrasts_or_tokens
@options.with_model(default="pocket", chat=True, fast=True)
@workers.with_cluster
def extract(
    *,
    contrasts: ContrastSource | TokenContrast,
    against: Annotated[
        str | None, typer.Argument(metavar="AGAINST", help="The opposite word or words.")
    ] = None,
    phrase: from_words.PhraseOption = None,
    questions: from_words.QuestionsOption = None,
    allow_weak: from_words.WeakOption = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Default: vectors/NAME.safetensors."),
    ] = None,
    method: options.MethodOption = "mean_diff",
    form: Annotated[
        str | None,
        typer.Option("--as", help="For words: token, an embedding for <|NAME|>."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the activations here, for steer fit.")
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option(help="Tokens to read, such as mean,last; see above."),
    ] = None,
    site: Annotated[
        str,
        typer.Option(help="attn_out, mlp_out, heads, router."),
    ] = "resid_post",
    parts: options.PartsOption = None,
    layers: Annotated[str | None, typer.Option(help="Such as 3, 2,5 or 4-7. Default: all.")] = None,
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    license: Annotated[str, typer.Option(help="Such as CC0-1.0.")] = "",
    no_calibrate: Annotated[
        bool,
        typer.Option("--no-calibrate", help="Do not try strengths on a chat model."),
    ] = False,
    cluster: workers.Cluster | None,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Make a vector from two words, or from contrasting texts.

    \b
    steer extract "patient" "impatient" -m MODEL -o patient.safetensors
    steer extract "talks like a pirate" -m MODEL -o pirate.safetensors
    steer extract "a pirate" -m MODEL --as token -o pirate.safetensors
    steer extract pairs.jsonl -m MODEL -o vectors/warm.safetensors
    steer extract --positive "[mood: joyful]" --negative "[mood: gloomy]" \\
        --texts texts.jsonl -o mood.safetensors

    For words, the model answers everyday questions itself, and held-out answers decide whether the
    vector works. A word that is also the name of a file is read as a file. If the texts are a chat
    model's answers, several strengths are tried, and the file recommends one. Positions: mean (for
    pairs, from where they differ), last, first, -1, -3:, completion, after:WORD, suffix.
    """
    from steer.base.files import check_apart, check_writable
    from steer.contrasts.reading import check_positions
    from steer.fitting.fitting import FitSettings
    from steer.methods.registry import check_paired, fit_methods, is_distill_method
    from steer.vectors import store
    from steer.vectors.positions import parse_list
    from steer.vectors.sites import parse_layers

    workers.check(cluster, source)
    if isinstance(contrasts, TokenContrast):
        from_words.extract_tokens(
            contrasts,
            name=name,
            description=description,
            license=license,
            out=out,
            force=force,
            json=json,
            source=source,
            keep=keep,
            positions=positions,
            layers=layers,
            against=against,
            phrase=phrase,
            questions=questions,
            ray=cluster,
            **{"as": form},
        )
        return
    if from_words.is_words(contrasts, against):
        from_words.check_alone(
            contrasts,
            keep=keep,
            positions=positions,
            held_out=contrasts.held_out,
            no_calibrate=no_calibrate,
            ray=cluster,
        )
        if form is not None or is_distill_method(method):
            from_words.distill_words(
                contrasts,
                against,
                form=form or "edit",
                method=method,
                site=site,
                parts=parts,
                layers=layers,
                phrase=phrase,
                questions=questions,
                name=name,
                description=description,
                license=license,
                out=out,
                force=force,
                json=json,
                source=source,
            )
            return
        from_words.extract_words(
            contrasts,
            against,
            settings=from_words.settings_of(
                contrasts,
                method=method,
                site=site,
                parts=parts,
                layers=layers,
                phrase=phrase,
                questions=questions,
                license=license,
            ),
            name=name,
            description=description,
            out=out,
            allow_weak=allow_weak,
            force=force,
            json=json,
            source=source,
        )
        return
    from_words.check_files(
        phrase=phrase, questions=questions, allow_weak=allow_weak, **{"as": form}
    )
    typed_positions = () if positions is None else parse_list(positions)
    sites = options.site_names(site)
    chosen_layers = None if layers is None else parse_layers(layers)
    path = out or default_path(name, contrasts.file)
    store.check_path(path)
    check_writable(path, force=force)
    check_apart(path, keep)
    if keep is not None:
        check_writable(keep, force=force)
    fit = FitSettings(
        name=name or path.stem,
        keep=options.parts_to_keep(parts, sites),
        **options.fit_method(method),
        description=description,
        license=license,
    )
    contrast_set = contrast_options.read_contrasts(contrasts)
    # Checked here too, so that errors come before the model loads.
    check_positions(contrast_set, typed_positions)
    check_paired(fit_methods().named(fit.method), paired=contrast_set.paired)

    with workers.workers(cluster, source) as readers:
        from steer.evaluation.calibration import extract_calibrated
        from steer.extraction import ReadSettings

        extracted = extract_calibrated(
            readers,
            contrast_set,
            ReadSettings(sites, chosen_layers, typed_positions),
            fit,
            calibrate=not no_calibrate,
            part=_part(keep or path),
            keep=keep,
            progress=output.progress,
        )
    if keep is not None:
        output.note(
            f"kept the activations in {keep}; try:"
            f" steer fit {shlex.quote(str(keep))} --method lda -o lda.safetensors"
        )
    if contrast_set.are_plain_answers and extracted.vector.metadata.model.chat_template:
        output.note("answers to prompts were read as plain text; for a chat, add --chat")
    vectors = [store.write(path, extracted.vector, force=force), *extracted.compared]
    tables.report_vector(
        path,
        vectors,
        described=extracted.described,
        json=json,
        model=source.name,
        calibration=extracted.calibration,
    )


def _part(target: Path) -> Path:
    """The file of unfinished activations, from which the same command resumes a killed run."""
    # With several processes, each starts afresh, so that all start at the same text.
    suffix = str(os.getpid()) if several() else ""
    return target.with_name(f"{target.name}.part{suffix}")


def default_path(name: str | None, contrasts: str | None) -> Path:
    """The file to write if the user names none.

    Raises:
        UsageError: neither a name nor the file of contrasts gives a name.
    """
    from steer.base.errors import UsageError
    from steer.base.files import safe_name
    from steer.vectors.store import SUFFIX

    # A dataset has a name of its own; stdin has none.
    stem = name or Path((contrasts or "").partition("@")[0]).stem.removeprefix("hf:")
    if not name and not (contrasts and safe_name(stem)):
        raise UsageError("no name for the vector", hint="pass -o FILE.safetensors or --name")
    folder = Path("vectors")
    return (folder if folder.is_dir() else Path()) / f"{stem}{SUFFIX}"
