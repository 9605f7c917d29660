"""A judge behind an endpoint: a real server on this machine, which fails in all the ways it can."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("openai", reason="the extra `judge` is not installed")

from steer.base.errors import InputError, SteerError, UsageError
from steer.evaluation import endpoint
from steer.evaluation.endpoint import BEST, Grader, GraderModel, parse

#: What a server does: a status, headers and a body, of the request and of how many came before it.
Behaviour = Callable[[dict[str, Any], int], tuple[int, dict[str, str], bytes]]
AT_ONCE = {"retry-after-ms": "1"}


def says(content: object) -> tuple[int, dict[str, str], bytes]:
    body = {"id": "x", "object": "chat.completion", "choices": [{"message": {"content": content}}]}
    return 200, {}, json.dumps(body).encode()


def text_of(request: dict[str, Any]) -> str:
    """The text that is to be graded."""
    content: str = request["messages"][1]["content"]
    return content.partition("<text>\n")[2].partition("\n</text>")[0]


def graded(request: dict[str, Any], _number: int) -> tuple[int, dict[str, str], bytes]:
    """A good judge: a tenth for each word."""
    return says(str(min(10, len(text_of(request).split()))))


@dataclass
class Server:
    """Keeps what it was asked."""

    behaviour: Behaviour = graded
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    @property
    def texts(self) -> list[str]:
        return [text_of(request) for request in self.requests]

    def grader(self, **options: Any) -> Grader:
        return Grader(GraderModel("grader-1", self.url, seed=5), "a cheerful mood", **options)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "STEER_JUDGE_MODEL", "STEER_JUDGE_URL"):
        monkeypatch.delenv(name, raising=False)
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            request = json.loads(body)
            server.requests.append(request)
            status, headers, body = server.behaviour(request, len(server.requests) - 1)
            self.send_response(status)
            kind = {"content-type": "application/json", "content-length": str(len(body))}
            for name, value in (kind | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        server.url = f"http://127.0.0.1:{listening.server_port}/v1"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield server
        listening.shutdown()
        thread.join()


def test_only_a_whole_number_is_a_score() -> None:
    assert [parse(text) for text in ("0", "10", " 7\n")] == [0, 10, 7]
    for wrong in ("11", "-1", "7/10", "7.5", "07", "Score: 7", "seven", "7 8", "", "٧", None):
        assert parse(wrong) is None, wrong


@given(st.text())
def test_what_is_read_is_what_is_said(reply: str) -> None:
    score = parse(reply)
    assert score is None or (0 <= score <= BEST and str(score) == reply.strip())


def test_each_text_is_asked_once_with_its_concept_and_seed(server: Server) -> None:
    grader = server.grader()
    probes = len(server.requests)
    grades = grader(["a b c", " ", "a b c", "a b c d e f g h i j k"])
    assert grades == [(0.3, 1), (0, 0), (0.3, 1), (1, 1)]
    assert sorted(server.texts[probes:]) == ["a b c", "a b c d e f g h i j k"]
    request = server.requests[-1]
    assert (request["model"], request["seed"], request["temperature"]) == ("grader-1", 5, 0)
    assert "a cheerful mood" in request["messages"][1]["content"]


def test_scores_are_kept_for_the_same_judge_and_question_alone(server: Server) -> None:
    server.grader()(["a b c"])
    n = len(server.requests)
    assert server.grader()(["a b c"]) == [(0.3, 1)]
    assert len(server.requests) == n
    Grader(GraderModel("grader-1", server.url, seed=6), "a cheerful mood")(["a b c"])
    Grader(GraderModel("grader-1", server.url, seed=5), "a gloomy mood")(["a b c"])
    assert server.texts[n:].count("a b c") == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_overloaded_server_is_asked_again(server: Server, status: int) -> None:
    grader = server.grader()
    first = len(server.requests)

    def overloaded(request: dict[str, Any], number: int) -> tuple[int, dict[str, str], bytes]:
        return (status, AT_ONCE, b"{}") if number < first + 3 else graded(request, number)

    server.behaviour = overloaded
    assert grader(["a b"]) == [(0.2, 1)]
    assert len(server.requests) == first + 4


def test_a_slow_server_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "TIMEOUT", 0.3)
    grader = server.grader()
    first = len(server.requests)

    def slow(request: dict[str, Any], number: int) -> tuple[int, dict[str, str], bytes]:
        if number == first:
            time.sleep(1)
        return graded(request, number)

    server.behaviour = slow
    assert grader(["a b"]) == [(0.2, 1)]


def test_garbage_is_asked_for_again_and_then_left_out(server: Server) -> None:
    warnings: list[str] = []
    grader = server.grader(warn=warnings.append)
    garbage = [
        says("I would say 7."), says(None), says(7), (200, {}, b"not json"), (200, {}, b"[]"),
        (200, {"content-type": "text/html"}, b"<html>"), (200, {}, b'{"choices": []}'),
    ]  # fmt: skip
    for number, reply in enumerate(garbage):
        first = len(server.requests)
        server.behaviour = lambda request, _, bad=reply: (
            bad if text_of(request) != "good" else says("4")
        )
        assert grader([f"bad {number}", "good"]) == [(0, 0), (0.4, 1)]
        seeds = [
            request["seed"] for request in server.requests[first:] if text_of(request) != "good"
        ]
        assert seeds == [5, 6, 7]
        assert warnings.pop().startswith("1 of 2 texts are left out")
    server.behaviour = lambda request, _: says("9") if request["seed"] == 6 else says("hm")
    assert grader(["second try"]) == [(0.9, 1)]


def test_a_judge_that_is_none_is_found_out_before_the_work(server: Server) -> None:
    server.behaviour = lambda *_: says("It is a pleasant text.")
    with pytest.raises(InputError, match="does not answer with a number from 0 to 10"):
        server.grader()
    server.behaviour = lambda *_: (401, {}, b'{"error": {"message": "wrong key"}}')
    with pytest.raises(SteerError, match=r"status 401 \(.*wrong key") as error:
        server.grader()
    assert "OPENAI_API_KEY" in str(error.value.hint)


def test_what_was_graded_before_a_failure_is_kept(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "AT_ONCE", 1)
    grader = server.grader()

    def breaks(request: dict[str, Any], number: int) -> tuple[int, dict[str, str], bytes]:
        fine = text_of(request) in ("t1 a", "t2 a")
        return graded(request, number) if fine else (500, AT_ONCE, b"{}")

    server.behaviour = breaks
    texts = [f"t{number} a" for number in range(1, 6)]
    with pytest.raises(SteerError, match=r"status 500.*2 of these 5 texts are kept"):
        grader(texts)
    server.behaviour, first = graded, len(server.requests)
    assert server.grader()(texts) == [(0.2, 1)] * 5
    assert sorted(server.texts[first:]) == texts[2:]


def test_a_model_that_takes_no_temperature_is_asked_without(server: Server) -> None:
    def reasons(request: dict[str, Any], number: int) -> tuple[int, dict[str, str], bytes]:
        if "temperature" in request:
            return 400, {}, b'{"error": {"message": "temperature does not support 0"}}'
        return graded(request, number)

    server.behaviour = reasons
    assert server.grader()(["a b"]) == [(0.2, 1)]


def test_a_judge_without_a_key_an_address_or_a_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no key"):
        Grader(GraderModel("m"), "x")
    with pytest.raises(UsageError, match="is not an address"):
        Grader(GraderModel("m", "localhost:8000"), "x")
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    with pytest.raises(SteerError, match=r"does not answer.*0 of these 1 texts"):
        Grader(GraderModel("m", "http://127.0.0.1:9/v1"), "x")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"{not json", "another form"),
        (200, b"<html>hello</html>", "another form"),
        (200, b'{"id": "x"}', "another form"),
        (404, b'{"error": {"message": "no such model"}}', "does not answer.*no such model"),
    ],
)
def test_a_teacher_that_does_not_answer_as_it_should_is_an_error(
    server: Server, status: int, body: bytes, message: str
) -> None:
    server.behaviour = lambda _request, _number: (status, AT_ONCE, body)
    teacher = GraderModel("teacher", server.url)
    with pytest.raises(SteerError, match=message) as caught:
        endpoint.answers(teacher, [("You are formal.", "Hello?")], [0], 8)
    assert caught.value.hint


def test_a_teacher_answers_in_order(server: Server) -> None:
    server.behaviour = lambda request, _number: says(request["messages"][-1]["content"].upper())
    questions = [("", f"question {number}") for number in range(20)]
    answers = endpoint.answers(GraderModel("teacher", server.url), questions, list(range(20)), 8)
    assert answers == [f"QUESTION {number}" for number in range(20)]
