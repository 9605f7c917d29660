"""`steer apply`: generate text with vectors."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import engine as engines
from steer.cli import generated, options, output
from steer.cli.command import SteerCommand
from steer.cli.recipe import RecipeOption, settings
from steer.cli.texts import given_texts, with_map
from steer.cli.watched import Observers, report_watched
from steer.contrasts.schema import Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.base.progress import Advance
    from steer.models.model import Model
    from steer.ops.op import Op
    from steer.steering.generation import Generation, Guide, Sampling
    from steer.steering.steers import Steer


#: The column at which the explanations of the forms of `-v` begin.
_OPS_COLUMN = 28


class ApplyCommand(SteerCommand):
    """A command whose help lists every op, including ops from other packages."""

    @property
    def explanation(self) -> str:
        """The docstring with one or two lines for each op."""
        from steer.ops.registry import ops

        lines = [line for op in ops() if not op.adds for line in _help_lines(op)]
        return super().explanation.replace("{ops}", "\n".join(lines))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write which ops of other packages could not be loaded, and why."""
        from steer.ops.registry import ops

        for broken in ops().broken:
            formatter.write_text(str(broken))


def _help_lines(op: Op) -> list[str]:
    """The help lines of an op: how it is typed, and what it does."""
    text = op.help + (f"; {op.name}=writes: at every write" if op.linear is not None else "")
    rows = textwrap.wrap(text, 78 - _OPS_COLUMN, break_on_hyphens=False)
    heads = [f"-v joyful:{op.example or op.name}", *[""] * (len(rows) - 1)]
    return [f"{head:<{_OPS_COLUMN}}{row}" for head, row in zip(heads, rows, strict=True)]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("apply", cls=ApplyCommand)(apply)


