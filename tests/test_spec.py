"""The syntax of `-v`, and of layers."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import tiny
from conftest import make_vector
from hypothesis import given, settings
from hypothesis import strategies as st

from steer.base.errors import SteerError, UsageError, VectorError
from steer.steering.operation import ADD, Coefficient, Operation
from steer.steering.scope import CONSTANT, Schedule, Scope
from steer.steering.spec import (
    ReadSpec,
    SteerSpec,
    ThresholdSpec,
    _split,
    parse,
    parse_threshold,
)
from steer.steering.steers import resolve
from steer.vectors.provenance import Read
from steer.vectors.sites import Site, format_layers, parse_layers


@pytest.mark.parametrize(
    ("typed", "option"),
    [
        ("joyful:2@2@3", "layers"),
        ("joyful@2@3/prompt", "layers"),
        ("joyful:2:3", "a coefficient"),
        ("joyful:2@3:4", "a coefficient"),
    ],
)
def test_what_is_typed_twice_is_no_part_of_a_name(typed: str, option: str) -> None:
    with pytest.raises(UsageError, match=f"has {option} twice"):
        parse(typed)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("joyful", SteerSpec("joyful")),
        ("joyful:1.5@14", SteerSpec("joyful", Coefficient(1.5), (14,))),
        ("joyful:-1", SteerSpec("joyful", Coefficient(-1))),
        ("joyful:15%@10-12", SteerSpec("joyful", Coefficient(0.15, "residual"), (10, 11, 12))),
        ("a/b.safetensors@2,4", SteerSpec("a/b.safetensors", None, (2, 4))),
        ("mood:0@8/response", SteerSpec("mood", Coefficient(0), (8,), Scope("response"))),
        ("mood:2/4-", SteerSpec("mood", Coefficient(2), None, Scope("range", 4))),
        ("mood@1/0-3", SteerSpec("mood", None, (1,), Scope("range", 0, 3))),
        ("team2/response", SteerSpec("team2/response")),
        ("mood:clamp=0@8/response",
         SteerSpec("mood", None, (8,), Scope("response"), Operation("clamp", 0.0))),
        ("mood:0.5,cap=mid@all",
         SteerSpec("mood", Coefficient(0.5), "all", op=Operation("cap", "mid"))),
        ("refusal:ablate=writes@3",
         SteerSpec("refusal", None, (3,), op=Operation("ablate", writes=True))),
        ("joy:2,norm=keep", SteerSpec("joy", Coefficient(2), op=Operation(keep_norm=True))),
        ("joy:2/not-response/skip-special/ramp=9",
         SteerSpec("joy", Coefficient(2), scope=Scope("response", inverted=True, skip_special=True),
                   schedule=Schedule("ramp", 9), skip_special=True)),
        ("joy:1/all", SteerSpec("joy", Coefficient(1), scope=Scope())),
        ("joy:1/skip-special", SteerSpec("joy", Coefficient(1), skip_special=True)),
        ("joy:add/response=2-4", SteerSpec("joy", scope=Scope("steps", 2, 4), op=ADD)),
        ("joy:add/response=0", SteerSpec("joy", scope=Scope("steps", 0, 0), op=ADD)),
        ("joy:1/on=0-3,8-",
         SteerSpec("joy", Coefficient(1), schedule=Schedule("on", spans=((0, 3), (8, None))))),
        ("x:1/y.safetensors", SteerSpec("x:1/y.safetensors")),
        ("hf://team/joy:2", SteerSpec("hf://team/joy", Coefficient(2))),
        ("C:\\vectors\\a.safetensors:2", SteerSpec("C:\\vectors\\a.safetensors", Coefficient(2))),
    ],
)  # fmt: skip
def test_what_a_spec_means(text: str, spec: SteerSpec) -> None:
    assert parse(text) == spec


@pytest.mark.parametrize(
    "text",
    ["", ":2", "@3", "joyful:", "joyful:x", "joyful:nan", "joyful:1e999", "joyful:%", "joyful@",
     "joyful@5-2", "joyful@x", "joyful@-1", "joyful:2/bogus", "joyful:2/7-3", "joyful@99999999"],
)  # fmt: skip
def test_typos_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.exit_code == 2


numbers = st.floats(allow_nan=False, allow_infinity=False)
positions = st.integers(0, 99)
spans = st.tuples(positions, st.none() | st.integers(99, 200))
coefficients = st.builds(Coefficient, numbers)
shares = st.builds(Coefficient, numbers.filter(lambda n: abs(n) < 1e300), st.just("residual"))
adding = st.sampled_from([None, ADD, Operation(keep_norm=True)])
moving = (
    st.sampled_from([Operation("ablate"), Operation("ablate", writes=True)])
    | st.builds(Operation, st.just("rotate"), numbers)
    | st.builds(
        Operation,
        st.sampled_from(["clamp", "cap", "floor"]),
        numbers | st.sampled_from(["neg", "mid", "pos"]),
    )
)
scopes = st.builds(
    lambda scope, inverted, skip: replace(scope, inverted=inverted, skip_special=skip),
    st.sampled_from([Scope("prompt"), Scope("response")])
    | st.builds(
        lambda kind, span: Scope(kind, *span), st.sampled_from(["range", "steps"]), spans
    ).filter(lambda scope: (scope.start, scope.stop) != (0, None)),
    st.booleans(),
    st.booleans(),
) | st.sampled_from([Scope(), Scope(skip_special=True)])
schedules = (
    st.just(CONSTANT)
    | st.builds(Schedule, st.sampled_from(["ramp", "decay", "first", "after"]), st.integers(1, 500))
    | st.builds(
        lambda pairs: Schedule("on", spans=tuple(pairs)), st.lists(spans, min_size=1, max_size=3)
    )
)
layers = (
    st.none()
    | st.just("all")
    | st.sets(st.integers(0, 99), min_size=1).map(lambda numbers: tuple(sorted(numbers)))
)


@given(
    st.from_regex(r"[a-z][a-z/.]{0,8}[a-z]", fullmatch=True),
    st.tuples(st.none() | coefficients, adding | moving) | st.tuples(shares, adding),
    layers,
    scopes,
    schedules,
)
def test_a_spec_reads_back_as_it_is_written(
    reference: str, amount: tuple[Any, Any], layers: Any, scope: Scope, schedule: Schedule
) -> None:
    coefficient, op = amount
    spec = SteerSpec(reference, coefficient, layers, scope, op, schedule, scope.skip_special)
    assert parse(str(spec)) == spec
    unnamed = replace(spec, scope=None)
    assert parse(str(unnamed)) == unnamed


specish = st.text(st.sampled_from("ab:@/,=-.%0123 \\") | st.characters(), max_size=20) | st.lists(
    st.sampled_from(
        ["joy", ":", "@", "/", "2", "1.5", "15%", ",", "ablate", "=writes", "clamp=", "mid", "all",
         "not-", "response", "=0-4", "3-7", "skip-special", "ramp=", "on=", "norm=keep",
         "rotate=-9"]
    ),
    max_size=8,
).map("".join)  # fmt: skip


@given(specish)
@settings(max_examples=500)
def test_what_was_read_is_written_as_it_reads_back(text: str) -> None:
    try:
        spec = parse(text)
    except UsageError as error:
        assert error.exit_code == 2
        return
    assert parse(str(spec)) == spec


conditions = st.builds(
    ThresholdSpec,
    st.builds(ReadSpec, st.from_regex(r"[a-z/]{1,8}", fullmatch=True), st.none() | positions),
    st.booleans(),
    numbers | st.just("auto"),
    st.sampled_from([None, "mean", "last", "token"]),
)


@given(conditions)
def test_a_condition_reads_back_as_it_is_written(condition: ThresholdSpec) -> None:
    assert parse_threshold(str(condition)) == condition


@given(st.text(max_size=12) | st.text(st.sampled_from("a@>< 0.5/"), max_size=12))
def test_any_text_is_a_condition_or_a_usage_error(text: str) -> None:
    try:
        threshold = parse_threshold(text)
    except UsageError:
        return
    assert parse_threshold(str(threshold)) == threshold


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("refusal", "not a threshold"),
        (">0.4", "not a threshold"),
        ("refusal>", "no threshold follows"),
        ("refusal>high", "'high' is not a threshold"),
        ("refusal>nan", "'nan' is not a threshold"),
        ("refusal>=1", "'=1' is not a threshold"),
        ("refusal@x>1", "'x' is not a list of layers"),
        ("refusal@1-2>1", "several layers"),
        ("refusal>0.4/first", "'first' is not mean, last or token"),
    ],
)
def test_conditions_that_are_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_threshold(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("joyful:abblate", "'abblate' is not a number or an op"),
        ("joyful:1.5.2", "'1.5.2' is not a number"),
        ("joyful:clamp", "clamp needs a value"),
        ("joyful:rotate=", "rotate needs a value"),
        ("joyful:clamp=top", "clamp='top' is not a value"),
        ("joyful:rotate=mid", "rotate='mid' is not a value"),
        ("joyful:clamp=inf", "clamp='inf' is not a value"),
        ("joyful:ablate=all", "'all' is not a value of ablate"),
        ("joyful:add=3", "add takes no value"),
        ("joyful:norm=drop", "'norm=drop' is not an op"),
        ("joyful:15%,ablate", "a percentage is a length"),
        ("joyful:ablate,cap=1", "two ops, 'ablate' and 'cap=1'"),
        ("joyful:1,2", "'2' is not an op"),
        ("joyful:2/not-all", "nothing would be steered"),
        ("joyful:2/not-0-", "nothing would be steered"),
        ("joyful:2/prompt/response", "two scopes"),
        ("joyful:2/ramp=3/decay=3", "two schedules"),
        ("joyful:2/ramp=0", "'0' is not a number of tokens"),
        ("joyful:2/ramp", "not a number of tokens"),
        ("joyful:2/on=", "not a list of steps"),
        ("joyful:2/response=x", "not a scope"),
        ("joyful:2/", "not a scope"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(text)


@given(st.sets(st.integers(0, 200), min_size=1))
def test_layers_read_back_as_they_are_written(layers: set[int]) -> None:
    assert parse_layers(format_layers(layers)) == tuple(sorted(layers))


def test_sites_have_one_canonical_form() -> None:
    assert Site(3, "resid_pre").canonical == Site(2, "resid_post")
    assert Site(0, "resid_pre").canonical == Site(0, "resid_pre")
    assert Site(3, "attn_out").canonical == Site(3, "attn_out")
    assert Site(3, "mlp_out").hook_name == "blocks.3.hook_mlp_out"
    with pytest.raises(SteerError):
        Site(-1)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("calm", Scope("response")),
        ("calm:1/skip-special", Scope("response", skip_special=True)),
        ("calm:1/all", Scope()),
        ("calm:1/all/skip-special", Scope(skip_special=True)),
        ("calm:1/prompt", Scope("prompt")),
    ],
)
def test_a_scope_that_was_typed_counts_whatever_a_vector_was_made_for(
    text: str, scope: Scope
) -> None:
    vector = tiny.renamed(make_vector(), read=Read(positions="response"))
    assert resolve(parse(text), vector).scope == scope


def test_a_file_that_recommends_nothing_does_not_steer_in_silence() -> None:
    vector = make_vector()
    nothing = msgspec.structs.replace(vector.metadata.recommended, coefficient=0.0)
    vector = tiny.renamed(vector, recommended=nothing)
    with pytest.raises(VectorError, match="recommends a coefficient of 0"):
        resolve(parse("calm"), vector)
    assert resolve(parse("calm:1"), vector).coefficient == Coefficient(1.0)


#: The syntax as one regular expression, which takes the square of the length.
_WHOLE = re.compile(
    r"(?P<reference>(?:hf://[^/@]+/[^/@]+(?:@(?:refs/(?:pr|convert)/)?[^/]+)?/"
    r"|[a-z][a-z0-9+.-]*://[^/]*/)?.+?)"
    r"((?P<has_amount>:(?!/)(?P<amount>[^:@/\\]*))?(?P<has_layers>@(?P<layers>[^:@/\\]*))?"
    r"(?P<when>(/[^:@/\\]*)*))",
    re.DOTALL,
)
_PIECES = ["a", "b1", "/", ":", "@", "\\", "hf://", "s3://", "refs/pr/1", "\n", ".safetensors", "2"]


@given(st.lists(st.sampled_from(_PIECES), min_size=1, max_size=14).map("".join))
@settings(max_examples=1_000)
def test_a_spec_is_split_as_the_whole_syntax_says(text: str) -> None:
    expected = _WHOLE.fullmatch(text)
    reference, rest = _split(text)
    assert expected is not None
    assert reference == expected["reference"]
    assert rest.groupdict() == {
        name: value for name, value in expected.groupdict().items() if name != "reference"
    }


@pytest.mark.parametrize(
    "text",
    ["joyful" + "/x" * 200_000 + end for end in ("", ":2", ":2@1", "@1:", "\\")]
    + [":" * 400_000, "@" * 400_000, "hf://a/b" + "@x/" * 100_000 + ":1"],
)
def test_a_long_spec_takes_no_longer_than_it_is_long(text: str) -> None:
    start = time.process_time()
    with suppress(UsageError):
        parse(text)
    assert time.process_time() - start < 2
