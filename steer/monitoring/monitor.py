"""Watch a text through vectors: the projection of each token's activation on each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.base.errors import InputError, ModelError
from steer.hooks.gates import Reader
from steer.hooks.packing import batches
from steer.hooks.record import run
from steer.models.memory import token_budget
from steer.models.model import Model
from steer.monitoring.traces import Trace, TracedToken
from steer.steering.readouts import Readout
from steer.vectors.provenance import ModelIdentity
from steer.vectors.sites import Site
from steer.workers import Workers


@dataclass(frozen=True, slots=True)
class Plan:
    """Texts as tokens, and which of them run together.

    texts: as they are read, chat template and all. rows: the tokens of each. described: the model,
    for the line that says what was used.
    """

    texts: tuple[str, ...]
    rows: tuple[tuple[TracedToken, ...], ...]
    batches: tuple[tuple[int, ...], ...]
    model: ModelIdentity
    described: str


def plan(
    model: Model, texts: Sequence[str], *, chat: bool = False, max_tokens: int | None = None
) -> Plan:
    """Find out what is to be read; with `chat`, each text as what a user says.

    Texts run in batches of at most `max_tokens` tokens (None: what suits the machine), padded on
    the right, so each reads what it reads alone.

    Raises:
        InputError: a text has no tokens, or more than the model takes.
        ModelError: the tokenizer cannot say where tokens stand, or has no chat template.
    """
    if chat:
        texts = [model.chat(text) for text in texts]
    # A chat template has already given its texts their first token.
    rows = [_tokens(model, text, number, not chat) for number, text in enumerate(texts, 1)]
    limit = token_budget(model) if max_tokens is None else max_tokens
    made = batches([len(tokens) for tokens in rows], limit)
    return Plan(
        tuple(texts), tuple(rows), tuple(map(tuple, made)), model.identity, model.describe()
    )


def monitor(
    workers: Workers,
    planned: Plan,
    readouts: Sequence[Readout],
    on_done: Callable[[int], None] = lambda n_texts: None,
) -> list[Trace]:
    """The readouts of each text at each of its tokens, in the order of the texts.

    No LM head, and nothing above the highest layer.

    Raises:
        HookError: a site was never reached.
        SiteError: the model has no such site.
    """
    traces: dict[int, Trace] = {}
    ids = [
        [[token.id for token in planned.rows[index]] for index in batch]
        for batch in planned.batches
    ]
    for number, values in workers.map(partial(_Reading, readouts=readouts), ids):
        batch = planned.batches[number]
        for index, row in zip(batch, values, strict=True):
            tokens = planned.rows[index]
            traces[index] = Trace(planned.texts[index], tokens, row[: len(tokens)])
        on_done(len(batch))
    return [traces[index] for index in range(len(planned.texts))]


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads batches of token ids."""

    model: Model
    readouts: Sequence[Readout]

    def __call__(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Readouts of one batch, float32 [row, position, n_readouts], of padding too."""
        ids, mask = self.model.padded(rows, left=False)
        found = torch.zeros((*ids.shape, len(self.readouts)))

        def reader(site: Site) -> Callable[[Tensor], None]:
            columns = [column for column, one in enumerate(self.readouts) if one.site == site]
            read = Reader([self.readouts[column] for column in columns])

            def keep(resid: Tensor) -> None:
                found[:, :, columns] = read(resid).cpu()

            return keep

        sites = {readout.site for readout in self.readouts}
        run(self.model, ids, mask, {site: reader(site) for site in sites})
        return found.numpy()


def _tokens(model: Model, text: str, number: int, special: bool) -> tuple[TracedToken, ...]:
    """The tokens of a text. Joined, but for those that the tokenizer adds, they are the text."""
    if not model.tokenizer.is_fast:
        raise ModelError(f"the tokenizer of {model.identity.id} gives no offsets")
    encoded = model.tokenizer(
        text,
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    columns = ("input_ids", "offset_mapping", "special_tokens_mask")
    # In a chat template's text special tokens are typed out, and not in the mask.
    named = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    made: list[TracedToken] = []
    done = 0
    for token, (_, end), added in zip(*(encoded[column] for column in columns), strict=True):
        # Blanks that no token covers go with the one after them. Of the tokens that make up one
        # character, the first has it.
        piece = model.token(token) if added else text[done:end]
        done = max(done, end)
        special = bool(added) or token in named
        made.append(TracedToken(token, piece, special, bool(added)))
    if all(token.special for token in made):
        raise InputError(f"text {number} has no tokens of its own: {text[:40]!r}")
    if model.context is not None and len(made) > model.context:
        raise InputError(
            f"text {number} has {len(made):,} tokens, more than the {model.context:,} that"
            f" {model.identity.id} takes",
            hint="divide it",
        )
    last = max(index for index, token in enumerate(made) if not token.special)
    made[last] = replace(made[last], text=made[last].text + text[done:])
    return tuple(made)
