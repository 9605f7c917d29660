"""The registry of methods: options, errors, files of methods that are not installed, the docs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st
from recorded import direction
from test_cli import steer

from steer.base.errors import InputError, UsageError
from steer.evaluation.suite_methods import DISTILL, default_labels, parse_candidate
from steer.methods import FitMethod, Option
from steer.methods.registry import distill_methods, fit_methods, methods, parse_method
from steer.vectors import store
from steer.vectors.provenance import Method

DOCS = Path(__file__).parents[1] / "docs" / "vectors.md"


def method_of(**changes: object) -> FitMethod:
    return FitMethod(name="x", compute=lambda p, n, **_: p.mean(0) - n.mean(0), **changes)  # type: ignore[arg-type]


@given(st.floats(1e-6, 1e6))
def test_what_a_file_says_of_a_method_is_what_makes_it_again(penalty: float) -> None:
    method, values = parse_method(f"probe:penalty={penalty!r}", fit_methods())
    recorded = Method(name=method.name, options=method.settings(values))
    again, read = parse_method(str(recorded), fit_methods())
    assert (again.name, again.settings(read)) == ("probe", {"penalty": penalty})


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        (Option("o", True, ""), "false", False),
        (Option("o", 3, ""), "5", 5),
        (Option("o", 0.5, ""), "2", 2.0),
        (Option("o", "a", "", choices=("a", "b")), "b", "b"),
    ],
)
def test_an_option_has_the_type_of_its_default(option: Option, text: str, value: object) -> None:
    method = method_of(options=(option,))
    assert method.parse_options(f"o={text}") == {"o": value}
    assert method.settings({"o": value}) == {"o": value}
    assert method.settings({}) == {"o": option.default}
    assert type(method.parse_options(f"o={text}")["o"]) is type(option.default)


@pytest.mark.parametrize(
    ("option", "text", "fact"),
    [
        (Option("o", True, ""), "o=1", "true or false"),
        (Option("o", 3, ""), "o=2.5", "a whole number"),
        (Option("o", 0.5, "", most=1), "o=2", "at most 1"),
        (Option("o", 0.5, ""), "o=nan", "out of range"),
        (Option("o", "a", "", choices=("a", "b")), "o=c", "a and b"),
        (Option("o", 3, ""), "p=2", "its options: o"),
        (Option("o", 3, ""), "o=2,o=3", "twice"),
        (Option("o", 3, ""), "2", "sets no option"),
    ],
)
def test_a_wrong_option_says_what_is_right(option: Option, text: str, fact: str) -> None:
    with pytest.raises(UsageError) as error:
        method_of(options=(option,)).parse_options(text)
    assert fact in f"{error.value} {error.value.hint}"


def test_the_penalty_of_a_probe_draws_it_to_the_mean_difference() -> None:
    """A heavy penalty leaves of the weights only where the sides' standardised means lie."""
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=(2, 50, 8)) @ np.diag(np.linspace(1, 3, 8))
    positive += 1
    rows = np.concatenate([positive, negative])
    expected = (positive.mean(0) - negative.mean(0)) / rows.var(0)
    cosines = []
    for penalty in (1e-3, 1.0, 1e6):
        fitted = direction("probe", positive, negative, penalty=penalty)
        cosines.append(fitted @ expected / np.linalg.norm(fitted) / np.linalg.norm(expected))
    assert cosines[0] < cosines[1] < cosines[2] and cosines[2] > 0.9999


def test_a_direction_that_is_none_is_refused() -> None:
    sides = np.ones((3, 4)), np.zeros((3, 4))
    for fitted in (np.zeros(5), np.full(4, np.nan), np.zeros((4, 4))):
        wrong = FitMethod(name="x", compute=lambda p, n, fitted=fitted: fitted)
        with pytest.raises(InputError, match="not 4 finite numbers"):
            wrong.direction(*sides, {})


def test_a_file_of_a_method_that_is_not_installed_is_read_and_named() -> None:
    vector = make_vector()
    method = Method(name="unheard-of", options={"share": 0.2, "robust": True}, package="elsewhere")
    metadata = msgspec.structs.replace(vector.metadata, method=method)
    store.write(Path("x.safetensors"), type(vector)(metadata, vector.directions))
    assert store.read(Path("x.safetensors")).metadata.method == method
    shown = steer("show", "x.safetensors")
    assert shown.exit_code == 0
    assert "unheard-of:robust=true,share=0.2 of 12 pairs, by the package elsewhere" in shown.stdout


def test_a_method_of_another_command_says_which() -> None:
    with pytest.raises(UsageError, match="ridge is a method of `steer distill`"):
        parse_method("ridge", fit_methods())
    with pytest.raises(UsageError, match="pca is a method of `steer extract`"):
        parse_method("pca", distill_methods())


def test_help_lists_every_method_and_option() -> None:
    for command, known in (("extract", fit_methods()), ("fit", fit_methods())):
        text = steer(command, "--help").stdout
        for method in known:
            assert re.search(rf"^  {method.name} +{method.help[:20]}", text, re.M)
            assert all(option.name in text for option in method.options)
    text = steer("distill", "--help").stdout
    assert all(method.name in text for method in distill_methods())


def test_a_suite_takes_every_method_by_default_and_any_position() -> None:
    labels = default_labels()
    assert {parse_candidate(label).method.name for label in labels} >= set(fit_methods().names)
    assert len(set(labels)) == len(labels) and DISTILL in labels
    candidate = parse_candidate("probe:penalty=2, last")
    assert (candidate.method.name, candidate.options) == ("probe", {"penalty": 2.0})
    assert str(candidate.position) == "last"
    with pytest.raises(UsageError):
        parse_candidate("nothing")


def test_the_table_of_the_manual_is_that_of_the_registry() -> None:
    """Run `python tests/test_methods.py` to write it anew."""
    assert table() in DOCS.read_text()


def table() -> str:
    lines = ["| method | of | | options |", "|---|---|---|---|"]
    for method in methods():
        options = "; ".join(
            f"`{option.name}={option.default}`: {option.help}" for option in method.options
        )
        options = options.replace("|", "\\|")
        cells = (f"`{method.name}`", method.command.removeprefix("steer "), method.help, options)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    text = DOCS.read_text()
    start = text.index("| method | of |")
    end = text.find("\n\n", start)
    DOCS.write_text(text[:start] + table() + text[end:])
    sys.stdout.write(table() + "\n")
