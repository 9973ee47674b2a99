"""What a caller with a key sees, on every inference route: a real server over a small gateway."""

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from headgate.api.application import Route
from headgate.api.build import ROUTES
from headgate.core.call import Call
from headgate.core.clock import SystemClock
from headgate.core.errors import Overloaded, Truncated
from headgate.core.events import Event, Finish, Text
from headgate.core.usage import Usage
from tests.api.house import PATIENCE_S, Answer, House, Wire, eventually, script

INFERENCE = [
    route
    for route in ROUTES
    if route.scope == "inference" and route.method == "POST" and not route.path.startswith("/passthrough/")
]
"""Passthrough needs a gateway with backends: `tests/api/test_passthrough.py` sends keys through it."""
CASES = [(route, stream) for route in INFERENCE for stream in ([False, True] if route.streams else [False])]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "hello", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"model": "hello", "prompt": "hi"},
    "/v1/embeddings": {"model": "vector", "input": "hi"},
    "/v1/rerank": {"model": "vector", "query": "hi", "documents": ["a"]},
    "/v2/rerank": {"model": "vector", "query": "hi", "documents": ["a"]},
    "/rerank": {"model": "vector", "query": "hi", "documents": ["a"]},
}
CHAT = BODIES["/v1/chat/completions"]
REPLAY = "x-headgate-idempotent-replay"


@pytest.fixture
def house() -> Iterator[House]:
    with House(grace_s=0.3) as house:
        house.gateway.answers["vector"] = b'{"object":"list","data":[]}'
        yield house


class Gate:
    """A model that says one word, waits to be let on, then ends as it is told to."""

    def __init__(self, error: Exception | None = None, size: int = 1) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()
        self.error = error
        self.size = size

    async def __call__(self, _: Call) -> AsyncIterator[Event | bytes]:
        yield Text("a" * self.size)
        self.begun.set()
        while not self.open.is_set():
            await SystemClock().sleep(0.005)
        if self.error is not None:
            raise self.error
        yield Text("b")
        yield Finish("stop")
        yield Usage(input=3, output=2)

    def wait(self) -> None:
        assert self.begun.wait(PATIENCE_S)


def chat(house: House, key: str, model: str = "hello", **fields: Any) -> Answer:
    return house.ask("POST", "/v1/chat/completions", {**CHAT, "model": model, **fields}, idempotency_key=key)


def begin(house: House, key: str, model: str, **fields: Any) -> Wire:
    wire = house.connect()
    wire.request("POST", "/v1/chat/completions", {**CHAT, "model": model, **fields}, idempotency_key=key)
    return wire


def calm(house: House) -> bool:
    return len(house.runs) == 0 and house.runs.held == 0


@pytest.mark.parametrize(("route", "stream"), CASES, ids=[f"{r.path}{' stream' * s}" for r, s in CASES])
def test_every_inference_route_runs_a_key_once_and_replays_it(house: House, route: Route, stream: bool) -> None:
    assert route.path in BODIES, f"{route.path}: give this test a body for it; its calls must go through answer_once"
    body = {**BODIES[route.path], **({"stream": True} if stream else {})}
    first, again = (house.ask("POST", route.path, body, idempotency_key="k") for _ in range(2))
    assert (first.status, again.status) == (200, 200)
    assert first.body == again.body
    assert first.headers["content-type"] == again.headers["content-type"]
    assert (first.headers.get(REPLAY), again.headers.get(REPLAY)) == (None, "true")
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert len(house.gateway.calls) == 1
    other = house.ask("POST", route.path, {**body, "user": "else"}, idempotency_key="k")
    assert (other.status, other.error["code"]) == (409, "idempotency_key_reused")
    assert other.headers["x-should-retry"] == "false"
    assert len(house.gateway.calls) == 1
    assert house.idempotent == ["first", "replayed", "key_reused"]
    eventually(lambda: calm(house))


def test_an_answer_keeps_what_it_says_of_its_model_and_nothing_of_its_call(house: House) -> None:
    house.gateway.headers = [(b"x-headgate-backend", b"one"), (b"x-ratelimit-remaining-requests", b"9")]
    chat(house, "k")
    house.gateway.headers = [(b"x-ratelimit-remaining-requests", b"8")]
    again = chat(house, "k")
    assert again.headers["x-headgate-backend"] == "one"
    assert [value for name, value in again.pairs if name == "x-ratelimit-remaining-requests"] == ["8"]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_who_comes_while_a_call_runs_hears_it_from_the_beginning(house: House, stream: bool) -> None:
    gate = house.gateway.answers["gate"] = Gate()
    first = begin(house, "k", "gate", stream=stream)
    gate.wait()
    joined = begin(house, "k", "gate", stream=stream)
    if stream:
        status, pairs = joined.head()
        assert (status, dict(pairs)[REPLAY]) == (200, "joined")
        heard = joined.chunk()
        assert b'"content":"a"' in heard  # before the end is written
    first.socket.close()  # the first caller leaves: the call does not
    gate.open.set()
    if stream:
        while piece := joined.chunk():
            heard += piece
        assert heard.endswith(b"data: [DONE]\n\n")
    else:
        answer = joined.answer()
        heard = answer.body
        assert answer.headers[REPLAY] == "joined"
    joined.socket.close()
    assert chat(house, "k", "gate", stream=stream).body == heard
    assert len(house.gateway.calls) == 1
    assert house.gateway.cancelled == 0
    eventually(lambda: calm(house) and all(reply.closes == 1 for reply in house.gateway.replies))


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_everyone_on_a_call_that_fails_is_told_the_same_and_the_key_is_free(house: House, stream: bool) -> None:
    gate = house.gateway.answers["gate"] = Gate(Truncated("The answer was cut."))
    wires = [begin(house, "k", "gate", stream=stream)]
    gate.wait()
    wires += [begin(house, "k", "gate", stream=stream) for _ in range(3)]
    if stream:
        for wire in wires[1:]:
            wire.head()
    else:
        eventually(lambda: len(house.gateway.replies) == 4)
    gate.open.set()
    if not stream:
        answers = [wire.answer() for wire in wires]
        assert {(answer.status, answer.error["code"]) for answer in answers} == {(502, "upstream_truncated")}
    else:
        wires[0].head()
        for wire in wires:
            heard = b""
            while piece := wire.chunk():
                heard += piece
            assert b'"code":"upstream_truncated"' in heard
            assert b"[DONE]" not in heard
    for wire in wires:
        wire.socket.close()
    assert house.turns.kept == {}
    house.gateway.answers["gate"] = script(Text("well"), Finish("stop"), Usage(input=1, output=1))
    assert chat(house, "k", "gate", stream=stream).status == 200
    assert len(house.gateway.calls) == 2
    eventually(lambda: calm(house))


