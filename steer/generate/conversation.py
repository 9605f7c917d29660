"""A conversation of messages and answers, each answer with its own steers.

With a chat template, the model gets all turns. Without one, the model continues a text: each
message is appended to the text so far, and the model continues from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from steer.base.errors import ModelError, SteerError, UsageError
from steer.generate.apply import generate
from steer.hooks.tokens import substitute_tokens
from steer.models.model import Model
from steer.steering.generation import GateReading, Sampling
from steer.steering.readers import check_readers, hint
from steer.steering.steers import Steer
from steer.steering.tokens import separate

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Turn:
    """A message and its answer, with the steers, the seed, and the reason for its end.

    finish: as in `Generation`, or `interrupted` by Ctrl-C. gates, idle, unreached: as in
    `Generation`; empty for an interrupted answer.
    """

    message: str
    answer: str
    steers: tuple[str, ...]
    seed: int
    finish: str
    gates: list[GateReading] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)


class Conversation:
    """A conversation with a model. allow_idle: whether a steer may act nowhere. warn: called with
    warnings about steers and gates that were made from another kind of texts.

    Raises:
        ModelError: there is a system message, but the model has no chat template.
    """

    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        allow_idle: bool = False,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._warn = warn
        self._warnings: set[str] = set()
        self._allow_idle = allow_idle
        self.turns: list[Turn] = []
        self.model = model
        self.system = system
        self.has_template = model.template.exists
        if system is not None and not self.has_template:
            raise ModelError(
                f"{model.identity.id} has no chat template, so no system message",
                hint="leave --system out, and write it as the beginning of the text",
            )

    def answer(
        self, message: str, steers: Sequence[Steer], sampling: Sampling, on_text: OnText
    ) -> Turn:
        """Answer a message, and append both to the conversation.

        An answer that Ctrl-C interrupts is kept as far as it got, unless it is empty.

        Raises:
            IdleError: a steer acts nowhere; then the answer is not appended.
            SteerError: the context is full.
        """
        for text in self.reader_warnings(steers):
            if text not in self._warnings:
                self._warnings.add(text)
                self._warn(text)
        turn = self._generated(message, self.turns, steers, sampling, on_text)
        if turn.answer.strip() or turn.finish != "interrupted":
            self.turns.append(turn)
        return turn

    def reader_warnings(self, steers: Sequence[Steer]) -> list[str]:
        """Warnings about steers and gates that were made from the other kind of texts, chat or
        plain."""
        chat = self.has_template
        return [f"{text}: {hint(chat=chat)}" for text in check_readers(chat=chat, steers=steers)]

    def unsteered(self, sampling: Sampling, on_text: OnText, tokens: Sequence[Steer] = ()) -> Turn:
        """The last answer without steering; does not change the conversation.

        tokens: learned tokens that messages may have written, at the coefficient 0.

        Raises:
            UsageError: there is no answer yet, or the last one was not steered.
        """
        if not self.turns:
            raise UsageError("there is no answer to compare with", hint="write a message first")
        *before, last = self.turns
        if not last.steers:
            raise UsageError("the last answer was not steered", hint="/steer NAME, then ask again")
        return self._generated(
            last.message, before, tokens, replace(sampling, seed=last.seed), on_text
        )

    def _generated(
        self,
        message: str,
        before: Sequence[Turn],
        steers: Sequence[Steer],
        sampling: Sampling,
        on_text: OnText,
    ) -> Turn:
        prompt = self._prompt(message, before)
        room = self._room(prompt, sampling.max_tokens, steers)
        pieces: list[str] = []
        named = tuple(str(steer) for steer in steers)

        def write(piece: str) -> None:
            pieces.append(piece)
            on_text(piece)

        try:
            (generation,) = generate(
                self.model,
                [prompt],
                steers,
                replace(sampling, max_tokens=room),
                special=not self.has_template,
                on_text=write,
                allow_idle=self._allow_idle,
            )
        except KeyboardInterrupt:
            return Turn(message, "".join(pieces), named, sampling.seed, "interrupted")
        answer = "".join(pieces)
        return Turn(
            message,
            answer,
            named,
            sampling.seed,
            generation.finish,
            generation.gates,
            generation.idle,
            generation.unreached,
        )

    def _prompt(self, message: str, before: Sequence[Turn]) -> str:
        if self.has_template:
            history = [(turn.message, turn.answer) for turn in before]
            return self.model.chat(message, self.system, history)
        text = ""
        for turn in before:
            text = _append(text, turn.message) + turn.answer
        return _append(text, message)

    def _room(self, prompt: str, n_tokens: int, steers: Sequence[Steer]) -> int:
        """The number of tokens that an answer can have, at most `n_tokens`."""
        context = self.model.context
        if context is None:
            return n_tokens
        tokens, _ = separate(steers)
        ids = self.model.with_learned_tokens(tokens).encode(prompt, special=not self.has_template)
        room = context - len(substitute_tokens(self.model, tokens, ids))
        if room < 1:
            raise SteerError(
                f"the conversation fills the context of {context:,} tokens of"
                f" {self.model.identity.id}",
                hint="/undo removes the last exchange, /new starts over",
            )
        return min(room, n_tokens)


def _append(text: str, message: str) -> str:
    """A text with a message appended, separated by a space unless one of them has it."""
    joined = not text or text[-1].isspace() or message[:1].isspace()
    return text + ("" if joined else " ") + message
