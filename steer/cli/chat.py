"""`steer chat`: a conversation in the terminal, with commands that steer it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.cli.recipe import RecipeOption, settings
from steer.cli.watched import report_empty, report_steering
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.generate.chat import Chat, Outcome


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("chat")(chat)


@options.with_model(default="pocket", chat=True)
def chat(
    *,
    context: typer.Context,
    vector: Annotated[
        list[str] | None,
        typer.Option("-v", "--vector", help="Steer with it from the start, as in apply."),
    ] = None,
    recipe: RecipeOption = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 256,
    temperature: Annotated[float, typer.Option("-t", "--temperature", help="0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling; 1 keeps all tokens.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="The k likeliest tokens; 0 keeps all.")] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End an answer before this text; \\n is a line break."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Use vectors on a finetune of their model.")
    ] = False,
    allow_idle: options.AllowIdle = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Talk with a model, and steer it as you go.

    /help lists the commands. Ctrl-C stops an answer and keeps the text so far; a second Ctrl-C
    leaves, as Ctrl-D does. A model without a chat template continues the text that you type. Lines
    can be piped in; then the first error ends the conversation.

    \b
    /steer joyful 2    steer; /off joyful removes it, /list lists the vectors
    /compare           the last answer without steering
    /seed 1   /undo   /new   /save recipe.toml   /help   /quit

    \b
    steer chat
    steer chat -m Qwen/Qwen2.5-0.5B-Instruct -v warm:4 --system "You are a cook."
    printf '/steer sea 2\\nTell me a story.\\n/compare\\n' | steer chat
    """
    from steer.base.text import unescaped
    from steer.steering.generation import Sampling
    from steer.steering.named import resolved

    typed = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "stop": list(map(unescaped, stop or [])),
        "seed": seed,
        "system": system,
    }
    steers, chosen = settings(context, recipe, typed, vector or [])
    system = chosen.pop("system")
    sampling = Sampling(**chosen | {"stop": tuple(chosen["stop"])})
    # Resolved here too, so that errors come before the model loads.
    used = [vector for steer in resolved(steers, options.find) for vector in steer.vectors]
    source = options.for_vectors(used, source)
    model = options.load_model(source)
    from steer.generate.chat import Chat, enter_all
    from steer.generate.conversation import Conversation

    talk = Conversation(model, system=system, allow_idle=allow_idle)
    chatting = Chat(talk, sampling, steers, find=options.find, allow_other_model=allow_other_model)
    for text in chatting.warnings:
        output.warning(text)
    form = "" if talk.has_template else " · no chat template: it continues the text"
    output.note(f"{model.describe()}{form} · temperature {sampling.temperature:g}")
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not json
    if on_terminal:
        _talk(chatting)
        return
    turns = enter_all(partial(_enter, chatting, show=not json), _piped())
    if json:
        answers = [asdict(turn) for turn in turns]
        output.as_json({"model": model.identity.id, "answers": answers})


def _talk(chatting: Chat) -> None:
    """Talk on a terminal.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed twice in a row.
    """
    from steer.generate.chat import enter_until_over

    output.note("/help lists the commands, Ctrl-D leaves")
    enter_until_over(
        partial(_enter, chatting, show=True),
        _prompter(chatting),
        on_error=lambda error: output.error(str(error), hint=error.hint),
        on_interrupt=lambda: output.note("Ctrl-C again leaves"),
    )


def _piped() -> Iterator[str]:
    from steer.contrasts.records import decoded

    for number, line in enumerate(sys.stdin.buffer, 1):
        yield decoded(line, f"line {number} of stdin")


def _enter(chatting: Chat, line: str, *, show: bool) -> Outcome:
    """Process a line, and print the outcome."""
    stream = output.Stream(show=show)
    try:
        outcome = chatting.enter(line, stream.write)
    finally:
        stream.end()
    for text in outcome.notes:
        output.note(text)
    if outcome.turn is not None:
        report_steering([outcome.turn])
        if outcome.turn.finish != "interrupted":
            report_empty([outcome.turn.answer])
    for text in outcome.lines if show else ():
        output.line(text)
    return outcome


def _prompter(chatting: Chat) -> Callable[[], str]:
    """A function that asks for a line, with history, editing and completion."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class Commands(Completer):
        def get_completions(self, document: Document, _: CompleteEvent) -> Iterator[Completion]:
            line = document.text_before_cursor
            typed = line.partition(" ")[2] if " " in line else line
            for word in chatting.completions(line):
                yield Completion(word, start_position=-len(typed))

    session: PromptSession[str] = PromptSession(completer=Commands(), complete_while_typing=False)

    def ask() -> str:
        return session.prompt(
            prompt_line(map(str, chatting.steers), session.output.get_size().columns)
        )

    return ask


def prompt_line(steers: Iterable[str], width: int) -> str:
    """The prompt: the current steers, on a line of their own if they are long."""
    from steer.base.files import shown

    text = shown(" ".join(steers))
    if not text:
        return "> "
    return f"{text}\n> " if len(text) > width // 2 else f"{text} > "
