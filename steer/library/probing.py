"""Ask a running server whether it is steered, as `steer probe` does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from steer.base.errors import SteerError
from steer.base.progress import Progress, silent
from steer.engines import probe as probing
from steer.engines.endpoint import Endpoint
from steer.engines.probe import Probe
from steer.library.models import FitWarning, Model
from steer.library.vectors import Steers, as_steers, html_table
from steer.models import model as models
from steer.steering.steers import check_all_fit


@dataclass(frozen=True, slots=True)
class ServerProbe:
    """A comparison of a server's answers with those of hooks in this process.

    `answers.verdict` is `steered`, `other` (steered at another strength: `answers.multiple` times),
    `unsteered`, `neither` or `unclear`.
    """

    url: str
    served: str
    steers: tuple[str, ...]
    answers: Probe

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `steer probe --json`; distances are nats a token."""
        distances = self.answers.distances
        names = ("to_steered", "to_unsteered", "between")
        return {
            "verdict": self.answers.verdict,
            "multiple": self.answers.multiple,
            "url": self.url,
            "served": self.served,
            "steers": list(self.steers),
            "nats": dict(zip(names, distances, strict=True)) if distances else None,
            "prompts": [asdict(row) for row in self.answers.prompts],
        }

    def _repr_html_(self) -> str:
        rows = [
            (row.prompt, row.agrees, row.to_steered, row.to_unsteered)
            for row in self.answers.prompts
        ]
        caption = f"{self.served} at {self.url}: {self.answers.verdict}"
        return html_table(caption, ("prompt", "agrees", "to steered", "to unsteered"), rows)


def _warn(text: str) -> None:
    warnings.warn(text, FitWarning, stacklevel=3)


def probe(
    url: str,
    model: Model | Callable[[], models.Model],
    steers: Steers,
    *,
    prompts: Sequence[str] | None = None,
    chat: bool = False,
    max_tokens: int = 16,
    served: str | None = None,
    api_key: str | None = None,
    allow_other_model: bool = False,
    progress: Progress = silent,
    warn: Callable[[str], None] = _warn,
) -> ServerProbe:
    """Test whether an OpenAI-compatible server steers as these vectors say.

    model: the unsteered model of the server, or a function that loads it. prompts: to send, instead
    of steer's own. served: the server's name for its model, by default its first.

    Raises:
        UsageError: `url` is not an address.
        SteerError: the server does not answer, or serves no model.
        ModelError: a vector was made on another model.
        HookError: a steer was never applied.
    """
    chosen = as_steers(steers)
    used = [vector for steer in chosen for vector in steer.vectors]
    with Endpoint(url, api_key=api_key) as endpoint:
        name = served or _first(endpoint)
        loaded = model.inner if isinstance(model, Model) else model()
        for text in check_all_fit(used, loaded.identity, allow_other_model=allow_other_model):
            warn(text)
        texts = tuple(prompts or probing.PROMPTS)
        with progress("asking", len(texts)) as advance:
            answers = probing.probe(
                loaded,
                chosen,
                texts,
                lambda text: endpoint.complete(text, served=name, max_tokens=max_tokens, chat=chat),
                max_tokens=max_tokens,
                chat=chat,
                on_done=lambda: advance(1),
            )
        return ServerProbe(endpoint.url, name, tuple(map(str, chosen)), answers)


def _first(endpoint: Endpoint) -> str:
    """The server's first model.

    Raises:
        SteerError: it has none.
    """
    names = endpoint.models()
    if not names:
        raise SteerError(f"{endpoint.url} serves no model", hint="name one with --served")
    return names[0]
