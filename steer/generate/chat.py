"""A typed conversation: messages, and commands that begin with a slash. No terminal."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from steer.base.errors import SteerError, UsageError
from steer.base.files import reported, write_atomic
from steer.generate.conversation import Conversation, OnText, Turn
from steer.steering import recipe, spec
from steer.steering.generation import Sampling
from steer.steering.named import NamedSteer, resolved
from steer.steering.steers import Steer, check_all_fit
from steer.steering.tokens import absent
from steer.vectors import store
from steer.vectors.rendering import differences

COMMANDS = {
    "/steer": "NAME 2, or a spec such as NAME:2@14: add a steer, or change it",
    "/off": "NAME: remove a steer; without a name: remove all",
    "/compare": "repeat the last answer without steering",
    "/list": "list the steers, and the vectors in ./vectors",
    "/seed": "NUMBER: set the seed of later answers; without a number: show it",
    "/undo": "remove the last message and its answer",
    "/new": "start a new conversation; steers stay",
    "/save": "FILE.toml: save steers and settings as a recipe",
    "/help": "show these lines",
    "/quit": "leave, as Ctrl-D does",
}
_SLASHES = "to begin a message with /, write //"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a line.

    lines: requested output. notes: actions and warnings. turn: an answer, whose text has been given
    to `on_text`. over: the user leaves.
    """

    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    turn: Turn | None = None
    over: bool = False


class Chat:
    """A conversation and its steers, initially `steers`.

    find: gives the file of a reference. warnings: about vectors in the last change that may not fit
    the model.

    Raises:
        VectorError: a vector is missing, or lacks a layer that a spec names.
        ModelError: a vector does not fit the model.
        UsageError: a spec is invalid.
    """

    def __init__(
        self,
        conversation: Conversation,
        sampling: Sampling,
        steers: Sequence[NamedSteer] = (),
        *,
        find: Callable[[str], Path] = store.find,
        allow_other_model: bool = False,
    ) -> None:
        self._find = find
        self.conversation = conversation
        self.sampling = sampling
        self.warnings: list[str] = []
        self._allow_other_model = allow_other_model
        self._steers = self._resolved(steers)

    @property
    def steers(self) -> tuple[NamedSteer, ...]:
        """The current steers."""
        return tuple(written for written, _ in self._steers)

    def enter(self, line: str, on_text: OnText) -> Outcome:
        """Execute a line. The text of an answer is given to `on_text` piece by piece.

        Raises:
            SteerError: the line cannot be executed; then nothing has changed.
        """
        line = line.strip()
        if not line:
            return Outcome()
        if not line.startswith("/") or line.startswith("//"):
            return self._answer(line.removeprefix("/"), on_text)
        name, _, rest = line.partition(" ")
        if name == "/compare":
            tokens = absent([steer for _, steer in self._steers])
            turn = self.conversation.unsteered(self.sampling, on_text, tokens)
            return Outcome(turn=turn, notes=("without steering",))
        if name not in COMMANDS:
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else "/help lists them"
            raise UsageError(f"{name} is not a command", hint=f"{hint}; {_SLASHES}")
        command: Callable[[str], Outcome] = getattr(self, f"_{name[1:]}")
        return command(rest.strip())

    def completions(self, line: str) -> list[str]:
        """Completions of the last word of a line."""
        name, blank, rest = line.partition(" ")
        known = {"/steer": _names(), "/off": [_reference(steer) for steer in self.steers]}
        begun, words = (rest, known.get(name, [])) if blank else (name, list(COMMANDS))
        return [word for word in words if line.startswith("/") and word.startswith(begun)]

    def _answer(self, message: str, on_text: OnText) -> Outcome:
        steers = [steer for _, steer in self._steers]
        turn = self.conversation.answer(message, steers, self.sampling, on_text)
        cut = ("cut off at --max-tokens or at the end of the model's context",)
        return Outcome(turn=turn, notes=cut if turn.finish == "length" else ())

    def _steer(self, typed: str) -> Outcome:
        if not typed:
            raise UsageError("/steer needs a vector", hint="/steer NAME 2; /list shows the names")
        name, _, amount = typed.rpartition(" ")
        written = NamedSteer(f"{name.strip()}:{amount}" if name else typed)
        self.warnings = []
        resolved_steers = self._resolved([written])
        others = [pair for pair in self._steers if _reference(pair[0]) != _reference(written)]
        self._steers = [*others, *resolved_steers]
        return self._steered(*self.warnings)

    def _off(self, name: str) -> Outcome:
        kept = [pair for pair in self._steers if name and _reference(pair[0]) != name]
        if len(kept) == len(self._steers):
            fact = f"there is no steer {name}" if name else "there are no steers"
            raise UsageError(fact, hint="/list shows them")
        self._steers = kept
        return self._steered()

    def _steered(self, *warnings: str) -> Outcome:
        named = " + ".join(str(steer) for _, steer in self._steers)
        return Outcome(notes=(*warnings, f"steering: {named or 'nothing'}"))

    def _list(self, _: str) -> Outcome:
        active = [f"* {written}  ({steer})" for written, steer in self._steers]
        used = [_reference(steer) for steer in self.steers]
        names = [f"  {name}" for name in _names() if name not in used]
        return Outcome(lines=(*active, *names) or ("there are no vectors in ./vectors",))

    def _seed(self, typed: str) -> Outcome:
        if not typed:
            return Outcome(lines=(str(self.sampling.seed),))
        if not (typed.isascii() and typed.isdecimal() and len(typed) < 20):
            raise UsageError(f"{typed!r} is not a seed", hint="write a whole number: /seed 1")
        self.sampling = replace(self.sampling, seed=int(typed))
        return Outcome(notes=(f"seed {typed}",))

    def _undo(self, _: str) -> Outcome:
        if not self.conversation.turns:
            raise UsageError("there is no message to remove")
        return Outcome(notes=(f"removed: {self.conversation.turns.pop().message}",))

    def _new(self, _: str) -> Outcome:
        self.conversation.turns.clear()
        return Outcome(notes=("a new conversation",))

    def _save(self, typed: str) -> Outcome:
        if not typed:
            raise UsageError("/save needs a file", hint="/save recipe.toml")
        path = Path(typed)
        with reported(path):
            if path.exists():
                raise SteerError(f"{path} exists", hint="save it under another name")
        talk, settings = self.conversation, self.sampling
        generation = {
            name: getattr(settings, name)
            for name in ("max_tokens", "temperature", "top_p", "top_k", "stop", "seed")
        } | {"chat": talk.has_template}
        if talk.system is not None:
            generation["system"] = talk.system
        # A recipe needs the hash of a vector that it names by an address.
        hashed = [
            replace(named, sha256=steer.vector.sha256) if "://" in named.vector else named
            for named, steer in self._steers
        ]
        steers = [recipe.placed(named, path) for named in hashed]
        write_atomic(path, recipe.to_toml(steers, generation).encode())
        return Outcome(notes=(f"wrote {path}; use it with steer chat or apply --recipe {path}",))

    def _help(self, _: str) -> Outcome:
        rows = [f"{name:<9} {text}" for name, text in COMMANDS.items()]
        return Outcome(lines=(*rows, _SLASHES))

    def _quit(self, _: str) -> Outcome:
        return Outcome(over=True)

    def _resolved(self, written: Sequence[NamedSteer]) -> list[tuple[NamedSteer, Steer]]:
        steers = resolved(written, self._find)
        self.warnings += check_all_fit(
            [vector for steer in steers for vector in steer.vectors],
            self.conversation.model.identity,
            allow_other_model=self._allow_other_model,
        )
        in_chat = self.conversation.has_template
        self.warnings += self.conversation.reader_warnings(steers)
        if in_chat:
            reads = {
                vector.name: vector.metadata.read for steer in steers for vector in steer.vectors
            }
            settings = self.conversation.model.template_settings
            self.warnings += differences(settings, reads.items())
        return list(zip(written, steers, strict=True))


