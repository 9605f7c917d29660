"""Messages and answers, each answer steered as it was asked for.

With a chat template a message is the user's turn, and all turns before it go with it. Without one
the model continues a text: what is typed is added to all that was written before, and the model
goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from steer.base.errors import ModelError, SteerError, UsageError
from steer.generate.apply import generate
from steer.models.model import Model
from steer.steering.generation import GateReading, Sampling
from steer.steering.readers import check_readers, hint
from steer.steering.steers import Steer

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Turn:
    """A message and its answer; the steers and the seed that it had, and why it ended.

    finish: as of a `Generation`, or `interrupted` by Ctrl-C. gates, idle, unreached: likewise, as
    far as is known.
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
    """What was said so far, with a model. allow_idle: whether a steer may act nowhere. warn: hears
    of steers and gates that were read from texts of another kind.

    Raises:
        ModelError: a system message for a model without a chat template.
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
        """An answer to a message, which both join the conversation.

        An answer that Ctrl-C interrupts stays as far as it came, if it came anywhere.

        Raises:
            IdleError: a steer acts nowhere; then the answer does not join.
            SteerError: there is no room left.
        """
        for text in self.doubts(steers):
            if text not in self._warnings:
                self._warnings.add(text)
                self._warn(text)
        turn = self._made(message, self.turns, steers, sampling, on_text)
        if turn.answer.strip() or turn.finish != "interrupted":
            self.turns.append(turn)
        return turn

    def doubts(self, steers: Sequence[Steer]) -> list[str]:
        """What to warn of: steers and gates that were read from texts of another kind."""
        chat = self.has_template
        return [f"{text}: {hint(chat=chat)}" for text in check_readers(chat=chat, steers=steers)]

    def unsteered(self, sampling: Sampling, on_text: OnText) -> Turn:
        """What the last answer would be without steering; the conversation stays as it is.

        Raises:
            UsageError: there is no answer yet, or the last one was not steered.
        """
        if not self.turns:
            raise UsageError("there is no answer to compare with", hint="write a message first")
        *before, last = self.turns
        if not last.steers:
            raise UsageError("the last answer was not steered", hint="/steer NAME, then ask again")
        return self._made(last.message, before, [], replace(sampling, seed=last.seed), on_text)

    def _made(
        self,
        message: str,
        before: Sequence[Turn],
        steers: Sequence[Steer],
        sampling: Sampling,
        on_text: OnText,
    ) -> Turn:
        prompt = self._prompt(message, before)
        room = self._room(prompt, sampling.max_tokens)
        pieces: list[str] = []
        named = tuple(str(steer) for steer in steers)

        def write(piece: str) -> None:
            pieces.append(piece)
            on_text(piece)

        try:
            (made,) = generate(
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
            made.finish,
            made.gates,
            made.idle,
            made.unreached,
        )

    def _prompt(self, message: str, before: Sequence[Turn]) -> str:
        if self.has_template:
            history = [(turn.message, turn.answer) for turn in before]
            return self.model.chat(message, self.system, history)
        text = ""
        for turn in before:
            text = _continued(text, turn.message) + turn.answer
        return _continued(text, message)

    def _room(self, prompt: str, wanted: int) -> int:
        """How many tokens an answer can have, at most `wanted`."""
        context = self.model.context
        if context is None:
            return wanted
        room = context - len(self.model.encode(prompt, special=not self.has_template))
        if room < 1:
            raise SteerError(
                f"the conversation has no room left in the {context:,} tokens that"
                f" {self.model.identity.id} takes",
                hint="/undo takes the last exchange back, /new starts over",
            )
        return min(room, wanted)


def _continued(text: str, message: str) -> str:
    """A text and what is added to it, with a blank between where neither has one."""
    joined = not text or text[-1].isspace() or message[:1].isspace()
    return text + ("" if joined else " ") + message
