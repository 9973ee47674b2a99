"""Streams byte by byte, over a plain socket: framing, headers, heartbeats, broken ends, and what passes untouched."""

import json
import urllib.request
from typing import Any

import pytest

from tests.api.house import Wire
from tests.live import Live

HI = [{"role": "user", "content": "hi there, 東京 ☕"}]


def post(live: Live, model: str, path: str = "/v1/chat/completions", **fields: Any) -> Wire:
    wire = Wire(live.port)
    wire.request("POST", path, {"model": model, "messages": HI, "stream": True} | fields, live.key)
    return wire


def body(wire: Wire) -> bytes:
    """A stream's body to its proper end."""
    with wire:
        answer = wire.answer()
    assert answer.status == 200, answer.body
    return answer.body


def from_upstream(model_server: str, model: str, **fields: Any) -> bytes:
    data = json.dumps({"model": model, "messages": HI, "stream": True, **fields}).encode()
    with urllib.request.urlopen(urllib.request.Request(model_server + "/chat/completions", data), timeout=10) as answer:
        found: bytes = answer.read()
    return found


@pytest.mark.parametrize("model", ["headgate-demo", "scripted", "ok:tokens=5"])
def test_a_stream_has_the_head_that_proxies_and_clients_need(gate: Live, model: str) -> None:
    with post(gate, model, max_tokens=3) as wire:
        answer = wire.answer()
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.headers
    assert answer.headers["x-request-id"].startswith("req_")
    assert int(answer.headers["openai-processing-ms"]) >= 0


@pytest.mark.parametrize("stream", [False, True])
def test_no_header_comes_twice(gate: Live, stream: bool) -> None:
    with post(gate, "ok", stream=stream) as wire:
        names = [name for name, _ in wire.answer().pairs]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("model", ["headgate-demo", "scripted", "ok:tokens=5", "crlf", "cr", "bom", "cut_anywhere"])
def test_every_frame_is_one_data_line_and_the_last_says_done(gate: Live, model: str) -> None:
    frames = body(post(gate, model, max_tokens=8)).decode().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    for frame in frames[:-2]:
        assert frame.startswith("data: {")
        assert "\n" not in frame
        assert "\r" not in frame
        assert json.loads(frame[6:])["object"] == "chat.completion.chunk"


@pytest.mark.parametrize("framing", ["crlf", "cr", "bom", "cut_anywhere"])
def test_rare_framings_of_an_upstream_carry_the_same_text(gate: Live, framing: str) -> None:
    assert body(post(gate, framing)) == body(post(gate, "ok"))


@pytest.mark.parametrize("fields", [{}, {"stream_options": {"include_usage": True}}, {"n": 2}])
def test_frames_of_the_same_dialect_pass_byte_for_byte(gate: Live, model_server: str, fields: dict[str, Any]) -> None:
    assert body(post(gate, "ok:tokens=40", **fields)) == from_upstream(model_server, "ok:tokens=40", **fields)


def test_a_silent_stream_is_kept_alive_by_comments(gate: Live, direct: Live) -> None:
    with post(gate, "stall") as wire:
        assert wire.head()[0] == 200
        assert b'"first"' in wire.chunk()
        assert wire.chunk() == wire.chunk() == b": ping\n\n"
    gate.settle()
    direct.settle()


@pytest.mark.parametrize("stream", ["reset_in_stream", "error_event"])
def test_a_stream_that_breaks_ends_with_an_error_and_not_with_done(gate: Live, stream: str) -> None:
    text = body(post(gate, stream))
    frames = text.decode().split("\n\n")
    assert '"one"' in frames[0]
    error = json.loads(frames[-2].removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"]
    assert b"[DONE]" not in text
    assert not any('finish_reason":"stop' in frame for frame in frames)


def test_a_failure_before_the_first_byte_is_a_plain_error(gate: Live) -> None:
    with post(gate, "status:code=500") as wire:
        answer = wire.answer()
    assert answer.status == 502
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.error) == {"message", "type", "param", "code"}


def test_a_connection_serves_streams_one_after_the_other(gate: Live) -> None:
    with Wire(gate.port) as wire:
        for number in range(5):
            text = [{"role": "user", "content": f"number {number}"}]
            wire.request(
                "POST", "/v1/chat/completions", {"model": "scripted", "messages": text, "stream": True}, gate.key
            )
            pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in wire.answer().chunks]
            assert "".join(pieces) == f"number {number}"