def test_an_answer_too_large_to_keep_reaches_its_caller_and_then_says_so(house: House) -> None:
    gate = house.gateway.answers["gate"] = Gate(size=200_000)
    first = begin(house, "k", "gate", stream=True)
    first.head()
    assert len(first.chunk()) > 200_000
    gate.wait()
    during = chat(house, "k", "gate", stream=True)
    gate.open.set()
    rest = b""
    while piece := first.chunk():
        rest += piece
    first.socket.close()
    assert rest.endswith(b"data: [DONE]\n\n")
    after = chat(house, "k", "gate", stream=True)
    for answer in (during, after):
        assert (answer.status, answer.error["code"]) == (409, "idempotency_too_large")
        assert answer.headers["x-should-retry"] == "false"
    assert len(house.gateway.calls) == 1
    house.gateway.answers["body"] = b'"' + b"x" * 200_000 + b'"'
    assert len(chat(house, "body", "body").body) == 200_002
    assert chat(house, "body", "body").error["code"] == "idempotency_too_large"
    eventually(lambda: calm(house))


def test_a_replay_waits_until_there_is_memory_for_it(house: House) -> None:
    assert chat(house, "k").status == 200
    eventually(lambda: calm(house))
    memory = house.runs._memory
    memory.used = memory.limit
    refused = chat(house, "k")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    memory.used = 0
    assert chat(house, "k").headers[REPLAY] == "true"
    eventually(lambda: calm(house))
    assert len(house.gateway.calls) == 1


def test_without_the_database_a_call_with_a_key_does_not_run_and_one_without_does(house: House) -> None:
    house.turns.away = Overloaded("The database is away.", code="storage_unavailable", retry_after=1.0)
    answer = chat(house, "k")
    assert (answer.status, answer.error["code"]) == (503, "storage_unavailable")
    assert "x-should-retry" not in answer.headers
    assert house.gateway.calls == []
    assert house.chat().status == 200
    house.turns.away = None
    assert chat(house, "k").status == 200


def test_a_database_that_goes_away_meanwhile_is_told_later_and_the_answer_is_not_lost(house: House) -> None:
    gate = house.gateway.answers["gate"] = Gate()
    first = begin(house, "k", "gate")
    gate.wait()
    house.turns.away = Overloaded("The database is away.", retry_after=1.0)
    gate.open.set()
    with first:
        told = first.answer()
    assert told.status == 200
    assert chat(house, "k", "gate").body == told.body  # from memory
    house.turns.away = None
    eventually(lambda: calm(house))
    again = chat(house, "k", "gate")
    assert (again.body, again.headers[REPLAY]) == (told.body, "true")
    assert len(house.gateway.calls) == 1


def test_a_fault_of_ours_is_logged_once_told_to_all_and_frees_the_key(house: House) -> None:
    gate = house.gateway.answers["gate"] = Gate(LookupError("a secret detail"))
    wire = begin(house, "k", "gate")
    gate.wait()
    wire.socket.close()
    gate.open.set()
    eventually(lambda: calm(house) and house.turns.kept == {})
    eventually(lambda: [str(error) for _, error in house.bugs] == ["a secret detail"])
    answer = chat(house, "k", "gate")
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert b"secret" not in answer.body


def test_a_stop_ends_what_outlasts_its_grace_and_frees_the_key(house: House) -> None:
    gate = house.gateway.answers["gate"] = Gate()
    wire = begin(house, "k", "gate")
    gate.wait()
    house.stop()
    answer = wire.answer()
    wire.socket.close()
    assert answer.status == 503
    assert house.turns.kept == {}
    assert house.gateway.cancelled == 1
    assert calm(house)


def test_a_stranger_learns_nothing_from_a_key(house: House) -> None:
    chat(house, "k")
    answer = house.ask("POST", "/v1/chat/completions", CHAT, key="wrong", idempotency_key="k")
    assert answer.status == 401
    assert house.runs.get("k") is None


@pytest.mark.parametrize("key", ["", " ", "k" * 256, "ü"])
def test_a_key_that_is_none_is_refused(house: House, key: str) -> None:
    answer = chat(house, key)
    assert (answer.status, answer.error["code"]) == (400, "invalid_idempotency_key")
    assert house.gateway.calls == []


def test_a_caller_with_less_time_than_the_call_is_told_and_the_call_goes_on(house: House) -> None:
    gate = house.gateway.answers["gate"] = Gate()
    body = {**CHAT, "model": "gate"}
    answer = house.ask("POST", "/v1/chat/completions", body, idempotency_key="k", x_headgate_timeout_s="0.2")
    assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
    gate.open.set()
    assert chat(house, "k", "gate").status == 200
    assert len(house.gateway.calls) == 1
