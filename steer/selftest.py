"""Test whether steering works on a model, on this machine.

The text is a few random tokens and the vectors are random, so nothing depends on the contents of
the model. Vectors are as long as the activations, so that no dtype loses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from steer.base.diagnosis import Check, check
from steer.base.errors import HookError, ModelError
from steer.contrasts.passages import Message, Passage
from steer.hooks.clock import TokenClock, UncountedError
from steer.hooks.inject import injected
from steer.hooks.record import capture
from steer.models.model import COARSE_TOLERANCE, TOLERANCE, Model
from steer.steering.operation import Coefficient
from steer.steering.scope import EVERYWHERE, Scope
from steer.steering.steers import Steer
from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation
from steer.vectors.provenance import ContrastSummary, Method, Read
from steer.vectors.sites import Site, format_layers, listed
from steer.vectors.vector import SteeringVector

N_TOKENS = 8
N_NEW = 6
#: The least relative change of the logits by a vector as long as the activations.
EFFECT = 0.01

#: The prompt and the text that the tokenizer is tested on.
_PROMPT, _TEXT = "The boats came in. ", "Nobody knew why."
_BATCHING = {
    "any": "padded rows give the same logits as alone",
    "equal": "padding changes a text, so only texts of equal length are generated together",
    "one": "rows change each other, so texts are generated one by one",
}
_REPORT = "please report this model, with this report"


def devices() -> str:
    """The devices that torch can use: `cpu, 2 threads` and accelerators."""
    n_threads = torch.get_num_threads()
    named = [f"cpu, {n_threads} thread{'s' if n_threads > 1 else ''}"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            named.append(
                f"cuda:{index}, {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            )
    elif (accelerator := torch.accelerator.current_accelerator(check_available=True)) is not None:
        named.append(str(accelerator))
    return "; ".join(named)


def examine(model: Model) -> Iterator[Check]:
    """Run each check, in an order in which the first failure explains later ones."""
    patient = _TestedModel(model)
    steps: list[tuple[str, Callable[[], str], str]] = [
        ("model runs", patient.runs, "try another --dtype or --device"),
        ("tokenizer", patient.tokenizer, "apply works; extract, monitor and --chat may not"),
        ("batches", patient.padded, _REPORT),
        ("sites", patient.sites, _REPORT),
        ("hooks fire", patient.reads, "use the sites that work; " + _REPORT),
        ("coefficient 0 changes nothing", patient.zero, _REPORT),
        ("a large coefficient does", patient.large, "use the sites that work; " + _REPORT),
        ("a cache changes nothing", patient.cached, _REPORT),
        ("hooks are removed afterwards", patient.unhooked, _REPORT),
    ]
    for name, look, advice in steps:
        yield check(name, look, advice)


class _TestedModel:
    """A model, a text, and its unsteered logits."""

    def __init__(self, model: Model) -> None:
        self._model = model
        rng = np.random.default_rng(0)
        special = set(model.tokenizer.all_special_ids)
        size = model.network.config.get_text_config().vocab_size
        ordinary = [token for token in range(size) if token not in special] or list(range(size))
        chosen = rng.choice(ordinary, N_TOKENS).tolist()
        self._ids, self._mask = model.padded([chosen], left=True)

    @cached_property
    def _baseline(self) -> Tensor:
        return self._logits([])

    def runs(self) -> str:
        """The unsteered logits are finite."""
        if not torch.isfinite(self._baseline).all():
            raise ModelError("unsteered logits are not finite")
        return f"logits {list(self._baseline.shape)}, all finite"

    def tokenizer(self) -> str:
        """The tokenizer gives offsets, and the chat template keeps the text of messages.

        Raises:
            ModelError: as `steer.models.encoding.encode_passages`, or offsets are not the text's.
        """
        model = self._model
        passages = [Passage(_PROMPT, _TEXT)]
        if model.tokenizer.chat_template:
            turns = (Message("user", _PROMPT),)
            passages += [Passage("", _TEXT, "", "user"), Passage("", _TEXT, "", "assistant", turns)]
        for passage in passages:
            (tokens,) = model.encode_passages([passage])
            own = tokens.ids[tokens.text_start : tokens.text_stop]
            if "".join(model.decode(own).split()) not in "".join(passage.full_text.split()):
                raise ModelError(
                    f"the tokens that should be {_TEXT!r} are {model.decode(own)!r}",
                    hint="the tokenizer changes texts, or gives wrong offsets",
                )
        template = "the chat template keeps the text of messages"
        kind = template if len(passages) > 1 else "no chat template"
        return f"{type(model.tokenizer).__name__}, gives offsets; {kind}"

    def padded(self) -> str:
        """Padding after a text does not change its logits; and which texts can share a batch.

        Raises:
            ModelError: padding after a text changes it, which recording relies on.
        """
        model, ids = self._model, self._ids[0].tolist()
        rows, mask = model.padded([ids[:3], ids], left=False)
        with torch.no_grad():
            alone = model.network(input_ids=rows[:1, :3], use_cache=False).logits
            padded = model.network(input_ids=rows, attention_mask=mask, use_cache=False).logits
        error = self._distance(padded[:1, :3], alone)
        if not error <= TOLERANCE.get(model.network.dtype, COARSE_TOLERANCE):
            raise ModelError(f"padding after a text changes its logits by {error:.1%}")
        return _BATCHING[model.batching]

    def sites(self) -> str:
        """The sites in TransformerLens's map, and their layers."""
        hooks = self._model.hooks
        every = tuple(range(hooks.n_layers))
        if hooks.layers("resid_post") != every:
            raise ModelError(f"{hooks.architecture} has no resid_post at some layers")
        partly = [
            f"{name} at {format_layers(hooks.layers(name))}"
            for name in hooks.sites
            if hooks.layers(name) != every
        ]
        complete = listed(name for name in hooks.sites if hooks.layers(name) == every)
        return "; ".join([f"{complete} at all {len(every)} layers", *partly])

    def reads(self) -> str:
        """The activations at every site are finite."""
        sites = sorted(self._model.hooks.places)
        capture(self._model, self._ids, self._mask, sites)
        return f"{len(sites)} sites read, all finite"

    def zero(self) -> str:
        """A steer with coefficient 0 keeps the logits bit for bit."""
        for site in self._chosen():
            if not torch.equal(self._logits([self._steer(site, 0.0)]), self._baseline):
                raise HookError(f"a steer with coefficient 0 at {site} changes the logits")
        return "logits are the same, bit for bit"

    def large(self) -> str:
        """A steer as long as the activations changes the logits, at every site."""
        changes = {}
        for site in self._chosen():
            changes[site] = self._distance(self._logits([self._steer(site)]), self._baseline)
            if not changes[site] > EFFECT:
                raise HookError(f"a vector as long as the activations at {site} changes no logit")
        least = min(changes, key=changes.__getitem__)
        return f"logits change by {changes[least]:.0%} or more, least at {least}"

    def cached(self) -> str:
        """Steered greedy generation has the same logits with a cache and without one. A recurrent
        model has a state in place of a cache, which may count no tokens: then every token is
        steered, which is what it can do."""
        try:
            return self._cached(Scope("response"))
        except UncountedError:
            message = self._cached(EVERYWHERE)
            return (
                f"{message}; its state counts no tokens, so all are steered alike: scopes,"
                " schedules, gates, watches and guards are refused"
            )

    def _cached(self, scope: Scope) -> str:
        middle = Site(self._model.n_layers // 2)
        steer = self._steer(middle, scope=scope)
        (plain, tokens), (kept, others) = (
            self._generated(steer, use_cache=use_cache) for use_cache in (False, True)
        )
        # After a different token everything differs; up to there the logits are comparable.
        same = int((tokens == others).long().cumprod(0).sum())
        n = min(same + 1, len(tokens))
        distance = self._distance(kept[:n], plain[:n])
        tolerance = TOLERANCE.get(self._model.network.dtype, COARSE_TOLERANCE)
        if not distance <= tolerance:
            raise HookError(f"steered logits differ by {distance:.1%} with a cache")
        return f"logits of {n} new tokens agree to {distance:.0e} of the largest"

    def unhooked(self) -> str:
        """The unsteered logits are the same as before the other checks."""
        if not torch.equal(self._logits([]), self._baseline):
            raise HookError("the unsteered logits differ from those before the checks")
        return "the unsteered logits are the same as before"

    def _chosen(self) -> list[Site]:
        """Each kind of site at its first, middle and last layer."""
        hooks = self._model.hooks
        chosen = []
        for name in hooks.sites:
            layers = hooks.layers(name)
            at = sorted({0, len(layers) // 2, len(layers) - 1})
            chosen += [Site(layers[index], name) for index in at]
        return chosen

    def _steer(self, site: Site, coefficient: float = 1.0, scope: Scope = EVERYWHERE) -> Steer:
        """A steer with a random vector as long as the activations at a site."""
        seen = capture(self._model, self._ids, self._mask, [site])[site]
        length = float(seen.float().norm(dim=-1).mean())
        drawn = np.random.default_rng(site.layer).normal(size=self._model.hooks.width(site.name))
        direction = (length / np.linalg.norm(drawn) * drawn).astype(np.float32)
        layers = (site.layer,)
        metadata = Metadata(
            name="random",
            model=self._model.identity,
            site=site.name,
            parts=self._model.hooks.parts.get(site.name),
            layers=layers,
            method=Method(name="mean_diff"),
            read=Read(positions="all"),
            contrast=ContrastSummary(kind="pairs", n=0, sha256=""),
            statistics=(LayerStatistics(layer=site.layer, norm=length, resid_norm=length),),
            recommended=Recommendation(layers=layers, coefficient=1.0, evidence="none"),
        )
        vector = SteeringVector(metadata, direction[None])
        return Steer(vector, Coefficient(coefficient), layers, scope)

    def _clock(self) -> TokenClock:
        return TokenClock(N_TOKENS, torch.zeros(1, dtype=torch.int64))

    def _logits(self, steers: list[Steer]) -> Tensor:
        with torch.no_grad(), injected(self._model, steers, self._clock()):
            output = self._model.network(input_ids=self._ids, attention_mask=self._mask)
        return torch.as_tensor(output.logits)

    def _generated(self, steer: Steer, *, use_cache: bool) -> tuple[Tensor, Tensor]:
        """Logits [new token, vocabulary] and ids [new token] of a greedy continuation."""
        with torch.no_grad(), injected(self._model, [steer], self._clock()):
            output = self._model.network.generate(
                input_ids=self._ids,
                attention_mask=self._mask,
                max_new_tokens=N_NEW,
                do_sample=False,
                num_beams=1,
                use_cache=use_cache,
                pad_token_id=self._model.pad_id,
                return_dict_in_generate=True,
                output_logits=True,
            )
        return torch.cat(output.logits), output.sequences[0, N_TOKENS:]

    def _distance(self, first: Tensor, second: Tensor) -> float:
        """The largest difference, relative to the largest number of `second`."""
        first, second = first.float(), second.float()
        return float((first - second).abs().max() / second.abs().max())
