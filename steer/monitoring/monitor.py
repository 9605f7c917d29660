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
class TokenizedTexts:
    """Texts as tokens, in batches that run together.

    texts: including the chat template, where there is one. rows: the tokens of each text.
    batches: indices of the texts that run together. described: one line about the model.
    """

    texts: tuple[str, ...]
    rows: tuple[tuple[TracedToken, ...], ...]
    batches: tuple[tuple[int, ...], ...]
    model: ModelIdentity
    described: str


def tokenize(
    model: Model, texts: Sequence[str], *, chat: bool = False, max_tokens: int | None = None
) -> TokenizedTexts:
    """Tokenize texts and divide them into batches; with `chat`, each text is a user's message.

    A batch has at most `max_tokens` tokens (None: what the memory allows). It is padded on the
    right, so each text gets the projections that it gets alone.

    Raises:
        InputError: a text has no tokens, or more than the model takes.
        ModelError: the tokenizer cannot say where tokens stand, or has no chat template.
    """
    if chat:
        texts = [model.chat(text) for text in texts]
    # A chat template has already given its texts their first token.
    rows = [_tokens(model, text, number, not chat) for number, text in enumerate(texts, 1)]
    limit = token_budget(model) if max_tokens is None else max_tokens
    divided = batches([len(tokens) for tokens in rows], limit)
    return TokenizedTexts(
        tuple(texts), tuple(rows), tuple(map(tuple, divided)), model.identity, model.describe()
    )


def monitor(
    workers: Workers,
    tokenized: TokenizedTexts,
    readouts: Sequence[Readout],
    on_done: Callable[[int], None] = lambda n_texts: None,
) -> list[Trace]:
    """The readouts of each text at each of its tokens, in the order of the texts.

    The forward stops at the highest layer that is read and skips the LM head.

    Raises:
        HookError: a site was never reached.
        SiteError: the model has no such site.
    """
    traces: dict[int, Trace] = {}
    ids = [
        [[token.id for token in tokenized.rows[index]] for index in batch]
        for batch in tokenized.batches
    ]
    for number, values in workers.map(partial(_ReadBatch, readouts=readouts), ids):
        batch = tokenized.batches[number]
        for index, row in zip(batch, values, strict=True):
            tokens = tokenized.rows[index]
            traces[index] = Trace(tokenized.texts[index], tokens, row[: len(tokens)])
        on_done(len(batch))
    return [traces[index] for index in range(len(tokenized.texts))]


@dataclass(frozen=True, slots=True)
class _ReadBatch:
    """Computes the readouts of a batch of token ids."""

    model: Model
    readouts: Sequence[Readout]

    def __call__(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Readouts of one batch, float32 [row, position, n_readouts], including padding."""
        ids, mask = self.model.padded(rows, left=False)
        values = torch.zeros((*ids.shape, len(self.readouts)))

        def reader(site: Site) -> Callable[[Tensor], None]:
            columns = [i for i, readout in enumerate(self.readouts) if readout.site == site]
            read = Reader([self.readouts[column] for column in columns])

            def keep(resid: Tensor) -> None:
                values[:, :, columns] = read(resid).cpu()

            return keep

        sites = {readout.site for readout in self.readouts}
        run(self.model, ids, mask, {site: reader(site) for site in sites})
        return values.numpy()


def _tokens(model: Model, text: str, number: int, special: bool) -> tuple[TracedToken, ...]:
    """The tokens of a text. Without those that the tokenizer adds, they join to the text."""
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
    # A chat template writes special tokens as text, which the mask does not mark.
    special_ids = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    tokens: list[TracedToken] = []
    done = 0
    for token, (_, end), added in zip(*(encoded[column] for column in columns), strict=True):
        # Blanks that no token covers belong to the token after them. Where several tokens make up
        # one character, the first one shows it.
        piece = model.token(token) if added else text[done:end]
        done = max(done, end)
        special = bool(added) or token in special_ids
        tokens.append(TracedToken(token, piece, special, bool(added)))
    if all(token.special for token in tokens):
        raise InputError(f"text {number} has no tokens of its own: {text[:40]!r}")
    if model.context is not None and len(tokens) > model.context:
        raise InputError(
            f"text {number} has {len(tokens):,} tokens, more than the {model.context:,} that"
            f" {model.identity.id} takes",
            hint="divide it",
        )
    last = max(index for index, token in enumerate(tokens) if not token.special)
    tokens[last] = replace(tokens[last], text=tokens[last].text + text[done:])
    return tuple(tokens)
