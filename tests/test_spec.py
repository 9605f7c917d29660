"""The syntax of `-v`, and of layers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.errors import SteerError, UsageError
from steer.sites import Site, format_layers, parse_layers
from steer.spec import Coefficient, Scope, SteerSpec, parse


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
        ("C:\\vectors\\a.safetensors:2", SteerSpec("C:\\vectors\\a.safetensors", Coefficient(2))),
    ],
)
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


specs = st.builds(
    SteerSpec,
    st.from_regex(r"[a-z][a-z/.]{0,8}[a-z]", fullmatch=True),
    st.none()
    | st.builds(Coefficient, st.integers(-900, 900).map(lambda n: n / 8))
    | st.builds(Coefficient, st.integers(-400, 400).map(lambda n: n / 100), st.just("residual")),
    st.none() | st.sets(st.integers(0, 99), min_size=1).map(lambda s: tuple(sorted(s))),
    st.sampled_from([Scope(), Scope("prompt"), Scope("response"), Scope("range", 2, 5)]),
)


@given(specs)
def test_a_spec_reads_back_as_it_is_written(spec: SteerSpec) -> None:
    again = parse(str(spec))
    if spec.coefficient is None and spec.layers is None and spec.scope.kind != "all":
        spec = SteerSpec(spec.reference, Coefficient(1), None, spec.scope)
    assert again.reference == spec.reference
    assert (again.layers, again.scope) == (spec.layers, spec.scope)
    if spec.coefficient is None:
        assert again.coefficient is None
    else:
        assert again.coefficient is not None
        assert again.coefficient.unit == spec.coefficient.unit
        assert again.coefficient.value == pytest.approx(spec.coefficient.value)


@given(st.text(max_size=30))
def test_any_text_is_a_spec_or_a_usage_error(text: str) -> None:
    try:
        parse(text)
    except UsageError:
        return


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
