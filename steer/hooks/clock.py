"""Which positions pass at each moment, and how much of a steer they get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from steer.base.errors import HookError
from steer.hooks.acting import NEVER, Record
from steer.hooks.ops import Weight
from steer.steering.projection import Gate
from steer.steering.scope import Schedule, Scope
from steer.steering.steers import ALWAYS, Steer, When

_FOREVER = 1 << 62


class UncountedError(HookError):
    """A model carries a state in place of a key-value cache, which does not tell how many tokens it
    has seen."""


@dataclass
class Latch:
    """Which tokens open a gate that looks at each.

    tokens: of the forward that began with that `tick` of the clock, float32 [row, position, 1], 1
    where it is open and 0 elsewhere. written: of each forward that writes a token, what the last
    position says, likewise [row, 1, 1].
    """

    tick: int = -1
    tokens: Tensor | None = None
    written: list[Tensor] = field(default_factory=list)
    _moved: list[list[float]] = field(default_factory=list)

    def opened(self, n_tokens: int) -> list[list[float]]:
        """1 where a row opened it, [new token][row]."""
        if len(self._moved) != len(self.written):
            self._moved = torch.stack(self.written).flatten(1).tolist()
        return self._moved[:n_tokens]


@dataclass
class TokenClock:
    """Knows the absolute position of every activation that passes.

    prompt_length: tokens of the longest prompt, which is where the response begins for all, since
    prompts are padded on the left. padding: int64 [prompt], pad tokens before each. values: of each
    gate that looks at prompts, what it reads of each; what is not given is read as the prompts pass
    (`steer.hooks.gates`). special: ids of special tokens, which `injected` knows. The rest is
    counted, from the cache that the model is given, so that a forward of one token, of a chunk or
    of everything again without a cache all know where they stand.

    starts: of whole texts that are padded on the right, the column of each one's first response
    token; then prompt_length says nothing.

    Rows of one prompt (its samples or beams) stand next to each other, so what holds for a prompt
    holds for them however beams are reordered.
    """

    prompt_length: int
    padding: Tensor
    values: dict[Gate, list[float]] = field(default_factory=dict)
    starts: Sequence[int] = ()
    special: frozenset[int] = field(default=frozenset(), init=False)
    start: int = field(default=0, init=False)
    ids: Tensor | None = field(default=None, init=False)
    ticks: int = field(default=0, init=False)
    width: int = field(default=0, init=False)
    _cache_name: str | int | None = field(default=None, init=False)
    pads: list[int] = field(default_factory=list, init=False)
    zeros: list[int] = field(default_factory=list, init=False)
    #: Of whole texts: the positions whose output is asked for, bool [text, column].
    counted: Tensor | None = field(default=None, init=False)
    _records: dict[Steer, Record] = field(default_factory=dict, init=False)
    _weighers: dict[When, Weigher] = field(default_factory=dict, init=False)
    _latches: dict[Gate, Latch] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.pads = self.padding.tolist()
        #: The column of step 0 in each row, or in all.
        self.zeros = [start - 1 for start in self.starts] or [self.prompt_length - 1]

    def tick(self, _module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Forward pre-hook of the whole model: work out which columns this forward computes.

        Positions come from what the model is given, by kind and never by name: libraries rename
        their arguments. The cache tells how many columns came before; the attention mask tells how
        many there are in all. Where both are given they must agree, and each forward that
        continues a text must reach further than the one before.

        Raises:
            UncountedError: a cache or state does not tell how many tokens it holds, and no mask
                does.
            HookError: two sources disagree, or positions do not advance.
        """
        tokens = tokens_of(args, keywords)
        if tokens is None:
            raise HookError("this model is given neither token ids nor embeddings to count")
        width = tokens.shape[1]
        cache = _carried(self._cache_name, args, keywords)
        if cache is None and (name := _cache_name(args, keywords)) is not None:
            self._cache_name = name
            cache = _carried(name, args, keywords)
        mask = keywords.get("attention_mask")
        total = mask.shape[1] if isinstance(mask, Tensor) and mask.ndim == 2 else None
        before = 0 if cache is None else _length(cache)
        if before is None:
            if total is None:
                raise UncountedError(
                    "this model's state does not tell which token comes next, as a scope, a"
                    " schedule, a gate, a watch or a guard has to know",
                    hint="steer all tokens alike, or use a model with a key-value cache",
                )
            before = total - width
        if total is not None and before + width != total:
            raise _lost(f"the cache holds {before} tokens and {width} follow, but the mask {total}")
        # Once the prompt has passed, a text goes on or is run again whole, never from its start.
        reached = self.start + self.width
        if before + width < max(reached, self.prompt_length) and reached >= self.prompt_length:
            raise _lost(f"token {before + width} follows token {reached}")
        if cache is not None and before and before + width <= reached:
            raise _lost(f"positions stay at {reached}")
        if self.ticks < 2:  # later forwards do as the first two did, and this waits for a device
            self._agrees(keywords.get("position_ids"), before + width - 1)
        self.width = width
        self.turn_to(before, None if tokens.is_floating_point() else tokens)

    def turn_to(self, start: int, ids: Tensor | None) -> None:
        """A forward begins with column `start`; ids: its tokens, int64 [row, position]."""
        self.start, self.ids = start, ids
        self.ticks += 1

    def _agrees(self, positions: Any, last: int) -> None:
        """Hold the position ids of the last column against the clock's.

        Raises:
            HookError: they differ.
        """
        if not isinstance(positions, Tensor) or positions.ndim != 2 or self.starts:
            return  # what is padded on the right ends in columns that hold nothing
        given = positions[:, -1].tolist()
        repeats = max(1, len(given) // len(self.pads))
        expected = [last - pad for pad in self.pads for _ in range(repeats)]
        if len(given) == len(expected) and given != expected:
            raise _lost(f"position ids say {given[0]} where the cache says {expected[0]}")

    def step(self, width: int) -> int:
        """Which new token the last of `width` positions writes, from 0; below 0 in the prompt."""
        return self.start + width - self.prompt_length

    def latch(self, gate: Gate) -> Latch:
        """Where is said which tokens open a gate."""
        return self._latches.setdefault(gate, Latch())

    def shares(self, row: int, n_tokens: int) -> dict[Gate, float]:
        """Of each gate that looks at tokens, which share of a row's new tokens opened it."""
        if not n_tokens:
            return {}
        return {
            gate: sum(one[row] for one in latch.opened(n_tokens)) / n_tokens
            for gate, latch in self._latches.items()
            if latch.written
        }

    def is_closed(self, gate: Gate | None, row: int) -> bool:
        """Whether a gate was closed all through a whole text that was read in one forward."""
        if gate is None:
            return False
        if gate.pooling != "token":
            return not gate.condition.holds(self.values[gate][row])
        opened = self.latch(gate).tokens
        if opened is None or self.counted is None:
            return opened is None
        here = slice(self.start, self.start + opened.shape[1])
        real = self._that_matter(only_writing=False)[row, here].to(opened.device)
        return not bool((opened[row, :, 0][real] > 0).any())

    def weigher(self, when: When) -> Callable[[Tensor], Weight]:
        """The function that says how much resid [row, position, d_model] gets of a steer.

        It gives 1.0 where all of it acts and 0.0 where nothing does, without a tensor; else float32
        [row or 1, position or 1, 1].
        """
        if when == ALWAYS:
            return lambda resid: 1.0
        if when == When(gate=when.gate) and _is_of_tokens(when.gate):
            return self.tokens(when.gate)
        if when not in self._weighers:
            self._weighers[when] = Weigher(self, when)
        return self._weighers[when]

    def tokens(self, gate: Gate) -> Callable[[Tensor], Tensor]:
        """The function that says of which tokens a gate is open, as `Latch.tokens` has it; it
        raises a HookError where no forward has told it that before."""
        latch = self.latch(gate)

        def opened(resid: Tensor) -> Tensor:
            if latch.tokens is None or latch.tick != self.ticks:
                raise HookError(f"{gate.site} was not reached before a steer that waits for {gate}")
            if latch.tokens.device != resid.device:
                latch.tokens = latch.tokens.to(resid.device)
            return latch.tokens

        return opened

    def record(self, steer: Steer) -> Record:
        """When a steer first changed each row (`steer.hooks.acting`)."""
        return self._records.setdefault(steer, Record(len(self.pads)))

    def first_steps(self, found: Tensor, *, only_writing: bool, n_before: int) -> Tensor:
        """The first step at which each row was changed at a position that matters, int64 [row].

        found: bool [row, position] of this forward, beams beside each other. only_writing: only
        positions that write a token matter. n_before: forwards that were looked at before, which
        count the steps where nothing winds this clock.
        """
        width, device = found.shape[1], found.device
        if width == 1 and self.ticks and not self.starts and self.start >= self.prompt_length:
            first = torch.where(found[:, 0], self.step(1), NEVER)  # this may run for every token
            return self._of_prompts(first)
        if self.starts:
            steps = torch.full((width,), -1, device=device)
            # A forward may compute some columns of the texts alone.
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
                repeats = len(found) // len(self.pads)
                real = columns >= least.repeat_interleave(repeats)[:, None]
        if real is not None:
            found = found & real
        return self._of_prompts(torch.where(found, steps, NEVER).amin(1))

    def _of_prompts(self, first: Tensor) -> Tensor:
        """The least of what stands for each beam of a prompt."""
        return first if len(first) == len(self.pads) else first.view(len(self.pads), -1).amin(1)

    def _that_matter(self, only_writing: bool) -> Tensor:
        """Of whole texts, the positions that reach an output that is asked for, bool [text,
        column]."""
        if self.counted is None:
            raise HookError("whole texts came without saying which of their positions count")
        if only_writing:
            return self.counted
        return self.counted.flip(1).cumsum(1).flip(1) > 0


class Weigher:
    """The weights of one `when`. All sites share what the first one of a forward asked for, and
    all forwards what will not change any more, as a rule once the prompt has passed."""

    def __init__(self, clock: TokenClock, when: When) -> None:
        self._clock, self._when = clock, when
        self._tokens = clock.tokens(when.gate) if _is_of_tokens(when.gate) else None
        self._begins, self._ends = _columns(when.scope, clock)
        #: From this column on a position is inside, or is not, for good; and which of the two.
        self._last_edge = max(edge for edge in (0, *self._begins, *self._ends) if edge < _FOREVER)
        self._at_last = (max(self._ends) == _FOREVER) != when.scope.inverted
        changes = self._tokens or when.scope.skip_special or when.schedule.kind != "constant"
        #: From this column on nothing changes at all.
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
        (rows, width), device = resid.shape[:2], resid.device
        # Each part is asked only where it has a say: this runs for every token.
        when, settled = self._when, self._clock.start >= self._last_edge
        inside = self._at_last if settled else self._inside(rows, width, device)
        if inside is False:
            return 0.0
        total: Weight = 1.0
        if when.schedule.kind != "constant":
            total = self._scheduled(rows, width, device)
        if inside is not True:
            total = _times(total, inside)
        if when.scope.skip_special:
            total = _times(total, self._is_not_special(width, device))
        if self._tokens is not None:
            total = _times(total, self._tokens(resid))
        elif when.gate is not None:
            total = _times(total, self._of_prompts(when.gate, rows, device))
        return total

    def _scheduled(self, rows: int, width: int, device: torch.device) -> Weight:
        """What the schedule says of each column, [row or 1, position, 1], or of all."""
        schedule, zeros = self._when.schedule, self._clock.zeros
        if width == len(zeros) == 1:
            return schedule.factor(self._clock.start - zeros[0])
        factors = [_factors(schedule, self._clock.start - zero, width) for zero in zeros]
        first = factors[0][0]
        if all(row.count(first) == width for row in factors):
            return first
        made = torch.tensor(factors, device=device)[..., None]
        return made if len(made) == 1 else made.repeat_interleave(rows // len(made), dim=0)

    def _inside(self, rows: int, width: int, device: torch.device) -> bool | Tensor:
        """Where the scope is, bool [row or 1, position, 1], or everywhere or nowhere."""
        start = self._clock.start
        begins, ends, inverted = self._begins, self._ends, self._when.scope.inverted
        stop = start + width
        if max(begins) <= start and min(ends) >= stop:
            return not inverted
        if max(ends) <= start or min(begins) >= stop:
            return inverted
        column = torch.arange(start, stop, device=device)
        low, high = (_by_row(edge, rows, device) for edge in (begins, ends))
        return ((column >= low) & (column < high))[..., None] ^ inverted

    def _is_not_special(self, width: int, device: torch.device) -> Tensor:
        ids = self._clock.ids
        if ids is None or ids.shape[1] != width:
            raise HookError("this model is not given token ids, so none can be told to be special")
        special = torch.tensor(sorted(self._clock.special), dtype=ids.dtype, device=ids.device)
        return ~torch.isin(ids, special)[..., None].to(device)

    def _of_prompts(self, gate: Gate, rows: int, device: torch.device) -> bool | Tensor:
        if gate not in self._clock.values:
            raise HookError(f"{gate} was not read before a steer that waits for it")
        passes = [gate.condition.holds(value) for value in self._clock.values[gate]]
        if len(set(passes)) == 1:
            return passes[0]
        return _by_row(passes, rows, device)[..., None]


def tokens_of(args: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
    """Token ids [row, position] or embeddings [row, position, d_model] that a forward is given."""
    given = (keywords.get("input_ids"), keywords.get("inputs_embeds"), next(iter(args), None))
    tokens = next((one for one in given if one is not None), None)
    return tokens if isinstance(tokens, Tensor) and tokens.ndim >= 2 else None


def continues(args: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Whether a forward with these arguments goes on from a cache or state that holds tokens.

    A state that does not count is taken to hold some where the mask is longer than the tokens.
    """
    name = _cache_name(args, keywords)
    if name is None:
        return False
    length = _length(_carried(name, args, keywords))
    if length is not None:
        return length > 0
    tokens, mask = tokens_of(args, keywords), keywords.get("attention_mask")
    if tokens is None or not isinstance(mask, Tensor) or mask.ndim != 2:
        return True
    return bool(mask.shape[1] > tokens.shape[1])


def _carried(name: str | int | None, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """The argument of that name or place, or None where there is none."""
    if name is None:
        return None
    if isinstance(name, int):
        return args[name] if name < len(args) else None
    return keywords.get(name)


def _cache_name(args: tuple[Any, ...], keywords: dict[str, Any]) -> str | int | None:
    """Under which name or place the model is given a cache or a state, if it is."""
    arguments: list[tuple[str | int, Any]] = [*keywords.items(), *enumerate(args)]
    return next((name for name, value in arguments if _is_state(value)), None)


def _is_state(value: Any) -> bool:
    """Whether a model's argument carries what it computed of earlier tokens: a cache object, or the
    tuple of tensors that older models and RWKV use."""
    if hasattr(value, "get_seq_length"):
        return True
    if isinstance(value, (list, tuple)):
        return any(isinstance(part, (Tensor, list, tuple)) for part in value)
    plain = (Tensor, bool, int, float, str, dict, np.ndarray, torch.dtype, torch.device)
    return value is not None and not isinstance(value, plain) and not callable(value)


def _length(cache: Any) -> int | None:
    """How many tokens a cache holds, or None where it does not tell."""
    counted = getattr(cache, "get_seq_length", None)
    if counted is not None:
        try:
            return int(counted())
        except ValueError:  # of layers without attention only
            return None
    while isinstance(cache, (list, tuple)) and cache and isinstance(cache[0], (list, tuple)):
        cache = cache[0]
    is_keys = isinstance(cache, tuple) and isinstance(cache[0], Tensor) and cache[0].ndim == 4
    return int(cache[0].shape[-2]) if is_keys else None


def _lost(fact: str) -> HookError:
    return HookError(
        f"positions cannot be told while generating: {fact}",
        hint="the output would be steered in the wrong places: please report this model with"
        " `steer doctor`",
    )


def _is_of_tokens(gate: Gate | None) -> TypeGuard[Gate]:
    return gate is not None and gate.pooling == "token"


def _times(weight: Weight, part: bool | Tensor) -> Weight:
    """`weight` where `part` is so, and 0 elsewhere."""
    if not isinstance(part, Tensor):
        return weight if part else 0.0
    if isinstance(weight, float) and weight == 1.0:
        return part if part.is_floating_point() else part.float()
    return weight * part


def _columns(scope: Scope, clock: TokenClock) -> tuple[list[int], list[int]]:
    """First column, and first column after it, of each prompt, or of all at once."""
    if scope.kind == "all":
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
    """The factor of each of `width` positions, the first of which is of step `first`."""
    # All before step 0 have what step 0 has.
    factors = [schedule.factor(step) for step in range(max(first, 0), first + width)]
    return [schedule.factor(0)] * (width - len(factors)) + factors


def _by_row(values: Sequence[int] | Sequence[bool], rows: int, device: torch.device) -> Tensor:
    """[row, 1] of what is known of each prompt, or of all."""
    column = torch.tensor(values, device=device)
    return column.repeat_interleave(rows // len(column))[:, None]
