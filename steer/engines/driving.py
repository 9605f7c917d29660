"""Steer engines that have steering of their own, over their HTTP APIs. No torch.

A driver is one `Driver` object: what the engine takes, how it is recognised, and how steering is
set. Ours are the `DRIVER` of each module of `steer.engines.drivers`; another package names its own
with the entry point group `steer.drivers`. What an engine does not take is refused, by name, before
anything is sent to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from steer.base.errors import SteerError, UsageError
from steer.base.extensions import Extension, Registry, foreign_code, load
from steer.base.text import listed
from steer.engines.endpoint import Server
from steer.steering.plan import ProjectionEdit, plan
from steer.steering.scope import Scope
from steer.steering.steers import Steer
from steer.steering.tokens import refuse
from steer.vectors.sites import Site
from steer.vectors.vector import Directions

GROUP = "steer.drivers"
#: How scopes are named in messages.
_SCOPES = {"all": "all positions", "prompt": "the prompt", "response": "the response"}


@dataclass(frozen=True, slots=True)
class Steering:
    """What an engine has to do at the outputs of its blocks.

    additions: float32 [d_model] by layer, counted from 0, for each scope (`all`, `prompt`,
        `response`); the coefficients are multiplied in.
    moves: ops along a direction of length 1, by layer.
    steers: what they were made from. file: where to write a file that the engine reads itself;
        None for a temporary one.
    """

    additions: Mapping[str, Mapping[int, Directions]]
    moves: Mapping[int, Sequence[ProjectionEdit]] = field(default_factory=dict)
    steers: tuple[Steer, ...] = ()
    file: Path | None = None

    @property
    def everywhere(self) -> Mapping[int, Directions]:
        """The additions at all positions."""
        return self.additions.get("all", {})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done. fields: for the body of each request that is to be steered; empty if the
    engine itself now steers all requests. notes: what the user should know."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver(Extension):
    """An engine that can steer.

    name: for --engine. title: of the engine. help: how it has to be started.
    steer: sets the steering of a server; raises SteerError if the server refuses it.
    clear: ends the steering; None if the engine holds none, since each request carries it.
    detect: whether a server is such an engine; None if nothing in its API tells.
    ops, scopes: names of those that it takes. first_layer: the first block that it can steer.
    by_name: it has the vectors already, and is told only their names and coefficients.
    reads_file: it reads the vector from a file, which the user may name.
    limits: what else it does not take, for the user.
    """

    steer: Callable[[Server, Steering], Outcome]
    clear: Callable[[Server], Outcome] | None = None
    detect: Callable[[Server], bool] | None = None
    ops: tuple[str, ...] = ("add",)
    scopes: tuple[str, ...] = ("all",)
    first_layer: int = 0
    by_name: bool = False
    reads_file: bool = False
    limits: tuple[str, ...] = ()

    @property
    def takes(self) -> str:
        """What it takes, in a line."""
        layers = f" from layer {self.first_layer} on" if self.first_layer else ""
        scopes = listed(_SCOPES[scope] for scope in self.scopes)
        each = "for each request" if self.clear is None else "for all requests"
        return f"{listed(self.ops)} at the outputs of blocks{layers}, at {scopes}, {each}"

    @property
    def refuses(self) -> tuple[str, ...]:
        """What it does not take, each in a few words."""
        lacking = ["gates and guards", "schedules", "low-rank edits", "other sites and ops"]
        if self.scopes == ("all",):
            lacking.append("scopes")
        if self.first_layer:
            lacking.append(f"layers below {self.first_layer}")
        return (*lacking, *self.limits)


@cache
def drivers() -> Registry[Driver]:
    """All drivers, sorted by name."""
    return load(Driver, noun="driver", group=GROUP, own="steer.engines.drivers", attribute="DRIVER")


def find(server: Server, engine: str | None = None) -> Driver:
    """The driver of a server: the one that is named, or the one that recognises it.

    Raises:
        UsageError: there is no driver of that name.
        SteerError: the server cannot be reached, or no driver recognises it.
    """
    if engine is not None:
        return drivers().named(engine)
    for driver in drivers():
        with _others_code(driver, "to recognise a server"):
            if driver.detect is not None and driver.detect(server):
                return driver
    unseen = [driver.name for driver in drivers() if driver.detect is None]
    raise SteerError(
        f"{server.url} has no steering of its own that steer knows",
        hint=f"name the engine with --engine ({listed(drivers().names)}; {listed(unseen)} cannot"
        " be recognised), `steer bake` the vectors into weights, or use `steer serve`",
    )


def drive(
    server: Server, driver: Driver, steers: Sequence[Steer], file: Path | None = None
) -> Outcome:
    """Set the steering of a server, in place of what it had; without steers, end it.

    file: where to write the file of an engine that reads one.

    Raises:
        UsageError: the engine does not take a steer.
        SteerError: the server cannot be reached, or refuses.
    """
    if not steers:
        if driver.clear is None:
            return Outcome(notes=("it holds no steering: requests without the field have none",))
        with _others_code(driver, "to end the steering"):
            return driver.clear(server)
    steering = plan_steering(driver, steers, file)
    with _others_code(driver, "to steer"):
        return driver.steer(server, steering)


def plan_steering(driver: Driver, steers: Sequence[Steer], file: Path | None = None) -> Steering:
    """What an engine has to do for steers.

    Raises:
        UsageError: the engine does not take one of them, or they cancel.
    """
    refuse(steers, f"{driver.title}")
    for steer in steers:
        _check(driver, steer)
    additions: dict[str, dict[int, Directions]] = {}
    moves: dict[int, Sequence[ProjectionEdit]] = {}
    for site, site_plan in plan(steers, _no_write_sites).items():
        for timing, addition in site_plan.adds.items():
            additions.setdefault(str(timing.scope), {})[site.layer] = addition.delta
        if site_plan.others:
            moves[site.layer] = site_plan.others
    if not additions and not moves:
        raise UsageError(
            "these steers change nothing", hint="--clear ends the steering of an engine"
        )
    return Steering(additions, moves, tuple(steers), file)


def packed(rows: Mapping[int, Directions]) -> tuple[list[int], Any]:
    """The layers in order, and their directions as little-endian float32 [layer, d_model]."""
    layers = sorted(rows)
    return layers, np.stack([rows[layer] for layer in layers]).astype("<f4")


def _check(driver: Driver, steer: Steer) -> None:
    """Refuse a steer that the engine does not take.

    Raises:
        UsageError: what it does not take.
    """
    sites = list(steer.sites()) if not steer.op.writes else []
    lacking = None
    if steer.gate is not None:
        lacking = f"the gate {steer.gate}"
    elif steer.timing.schedule.kind != "constant":
        lacking = f"the schedule {steer.schedule}"
    elif steer.op.name not in driver.ops or steer.op.writes or steer.op.keep_norm:
        lacking = f"the op {steer.op}"
    elif not steer.op.op.adds and steer.scope != Scope():
        lacking = f"the op {steer.op} at {steer.scope} only"
    elif str(steer.scope) not in driver.scopes:
        lacking = f"the scope {steer.scope}"
    elif steer.vector.metadata.rank:
        lacking = "low-rank edits"
    elif driver.by_name and steer.coefficient.unit == "residual":
        lacking = "percentages"
    elif driver.by_name and steer.vector.metadata.site != "resid_post":
        lacking = f"edits of {steer.vector.metadata.site}"
    elif any(site.name != "resid_post" for site in sites):
        lacking = f"edits of {sites[0]}"
    elif any(site.layer < driver.first_layer for site in sites):
        lacking = f"layer {min(site.layer for site in sites)}"
    if lacking is None:
        return
    hint = f"it takes {driver.takes}; `steer bake` and `steer serve` take more"
    if lacking.startswith("the scope") and driver.scopes == ("all",):
        hint = f"write /all after the vector to steer all positions; {hint}"
    raise UsageError(
        f"{driver.title} does not take {lacking}, which {str(steer)!r} needs", hint=hint
    )


def _no_write_sites() -> Sequence[Site]:
    raise AssertionError("`_check` refuses ops at every write")


@contextmanager
def _others_code(driver: Driver, doing: str) -> Iterator[None]:
    hint = "report this to the authors of that package"
    with foreign_code(driver, "driver", doing, SteerError, hint):
        yield
