"""A conversation as it is typed: messages, and commands that begin with a slash. No terminal."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from steer.base.errors import SteerError, UsageError
from steer.base.files import reported, write_atomic
from steer.generate.conversation import Conversation, OnText, Turn
from steer.steering import recipe, spec
from steer.steering.generation import Sampling
from steer.steering.named import NamedSteer, resolved
from steer.steering.steers import Steer, check_all_fit
from steer.vectors import store
from steer.vectors.rendering import differences

COMMANDS = {
    "/steer": "NAME 2, or a spec such as NAME:2@14: steer with it, or change how much",
    "/off": "NAME, or nothing for all: steer no longer",
    "/compare": "the last answer as it would be without steering",
    "/list": "what steers, and the vectors that could",
    "/seed": "NUMBER: the seed of the answers to come; alone: which it is",
    "/undo": "take the last message and its answer back",
    "/new": "start over; steers stay",
    "/save": "FILE.toml: steers and settings as a recipe",
    "/help": "these lines",
    "/quit": "leave; Ctrl-D does too",
}
_SLASHES = "a message that begins with / is written with //"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a line led to.

    lines: what was asked for. notes: what was done, or is to be known. turn: an answer, whose text
    has been given to `on_text`. over: the user leaves.
    """

    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    turn: Turn | None = None
    over: bool = False


class Chat:
    """A conversation and what steers it, to begin with `steers`.

    find: the file that a reference means. warnings: about vectors that may not fit the model, as
    they were last chosen.

    Raises:
        VectorError: a vector that is missing, or lacks a layer that a spec names.
        ModelError: a vector that does not fit the model.
        UsageError: a spec that means nothing.
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
        """What steers now."""
        return tuple(written for written, _ in self._steers)

    def enter(self, line: str, on_text: OnText) -> Outcome:
        """Do what a line says. An answer is given to `on_text` as it comes.

        Raises:
            SteerError: it cannot be done; then nothing has changed.
        """
        line = line.strip()
        if not line:
            return Outcome()
        if not line.startswith("/") or line.startswith("//"):
            return self._answer(line.removeprefix("/"), on_text)
        name, _, rest = line.partition(" ")
        if name == "/compare":
            turn = self.conversation.unsteered(self.sampling, on_text)
            return Outcome(turn=turn, notes=("without steering",))
        if name not in COMMANDS:
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else "/help lists them"
            raise UsageError(f"{name} is not a command", hint=f"{hint}; {_SLASHES}")
        command: Callable[[str], Outcome] = getattr(self, f"_{name[1:]}")
        return command(rest.strip())

    def completions(self, line: str) -> list[str]:
        """What the last word of a line could become."""
        name, blank, rest = line.partition(" ")
        known = {"/steer": _names(), "/off": [_reference(one) for one in self.steers]}
        begun, words = (rest, known.get(name, [])) if blank else (name, list(COMMANDS))
        return [word for word in words if line.startswith("/") and word.startswith(begun)]

    def _answer(self, message: str, on_text: OnText) -> Outcome:
        steers = [steer for _, steer in self._steers]
        turn = self.conversation.answer(message, steers, self.sampling, on_text)
        cut = ("cut off: --max-tokens, or the model's room, is used up",)
        return Outcome(turn=turn, notes=cut if turn.finish == "length" else ())

    def _steer(self, typed: str) -> Outcome:
        if not typed:
            raise UsageError("/steer needs a vector", hint="/steer NAME 2; /list says which")
        name, _, amount = typed.rpartition(" ")
        written = NamedSteer(f"{name.strip()}:{amount}" if name else typed)
        self.warnings = []
        made = self._resolved([written])
        others = [one for one in self._steers if _reference(one[0]) != _reference(written)]
        self._steers = [*others, *made]
        return self._steered(*self.warnings)

    def _off(self, name: str) -> Outcome:
        kept = [one for one in self._steers if name and _reference(one[0]) != name]
        if len(kept) == len(self._steers):
            raise UsageError(f"{name or 'nothing'} does not steer", hint="/list says what does")
        self._steers = kept
        return self._steered()

    def _steered(self, *warnings: str) -> Outcome:
        named = " + ".join(str(steer) for _, steer in self._steers)
        return Outcome(notes=(*warnings, f"steering: {named or 'nothing'}"))

    def _list(self, _: str) -> Outcome:
        active = [f"* {written}  ({steer})" for written, steer in self._steers]
        used = [_reference(one) for one in self.steers]
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
            raise UsageError("there is nothing to take back")
        return Outcome(notes=(f"taken back: {self.conversation.turns.pop().message}",))

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
        # What a recipe names by address it has to name by hash.
        hashed = [
            replace(one, sha256=steer.vector.sha256) if "://" in one.vector else one
            for one, steer in self._steers
        ]
        steers = [recipe.placed(one, path) for one in hashed]
        write_atomic(path, recipe.to_toml(steers, generation).encode())
        return Outcome(notes=(f"wrote {path}; steer chat and steer apply take it as --recipe",))

    def _help(self, _: str) -> Outcome:
        rows = [f"{name:<9} {what}" for name, what in COMMANDS.items()]
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
        self.warnings += self.conversation.doubts(steers)
        if in_chat:
            reads = {
                vector.name: vector.metadata.read for steer in steers for vector in steer.vectors
            }
            settings = self.conversation.model.template_settings
            self.warnings += differences(settings, reads.items())
        return list(zip(written, steers, strict=True))


def _reference(written: NamedSteer) -> str:
    return spec.parse(written.vector).reference


def _names() -> list[str]:
    """The vectors that can be found by name."""
    folders = [folder for folder in store.folders() if folder.is_dir()]
    return sorted({file.stem for folder in folders for file in store.files(folder)})
