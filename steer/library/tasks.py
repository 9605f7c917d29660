"""The tasks of the public API: each is a command of the command line, with Python's own values."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from steer import evaluation
from steer.baking.export import export as export_baked
from steer.baking.folder import Report as BakeReport
from steer.baking.lora import LoraReport
from steer.base.errors import UsageError
from steer.base.files import safe_name, write_atomic
from steer.base.progress import Progress, silent
from steer.base.wording import worded
from steer.concepts.concept import Concept, check_phrase, condition
from steer.concepts.unembedding import from_tokens
from steer.concepts.words import TokenContrast, interpret, looks_like_file
from steer.contrasts import prompts as everyday
from steer.contrasts.contrasts import Contrasts
from steer.distillation.compiled import CompiledPrompt
from steer.distillation.hybrid import CompileSettings, compile_prompt
from steer.distillation.quick import quick as in_fastest_type
from steer.distillation.request import distill_request
from steer.evaluation import Evaluation, SuiteResult, SweepResult
from steer.evaluation.calibration import extract_calibrated
from steer.evaluation.samples import OPENINGS, SampledVector, samples_of
from steer.extraction import ReadSettings, plan, record_contrasts
from steer.fitting.activations import Activations, open_kept
from steer.fitting.fitting import FitSettings, best, fit_vectors
from steer.formats import reading, writing
from steer.formats.source import Options
from steer.library import concepts
from steer.library.data import Data, as_tuple, contrast_set, names_of, rows, text_list
from steer.library.models import FitWarning, Model
from steer.library.options import ContrastOptions, MeasureOptions, NameOptions, spelled_out
from steer.library.vectors import Steers, Vector, as_steers, as_vector, frame, html_table
from steer.measures.concepts import Judge
from steer.methods.method import Value
from steer.methods.registry import (
    fit_methods,
    is_distill_method,
    parse_method,
)
from steer.models import torch_files
from steer.models.source import ModelSource
from steer.monitoring.heatmap import page
from steer.monitoring.monitor import monitor as run_monitor
from steer.monitoring.monitor import tokenize as tokenize_texts
from steer.monitoring.traces import Summary, Trace, summarise
from steer.steering.readers import check_readers, hint
from steer.steering.readouts import Readout, readouts
from steer.steering.steers import check_all_fit
from steer.vectors.parts import parse_parts
from steer.vectors.positions import parse_list
from steer.vectors.sites import parse_layers, site_name
from steer.workers import LocalWorker

if TYPE_CHECKING:
    from typing_extensions import Unpack


@spelled_out(by=contrast_set)
def extract(
    model: Model,
    contrasts: Data | None = None,
    against: str | None = None,
    *,
    raises: str | Sequence[str] = (),
    lowers: str | Sequence[str] = (),
    form: str = "edit",
    method: str = "mean_diff",
    options: Mapping[str, Value] | None = None,
    positions: str | None = None,
    site: str = "resid_post",
    parts: str | int | None = None,
    layers: int | str | Iterable[int] | None = None,
    name: str | None = None,
    description: str = "",
    license: str = "",
    keep: str | PathLike[str] | None = None,
    phrase: str | None = None,
    questions: Data | None = None,
    allow_weak: bool = False,
    calibrate: bool = True,
    progress: Progress = silent,
    **data: Unpack[ContrastOptions],
) -> Vector:
    """Make a vector from two words, or from a contrast set: the difference of the activations.

    Words: steer.extract(model, "patient", "impatient") and steer.extract(model, "talks like a
    weather forecaster") have the model answer everyday questions under both poles. A word that is
    the name of a file, or looks like a path, is read as a file. phrase: the condition for a word,
    such as "[mood: {}]". questions: to answer, instead of steer's own. form: "token" makes an
    embedding of the words instead of a vector, and a method of `distill`, such as ridge, an edit.
    allow_weak: return a vector that fails its checks, too.

    Tokens: raises= and lowers= are texts of one token each, which the vector makes more or less
    likely, through the model's unembedding.

    Contrast sets: contrasts are pairs, labelled texts or two sets, from a list, a file, a dataset
    or a data frame. Or positive= and negative= are prompt conditions, each put before each of
    texts=. `contrast_set` explains the other options for reading data. method: such as mean_diff or
    pca (`steer extract --help` lists all), with its options as in `probe:penalty=2` or
    `options={"penalty": 2.0}`. positions: the tokens to read, such as `mean`, `last` or `-3:`.
    site: such as resid_post or mlp_out. Of several positions and sites, separated by commas, the
    vector has the one that separates held-out texts best. parts: at the sites heads and router, how
    many heads or experts to keep, or which, such as "12.3,14.0". chat: put texts into the model's
    chat template. keep: a file for the activations, for `fit`. calibrate: if the texts are a chat
    model's answers, let it answer a few questions at rising strengths; the vector recommends the
    strongest at which answers are still fluent.

    Raises:
        UsageError: an option is invalid, or options exclude each other.
        InputError: a record is invalid (the message names it), or the words have no effect.
        SiteError: the model has no such layer or site.
        VectorError: the two sides do not differ.
    """
    if raises or lowers:
        if contrasts is not None or against is not None or data:
            raise UsageError("raises= and lowers= exclude contrasts")
        tokens = TokenContrast(as_tuple(raises), as_tuple(lowers))
        return Vector(
            from_tokens(
                model.inner, tokens.raises, tokens.lowers, name=name or tokens.name,
                description=description, license=license,
            ).sealed()
        )  # fmt: skip
    if isinstance(contrasts, str) and (against is not None or not looks_like_file(contrasts)):
        _check_words(positions=positions, keep=keep, **data)
        is_distilled = is_distill_method(method)
        if form != "edit" or is_distilled:
            concept = interpret(contrasts, against, name=name).concept
            return distill_concept(
                model,
                replace(concept, description=description or concept.description),
                form=form,
                method=method if is_distilled else None,
                options=options,
                layers=layers,
                chat=data.get("chat") or None,
                phrase=phrase,
                questions=questions,
                license=license,
                progress=progress,
            )
        return concepts.from_words(
            model,
            contrasts,
            against,
            name=name,
            description=description,
            method=method,
            options=options,
            site=site,
            parts=parts,
            layers=_layers(layers),
            chat=data.get("chat") or None,
            phrase=phrase,
            questions=questions,
            license=license,
            allow_weak=allow_weak,
            progress=progress,
        )[0]
    if against is not None:
        raise UsageError("a second word needs a first one", hint='extract(model, "a", "b")')
    extracted = extract_calibrated(
        LocalWorker(model.inner),
        contrast_set(contrasts, **data),
        _read_settings(site, layers, positions),
        _fit_settings(
            name or "vector",
            method,
            options,
            description=description,
            license=license,
            keep=None if parts is None else parse_parts(str(parts)),
        ),
        calibrate=calibrate,
        keep=None if keep is None else Path(keep),
        progress=progress,
    )
    return Vector(extracted.vector.sealed())


@spelled_out(by=contrast_set)
def make(
    model: Model,
    contrasts: Data | Contrasts | None = None,
    against: str | None = None,
    *,
    method: str = "mean_diff",
    options: Mapping[str, Value] | None = None,
    name: str = "vector",
    description: str = "",
    license: str = "",
    prompts: Sequence[str] | None = None,
    progress: Progress = silent,
    **data: Unpack[ContrastOptions],
) -> SampledVector:
    """Make a vector, choose its strength, and generate samples at a few strengths.

    The arguments are those of `extract`, including words; contrasts may also be the result of
    `contrast_set`. Answers to prompts are read in the chat template, if the model has one, unless
    chat=False. prompts: to continue in the samples; by default three everyday questions, or three
    openings.

    Returns:
        the vector, which recommends the strength, with the samples; printing it shows them.

    Raises:
        UsageError, InputError, SiteError, VectorError: as `extract`.
    """
    described = model.inner.describe()
    if isinstance(contrasts, str) and (against is not None or not looks_like_file(contrasts)):
        vector = extract(
            model, contrasts, against, method=method, options=options, name=name,
            description=description, license=license, progress=progress, **data,
        ).data  # fmt: skip
    else:
        chosen = contrasts
        if not isinstance(chosen, Contrasts):
            chosen = contrast_set(chosen, **data)
        if "chat" not in data:
            chosen = chosen.for_template(
                has_template=model.inner.identity.chat_template is not None
            )
        vector = extract_calibrated(
            LocalWorker(model.inner),
            chosen,
            _read_settings("resid_post", None, None),
            _fit_settings(name, method, options, description=description, license=license),
            progress=progress,
        ).vector
    in_chat = vector.metadata.read.chat is True
    usual = everyday.OTHER_QUESTIONS[:3] if in_chat else OPENINGS
    shown = tuple(usual if prompts is None else prompts)
    samples = samples_of(model.inner, vector, shown, progress)
    return SampledVector(vector.sealed(), described, shown, samples)


def distill_concept(
    model: Model,
    concept: Concept,
    *,
    form: str = "edit",
    method: str | None = None,
    options: Mapping[str, Value] | None = None,
    layers: int | str | Iterable[int] | None = None,
    chat: bool | None = None,
    phrase: str | None = None,
    questions: Data | None = None,
    license: str = "",
    progress: Progress = silent,
) -> Vector:
    """An edit, or a token, that does what the condition of a concept's positive pole does, compared
    with that of the negative one. The arguments are those of `distill`.

    Raises:
        UsageError, InputError, SiteError: as `distill`.
    """
    check_phrase(phrase)
    in_chat = model.inner.template.exists if chat is None else chat
    positive, negative = (condition(pole, chat=in_chat, phrase=phrase) for pole in concept.poles)
    return distill(
        model, positive, baseline=negative, prompts=questions, chat=in_chat, form=form,
        method=method, options=options, layers=layers, name=concept.name,
        description=concept.description, license=license, progress=progress,
    )  # fmt: skip


def _check_words(**options: Any) -> None:
    """Refuse options that apply only to contrast sets.

    Raises:
        UsageError: one is set; the message names it.
    """
    for name, value in options.items():
        if value and name != "chat":
            raise UsageError(f"{name}= applies to contrasts, not to words")


@spelled_out(by=contrast_set)
def record(
    model: Model,
    contrasts: Data | None = None,
    *,
    positions: str | None = None,
    site: str = "resid_post",
    layers: int | str | Iterable[int] | None = None,
    progress: Progress = silent,
    **data: Unpack[ContrastOptions],
) -> Activations:
    """Record the activations of a contrast set once, for several calls of `fit`.

    The arguments are those of `extract`. `side(column, 0)` of the result is float32
    [texts, d_model], the positive side at one site and position; `recording.columns` lists these.
    Use the result in a `with` block, or close it: it holds an unnamed temporary file.

    Raises:
        UsageError, InputError, SiteError: as `extract`.
    """
    contrast = contrast_set(contrasts, **data)
    planned = plan(model.inner, contrast, _read_settings(site, layers, positions))
    # The file has no name once the folder is gone, and lives until the object is closed.
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        progress("reading", len(planned.readings)) as advance,
    ):
        path = Path(folder) / "activations"
        return record_contrasts(LocalWorker(model.inner), planned, path, advance)


def fit(
    activations: Activations | str | PathLike[str],
    *,
    method: str = "mean_diff",
    options: Mapping[str, Value] | None = None,
    positions: str | None = None,
    site: str | None = None,
    parts: str | int | None = None,
    layers: int | str | Iterable[int] | None = None,
    name: str = "vector",
    description: str = "",
    license: str = "",
    progress: Progress = silent,
) -> Vector:
    """Fit a vector to recorded activations: from `record`, or a file from `extract(..., keep=)`.

    method, options: as in `extract`.

    Raises:
        UsageError: an option is invalid.
        InputError: a position was not recorded, or there are too few texts for the method.
        SiteError: a site or layer was not recorded.
    """
    settings = _fit_settings(
        name,
        method,
        options,
        sites=None if site is None else tuple(site_name(part.strip()) for part in site.split(",")),
        layers=_layers(layers),
        positions=None if positions is None else tuple(map(str, parse_list(positions))),
        description=description,
        license=license,
        keep=None if parts is None else parse_parts(str(parts)),
    )
    if not isinstance(activations, Activations):
        with open_kept(Path(activations)) as opened:
            return fit(opened, **_options(settings), progress=progress)
    with progress("fitting", len(activations.recording.columns)) as advance:
        vectors = fit_vectors(activations, settings, advance)
    return Vector(best(vectors).sealed())


@spelled_out(by=names_of)
def distill(
    model: Model,
    condition: str | None = None,
    *,
    contrasts: Data | None = None,
    baseline: str = "",
    prompts: Data | None = None,
    chat: bool = False,
    form: str = "edit",
    tokens: int | None = None,
    scalar: bool = False,
    inside: Steers = None,
    method: str | None = None,
    options: Mapping[str, Value] | None = None,
    rank: int | None = None,
    layers: int | str | Iterable[int] | None = None,
    scope: str | None = None,
    samples: int | None = None,
    held_out: int | None = None,
    max_tokens: int | None = None,
    steps: int | None = None,
    budget: str | float | None = None,
    seed: int = 0,
    name: str = "edit",
    description: str = "",
    license: str = "",
    progress: Progress = silent,
    **data: Unpack[NameOptions],
) -> Vector:
    """Train an edit, or a learned token, to have the effect of a prompt condition.

    The model generates texts under the condition; the edit learns to give the same probabilities
    without it (context distillation: Askell et al. 2021, arXiv 2112.00861). The evidence in the
    vector is the recovery on held-out texts, the share of the condition's effect that the edit has:
    1 is all of it, 0 is the unsteered model. chat: the condition is a system message, and prompts
    are user messages. contrasts: pairs instead of a condition; the edit makes their positive
    completions more likely. Two fifths of the pairs are held out; the other options are those of
    `contrast_set`. budget: a time, such as `5m`, to which the run is fitted by an estimate; what
    that omits is logged.

    form: an `edit` changes activations; a `token` consists of `tokens` embeddings, which take the
    place of the condition, or of `<|name|>` in any prompt. scalar: train the token for
    coefficients from -1 to 2, as multiples of the condition. inside: learned tokens that the
    condition contains as `<|name|>`.

    Raises:
        UsageError: an option is invalid, or options exclude each other.
        InputError: the condition has no effect, or no edit recovers any of it.
        SiteError: the model has no such layer.
    """
    request = distill_request(
        condition=condition,
        contrasts=None if contrasts is None else lambda: contrast_set(contrasts, chat=chat, **data),
        baseline=baseline,
        prompts=None if prompts is None else text_list(prompts),
        chat=chat,
        form=form,
        tokens=tokens,
        scalar=scalar,
        inside=as_steers(inside),
        method=method,
        options=options,
        rank=rank,
        layers=() if layers == "all" else _layers(layers),
        scope=scope,
        steps=steps,
        samples=samples,
        held_out=held_out,
        max_tokens=max_tokens,
        budget=budget,
        seed=seed,
        name=name,
        description=description,
        license=license,
    )

    def warn(text: str) -> None:
        warnings.warn(worded(text), FitWarning, stacklevel=4)

    note = logging.getLogger("steer").info
    return Vector(request.run(model.inner, progress, note=note, warn=warn).sealed())


def compile(
    model: Model,
    prompt: str,
    *,
    form: str = "edit",
    recovery: float = 0.9,
    tokens: int | None = None,
    steps: int | None = None,
    prompts: Data | None = None,
    mapping: Mapping[str, str] | None = None,
    samples: int = 192,
    held_out: int = 64,
    max_tokens: int = 48,
    seed: int = 0,
    name: str = "compiled",
    description: str = "",
    license: str = "",
    progress: Progress = silent,
) -> CompiledPrompt:
    """Compile a system prompt to a short text and an edit or a token.

    Clauses stay text, one after another, until text and vector recover the share `recovery` of the
    prompt's effect on validation texts. `text` and `vector` of the result are the recipe, which
    `save` writes; `rows` compare the whole prompt with each form. form: edit, token, or both, of
    which the one that saves more tokens is chosen. tokens, steps: of a token, as in `distill`.
    prompts: messages of users. mapping: names of fields in the prompts.

    Raises:
        UsageError: a setting is invalid.
        InputError: the prompt is empty, or changes nothing.
        ModelError: the chat template takes no system message.
    """
    settings = CompileSettings(
        name=name,
        goal=recovery,
        forms=form,  # type: ignore[arg-type]  # it checks itself
        samples=samples,
        held_out=held_out,
        max_tokens=max_tokens,
        tokens=tokens,
        steps=steps,
        seed=seed,
        description=description,
        license=license,
    )
    questions = None if prompts is None else text_list(prompts, mapping=mapping)
    return compile_prompt(model.inner, prompt, questions, settings, progress)


@dataclass(frozen=True, slots=True)
class Readings:
    """Projections of texts on vectors: one `Trace` a text, one column a vector and layer.

    values of a trace are float32 [tokens, vectors], in the vectors' own units: 0 is the mean of the
    negative side and 1 of the positive side, where the file knows its sides.
    """

    traces: tuple[Trace, ...]
    readouts: tuple[Readout, ...]

    def __len__(self) -> int:
        return len(self.traces)

    def __getitem__(self, index: int) -> Trace:
        return self.traces[index]

    def summaries(self, index: int) -> dict[str, Summary]:
        """Maximum, mean and last value of one text, by vector and layer."""
        trace = self.traces[index]
        return {
            str(readout): summarise(trace, column, readout)
            for column, readout in enumerate(self.readouts)
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values: for each text its tokens, and the values by vector and layer."""
        return {
            "texts": [
                {
                    "text": trace.text,
                    "tokens": [token.text for token in trace.tokens],
                    "values": {
                        str(readout): trace.values[:, column].tolist()
                        for column, readout in enumerate(self.readouts)
                    },
                }
                for trace in self.traces
            ]
        }

    def to_pandas(self) -> Any:
        """One row a token: text number, token, and a column for each vector and layer.

        Raises:
            UsageError: pandas is not installed.
        """
        return frame(self._rows())

    def to_html(self, title: str = "steer monitor") -> str:
        """A page with each text as a heat map; it needs no network."""
        return page(title, self.traces, self.readouts)

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"text": number, "token": token.text}
            | {
                str(readout): float(value)
                for readout, value in zip(self.readouts, values, strict=True)
            }
            for number, trace in enumerate(self.traces)
            for token, values in zip(trace.tokens, trace.values, strict=True)
        ]

    def _repr_html_(self) -> str:
        rows = self._rows()
        columns = list(rows[0]) if rows else []
        return html_table("projections", columns, [row.values() for row in rows])


