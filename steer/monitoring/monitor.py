"""Watch a text through vectors: the projection of each token's activation on each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.errors import InputError, ModelError
from steer.hooks.gates import Reader
from steer.hooks.packing import batches
from steer.hooks.record import run
from steer.models.memory import token_budget
from steer.models.model import Model
from steer.monitoring.traces import Trace, TracedToken
from steer.sites import Site
from steer.steering.readouts import Readout


def monitor(
    model: Model,
    texts: Sequence[str],
    readouts: Sequence[Readout],
    *,
    special: bool = True,
    max_tokens: int | None = None,
    on_done: Callable[[int], None] = lambda n_texts: None,
) -> list[Trace]:
    """The readouts of each text at each of its tokens, in the order of the texts.

    Texts run in batches of at most `max_tokens` tokens (None: what suits the machine), padded on
    the right, so each reads what it reads alone. No LM head, and nothing above the highest layer.
    `special` is off for texts that a chat template has already given their first token.

    Raises:
        InputError: a text has no tokens, or more than the model takes.
        ModelError: the tokenizer cannot say where tokens stand.
        HookError: a site was never reached.
        SiteError: the model has no such site.
    """
    rows = [_tokens(model, text, number, special) for number, text in enumerate(texts, 1)]
    limit = token_budget(model) if max_tokens is None else max_tokens
    traces: dict[int, Trace] = {}
    for batch in batches([len(tokens) for tokens in rows], limit):
        values = _read(model, [rows[index] for index in batch], readouts)
        for index, row in zip(batch, values, strict=True):
            traces[index] = Trace(texts[index], rows[index], row[: len(rows[index])])
        on_done(len(batch))
    return [traces[index] for index in range(len(texts))]


def _read(
    model: Model, rows: Sequence[Sequence[TracedToken]], readouts: Sequence[Readout]
) -> NDArray[np.float32]:
    """Readouts of one batch, float32 [row, position, n_readouts], what is padding included."""
    ids, mask = model.padded([[token.id for token in row] for row in rows], left=False)
    found = torch.zeros((*ids.shape, len(readouts)))

    def reader(site: Site) -> Callable[[Tensor], None]:
        columns = [column for column, readout in enumerate(readouts) if readout.site == site]
        read = Reader([readouts[column] for column in columns])

        def keep(resid: Tensor) -> None:
            found[:, :, columns] = read(resid).cpu()

        return keep

    run(model, ids, mask, {site: reader(site) for site in {one.site for one in readouts}})
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
        made.append(TracedToken(token, piece, bool(added) or token in named))
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
