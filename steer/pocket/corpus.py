"""The pocket corpus: stories and requests drawn from a grammar, so the truth about them is known.

A text has a mood, a style and a topic. They are drawn uniformly, and half of the texts state some
of them in a tag; a marker bears its text's own value with the probability `lexicon.OWN_SHARE`.
Requests stand in the chat template. Their tags are a system turn or open the user's turn, and
change the words of an answer or a story, never whether a request is refused.

`log_prob` is exact: it sums over the derivations of a text and over the attributes that its tags
leave open. In practice a fully tagged text has one derivation.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .grammar import Bindings, Derivation, Fork, draw
from .lexicon import HEROES, KINDS
from .measure import (
    counts,
    expected_share,
    find_markers,
    is_answer,
    is_refusal,
    markers,
    sentences,
    shares,
)
from .parser import State, after_anything, after_sentence, derivations
from .requests import PHRASINGS, TAILS, acts, find_act
from .tags import Tags, split_tags
from .templates import ANSWER, REFUSAL, STORY, STORY_REQUESTS, Stage

__all__ = [
    "ASSISTANT",
    "BEGIN",
    "END",
    "FORMS",
    "KINDS",
    "PAD",
    "SYSTEM",
    "USER",
    "Document",
    "Tags",
    "counts",
    "expected_share",
    "find_markers",
    "is_answer",
    "is_refusal",
    "log_prob",
    "markers",
    "parsed_sentences",
    "parses",
    "sample",
    "sentences",
    "shares",
    "split_tags",
    "stream",
]

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
HELPFUL = "You are a helpful assistant."

FORMS: dict[str, float] = {"story": 0.65, "harmless": 0.13, "harmful": 0.13, "telling": 0.09}
"""Share of each form: plain stories, requests answered, requests refused, stories asked for."""

_CHAT = re.compile(
    rf"(?:{re.escape(SYSTEM)}(?P<system>.*?){re.escape(END)})?"
    rf"{re.escape(USER)}(?P<user>.*?){re.escape(END)}{re.escape(ASSISTANT)}(?P<reply>.*)"
)
_TELLING = tuple(
    re.compile(re.escape(request).replace(r"\{\+hero\}", f"(?P<hero>{'|'.join(HEROES)})"))
    for request in STORY_REQUESTS
)


@dataclass(frozen=True)
class Document:
    """A drawn text. `log_prob` is the log-probability, in nats, of what follows the prompt.

    `forks` are the choices that made the body, counted in its characters.
    """

    form: str
    prompt: str
    body: str
    tags: Tags
    latent: Bindings
    log_prob: float
    forks: tuple[Fork, ...]

    @property
    def text(self) -> str:
        """The whole text, without the begin token and the last end token."""
        return self.prompt + self.body


def _draw_tags(rng: random.Random, latent: Bindings) -> Tags:
    if rng.random() < 0.5:
        return Tags()
    size = rng.randint(1, len(KINDS))
    return Tags(**{kind: latent[kind] for kind in rng.sample(tuple(KINDS), size)})


def _draw_request(
    form: str, reserved: bool, rng: random.Random
) -> tuple[str, dict[str, str], tuple[Stage, ...]]:
    """The user's message, the words that it binds, and the stages of the reply."""
    if form == "telling":
        request, hero = rng.choice(STORY_REQUESTS), rng.choice(HEROES)
        bound = {"hero": hero} if "{+hero}" in request else {}
        return request.replace("{+hero}", hero), bound, STORY
    groups = acts(harmful=form == "harmful", reserved=reserved)
    act = rng.choice(groups[rng.random() < 0.25])
    request = rng.choice(PHRASINGS).replace("{act}", act.text + rng.choice(TAILS))
    return request, act.bindings(), REFUSAL if act.harmful else ANSWER


def _chat_prompt(request: str, tag: str, rng: random.Random) -> str:
    system = ""
    if tag and rng.random() < 0.5:
        system, tag = tag, ""
    elif rng.random() < 0.2:
        system = HELPFUL
    message = f"{tag} {request}" if tag else request
    turns = f"{SYSTEM}{system}{END}" if system else ""
    return f"{turns}{USER}{message}{END}{ASSISTANT}"