def monitor(
    model: Model,
    texts: Data,
    vectors: str | Path | Vector | Sequence[str | Path | Vector],
    *,
    layers: int | str | Iterable[int] | None = None,
    mapping: Mapping[str, str] | None = None,
    chat: bool = False,
    allow_other_model: bool = False,
    progress: Progress = silent,
) -> Readings:
    """Read the projection of each token of texts on vectors.

    vectors: vectors, names or paths. layers: by default, for each vector, the layer that separates
    its sides best, near the recommended ones. chat: each text is a user message, in the model's
    chat template.

    Raises:
        InputError: a text has no tokens, or more than the model takes.
        VectorError: a vector has no such layer.
        ModelError: a vector was made on another model.
    """
    read = [texts] if isinstance(texts, str) else text_list(texts, mapping=mapping)
    listed = [vectors] if isinstance(vectors, (str, Path, Vector)) else vectors
    several = [as_vector(vector) for vector in listed]
    if not several:
        raise UsageError("no vector is named", hint="pass a vector")
    chosen = [
        readout
        for vector in several
        for readout in readouts(vector.data, _layers(layers, of=vector))
    ]
    for text in check_readers(chat=chat, watched=chosen):
        warnings.warn(worded(f"{text}: {hint(chat=chat)}"), FitWarning, stacklevel=2)
    planned = tokenize_texts(model.inner, read, chat=chat)
    data = [vector.data for vector in several]
    check_all_fit(data, planned.model, allow_other_model=allow_other_model)
    with progress("reading", len(read)) as advance:
        traces = run_monitor(LocalWorker(model.inner), planned, chosen, advance)
    return Readings(tuple(traces), tuple(chosen))


