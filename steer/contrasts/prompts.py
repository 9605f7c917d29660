"""Prompts from a file: plain text, one a line, or JSONL."""

from __future__ import annotations

from steer.base.errors import InputError
from steer.contrasts.records import decoded, records, text_field

#: Where nobody names prompts: a language model begins by itself, a chat model is asked.
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
#: For what is measured: of the others a distilled edit may know what is answered to them.
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


def read(data: bytes, source: str, *, field: str = "prompt") -> list[str]:
    """The prompts of a file named `source`: a line each, or records `{"prompt": "..."}`.

    field: the name in records, and in messages.

    Raises:
        InputError: it holds none, or records that are no prompts; with the line.
    """
    text = decoded(data, source)
    if text.lstrip()[:1] in ("{", "["):
        return [
            record if isinstance(record, str) else text_field(where, record, field)
            for where, record in records(data, source)
        ]
    prompts = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    if not prompts:
        raise InputError(f"{source} holds no {field}s", hint="write one a line")
    return prompts


def read_different(data: bytes, source: str) -> list[str]:
    """The prompts of a file, each once: texts are drawn by their prompt and number, so that those
    after the same one would be the same, and count twice.

    Raises:
        InputError: as `read`.
    """
    return list(dict.fromkeys(read(data, source)))


def read_one(data: bytes) -> str:
    """All of stdin as one prompt, without the end of its last line.

    Raises:
        InputError: it is empty or not UTF-8.
    """
    text = decoded(data, "stdin")
    if not text.strip():
        raise InputError("stdin is empty", hint="pipe a text in, or write it as an argument")
    return text.rstrip("\r\n")
