"""The clock of positions: which positions a forward computes, and their weight under a steer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from steer.base.errors import HookError
from steer.hooks.acting import NEVER, FirstChanges
from steer.hooks.folding import Folding
from steer.hooks.ops import Weight
from steer.hooks.thoughts import ThoughtTrackers
from steer.models.thoughts import Stage
from steer.steering.projection import Gate
from steer.steering.scope import Schedule, Scope
from steer.steering.steers import ALWAYS, Steer, Timing

_FOREVER = 1 << 62


class UncountedError(HookError):
    """A model has a recurrent state instead of a key-value cache, and the state does not give the
    number of earlier tokens."""


@dataclass
class Latch:
    """The latch that records which tokens opened a token gate.

    tokens: of the forward that began with this `tick` of the clock, float32 [row, position, 1], 1
    where the gate is open, else 0. written: the same at the last position of each forward that
    predicts a token, [row, 1, 1].
    """

    tick: int = -1
    tokens: Tensor | None = None
    written: list[Tensor] = field(default_factory=list)
    _moved: list[list[float]] = field(default_factory=list)

    def opened(self, n_tokens: int) -> list[list[float]]:
        """1 where a row's token opened the gate, [new token][row]."""
        if len(self._moved) != len(self.written):
            self._moved = torch.stack(self.written).flatten(1).tolist()
        return self._moved[:n_tokens]


