"""The parts of the OpenAI dialect that need no server."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.backends.estimate import PART_TOKENS, input_tokens
from headgate.backends.openai_errors import MESSAGE_CHARS_MAX, error_for, read_complaint
from headgate.backends.openai_models import read_models
from headgate.backends.openai_stream import Expectation, FrameReader
from headgate.core.errors import HeadgateError, Truncated, Upstream
from headgate.core.events import Finish
from headgate.core.ports import ModelInfo, Progress
from headgate.core.usage import Usage
from tests.backends.calls import call
from tests.upstream.exchange import USAGE, chunk, delta


@pytest.mark.parametrize(
    ("body", "models"),
    [
        ({"data": [{"id": "a", "created": 3, "owned_by": "o"}]}, [ModelInfo("a", 3, "o")]),
        ({"data": [{"id": "v", "max_model_len": 4096}]}, [ModelInfo("v", context_length=4096)]),
        ({"data": [{"id": "l", "meta": {"n_ctx_train": 512}}], "models": []}, [ModelInfo("l", context_length=512)]),
        ({"models": [{"name": "llama3:8b", "model": "llama3:8b"}]}, [ModelInfo("llama3:8b")]),
        ([{"id": "t", "context_length": 8}], [ModelInfo("t", context_length=8)]),
        ({"data": [{"id": "models/gemini-pro", "created": None}]}, [ModelInfo("gemini-pro")]),
        ({"object": "list", "data": None}, []),
        ({"data": [{"id": 3}, {"id": ""}, "x", {"id": "a\nb"}, {"id": "ok"}]}, [ModelInfo("ok")]),
    ],
)  # fmt: skip
def test_lists_of_models_are_read_in_all_their_forms(body: Any, models: list[ModelInfo]) -> None:
    assert read_models(json.dumps(body).encode()) == models


@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b'{"detail":"no"}', b'{"data":3}', b"[" * 100_000])
def test_what_is_no_list_of_models_is_refused(body: bytes) -> None:
    with pytest.raises(Upstream):
        read_models(body)


@given(st.binary(max_size=300))
def test_no_error_body_breaks_the_mapping(body: bytes) -> None:
    for status in (300, 400, 401, 404, 413, 422, 429, 500, 503, 599):
        error = error_for(status, lambda name: body[:20] or None, body, 1.0)
        assert isinstance(error, HeadgateError)
        assert len(error.message) <= MESSAGE_CHARS_MAX
        assert error.message.isprintable()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "a\r\n\x1b[31mb"}}, "a [31mb"),
        ({"error": "plain"}, "plain"),
        ({"detail": "fastapi"}, "fastapi"),
        ({"object": "error", "message": "vllm"}, "vllm"),
        ([{"error": {"message": "google"}}], "google"),
        ({"error": {"message": "key sk-1 is bad"}}, "key *** is bad"),
        ({"error": None}, ""),
    ],
)  # fmt: skip
def test_error_bodies_are_read_in_all_their_forms(body: Any, message: str) -> None:
    assert read_complaint(json.dumps(body).encode(), "sk-1").message == message


def test_a_long_message_is_cut() -> None:
    assert len(read_complaint(json.dumps({"error": "x" * 10_000}).encode()).message) == MESSAGE_CHARS_MAX


def stream(*data: bytes) -> bytes:
    return b"".join(b"data: " + part + b"\n\n" for part in data)


GOOD = stream(
    delta("", usage=None), delta("Zürich 🌇", usage=None), delta("", 0, "stop"), chunk([], usage=USAGE), b"[DONE]"
)
SEEN = stream(delta(""), delta("Zürich 🌇"), delta("", 0, "stop"))


@given(st.lists(st.integers(0, len(GOOD)), max_size=10), st.integers(0, len(GOOD)))
def test_a_stream_cut_short_anywhere_is_truncated_after_whole_frames(places: list[int], end: int) -> None:
    reader = FrameReader(Expectation(), Progress())
    cuts = [0, *sorted(place for place in places if place < end), end]
    items = [item for a, b in itertools.pairwise(cuts) for item in reader.feed(GOOD[a:b])]
    items += reader.finish()
    data = b"".join(item for item in items if isinstance(item, bytes))
    assert SEEN.startswith(data)
    assert data.endswith(b"\n\n") or not data
    finished = Finish("stop") in items
    assert (data == SEEN) == finished
    if finished:
        assert reader.error is None
        assert isinstance(items[-1], Usage)
    else:
        assert type(reader.error) is Truncated


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("error", [b"", b'{"error":{"message":"no"}}', b"no JSON", b"7"])
def test_an_event_a_read_gives_the_same_as_byte_by_byte(usage: bool, error: bytes) -> None:
    events = [part + b"\n\n" for part in (stream(error) + GOOD if error else GOOD).split(b"\n\n") if part]
    events = [b": the start\n\n", events[-4], *events]
    outcomes = []
    for pieces in events, [bytes([byte]) for event in events for byte in event]:
        progress = Progress()
        reader = FrameReader(Expectation(usage=usage), progress)
        items = [item for piece in pieces for item in reader.feed(piece)]
        outcomes.append((items, progress, reader.said, reader.ended, repr(reader.error)))
    assert outcomes[0] == outcomes[1]


def test_an_event_in_one_read_passes_as_the_very_bytes_that_came() -> None:
    reader = FrameReader(Expectation(), Progress())
    reader.feed(stream(delta("first")))
    frame = stream(delta("Zürich 🌇"))
    assert reader.feed(frame)[0] is frame


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_no_bytes_break_the_reader(pieces: list[bytes]) -> None:
    reader = FrameReader(Expectation(), Progress())
    for piece in pieces:
        for item in reader.feed(b"data: " + piece + b"\n\n"):
            if isinstance(item, bytes):
                assert all(json.loads(line[6:]) is not None for line in item.split(b"\n\n") if line)
    reader.finish()
    assert reader.ended


def test_several_choices_must_all_finish_where_no_done_says_so() -> None:
    for finished, complete in ([0, 1], True), ([0], False), ([0, 2], False):
        reader = FrameReader(Expectation(choices=2), Progress())
        reader.feed(
            stream(*(delta("x", index) for index in finished), *(delta("", index, "stop") for index in finished))
        )
        reader.finish()
        assert (reader.error is None) is complete


def test_reasoning_tools_and_text_count_as_tokens_and_roles_do_not() -> None:
    progress = Progress()
    reader = FrameReader(Expectation(), progress)
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"content": None, "tool_calls": []},
        {"tool_calls": [{"index": 0}]}, {"content": [{"type": "text"}]}, {"refusal": "no"}, {"function_call": {}},
    ]  # fmt: skip
    reader.feed(stream(*(chunk([{"index": 0, "delta": inner}]) for inner in deltas)))
    assert reader.error is None
    assert progress.output_tokens == 5


def test_an_inlined_image_is_not_counted_as_text() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, picture]}]
    assert PART_TOKENS < input_tokens(call(messages=messages)) < PART_TOKENS + 20
    assert input_tokens(call(operation="embedding", input=[[1, 2, 3]] * 10_000)) == 30_000
    assert 1 < input_tokens(call()) < 50


def test_half_an_emoji_in_an_event_is_legal_and_passes_as_it_came() -> None:
    frames = [
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ude00"},"finish_reason":"stop"}]}\n\n',
    ]
    reader = FrameReader(Expectation(), Progress())
    passed = [item for frame in frames for item in reader.feed(frame) if isinstance(item, bytes)]
    assert reader.error is None
    assert passed == frames
