"""Whatever a client sends: never a 500, never a broken connection, always the error shape."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate.api.wire.openai_chat import ChatEncoder, ChatFold
from headgate.core.call import Call
from headgate.core.deadline import Deadline
from headgate.core.events import Event, Finish, Text, ToolDelta
from headgate.core.request import ChatRequest, Message
from tests.api.house import KEY, House

SLICE = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(sorted(set(ChatRequest.__struct_fields__) | {"prompt", "input", "best_of", "dimensions"}))
MESSAGES = st.just([{"role": "user", "content": "hi"}])
NEAR = st.fixed_dictionaries({"model": st.just("near") | JSON, "messages": MESSAGES | JSON}).flatmap(
    lambda base: st.dictionaries(FIELDS, JSON, max_size=4).map(lambda more: {**more, **base})
)
PATHS = st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/admin/keys", "/v1/models/x"])


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as house:
        house.gateway.answers["near"] = b"{}"
        yield house


def check(house: House, path: str, body: bytes) -> None:
    answer = house.ask("POST", path, body)
    assert answer.status in {200, 400, 403, 404, 405, 413}
    if answer.status != 200:
        assert answer.error["message"]
    assert house.bugs == []


@SLICE
@given(path=PATHS, body=st.binary(max_size=200))
def test_random_bytes_are_refused_politely(house: House, path: str, body: bytes) -> None:
    check(house, path, body)


@SLICE
@given(path=PATHS, body=JSON | NEAR)
def test_random_json_is_refused_politely(house: House, path: str, body: Any) -> None:
    check(house, path, json.dumps(body).encode())


@pytest.mark.prove
@settings(SLICE, max_examples=10_000)
@given(path=PATHS, body=JSON | NEAR)
def test_no_500_in_ten_thousand_requests(house: House, path: str, body: Any) -> None:
    check(house, path, json.dumps(body).encode())


@SLICE
@given(data=st.binary(max_size=300))
def test_random_bytes_on_a_connection_get_an_error_or_a_close(house: House, data: bytes) -> None:
    with house.connect() as wire:
        wire.send(data + b"\r\n\r\n")
        wire.send(b"GET /livez HTTP/1.1\r\nhost: a\r\nx-api-key: " + KEY.encode() + b"\r\nconnection: close\r\n\r\n")
        answer = wire.rest()
        assert not answer or answer.startswith(b"HTTP/1.1 ")
        assert b"HTTP/1.1 500" not in answer
    assert house.bugs == []


EVENTS = st.lists(
    st.builds(Text, st.text(), st.integers(0, 2))
    | st.builds(lambda text, place: ToolDelta(text, place), st.text(), st.integers(0, 1))
    | st.builds(Finish, st.sampled_from(["stop", "length"]), st.integers(0, 2)),
    max_size=12,
)


@SLICE
@given(events=EVENTS)
def test_a_stream_says_the_same_as_the_whole_answer(events: list[Event]) -> None:
    body = ChatRequest(model="m", messages=[Message(role="user", content="hi")])
    call = Call(
        id="req_1",
        operation="chat",
        dialect="openai",
        model="m",
        body=body,
        raw=b"",
        stream=True,
        include_usage=False,
        deadline=Deadline(0.0),
        received=0.0,
    )
    encoder, fold = ChatEncoder("id", 1, call, "f"), ChatFold("id", 1, call, "f")
    frames = b""
    for event in events:
        frames += encoder.frames(event)
        fold.take(event)
    seen: dict[int, str] = {}
    for frame in frames.decode().split("\n\n")[:-1]:
        choice = json.loads(frame.removeprefix("data: "))["choices"][0]
        seen[choice["index"]] = seen.get(choice["index"], "") + (choice["delta"].get("content") or "")
    whole = {c["index"]: c["message"]["content"] or "" for c in json.loads(fold.body())["choices"]}
    assert seen == whole