@dataclass
class TokenClock:
    """Knows the absolute position of every activation in a forward.

    prompt_length: tokens of the longest prompt; the response begins there in all rows, since
    prompts are padded on the left. padding: int64 [prompt], pad tokens before each. values: the
    readings of prompt gates for each prompt; missing ones are read during the forward of the
    prompts (`steer.hooks.gates`). special: ids of special tokens. trackers: the thoughts of each
    row. `injected` sets both. Positions are counted from the cache that the model gets, so that
    they are right in a forward of one token, of a chunk, or of the whole text without a cache.

    starts: for whole texts that are padded on the right, the column of each one's first response
    token; prompt_length is then unused. folding: where their tokens are, if they run in packed
    rows; everything else is by texts. Texts only share tokens that have the same weight in each.

    Rows of the same prompt (its samples or beams) are adjacent, so that values of a prompt hold for
    them however beams are reordered.
    """

    prompt_length: int
    padding: Tensor
    values: dict[Gate, list[float]] = field(default_factory=dict)
    starts: Sequence[int] = ()
    folding: Folding | None = None
    special: frozenset[int] = field(default=frozenset(), init=False)
    trackers: ThoughtTrackers | None = field(default=None, init=False)
    start: int = field(default=0, init=False)
    ids: Tensor | None = field(default=None, init=False)
    ticks: int = field(default=0, init=False)
    width: int = field(default=0, init=False)
    _cache_name: str | int | None = field(default=None, init=False)
    pads: list[int] = field(default_factory=list, init=False)
    zeros: list[int] = field(default_factory=list, init=False)
    #: For whole texts: the positions whose output is used, bool [text, column].
    counted: Tensor | None = field(default=None, init=False)
    _records: dict[Steer, FirstChanges] = field(default_factory=dict, init=False)
    _weighers: dict[Timing, TimingWeights] = field(default_factory=dict, init=False)
    _latches: dict[Gate, Latch] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.pads = self.padding.tolist()
        #: The column of step 0 in each row, or one for all rows.
        self.zeros = [start - 1 for start in self.starts] or [self.prompt_length - 1]

    def tick(self, _module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Forward pre-hook of the whole model: determine which columns this forward computes.

        Arguments are recognised by type, never by name, since libraries rename them. The cache
        gives the number of earlier columns, the attention mask the number of all. If both are
        present they must agree, and each forward that continues a text must get further than the
        one before.

        Raises:
            UncountedError: neither the cache, or state, nor a mask gives the number of tokens.
            HookError: two sources disagree, or positions do not advance.
        """
        tokens = tokens_of(args, keywords)
        if tokens is None:
            raise HookError(
                "the model gets neither token ids nor embeddings, to count positions by"
            )
        width = tokens.shape[1]
        cache = _argument(self._cache_name, args, keywords)
        if cache is None and (name := _cache_name(args, keywords)) is not None:
            self._cache_name = name
            cache = _argument(name, args, keywords)
        mask = keywords.get("attention_mask")
        total = mask.shape[1] if isinstance(mask, Tensor) and mask.ndim == 2 else None
        before = 0 if cache is None else _length(cache)
        if before is None:
            if total is None:
                raise UncountedError(
                    "this model's state does not give the position of the next token, which a"
                    " scope, a schedule, a gate, a watch or a guard needs",
                    hint="steer all tokens alike, or use a model with a key-value cache",
                )
            before = total - width
        if total is not None and before + width != total:
            raise _lost(f"the cache holds {before} tokens and {width} follow, but the mask {total}")
        # After the prompt, a text is continued or run again as a whole, never from its start.
        reached = self.start + self.width
        if before + width < max(reached, self.prompt_length) and reached >= self.prompt_length:
            raise _lost(f"token {before + width} follows token {reached}")
        if cache is not None and before and before + width <= reached:
            raise _lost(f"positions stay at {reached}")
        if self.ticks < 2:  # later forwards behave like the first two, and this waits for a device
            self._agrees(keywords.get("position_ids"), before + width - 1)
        self.width = width
        self.turn_to(before, None if tokens.is_floating_point() else tokens)

    def turn_to(self, start: int, ids: Tensor | None) -> None:
        """Start a forward at column `start`. ids: its tokens, int64 [row, position]."""
        self.start, self.ids = start, ids
        self.ticks += 1

    def _agrees(self, positions: Any, last: int) -> None:
        """Compare the position ids of the last column with the clock's.

        Raises:
            HookError: they differ.
        """
        if not isinstance(positions, Tensor) or positions.ndim != 2 or self.starts:
            return  # with padding on the right, the last columns are padding
        stated = positions[:, -1].tolist()
        repeats = max(1, len(stated) // len(self.pads))
        expected = [last - pad for pad in self.pads for _ in range(repeats)]
        if len(stated) == len(expected) and stated != expected:
            raise _lost(f"position ids say {stated[0]} where the cache says {expected[0]}")

    def step(self, width: int) -> int:
        """The index of the new token that the last of `width` positions predicts; negative in the
        prompt."""
        return self.start + width - self.prompt_length

    def latch(self, gate: Gate) -> Latch:
        """The latch that records which tokens opened a gate."""
        return self._latches.setdefault(gate, Latch())

    def shares(self, row: int, n_tokens: int) -> dict[Gate, float]:
        """For each token gate, the share of a row's new tokens that opened it."""
        if not n_tokens:
            return {}
        return {
            gate: sum(token[row] for token in latch.opened(n_tokens)) / n_tokens
            for gate, latch in self._latches.items()
            if latch.written
        }

    def is_closed(self, gate: Gate | None, row: int) -> bool:
        """Whether a gate was closed throughout a whole text that ran in one forward."""
        if gate is None:
            return False
        if gate.pooling != "token":
            return not gate.threshold.passes(self.values[gate][row])
        opened = self.latch(gate).tokens
        if opened is None or self.counted is None:
            return opened is None
        opened = self._of_texts(opened)
        columns = slice(self.start, self.start + opened.shape[1])
        real = self._that_matter(only_writing=False)[row, columns].to(opened.device)
        return not bool((opened[row, :, 0][real] > 0).any())

    def weigher(self, timing: Timing) -> Callable[[Tensor], Weight]:
        """The function that gives a steer's weight for resid [row, position, d_model].

        It gives the float 1.0 or 0.0 if that holds everywhere; else float32 [row or 1, position or
        1, 1].
        """
        if timing == ALWAYS:
            return lambda resid: 1.0
        if timing == Timing(gate=timing.gate) and _is_of_tokens(timing.gate):
            return self.tokens(timing.gate)
        if timing not in self._weighers:
            self._weighers[timing] = TimingWeights(self, timing)
        return self._weighers[timing]

    def tokens(self, gate: Gate) -> Callable[[Tensor], Tensor]:
        """The function that gives the tokens for which a gate is open, as `Latch.tokens`. It raises
        a HookError if this forward has not read the gate yet."""
        latch = self.latch(gate)

        def opened(resid: Tensor) -> Tensor:
            if latch.tokens is None or latch.tick != self.ticks:
                raise HookError(f"a steer needs the gate {gate} before {gate.site} was reached")
            if latch.tokens.device != resid.device:
                latch.tokens = latch.tokens.to(resid.device)
            return latch.tokens

        return opened

    def record(self, steer: Steer) -> FirstChanges:
        """The steps at which a steer first changed each row (`steer.hooks.acting`)."""
        return self._records.setdefault(steer, FirstChanges(len(self.pads)))

    def first_steps(self, changes: Tensor, *, only_writing: bool, n_before: int) -> Tensor:
        """The first step at which each row was changed at a position that matters, int64 [row].

        changes: bool [row, position] of this forward, with beams adjacent. only_writing: only
        positions that predict a token matter. n_before: the number of earlier calls, which counts
        steps if the clock does not tick.
        """
        changes = self._of_texts(changes)
        width, device = changes.shape[1], changes.device
        if width == 1 and self.ticks and not self.starts and self.start >= self.prompt_length:
            first = torch.where(changes[:, 0], self.step(1), NEVER)  # this may run for every token
            return self._of_prompts(first)
        if self.starts:
            steps = torch.full((width,), -1, device=device)
            # A forward may compute only some columns of the texts.
            real = self._that_matter(only_writing)[:, self.start : self.start + width].to(device)
        else:
            start = self.start if self.ticks or width >= self.prompt_length else None
            start = self.prompt_length - 1 + n_before if start is None else start
            columns = torch.arange(start, start + width, device=device)
            steps = (columns - (self.prompt_length - 1)).clamp(min=0)
            real = None
            if start < self.prompt_length:
                least = torch.tensor(self.pads, device=device)
                if only_writing:
                    least = least.clamp(min=self.prompt_length - 1)
                repeats = len(changes) // len(self.pads)
                real = columns >= least.repeat_interleave(repeats)[:, None]
        if real is not None:
            changes = changes & real
        return self._of_prompts(torch.where(changes, steps, NEVER).amin(1))

    def _of_texts(self, values: Tensor) -> Tensor:
        """Values [row, position, ...] of a forward as values of texts, if they run in packed
        rows."""
        return values if self.folding is None else self.folding.unfolded(values)

    def _of_prompts(self, first: Tensor) -> Tensor:
        """The minimum over the beams of each prompt."""
        return first if len(first) == len(self.pads) else first.view(len(self.pads), -1).amin(1)

    def _that_matter(self, only_writing: bool) -> Tensor:
        """For whole texts, the positions that influence a used output, bool [text, column]."""
        if self.counted is None:
            raise HookError("the clock has no `counted` for whole texts")
        if only_writing:
            return self.counted
        return self.counted.flip(1).cumsum(1).flip(1) > 0


class TimingWeights:
    """The weights of one timing. They are computed once per forward and shared by all sites. Once
    they cannot change any more, usually after the prompt, later forwards share them too."""

    def __init__(self, clock: TokenClock, timing: Timing) -> None:
        self._clock, self._timing = clock, timing
        self._tokens = clock.tokens(timing.gate) if _is_of_tokens(timing.gate) else None
        self._begins, self._ends = _columns(timing.scope, clock)
        #: The last column at which the scope begins or ends, and whether it is on after that.
        self._last_edge = max(edge for edge in (0, *self._begins, *self._ends) if edge < _FOREVER)
        self._at_last = (max(self._ends) == _FOREVER) != timing.scope.inverted
        by_tokens = timing.scope.skip_special or timing.scope.by_thoughts
        changes = self._tokens or by_tokens or timing.schedule.kind != "constant"
        #: The column from which the weight is constant.
        self._settled = _FOREVER if changes else self._last_edge
        self._known: Weight = 0.0
        self._shape: torch.Size | None = None
        self._tick, self._lasts_from = -1, _FOREVER

    def __call__(self, resid: Tensor) -> Weight:
        clock = self._clock
        lasts = clock.ticks == self._tick or clock.start >= self._lasts_from
        if not lasts or resid.shape != self._shape:
            self._known = self._weigh(resid)
            self._shape, self._tick = resid.shape, clock.ticks
            self._lasts_from = self._settled if clock.start >= self._settled else _FOREVER
        if isinstance(self._known, Tensor) and self._known.device != resid.device:
            self._known = self._known.to(resid.device)
        return self._known

    def _weigh(self, resid: Tensor) -> Weight:
        (n_rows, n_columns), device = resid.shape[:2], resid.device
        folding = self._clock.folding
        rows, width = (n_rows, n_columns) if folding is None else folding.shape
        # Each part is computed only if it matters, since this runs for every token.
        timing, settled = self._timing, self._clock.start >= self._last_edge
        inside: bool | Tensor
        if timing.scope.by_thoughts:
            inside = self._in_thoughts(device)
        else:
            inside = self._at_last if settled else self._inside(rows, width, device)
        if inside is False:
            return 0.0
        total: Weight = 1.0
        if timing.schedule.kind != "constant":
            total = self._scheduled(rows, width, device)
        if inside is not True:
            total = _times(total, inside)
        if timing.gate is not None and self._tokens is None:
            total = _times(total, self._of_prompts(timing.gate, rows, device))
        if folding is not None and isinstance(total, Tensor):
            total = folding.folded(total)
        # These are read from the tokens that run, packed or not.
        if timing.scope.skip_special:
            total = _times(total, self._is_not_special(n_columns, device))
        if self._tokens is not None:
            total = _times(total, self._tokens(resid))
        return total

    def _scheduled(self, rows: int, width: int, device: torch.device) -> Weight:
        """The schedule's factor for each column, [row or 1, position, 1], or one for all."""
        schedule, zeros = self._timing.schedule, self._clock.zeros
        if width == len(zeros) == 1:
            return schedule.factor(self._clock.start - zeros[0])
        factors = [_factors(schedule, self._clock.start - zero, width) for zero in zeros]
        first = factors[0][0]
        if all(row.count(first) == width for row in factors):
            return first
        tensor = torch.tensor(factors, device=device)[..., None]
        return tensor if len(tensor) == 1 else tensor.repeat_interleave(rows // len(tensor), dim=0)

    def _inside(self, rows: int, width: int, device: torch.device) -> bool | Tensor:
        """Whether positions are in the scope, bool [row or 1, position, 1], or one for all."""
        start = self._clock.start
        begins, ends, inverted = self._begins, self._ends, self._timing.scope.inverted
        stop = start + width
        if max(begins) <= start and min(ends) >= stop:
            return not inverted
        if max(ends) <= start or min(begins) >= stop:
            return inverted
        column = torch.arange(start, stop, device=device)
        low, high = (_by_row(edge, rows, device) for edge in (begins, ends))
        return ((column >= low) & (column < high))[..., None] ^ inverted

    def _in_thoughts(self, device: torch.device) -> Tensor:
        """Whether positions are in a scope by thoughts, bool [row, position, 1]."""
        clock, scope = self._clock, self._timing.scope
        if clock.trackers is None or clock.ids is None:
            raise HookError("the model gets no token ids, so thoughts cannot be recognised")
        stage = Stage.THINKING if scope.kind == "thinking" else Stage.ANSWER
        inside = clock.trackers.at(
            stage, clock.ids, clock.folding, clock.start, clock.pads, clock.zeros
        )
        return inside[..., None].to(device) ^ scope.inverted

    def _is_not_special(self, width: int, device: torch.device) -> Tensor:
        ids = self._clock.ids
        if ids is None or ids.shape[1] != width:
            raise HookError("the model gets no token ids, so special tokens cannot be recognised")
        special = torch.tensor(sorted(self._clock.special), dtype=ids.dtype, device=ids.device)
        return ~torch.isin(ids, special)[..., None].to(device)

    def _of_prompts(self, gate: Gate, rows: int, device: torch.device) -> bool | Tensor:
        if gate not in self._clock.values:
            raise HookError(f"a steer needs the gate {gate} before it was read")
        passes = [gate.threshold.passes(value) for value in self._clock.values[gate]]
        if len(set(passes)) == 1:
            return passes[0]
        return _by_row(passes, rows, device)[..., None]


def tokens_of(args: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
    """The token ids [row, position] or embeddings [row, position, d_model] of a forward."""
    inputs = (keywords.get("input_ids"), keywords.get("inputs_embeds"), next(iter(args), None))
    tokens = next((value for value in inputs if value is not None), None)
    return tokens if isinstance(tokens, Tensor) and tokens.ndim >= 2 else None


def continues(args: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Whether a forward with these arguments continues a cache or state that holds tokens.

    If a state does not give its length, it holds tokens if the mask is longer than the input.
    """
    name = _cache_name(args, keywords)
    if name is None:
        return False
    length = _length(_argument(name, args, keywords))
    if length is not None:
        return length > 0
    tokens, mask = tokens_of(args, keywords), keywords.get("attention_mask")
    if tokens is None or not isinstance(mask, Tensor) or mask.ndim != 2:
        return True
    return bool(mask.shape[1] > tokens.shape[1])


def _argument(name: str | int | None, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """The argument with this name or position; None if there is none."""
    if name is None:
        return None
    if isinstance(name, int):
        return args[name] if name < len(args) else None
    return keywords.get(name)


def _cache_name(args: tuple[Any, ...], keywords: dict[str, Any]) -> str | int | None:
    """The name or position of the cache or state among the arguments; None if there is none."""
    arguments: list[tuple[str | int, Any]] = [*keywords.items(), *enumerate(args)]
    return next((name for name, value in arguments if _is_state(value)), None)


def _is_state(value: Any) -> bool:
    """Whether an argument is a state of earlier tokens: a cache object, or the tuple of tensors
    that older models and RWKV use."""
    if hasattr(value, "get_seq_length"):
        return True
    if isinstance(value, (list, tuple)):
        return any(isinstance(part, (Tensor, list, tuple)) for part in value)
    plain = (Tensor, bool, int, float, str, dict, np.ndarray, torch.dtype, torch.device)
    return value is not None and not isinstance(value, plain) and not callable(value)


def _length(cache: Any) -> int | None:
    """The number of tokens in a cache; None if it does not give it."""
    counted = getattr(cache, "get_seq_length", None)
    if counted is not None:
        try:
            return int(counted())
        except ValueError:  # the cache has no attention layers
            return None
    while isinstance(cache, (list, tuple)) and cache and isinstance(cache[0], (list, tuple)):
        cache = cache[0]
    is_keys = isinstance(cache, tuple) and isinstance(cache[0], Tensor) and cache[0].ndim == 4
    return int(cache[0].shape[-2]) if is_keys else None


def _lost(fact: str) -> HookError:
    return HookError(
        f"positions are inconsistent during generation: {fact}",
        hint="the wrong positions would be steered: please report this model with `steer doctor`",
    )


def _is_of_tokens(gate: Gate | None) -> TypeGuard[Gate]:
    return gate is not None and gate.pooling == "token"


def _times(weight: Weight, part: bool | Tensor) -> Weight:
    """`weight` where `part` is true, and 0 elsewhere."""
    if not isinstance(part, Tensor):
        return weight if part else 0.0
    if isinstance(weight, float) and weight == 1.0:
        return part if part.is_floating_point() else part.float()
    return weight * part


def _columns(scope: Scope, clock: TokenClock) -> tuple[list[int], list[int]]:
    """The first column of a scope, and the first one after it, for each prompt or for all."""
    if scope.kind == "all" or scope.by_thoughts:
        return [0], [_FOREVER]
    if scope.kind == "prompt":
        return [0], clock.zeros
    if scope.kind == "response":
        return clock.zeros, [_FOREVER]
    zeros = clock.zeros if scope.kind == "steps" else clock.pads
    begins = [zero + scope.start for zero in zeros]
    if scope.stop is None:
        return begins, [_FOREVER]
    return begins, [zero + scope.stop + 1 for zero in zeros]


def _factors(schedule: Schedule, first: int, width: int) -> list[float]:
    """The factor of each of `width` positions, beginning with step `first`."""
    # Steps before 0 have the factor of step 0.
    factors = [schedule.factor(step) for step in range(max(first, 0), first + width)]
    return [schedule.factor(0)] * (width - len(factors)) + factors


def _by_row(values: Sequence[int] | Sequence[bool], rows: int, device: torch.device) -> Tensor:
    """Values of each prompt (or one for all) as a column [row, 1]."""
    column = torch.tensor(values, device=device)
    return column.repeat_interleave(rows // len(column))[:, None]