def enter_all(enter: Callable[[str], Outcome], lines: Iterable[str]) -> list[Turn]:
    """Enter lines, such as piped ones, until one leaves; returns the answers.

    enter: `Chat.enter`, and whatever shows the outcome.

    Raises:
        SteerError: a line cannot be executed, and nobody is there to correct it.
        KeyboardInterrupt: an answer was interrupted.
    """
    turns = []
    for line in lines:
        outcome = enter(line)
        if outcome.over:
            break
        if outcome.turn is not None:
            turns.append(outcome.turn)
            if outcome.turn.finish == "interrupted":
                raise KeyboardInterrupt
    return turns


def enter_until_over(
    enter: Callable[[str], Outcome],
    ask: Callable[[], str],
    on_error: Callable[[SteerError], None],
    on_interrupt: Callable[[], None],
) -> None:
    """Ask for lines and enter them until the user leaves, as on a terminal.

    After an error, or Ctrl-C, it asks for the next line. enter: as in `enter_all`. ask: gives a
    line; raises EOFError to leave. on_error, on_interrupt: called with the error, and after Ctrl-C.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed twice in a row.
    """
    interrupted = False
    while True:
        try:
            outcome = enter(ask())
            again = outcome.turn is not None and outcome.turn.finish == "interrupted"
        except EOFError:
            return
        except SteerError as error:
            on_error(error)
            again = False
        except KeyboardInterrupt:
            if interrupted:
                raise
            again = True
        else:
            if outcome.over:
                return
        interrupted = again
        if interrupted:
            on_interrupt()


def _reference(written: NamedSteer) -> str:
    return spec.parse(written.vector).reference


def _names() -> list[str]:
    """The vectors that can be found by name."""
    folders = [folder for folder in store.folders() if folder.is_dir()]
    return sorted({file.stem for folder in folders for file in store.files(folder)})
