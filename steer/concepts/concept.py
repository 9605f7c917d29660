"""A concept: its name, its two poles, and the conditions that they become. No torch.

A pole is a text of the user: a word ("patient"), a person ("a weather forecaster"), an action
("talks like a weather forecaster"), or an instruction ("Answer only in Spanish."). `condition` puts
it into words for a chat model or a base model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from steer.base.errors import InputError, UsageError

#: The most characters of a pole.
MOST_CHARACTERS = 2_000
#: Stands for a pole in a phrase.
PLACE = "{}"

Form = Literal["as it is", "instruction", "description", "somebody", "word", "words"]

_SUBJECTS = ("you ", "you're ", "your ")
_ARTICLES = ("a ", "an ", "the ", "some ")
#: Verbs that begin an instruction.
_VERBS = """
act add address agree answer apologise apologize argue ask assume avoid base be begin
behave bring challenge change choose claim compare complain correct criticise criticize
describe discuss disagree do don't draw emphasise emphasize end explain express fill flatter
focus follow format give guess include insist invent joke keep know let list make mention
misspell name never number only order pack pick praise pretend promise put quote refer
refuse reject repeat reply respond rhyme say sign skip speak spell sprinkle start state
stick stop structure suggest swear take talk teach tell think translate treat try turn use
warn work wrap write
"""
_IMPERATIVES = frozenset(_VERBS.split())
_ADVERBS = frozenset(("always", "never", "often", "only", "sometimes"))
_NOT_VERBS = frozenset(("less", "perhaps", "this", "us", "as"))
_WORD = re.compile(r"\w+", re.UNICODE)


@dataclass(frozen=True, slots=True)
class Concept:
    """The meaning of a vector, in words.

    name: of the vector and its file. positive, negative: the poles; an empty negative pole is the
    unchanged model. synonyms: other words by which the concept can be named. questions: asked in
    addition to the everyday ones. words: to count in texts of the positive pole.

    Raises:
        InputError: a pole is empty or too long, or both are equal.
    """

    name: str
    positive: str
    negative: str = ""
    description: str = ""
    synonyms: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.positive.strip():
            raise InputError(
                f"the concept {self.name!r} has no pole" if self.name else "the word is empty",
                hint='name a word ("patient") or an action ("answers in rhyme")',
            )
        for pole in (self.positive, self.negative):
            if len(pole) > MOST_CHARACTERS:
                raise InputError(
                    f"a pole has {len(pole):,} characters, of at most {MOST_CHARACTERS:,}",
                    hint="use a sentence; for a long condition, use `steer distill --chat`",
                )
        if _plain(self.positive) == _plain(self.negative):
            raise InputError(
                f"both poles are {self.positive.strip()!r}",
                hint="name the opposite, or leave the second word out",
            )

    @property
    def poles(self) -> tuple[str, str]:
        """The positive and the negative pole."""
        return self.positive, self.negative

    def __str__(self) -> str:
        against = f" against {self.negative!r}" if self.negative else ""
        return f"{self.positive!r}{against}"


def form(pole: str) -> Form:
    """The grammatical form of a pole, by its first word and its length.

    instruction: begins with "you" or an imperative, or is a sentence with a full stop. description:
    begins with a verb in the third person, or "always" and such a verb. somebody: begins with an
    article. word, words: anything else. as it is: a tag such as `[mood: joyful]`.
    """
    text = pole.strip()
    lower = text.lower()
    spoken = [word.strip(",;:") for word in lower.split()]
    first = spoken[0] if spoken else ""
    several = len(spoken) > 1
    if several and first in _ADVERBS:
        return "description" if _is_verb(spoken[1]) else "instruction"
    if text.startswith(("[", "<", "{")):
        return "as it is"
    if lower.startswith(_SUBJECTS) or text.endswith((".", "!", "?")):
        return "instruction"
    if several and first in _IMPERATIVES:
        return "instruction"
    if lower.startswith(_ARTICLES):
        return "somebody"
    if several and _is_verb(first):
        return "description"
    return "words" if several else "word"


def _is_verb(word: str) -> bool:
    """Whether a word looks like a verb in the third person."""
    return word.endswith("s") and not word.endswith("ss") and word not in _NOT_VERBS


def condition(pole: str, *, chat: bool, phrase: str | None = None) -> str:
    """The condition of a pole: a system message, or for a base model the text at the beginning.

    An empty pole has no condition. phrase: a condition of the user with `{}` for the pole, such as
    `[mood: {}]`.
    """
    text = pole.strip()
    if not text:
        return ""
    if phrase is not None:
        return phrase.replace(PLACE, text)
    return (_CHAT if chat else _BASE)[form(text)].replace(PLACE, text)


_CHAT: dict[Form, str] = {
    "as it is": "{}",
    "instruction": "{}",
    "description": "You are someone who {}. Show this clearly in everything you say.",
    "somebody": "You are {}. Everything you say sounds like {}.",
    "word": "You are very {}. Everything you say is very {}.",
    "words": "You are {}. Everything you say is {}.",
}
_BASE: dict[Form, str] = {
    "as it is": "{}",
    "instruction": "{}",
    "description": "Here is a text by someone who {}:",
    "somebody": "Here is a text by {}:",
    "word": "Here is a text that is very {}:",
    "words": "Here is a text that is {}:",
}


def check_phrase(phrase: str | None) -> None:
    """Check that a phrase has a place for the pole.

    Raises:
        UsageError: it has none.
    """
    if phrase is not None and PLACE not in phrase:
        raise UsageError(
            f"the phrase {phrase!r} has no {PLACE} for the word",
            hint='such as --phrase "[mood: {}]"',
        )


def concept_of(positive: str, negative: str = "", *, name: str | None = None) -> Concept:
    """The concept of two words, or of one word or sentence against the unchanged model.

    Raises:
        UsageError: a word is empty.
        InputError: both are equal, or one is too long.
    """
    for word in (positive, negative or positive):
        if not word.strip():
            raise UsageError("a word is empty", hint='such as: steer extract "patient" "impatient"')
    return Concept(name or slug(positive), positive.strip(), negative.strip())


def slug(text: str) -> str:
    """A name for a file: words in lower case with hyphens between, at most 60 characters."""
    return "-".join(_WORD.findall(text.lower()))[:60].strip("-_") or "concept"


def find(concepts: Iterable[Concept], word: str) -> Concept | None:
    """The concept with this name or synonym, if there is one."""
    plain = _plain(word)
    named = {_plain(concept.name): concept for concept in concepts}
    if plain in named:
        return named[plain]
    return next((o for o in named.values() if plain in map(_plain, o.synonyms)), None)


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.lower().replace("_", " ")))
