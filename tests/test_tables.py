"""Tables on terminals of any width: nothing is lost, and no word is broken."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from steer.base.tables import NOTHING, Rows

WORDS = st.lists(st.text("abcde", min_size=1, max_size=12), min_size=1, max_size=5).map(" ".join)
NUMBERS = st.sampled_from(["0.50", "0.50 [0.40, 0.60]", "-12.3", "87%", NOTHING])


def printed(rows: Rows, width: int) -> str:
    console = Console(width=width, color_system=None, force_terminal=True)
    with console.capture() as captured:
        console.print(rows)
    return captured.get()


@given(
    st.lists(st.tuples(WORDS, WORDS, NUMBERS, NUMBERS), min_size=1, max_size=4),
    st.integers(min_value=34, max_value=120),
)
def test_every_word_stands_whole_at_every_width(
    rows: list[tuple[str, str, str, str]], width: int
) -> None:
    shown = printed(Rows(["name", "made from", "effect", "KL"], rows, left=2), width)
    assert max(map(len, shown.splitlines())) <= width
    words = re.findall(r"\S+", shown)
    for row in rows:
        for word in " ".join(row).split():
            assert word in words or word == NOTHING


def test_intervals_go_below_their_numbers_before_rows_become_paragraphs() -> None:
    rows = Rows(["", "effect", "KL"], [["joyful", "0.50 [0.40, 0.60]", "0.10 [0.05, 0.15]"]])
    assert [len(printed(rows, width).splitlines()) for width in (60, 34)] == [2, 3]
    assert printed(rows, 30).splitlines()[0].strip() == "joyful"