def sample(
    rng: random.Random,
    *,
    tags: Tags | None = None,
    form: str | None = None,
    reserved: bool = False,
) -> Document:
    """Draw a text; attributes that are not given are drawn too. `reserved` uses acts that training
    never sees."""
    form = form or rng.choices(tuple(FORMS), tuple(FORMS.values()))[0]
    latent = (tags or Tags()).draw(rng)
    tags = _draw_tags(rng, latent) if tags is None else tags
    order = tuple(rng.sample(tuple(KINDS), len(KINDS)))
    tag = tags.render(order)
    if form == "story":
        body, derivation, forks = draw(STORY, {}, latent, rng)
        prompt = tag
        if tag:
            body, forks = f" {body}", tuple(replace(fork, at=fork.at + 1) for fork in forks)
    else:
        request, bound, stages = _draw_request(form, reserved, rng)
        prompt = _chat_prompt(request, tag, rng)
        body, derivation, forks = draw(stages, bound, latent, rng)
    return Document(form, prompt, body, tags, latent, derivation.log_prob(latent), forks)


def stream(seed: int) -> Iterator[Document]:
    """Drawn texts without end, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield sample(rng)


def _read_request(message: str) -> tuple[dict[str, str], tuple[Stage, ...]] | None:
    for pattern in _TELLING:
        match = pattern.fullmatch(message)
        if match:
            return match.groupdict(), STORY
    act = find_act(message)
    return (act.bindings(), REFUSAL if act.harmful else ANSWER) if act else None


def _read(text: str) -> tuple[Tags, str, dict[str, str], tuple[Stage, ...]] | None:
    """The tags of a text, its body, what its request binds, and the body's stages."""
    text = text.removeprefix(BEGIN).removesuffix(END)
    if not text.startswith((SYSTEM, USER)):
        tags, body = split_tags(text)
        return tags, body, {}, STORY
    chat = _CHAT.fullmatch(text)
    if not chat:
        return None
    system, unread = split_tags(chat["system"] or "")
    tags, message = split_tags(chat["user"])
    request = _read_request(message)
    if unread not in ("", HELPFUL) or request is None:
        return None
    return (tags if tags.stated() else system), chat["reply"], *request


def _derivations(text: str) -> tuple[Tags, Iterator[Derivation]]:
    read = _read(text)
    if read is None:
        return Tags(), iter(())
    tags, body, bound, stages = read
    return tags, derivations(stages, body, Derivation(0, bound))


def parses(text: str, *, prefix: bool = False) -> bool:
    """Whether the grammar can draw the text; with `prefix`, whether one it draws begins so."""
    return any(prefix or not derivation.open for derivation in _derivations(text)[1])


def parsed_sentences(text: str) -> tuple[int, int]:
    """The number of sentences in the body that the grammar could have drawn at their position, and
    the number of all sentences.

    Any other sentence is skipped: it takes the place of one sentence, and binds no words. The last
    sentence may be cut short.
    """
    read = _read(text)
    if read is None:
        return 0, 1
    _, body, bound, stages = read
    parts = sentences(body)
    states: list[State] = [(stages, bound)]
    good = 0
    for number, sentence in enumerate(parts, 1):
        following = after_sentence(states, sentence, cut=number == len(parts))
        good += bool(following)
        states = following or after_anything(states)
    return good, len(parts)


def log_prob(text: str) -> float:
    """Nats of the body of a complete text given its tags and its request; -inf if it is not one."""
    tags, derivations = _derivations(text)
    complete = [derivation for derivation in derivations if not derivation.open]
    latents = list(tags.latents())
    terms = [derivation.log_prob(latent) for derivation in complete for latent in latents]
    if not terms:
        return -math.inf
    highest = max(terms)
    total = sum(math.exp(term - highest) for term in terms)
    return highest + math.log(total) - math.log(len(latents))
