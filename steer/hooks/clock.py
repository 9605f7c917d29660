"""Which positions pass at each moment, and how much of a steer they get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from steer.errors import HookError
from steer.hooks.ops import Weight
from steer.steering.projection import Gate
from steer.steering.scope import Schedule, Scope
from steer.steering.steers import ALWAYS, When

#: Of which steer, rows, columns, and on which device.
_Asked = tuple[int, int, int, torch.device]


@dataclass
class TokenClock:
    """Knows the absolute position of every activation that passes.

    prompt_length: tokens of the longest prompt, which is where the response begins for all, since
    prompts are padded on the left. padding: int64 [prompt], pad tokens before each. open: of each
    gate that looks at prompts, which prompts open it (`steer.hooks.gates`). special: ids of special
    tokens, which `injected` knows. acted: when something was given some weight. The rest is
    counted, from the cache that the model is given, so that a forward of one token, of a chunk or
    of everything again without a cache all know where they stand.

    starts: of whole texts that are padded on the right, the column of each one's first response
    token; then prompt_length says nothing.

    Rows of one prompt (its samples or beams) stand next to each other, so what holds for a prompt
    holds for them however beams are reordered.
    """

    prompt_length: int
    padding: Tensor
    open: Mapping[Gate, Sequence[bool]] = field(default_factory=dict)
    starts: Sequence[int] = ()
    special: Sequence[int] = field(default=(), init=False)
    start: int = field(default=0, init=False)
    ids: Tensor | None = field(default=None, init=False)
    acted: set[When] = field(default_factory=lambda: {ALWAYS}, init=False)
    _pads: list[int] = field(default_factory=list, init=False)
    _weighers: dict[When, Callable[[Tensor], Weight]] = field(default_factory=dict, init=False)
    _zeros: list[int] = field(default_factory=list, init=False)
    _weights: dict[_Asked, Weight] = field(default_factory=dict, init=False)
    _tokens: dict[Gate, Tensor] = field(default_factory=dict, init=False)
    _passed: dict[Gate, list[Tensor]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._pads = self.padding.tolist()
        #: The column of step 0 in each row, or in all.
        self._zeros = [start - 1 for start in self.starts] or [self.prompt_length - 1]

    def tick(self, _module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Forward pre-hook of the whole model and of its body: either may be what is called."""
        cache = keywords.get("past_key_values")
        self.start = int(cache.get_seq_length()) if cache is not None else 0
        ids = keywords["input_ids"] if "input_ids" in keywords else next(iter(args), None)
        if ids is not None:  # a model may embed them itself, and give its body the rest
            self.ids = ids
        self._weights.clear()
        self._tokens.clear()

    def step(self, width: int) -> int:
        """Which new token the last of `width` positions writes, from 0; below 0 in the prompt."""
        return self.start + width - self.prompt_length

    def opened(self, gate: Gate, tokens: Tensor) -> None:
        """Tell which tokens of this forward open a gate, bool [row, position, 1]."""
        self._tokens[gate] = tokens
        if self.step(tokens.shape[1]) >= 0:
            self._passed.setdefault(gate, []).append(tokens[:, -1, 0])

    def shares(self, row: int, n_tokens: int) -> dict[Gate, float]:
        """Of each gate that looks at tokens, which share of a row's new tokens opened it."""
        return {
            gate: float(torch.stack([step[row] for step in steps[:n_tokens]]).double().mean())
            for gate, steps in self._passed.items()
            if n_tokens
        }

    def weigher(self, when: When) -> Callable[[Tensor], Weight]:
        """The function that says how much resid [row, position, d_model] gets of a steer.

        It gives 1.0 where all of it acts and 0.0 where nothing does, without a tensor; else float32
        [row or 1, position or 1, 1]. All sites share what the first one of a forward asked for.
        """
        if when == ALWAYS:
            return lambda resid: 1.0
        if when in self._weighers:
            return self._weighers[when]
        key = len(self._weighers)  # cheaper to look up than `when`

        def weight(resid: Tensor) -> Weight:
            asked = key, resid.shape[0], resid.shape[1], resid.device
            known = self._weights.get(asked)
            if known is None:
                known = self._weigh(when, *asked[1:])
                if isinstance(known, Tensor) or known:
                    self.acted.add(when)
                self._weights[asked] = known
            return known

        self._weighers[when] = weight
        return weight

    def _weigh(self, when: When, rows: int, width: int, device: torch.device) -> Weight:
        parts = [self._inside(when.scope, rows, width, device)]
        if when.scope.skip_special:
            parts.append(self._is_not_special(width, device))
        if when.gate is not None:
            parts.append(self._through(when.gate, rows, device))
        if any(part is False for part in parts):
            return 0.0
        total = self._scheduled(when.schedule, rows, width, device)
        for part in parts:
            if isinstance(part, Tensor):
                total = total * part.float()
        return total

    def _scheduled(self, schedule: Schedule, rows: int, width: int, device: torch.device) -> Weight:
        """What the schedule says of each column, [row or 1, position, 1], or of all."""
        if schedule.kind == "constant":
            return 1.0
        factors = [_factors(schedule, self.start - zero, width) for zero in self._zeros]
        first = factors[0][0]
        if all(row.count(first) == width for row in factors):
            return first
        made = torch.tensor(factors, device=device)[..., None]
        return made if len(made) == 1 else made.repeat_interleave(rows // len(made), dim=0)

    def _inside(self, scope: Scope, rows: int, width: int, device: torch.device) -> bool | Tensor:
        """Where the scope is, bool [row or 1, position, 1], or everywhere or nowhere."""
        begins, ends = self._columns(scope)
        stop = self.start + width
        if max(begins) <= self.start and min(ends) >= stop:
            return not scope.inverted
        if max(ends) <= self.start or min(begins) >= stop:
            return scope.inverted
        column = torch.arange(self.start, stop, device=device)
        low, high = (_by_row(edge, rows, device) for edge in (begins, ends))
        return ((column >= low) & (column < high))[..., None] ^ scope.inverted

    def _columns(self, scope: Scope) -> tuple[list[int], list[int]]:
        """First column, and first column after it, of each prompt, or of all at once."""
        forever = 1 << 62
        if scope.kind == "all":
            return [0], [forever]
        if scope.kind == "prompt":
            return [0], self._zeros
        if scope.kind == "response":
            return self._zeros, [forever]
        zeros = self._zeros if scope.kind == "steps" else self._pads
        begins = [zero + scope.start for zero in zeros]
        if scope.stop is None:
            return begins, [forever]
        return begins, [zero + scope.stop + 1 for zero in zeros]

    def _is_not_special(self, width: int, device: torch.device) -> Tensor:
        if self.ids is None or self.ids.shape[1] != width:
            raise HookError("this model is not given token ids, so none can be told to be special")
        special = torch.tensor(self.special, dtype=self.ids.dtype, device=self.ids.device)
        return ~torch.isin(self.ids, special)[..., None].to(device)

    def _through(self, gate: Gate, rows: int, device: torch.device) -> bool | Tensor:
        if gate.pooling == "token":
            if gate not in self._tokens:
                raise HookError(f"{gate.site} was not reached before a steer that waits for {gate}")
            return self._tokens[gate].to(device)
        passes = self.open[gate]
        if len(set(passes)) == 1:
            return passes[0]
        return _by_row(passes, rows, device)[..., None]


def _factors(schedule: Schedule, first: int, width: int) -> list[float]:
    """The factor of each of `width` positions, the first of which is of step `first`."""
    # All before step 0 have what step 0 has.
    factors = [schedule.factor(step) for step in range(max(first, 0), first + width)]
    return [schedule.factor(0)] * (width - len(factors)) + factors


def _by_row(values: Sequence[int] | Sequence[bool], rows: int, device: torch.device) -> Tensor:
    """[row, 1] of what is known of each prompt, or of all."""
    column = torch.tensor(values, device=device)
    return column.repeat_interleave(rows // len(column))[:, None]
