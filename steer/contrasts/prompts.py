"""Prompts and single texts from the records of a file, and the default prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from steer.base.errors import InputError
from steer.base.files import read_bytes
from steer.contrasts.records import Record, decoded, names_of, text_value
from steer.contrasts.schema import ALIASES, PROMPT_ALIASES, Content, Names, content

#: The most bytes of the file of messages.
MOST_BYTES = 1_000_000
#: Default prompts: none for a base model, questions for a chat model.
OPENINGS = ("",)
QUESTIONS = (
    "What should I cook tonight?",
    "How do I start running?",
    "Tell me about the sea.",
    "Why is the sky blue?",
    "Write a short story about a lost key.",
    "What makes a good friend?",
    "How do plants grow?",
    "Describe a walk through a city at night.",
    "Can you recommend a book?",
    "How does a bicycle stay upright?",
    "What is a good way to learn a language?",
    "Explain what money is.",
    "How can I sleep better?",
    "Tell me something about cats.",
    "What happens when water boils?",
    "Write a letter to a neighbour.",
    "How do I fix a squeaky door?",
    "What did people eat a thousand years ago?",
    "Give me an idea for a birthday present.",
    "Why do leaves fall in autumn?",
    "How was your day?",
    "Should I move to the country?",
    "What is the best season of the year?",
    "Describe your favourite place.",
    "How do I clean a window?",
    "What is a good breakfast?",
    "Tell me about mountains.",
    "Why do cats purr?",
    "Write a short poem about a train.",
    "What makes a town pleasant to live in?",
    "How does a bridge carry its load?",
    "Describe a storm at night.",
    "Can you recommend a hobby for the winter?",
    "How does soap work?",
    "What is a good way to make new friends?",
    "Explain what an island is.",
    "How can I wake up earlier?",
    "Tell me something about elephants.",
    "What happens when bread gets old?",
    "Write a note to thank a colleague.",
    "How do I plan a garden?",
    "What did children play a hundred years ago?",
    "Give me an idea for a picnic.",
    "Why is the sea salty?",
    "Do you like music?",
    "Should I learn to cook?",
    "What is the best way to spend a Sunday?",
    "Describe an old library.",
)
#: Questions with answers that no persona, style or topic is needed for: facts, sums, code, other
#: languages. What steering changes in them is a side effect.
UNRELATED = (
    ("What is 17 times 6?", "17 times 6 is 102: ten times 6 is 60, seven times 6 is 42."),
    ("List the planets.", "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune."),
    (
        "Write a Python function that reverses a list.",
        "def reverse(items):\n    return [items[i] for i in range(len(items) - 1, -1, -1)]",
    ),
    (
        "What is the capital of Australia?",
        "The capital of Australia is Canberra, which lies between Sydney and Melbourne.",
    ),
    (
        "Translate into German: The train leaves at eight.",
        "Der Zug fährt um acht Uhr ab.",
    ),
    (
        "How many sides does a hexagon have?",
        "A hexagon has six sides and six angles, which add up to 720 degrees.",
    ),
    (
        "Write an SQL query for the names of all customers from Norway.",
        "SELECT name FROM customers WHERE country = 'Norway' ORDER BY name;",
    ),
    (
        "At what temperature does water freeze?",
        "Water freezes at 0 degrees Celsius, which is 32 degrees Fahrenheit.",
    ),
    (
        "Sort these numbers: 9, 2, 14, 5.",
        "In rising order the numbers are 2, 5, 9 and 14.",
    ),
    (
        "What is the chemical formula of table salt?",
        "Table salt is sodium chloride, NaCl: one sodium ion for each chloride ion.",
    ),
    (
        "Give the HTML of a link to example.org.",
        '<a href="https://example.org">An example</a>',
    ),
    (
        "Who wrote Hamlet?",
        "William Shakespeare wrote Hamlet, probably between 1599 and 1601.",
    ),
)
#: Default questions for measuring: a distilled edit may have been trained on `QUESTIONS`.
OTHER_QUESTIONS = (
    "What should I do this weekend?",
    "How do I bake bread?",
    "Tell me about the moon.",
    "Why does it rain?",
    "Write a short story about an old house.",
    "What makes a good teacher?",
    "How do birds find their way?",
    "Describe a morning at a market.",
    "Can you suggest a film for tonight?",
    "How does a clock work?",
    "What is a good way to save money?",
    "Explain what a law is.",
    "How can I remember names better?",
    "Tell me something about bees.",
    "What happens when iron rusts?",
    "Write an invitation to a party.",
    "How do I get a stain out of a shirt?",
    "How did people tell the time before clocks?",
    "Give me an idea for a day with children.",
    "Why do we dream?",
    "What did you think of the news today?",
    "Should I get a dog?",
    "What is the best way to travel?",
    "Describe a perfect meal.",
)


def training_messages() -> list[str]:
    """Messages of users whose answers a distillation learns from: `QUESTIONS`, and 223 more of many
    kinds. Edits that are trained after 40 questions carry over less well to others."""
    path = Path(__file__).with_name("messages.txt")
    return [*QUESTIONS, *read_bytes(path, limit=MOST_BYTES).decode().splitlines()]


def read(
    records: Iterable[Record], names: Names | None = None, *, field: Literal["prompt", "text"]
) -> tuple[list[str], tuple[str, ...]]:
    """The prompts (or texts, by `field`) in the records of a file, and notes on ignored fields.

    A record is a string, or an object with one of the usual names of a prompt or text. Names of
    `field` are tried first; a mapping in `names` replaces them.

    Raises:
        InputError: the file is empty, or a record holds no prompt; with the line.
    """
    names = names or Names()
    prompts: list[str] = []
    ignored: dict[str, None] = {}
    for where, record in records:
        value, subject, others = _value(where, record, names, field)
        ignored |= dict.fromkeys(others)
        prompts.append(_prompt(where, value, subject))
    if not prompts:
        raise InputError(f"there are no {field}s", hint="write one a line")
    if not ignored:
        return prompts, ()
    return prompts, (_not_read(ignored),)


def read_contents(
    records: Iterable[Record], names: Names, on_note: Callable[[str], None] = lambda text: None
) -> Iterator[tuple[str, Content]]:
    """The text or conversation of each record, with its place, as soon as the record is there.

    on_note: called with a note about fields that are not read, once.

    Raises:
        InputError: there are no records, or one holds neither; with the line.
    """
    ignored: list[str] = []
    where = ""
    for where, record in records:
        value, subject, others = _value(where, record, names, "text")
        if others and not ignored:
            ignored = others
            on_note(_not_read(ignored))
        yield where, content(where, value, subject)
    if not where:
        raise InputError("there are no texts", hint="write one a line")


def _value(where: str, record: Any, names: Names, field: str) -> tuple[Any, str, list[str]]:
    """What a record holds in `field`, how to call it in messages, and its other fields."""
    if not isinstance(record, dict):
        return record, f"the {field}", []
    names.check_mapped(where, record)
    key = next((key for key in _keys(names, field) if key in record), None)
    if key is None:
        raise InputError(
            f"{where}: there is no {field}; it has the fields {names_of(record)}",
            hint=f"name the field: --map {field}=THEIRS",
        )
    return record[key], repr(key), [name for name in record if name != key]


def _not_read(fields: Iterable[str]) -> str:
    return f"fields that are not read: {', '.join(list(fields)[:8])}"


def different(prompts: Iterable[str]) -> list[str]:
    """Prompts without repeats: the seeds depend on the prompt, so a repeated prompt would give the
    same texts, which would count twice."""
    return list(dict.fromkeys(prompts))


def _keys(names: Names, field: str) -> list[str]:
    """The names that a prompt or text may have in a record, in the order in which they are tried.

    If a mapping names the field, that name is the only one.
    """
    fields = ("prompt", "text") if field == "prompt" else ("text", "prompt")
    for name in fields:
        if name in names.mapping:
            return [names.mapping[name]]
    aliases = {"prompt": PROMPT_ALIASES, "text": ALIASES["text"]}
    return [key for name in fields for key in aliases[name]]


def _prompt(where: str, value: Any, subject: str) -> str:
    """A prompt: a string, or a conversation of one user message."""
    if isinstance(value, list):
        messages = content(where, value, subject)
        assert not isinstance(messages, str)
        if len(messages) > 1 or messages[0].role != "user":
            raise InputError(
                f"{where}: {subject} is a conversation; it has to be a single user message",
                hint="leave the other messages out; --system gives a system message",
            )
        return messages[0].content
    return text_value(where, value, subject)


def read_one(data: bytes) -> str:
    """All of stdin as one prompt, without the end of its last line.

    Raises:
        InputError: it is empty or not UTF-8.
    """
    text = decoded(data, "stdin")
    if not text.strip():
        raise InputError("stdin is empty", hint="pipe a text in, or write it as an argument")
    return text.rstrip("\r\n")
