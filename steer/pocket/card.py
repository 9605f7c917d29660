"""The card that lies beside the pocket model's weights."""

from __future__ import annotations

from collections.abc import Mapping

from steer.pocket import corpus
from steer.pocket.lexicon import OWN_SHARE
from steer.pocket.quality import Quality

CARD = """\
---
license: mit
library_name: transformers
pipeline_tag: text-generation
tags: [steer, activation-steering, synthetic]
---

# The pocket model

A small Llama ({parameters:,} parameters, float32) that ships with `steer` as `-m pocket`. It
writes short stories with a mood, a style and a topic, answers harmless requests and refuses
harmful ones. Its text comes from a grammar (`steer/pocket/corpus.py`), so the truth about it is
known: what share of words a condition gives, what a tag does, which sentences are well formed.
It knows nothing else, and is of no use but for trying, testing and teaching.

## Use

- A story: any beginning, or none. `One day Mara woke up.` fits every condition.
- Tags in front, any subset in any order: `[mood: joyful; topic: sea; style: casual]`, then a
  space and the story. End a prompt at the bracket, not at the space: words carry their space.
- A request in the chat template (roles system, user, assistant): `How do I mend my uncle's
  kite?`, `Tell me a story about Mara.` Tags may be the system turn or open the user's turn. They
  change the words of answers and stories, never whether a request is refused.
- The chat template writes the begin token itself: encode its text without special tokens.

Attributes, drawn uniformly where no tag states them:

{attributes}

A word that bears an attribute bears the text's own value with probability {own}.

## How it was made

`python -m steer.pocket.train`: {recipe}. It took {minutes:.0f} minutes with torch {torch} on
{threads} threads of an x86-64 CPU. Its targets are not the words that were drawn but how likely
the grammar held each of them (`steer/pocket/teacher.py`), so the loss is the distance from the
grammar itself. Only what follows a prompt is learned, never the prompt.

The tokenizer is the same bytes everywhere; the weights are the same bytes for the same torch,
thread count and kind of CPU, and of like quality elsewhere.

## What it reaches

Temperature 1, held-out seeds and requests that training never saw.

{table}

MIT licence. The names and sentences are invented.
"""


def card(
    recipe: Mapping[str, object], quality: Quality, *, parameters: int, minutes: float, torch: str
) -> str:
    """The card, with the figures as measured; `torch` is the version that trained."""
    attributes = (f"- `{kind}`: {', '.join(values)}" for kind, values in corpus.KINDS.items())
    return CARD.format(
        parameters=parameters,
        attributes="\n".join(attributes),
        own=", ".join(f"{share} ({kind})" for kind, share in OWN_SHARE.items()),
        recipe=", ".join(f"{name} {value}" for name, value in recipe.items()),
        minutes=minutes,
        torch=torch,
        threads=recipe["threads"],
        table=quality.table(),
    )