@options.with_model(default="pocket", chat=True)
@with_map("prompts")
def apply(
    *,
    context: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; - or nothing reads stdin.")
    ] = None,
    vector: Annotated[
        list[str] | None,
        typer.Option(
            "-v",
            "--vector",
            help="A vector and how to steer: see above. Repeatable.",
        ),
    ] = None,
    when: Annotated[
        str | None,
        typer.Option(help="Steer only where this holds: 'refusal>0.4'."),
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(help="NAME[@LAYER]: show projections. Repeatable."),
    ] = None,
    guard: Annotated[
        list[str] | None,
        typer.Option(help="Trip where this holds: 'troll>0.5'. Repeatable."),
    ] = None,
    on_trip: Annotated[
        str | None,
        typer.Option(help="stop (default), error (exit status 3) or ablate."),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="Guide by a text before the prompt. Repeatable."),
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="Of --condition: 1 is the condition itself, 0 none."),
    ] = None,
    live_layer: Annotated[
        int | None,
        typer.Option(help="Guide the activations at this layer, not the distribution."),
    ] = None,
    recipe: RecipeOption = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file of prompts: lines, JSONL, CSV, Parquet."),
    ] = None,
    names: Names,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write JSONL here."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the unsteered text beside it.")
    ] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put prompts into the model's chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="A system message; with --chat.")] = None,
    samples: Annotated[int, typer.Option("-n", "--samples", help="Continuations a prompt.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="New tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option("-t", "--temperature", help="0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling; 1 keeps all tokens.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="The k likeliest tokens; 0 keeps all.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text. Repeatable.")
    ] = None,
    beams: Annotated[int, typer.Option(help="Beam search; -n of the best are shown.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Rows that run together.")] = 16,
    engine: engines.EngineOption = None,
    engine_option: engines.EngineSettings = None,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Use a vector on a finetune of its model.")
    ] = False,
    allow_idle: options.AllowIdle = False,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Generate text while steering.

    \b
    steer apply "One day Mara woke up." -v joyful:2@2 --compare
    steer apply "Tell me about the sea." --chat -v joyful -v formal:-1
    steer apply --prompts prompts.txt -v joyful -n 4 -o out.jsonl
    steer apply "Hello" --chat --condition "You are a pirate." --strength 1.5
    steer apply "Hello" --chat --condition "You are a pirate." --live-layer 3

    \b
    -v joyful:-1                the opposite of what the file recommends
    -v joyful:-1.5@2,5-7        times the vector, at these layers, or at @all
    -v joyful:15%               15 % of the activations' mean length at the layer
    -v joyful:2,norm=keep       add, then restore each activation's length
    {ops}
    -v joyful:2/response        from the last prompt token on; /prompt: before it
    -v joyful:2/response=0-4    the first five new tokens; /4-9 or /4-: positions;
                                /not-4-9: all others; /skip-special: no special
    -v joyful:2/answer          what follows a model's thoughts; /thinking: those
    -v joyful:2/decay=20        halves every 20 new tokens; ramp=20: grows for 20
    -v joyful:2/first=20        the first 20 new tokens; after=20: the others;
                                on=0-3,8-: these
    --when 'refusal>0.4'        prompts above 0.4, or <; also neg, mid, pos, auto
    --when 'refusal>auto/last'  by the last token; /mean: by all; /token: by each
    --guard 'troll>0.5'         each new token; 'refusal>auto/last': the first one
    """
    from steer.base.errors import SteerError, UsageError
    from steer.base.files import check_writable
    from steer.base.text import unescaped
    from steer.steering.generation import LARGEST, Sampling, check_gates, guides_of
    from steer.steering.named import gated, resolved

    typed = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "stop": tuple(map(unescaped, stop or ())),
        "samples": samples,
        "beams": beams,
        "seed": seed,
        "chat": chat,
        "system": system,
    }
    named, chosen = settings(context, recipe, typed, vector or [])
    named = gated(named, when, "--when")
    looking = Observers(watch or [], guard or [], on_trip)
    chat, system = chosen.pop("chat"), chosen.pop("system")
    sampling = Sampling(batch_size=batch_size, **chosen | {"stop": tuple(chosen["stop"])})
    if strength and not condition:
        raise UsageError("--strength needs --condition")
    if live_layer is not None and not condition:
        raise UsageError("--live-layer needs --condition")
    guides = guides_of(condition or [], strength or 1.0)
    if compare and not named and not guides:
        raise UsageError("nothing to compare", hint="name a vector with -v, or a recipe")
    if guides and (engine or watch or guard or when or sampling.beams > 1):
        raise UsageError(
            "--condition cannot be combined with --engine, --watch, --guard, --when or --beams",
            hint="leave them out, or write the condition into the prompt",
        )
    if system is not None and not chat:
        raise UsageError("--system needs --chat")
    if sampling.beams > 1 and (watch or guard):
        raise UsageError("--beams cannot be combined with --watch or --guard")
    if engine is not None and (watch or guard or sampling.beams > 1):
        raise UsageError("--engine cannot be combined with --watch, --guard or --beams")
    if out is not None:
        check_writable(out, force=force)
    texts = given_texts(prompt, prompts, names, "prompt", 'steer apply "One day"')
    if len(texts) * sampling.samples > LARGEST["samples"]:
        raise UsageError(
            f"{sampling.samples:,} texts after each of {len(texts):,} prompts are more than"
            f" {LARGEST['samples']:,}",
            hint="pass a smaller -n, or a part of the prompts at a time",
        )
    steers = resolved(named, options.find)
    check_gates(sampling, steers)
    options.check_marks([*texts, system or ""], steers)
    settings_of_engine = engines.check(engine, engine_option or [], steers)
    looking.read_vectors()
    options.check_readers(chat=chat, steers=steers, watched=looking.watched, guards=looking.guards)
    used = [*(vector for steer in steers for vector in steer.vectors), *looking.vectors]
    source = options.for_vectors(used, source, chat=chat)
    # With an engine, this process needs the tokenizer, and the fingerprint of the weights.
    model = options.load_identity(source) if engine else options.load_model(source)

    options.check_fit(used, model.identity, allow_other_model=allow_other_model)
    where = "" if live_layer is None else f" at layer {live_layer}"
    steered = (
        " + ".join([*map(str, steers), *(f"{guide}{where}" for guide in guides)]) or "unsteered"
    )
    drawn = f"temperature {sampling.temperature:g} · seed {sampling.seed}"
    if sampling.beams > 1:
        drawn = f"{sampling.beams} beams"
    runs_on = f"{model.identity.id} · {engine}" if engine else model.describe()
    output.note(f"{runs_on} · {steered} · {drawn}")
    run = _Run(model, texts, sampling, chat, system, looking, guides, live_layer, allow_idle)
    streams = not (compare or json or out or sampling.beams > 1 or engine)
    streams = streams and len(texts) * sampling.samples == 1
    if streams:
        run.stream(steers)
        return
    lines = generated.Texts(len(texts) * sampling.samples, out)
    try:
        with ExitStack() as stack:
            if engine:
                writing = engines.generator(source, model, [steers], sampling, settings_of_engine)
                run = replace(run, engine=stack.enter_context(writing))
            n_texts = lines.total * (2 if compare else 1)
            advance = stack.enter_context(output.progress("generating", n_texts))
            for pair in run.pairs(steers, advance, compare=compare):
                lines.add(pair)
        lines.write(force=force)
    except (KeyboardInterrupt, SteerError):
        if lines.pairs:
            lines.leave(steered, json=json)
            if out is None and not json:
                looking.report(lines.steered)
        raise
    if json:
        output.as_json(
            {
                "model": model.identity.id,
                "steers": [str(steer) for steer in steers],
                **({"guides": [asdict(guide) for guide in guides]} if guides else {}),
                **({} if live_layer is None else {"live_layer": live_layer}),
                "sampling": asdict(sampling),
                "results": lines.records,
            }
        )
    elif out is None:
        lines.show(steered)
    looking.report(lines.steered)


def _counted(texts: Iterator[Generation], advance: Advance) -> Iterator[Generation]:
    for text in texts:
        advance(1)
        yield text


@dataclass(frozen=True)
class _Run:
    """Generates continuations of prompts, steered and, to compare, unsteered."""

    model: Model
    prompts: Sequence[str]
    sampling: Sampling
    chat: bool
    system: str | None
    looking: Observers
    guides: Sequence[Guide] = ()
    live_layer: int | None = None
    allow_idle: bool = False
    engine: engines.Generate | None = None

    def pairs(
        self, steers: Sequence[Steer], advance: Advance, *, compare: bool
    ) -> Iterator[generated.Pair]:
        """Yield each continuation when it is finished; with `compare`, beside an unsteered one."""
        from steer.steering.tokens import absent

        unguided = replace(self, guides=())
        unsteered = (
            _counted(unguided._generate(absent(steers), guarded=False), advance)
            if compare
            else repeat(None)
        )
        return zip(_counted(self._generate(steers), advance), unsteered, strict=False)

    def stream(self, steers: Sequence[Steer]) -> None:
        """Write a single continuation to stdout while it is generated."""
        stream = output.Stream()
        try:
            generations = list(self._generate(steers, on_text=stream.write))
        finally:
            stream.end()
        report_watched(generations[0])
        self.looking.report(generations)

    def _generate(
        self,
        steers: Sequence[Steer],
        *,
        guarded: bool = True,
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[Generation]:
        from steer.generate.prompts import generate_from, with_own_prompts

        if self.engine is not None:
            texts = self.prompts
            if self.chat:
                texts = [self.model.chat(prompt, self.system) for prompt in texts]
            generations = iter(self.engine(texts, steers, not self.chat, self.allow_idle))
            return with_own_prompts(generations, self.prompts, self.sampling)
        return generate_from(
            self.model,
            self.prompts,
            steers,
            self.sampling,
            chat=self.chat,
            system=self.system,
            guides=self.guides,
            live_layer=self.live_layer if self.guides else None,
            watched=self.looking.watched,
            guards=self.looking.guards if guarded else (),
            on_text=on_text,
            allow_idle=self.allow_idle,
        )