def bake(
    model: str | PathLike[str],
    steers: Steers,
    out: str | PathLike[str],
    *,
    dtype: str | None = None,
    approximate: bool = False,
    lora: bool = False,
    max_shard_size: str = "5GB",
    texts: Data | None = None,
    mapping: Mapping[str, str] | None = None,
    allow_other_model: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> BakeReport | LoraReport:
    """Write steering into a checkpoint folder that any engine serves without hooks.

    model: a folder or hub id, which is loaded in float32. dtype: of the weights that are written;
    by default the type in which the model is stored. lora: write a PEFT adapter in float32 instead
    of a model. max_shard_size: of one weight file. The folder is loaded again and compared with
    the hooks on `texts`, by default steer's own: see `report.difference.passed`.

    Raises:
        VectorError, ModelError: weights cannot express a steer exactly, and `approximate` is off.
        SteerError: the folder exists already, or cannot be written.
    """
    return export_baked(
        ModelSource(str(model), dtype=dtype),
        as_steers(steers),
        Path(out),
        approximate=approximate,
        lora=lora,
        max_shard_size=max_shard_size,
        texts=None if texts is None else text_list(texts, mapping=mapping),
        allow_other_model=allow_other_model,
        force=force,
        progress=progress,
    )


def _measured(
    *,
    condition: str | None = None,
    baseline: str = "",
    chat: bool = False,
    prompts: Data | None = None,
    unrelated: Data | None = None,
    mapping: Mapping[str, str] | None = None,
    positive_label: str | Sequence[str] = (),
    negative_label: str | Sequence[str] = (),
    lists: str | None = None,
    split: str | None = None,
    samples: int = 48,
    max_tokens: int = 64,
    seed: int = 0,
    allow_overlap: bool = False,
    allow_other_model: bool = False,
    budget: str | float | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The options of `evaluate` and `sweep` as the evaluation takes them."""
    names = names_of(
        mapping=mapping,
        positive_label=positive_label,
        negative_label=negative_label,
        lists=lists,
        split=split,
    )
    return {
        "condition": condition,
        "baseline": baseline,
        "chat": chat,
        "prompts": None if prompts is None else text_list(prompts),
        "unrelated": _records(unrelated),
        "names": names,
        "samples": samples,
        "max_tokens": max_tokens,
        "seed": seed,
        "allow_overlap": allow_overlap,
        "allow_other_model": allow_other_model,
        "budget": budget,
        "progress": progress,
    }


@spelled_out(by=_measured)
def evaluate(
    model: Model,
    steers: Steers,
    texts: Data | None = None,
    *,
    concept: str | Judge | None = None,
    guidance: Sequence[float] = (),
    judge_model: str | None = None,
    judge_url: str | None = None,
    lm_eval: Sequence[str] = (),
    lm_eval_limit: int | None = None,
    **options: Unpack[MeasureOptions],
) -> Evaluation:
    """Measure the effect and the cost of steers, beside baselines, on held-out texts.

    texts: pairs, or texts for the condition. concept: what to count in generated texts, such as
    `words:glad,happy`, or a function; judge_model, judge_url: for `judge:...`. lm_eval: tasks of
    lm-evaluation-harness. guidance: strengths at which the condition guides the model live, each a
    row of its own. condition: the prompt that the vector imitates, which replaces `baseline`. chat:
    both are system messages. prompts: the beginnings of generated texts. unrelated: texts for the
    KL, by default generated. samples, max_tokens: the number of texts to generate for each row, and
    their length. mapping, positive_label, negative_label, lists, split: as in `contrast_set`.
    allow_overlap: allow texts that the vector was fitted on. budget: a time, such as `5m`, to which
    the run is fitted by an estimate. The baselines are the unsteered model, random directions, the
    opposite sign and the prompt; every number has an interval.

    Raises:
        InputError: there are neither texts nor a condition, or a vector was fitted on the texts.
        ModelError: a vector was made on another model.
        HookError: a steer was never applied.
    """
    return evaluation.evaluate(
        model.inner,
        as_steers(steers),
        _records(texts),
        concept=concept,
        guidance=guidance,
        judge_model=judge_model,
        judge_url=judge_url,
        lm_eval=lm_eval,
        lm_eval_limit=lm_eval_limit,
        **_measured(**options),
    )


@spelled_out(by=_measured)
def sweep(
    model: Model,
    vectors: str | Path | Vector | Sequence[str | Path | Vector],
    texts: Data | None = None,
    *,
    layers: str | Sequence[int] | None = None,
    coefficients: str | Sequence[float | str] | None = None,
    together: bool = False,
    max_kl: float = 0.1,
    max_nats: float | None = None,
    rule: str = "budget",
    exhaustive: bool = False,
    quick: bool = False,
    guidance: Sequence[float] = (),
    **options: Unpack[MeasureOptions],
) -> SweepResult:
    """Find the layer and the coefficient with the strongest effect within a budget.

    vectors: vectors, names or paths; also with an op and a scope, as in `joyful:ablate/response`.
    layers, coefficients: such as `4-7` and `5%,10%`; by default all stored layers, and nine
    coefficients that suit the vector. together: steer at all layers at once. max_kl, max_nats: the
    budget, in nats per token; by default 0.1 and 0.1, or 0.25 extra nats in a chat. rule: `budget`,
    or `refusal_direction`, the rule of that method's authors. exhaustive: score every cell on all
    texts. quick: a first answer in minutes. guidance: strengths at which the condition guides the
    model live, to compare with. The other arguments are those of `evaluate`. As the command does,
    it scores a large float32 model in bfloat16 where the CPU multiplies that natively.

    Raises:
        UsageError: an option is invalid.
        InputError: there are neither texts nor a condition, or a vector was fitted on the texts.
        ModelError: a vector was made on another model.
    """
    several = [vectors] if isinstance(vectors, (str, Path, Vector)) else vectors
    return evaluation.sweep(
        in_fastest_type(model.inner),
        [item.data if isinstance(item, Vector) else item for item in several],
        _records(texts),
        layers=layers,
        coefficients=coefficients,
        together=together,
        max_kl=max_kl,
        max_nats=max_nats,
        rule=rule,
        exhaustive=exhaustive,
        quick=quick,
        guidance=guidance,
        **_measured(**options),
    )


def suite(
    model: Model,
    conditions: Sequence[str] = (),
    texts: Data | None = None,
    *,
    tags: Sequence[str] = (),
    prompts: Data | None = None,
    mapping: Mapping[str, str] | None = None,
    methods: Sequence[str] | None = None,
    rivals: Mapping[str, Mapping[str, Vector]] | None = None,
    guidance: Sequence[float] = (),
    samples: int = 48,
    max_tokens: int = 64,
    seed: int = 0,
    budget: str | float | None = None,
    jobs: int = 1,
    progress: Progress = silent,
) -> SuiteResult:
    """Compare methods of making vectors on conditions, beside the condition as a prompt.

    conditions: prompts; texts: unrelated to them. Without both, tags of the pocket model's grammar,
    whose true effect is known. methods: by default all. rivals: vectors from elsewhere, by
    condition or tag and then by name. guidance: strengths at which each condition guides the model
    live, a row each. jobs: processes, each of which loads the pocket model.

    Raises:
        UsageError: a tag or method does not exist, or there are too few texts.
        InputError: a condition has no effect, or a text is too long.
    """
    chosen = {} if methods is None else {"methods": methods}
    return evaluation.suite(
        model.inner,
        conditions,
        [] if texts is None else text_list(texts, mapping=mapping),
        tags=tags,
        prompts=None if prompts is None else text_list(prompts, mapping=mapping),
        samples=samples,
        max_tokens=max_tokens,
        seed=seed,
        rivals={
            subject: {name: vector.data for name, vector in several.items()}
            for subject, several in (rivals or {}).items()
        },
        guidance=guidance,
        budget=budget,
        jobs=jobs,
        source=ModelSource() if jobs > 1 else None,
        progress=progress,
        **chosen,  # type: ignore[arg-type]  # `methods` alone
    )


def convert(
    path: str | PathLike[str],
    model: Model | None = None,
    *,
    format: str | None = None,
    layers: int | str | Iterable[int] | None = None,
    row: int | None = None,
    encoder: bool = False,
    pick: str | None = None,
    minus: str | PathLike[str] | None = None,
    offset: int | None = None,
    name: str | None = None,
    description: str = "",
    license: str = "",
) -> Vector:
    """Read another tool's vector file or folder; `steer convert --formats` lists the formats.

    The vector recommends the file's op, site and strength. model: the model that it was made on;
    without it the vector is not bound to a model, and using it needs allow_other_model. format: if
    the file does not show it. layers: the layers of bare numbers. row, pick: choose one of several
    vectors. encoder: of a sparse autoencoder, the encoder's row, for a gate on the activation of a
    feature. minus: the file of a baseline to subtract. offset: our layer number minus the file's.
    `export` writes such files.

    Raises:
        VectorError: the file is damaged or unknown, or steer cannot do what it says.
        UsageError: an option does not apply to the file.
    """
    source = Path(path)
    chosen = Options(
        format=format,
        layers=_layers(layers),
        row=row,
        encoder=encoder,
        pick=pick,
        minus=None if minus is None else Path(minus),
        offset=offset,
        model=None if model is None else model.id,
    )
    reading.check(source, chosen)
    foreign = reading.read(source, chosen, torch_files.read)
    called = name or (source.stem if safe_name(source.stem) else "imported")
    vector = reading.steering_vector(
        foreign, None, name=called, description=description, license=license
    )
    for text in (foreign.assumed, *foreign.imported.notes):
        warnings.warn(worded(text), ImportNote, stacklevel=2)
    return Vector(vector if model is None else reading.bind(vector, model.inner.identity))


class ImportNote(UserWarning):
    """A warning about an assumption that steer made about the file of another tool."""


def export(
    steer: Steers,
    path: str | PathLike[str],
    *,
    format: str | None = None,
    offset: int = 0,
    force: bool = False,
) -> None:
    """Write one steer as another tool's file: `.gguf` for llama.cpp, `.npz`, ...

    format: such as `glp`, instead of the default for the path's suffix. offset: our layer number
    minus the file's.

    Raises:
        VectorError: the format cannot express the steer.
        UsageError: there are several steers, or no format has this suffix.
        SteerError: the file exists already.
    """
    several = as_steers(steer)
    if len(several) != 1:
        raise UsageError(f"a file holds one steer, not {len(several)}")
    target = Path(path)
    written = writing.write(several[0], target, offset=offset, format=format)
    write_atomic(target, written.data, force=force)


def _records(data: Data | None) -> Any:
    """Held-out data as the evaluation takes them: a file, or records."""
    if data is None or isinstance(data, (str, PathLike)):
        return None if data is None else Path(data)
    return rows(data)


def _read_settings(
    site: str, layers: int | str | Iterable[int] | None, positions: str | None
) -> ReadSettings:
    sites = tuple(site_name(part.strip()) for part in site.split(","))
    return ReadSettings(sites, _layers(layers), () if positions is None else parse_list(positions))


def _fit_settings(
    name: str, method: str, options: Mapping[str, Value] | None, **rest: Any
) -> FitSettings:
    chosen, values = parse_method(method, fit_methods())
    return FitSettings(
        name, chosen.name, options=chosen.settings(values | dict(options or {})), **rest
    )


def _options(settings: FitSettings) -> dict[str, Any]:
    """The arguments of `fit` that give these settings again."""
    return {
        "method": settings.method,
        "options": settings.options,
        "positions": None if settings.positions is None else ",".join(settings.positions),
        "site": None if settings.sites is None else ",".join(settings.sites),
        "layers": settings.layers,
        "parts": ",".join(map(str, settings.keep))
        if isinstance(settings.keep, tuple)
        else settings.keep,
        "name": settings.name,
        "description": settings.description,
        "license": settings.license,
    }


def _layers(
    layers: int | str | Iterable[int] | None, of: Vector | None = None
) -> tuple[int, ...] | None:
    """Layers as a rising tuple; None where none are named, so that the default holds."""
    if layers is None or (layers == "all" and of is None):
        return None
    if layers == "all":
        assert of is not None
        return of.layers
    if isinstance(layers, str):
        return parse_layers(layers)
    return (layers,) if isinstance(layers, int) else tuple(sorted(set(layers)))
