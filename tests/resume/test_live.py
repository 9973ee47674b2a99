"""Streams that are resumed, in one process with memory only: real server, real upstream, real SDK."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.idempotency.talk import ask, chat, message, send
from tests.idempotency.upstream import counting, runs
from tests.live import Live, serving, until
from tests.resume.talk import DONE, Part, data_of, get, id_of, post, streamed, take
from tests.upstream.process import get as upstream_get

CONFIG = """
discover: false
engine: {{enabled: false}}
streams: {{grace_s: {grace_s}, keep_s: 60{more}}}
backends:
  - {{name: up, base_url: "{upstream}", models: ["*"]}}
routes:
  - {{model: "*", targets: [{{backend: up}}]}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with counting() as url:
        yield url


@pytest.fixture(scope="module")
def live(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home = tmp_path_factory.mktemp("resume")
    with serving(home, CONFIG.format(upstream=upstream, grace_s=1, more="")) as live:
        yield live


def took(live: Live, data: bytes, cut: int | None = None) -> Part:
    return asyncio.run(take(live.port, data, cut))


def code(part: Part) -> str:
    found: str = json.loads(part.body)["error"]["code"]
    return found


def done(live: Live, request_id: str) -> dict[str, Any]:
    def lines() -> list[dict[str, Any]]:
        return [line for line in live.events("call.done") if line["request_id"] == request_id]

    until(lambda: bool(lines()))
    (line,) = lines()
    return line


def test_every_frame_has_an_id_and_without_ids_it_is_the_plain_stream(live: Live) -> None:
    body = streamed("same", "ok:tokens=5")
    part = took(live, post(body))
    name = part.headers["x-headgate-stream"]
    assert name == part.headers["x-request-id"]
    assert [id_of(frame) for frame in part.frames] == [f"{name}:{number}" for number in range(1, len(part.frames) + 1)]
    assert part.frames[-1] == f"id: {name}:{len(part.frames)}\n".encode() + DONE
    plain = took(live, message(body, None))
    assert plain.body == data_of(part.frames)
    assert "x-headgate-stream" not in plain.headers


def test_the_rest_is_what_it_was_and_the_model_ran_once(live: Live, upstream: str) -> None:
    body = streamed("one run, cut twice", "ok:ms=20")
    first = took(live, post(body), cut=500)
    name = first.headers["x-headgate-stream"]
    second = took(live, post(body, id_of(first.frames[-1])), cut=700)
    third = took(live, get(name, id_of(second.frames[-1])))
    assert (second.headers["x-headgate-resumed"], third.headers["x-headgate-resumed"]) == ("true", "true")
    assert third.headers["x-headgate-stream"] == name
    assert third.headers["x-headgate-backend"] == "up"
    assert third.body.endswith(DONE)
    frames = first.frames + second.frames + third.frames
    assert b"".join(frames) == took(live, get(name)).body
    assert [id_of(frame) for frame in frames] == [f"{name}:{number}" for number in range(1, len(frames) + 1)]
    assert runs(upstream)["one run, cut twice"] == 1


def test_who_has_all_of_it_gets_an_orderly_end_and_nothing_more(live: Live) -> None:
    part = took(live, post(streamed("short")))
    again = took(live, post(streamed("short"), id_of(part.frames[-1])))
    assert (again.status, again.body, again.ended) == (200, b"", True)


def test_to_resume_is_a_call_that_costs_nothing(live: Live) -> None:
    part = took(live, post(streamed("paid once")))
    again = took(live, get(part.headers["x-headgate-stream"], id_of(part.frames[0])))
    paid, free = done(live, part.headers["x-request-id"]), done(live, again.headers["x-request-id"])
    assert (paid["attempts"], paid.get("replayed")) == (1, None)
    assert (free["attempts"], free["replayed"], free["outcome"]) == (0, True, "ok")
    assert (free["input_tokens"], free["output_tokens"], free.get("cost_usd")) == (0, 0, None)


def test_the_sdk_reads_it_as_any_other_stream(live: Live) -> None:
    client = openai.OpenAI(base_url=live.api, api_key=live.key, max_retries=0)
    answers = []
    for headers in ({}, {"x-headgate-resumable": "true"}):
        chunks = list(
            client.chat.completions.create(
                model="ok:tokens=5", messages=[{"role": "user", "content": "hi"}], stream=True, extra_headers=headers
            )
        )
        answers.append([chunk.model_dump() for chunk in chunks])
    assert answers[0] == answers[1]
    with client.chat.completions.with_streaming_response.create(
        model="ok:tokens=5",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        extra_headers={"x-headgate-resumable": "true"},
    ) as raw:
        assert raw.headers["x-headgate-stream"].startswith("req_")
        raw.read()


def test_legacy_completions_can_be_resumed_too(live: Live) -> None:
    body = {"model": "ok:tokens=4", "prompt": "hi", "stream": True}
    data = message(body, None, path="/v1/completions", x_headgate_resumable="true")
    part = took(live, data)
    last = id_of(part.frames[1])
    rest = took(live, message(body, None, path="/v1/completions", last_event_id=last))
    assert part.frames[:2] + rest.frames == part.frames


def test_an_error_is_part_of_the_stream_and_is_never_followed_by_done(live: Live) -> None:
    part = took(live, post(streamed("broken", "no_finish")))
    assert part.status == 200
    assert b'"upstream_truncated"' in part.frames[-1]
    assert b"[DONE]" not in part.body
    again = took(live, get(part.headers["x-headgate-stream"]))
    assert again.body == part.body
    assert id_of(again.frames[-1]).endswith(f":{len(again.frames)}")


def test_what_is_refused_before_its_first_byte_is_no_stream(live: Live) -> None:
    part = took(live, post(streamed("no", "status:code=400")))
    assert part.status == 400
    assert "x-headgate-stream" not in part.headers


def test_only_whose_it_is_may_resume_it(live: Live) -> None:
    part = took(live, post(streamed("private")))
    name, last = part.headers["x-headgate-stream"], id_of(part.frames[0])
    key = json.loads(live.post("/admin/keys", {"tenant": "other"})[1])["key"]
    narrow = json.loads(live.post("/admin/keys", {"models": ["gpt-*"]})[1])["key"]
    for data in (get(name, credential=key), get(name, last, key), post(streamed("private"), last, key)):
        part = took(live, data)
        assert (part.status, code(part)) == (404, "stream_not_found")
        assert "Send the call anew" in json.loads(part.body)["error"]["message"]
    part = took(live, get(name, last, narrow))
    assert (part.status, code(part)) == (403, "model_not_allowed")
    assert took(live, get(name, last, "hg-nobody")).status == 401


def test_ids_that_cannot_be_resumed_are_refused_with_the_remedy(live: Live, upstream: str) -> None:
    part = took(live, post(streamed("mine")))
    name = part.headers["x-headgate-stream"]
    for bad in ("17", "req_1:2", name, f"{name}:", f"{name}:-1", f"{name}:1x", f"{name}:{10**12}"):
        refused = took(live, post(streamed("mine"), bad))
        assert (refused.status, code(refused)) == (400, "invalid_last_event_id")
        assert "Last-Event-ID" in json.loads(refused.body)["error"]["message"]
    unknown = name[:-3] + ("000" if not name.endswith("000") else "111")
    cases = [
        (post(streamed("mine"), f"{unknown}:1"), 404, "stream_not_found"),
        (post(streamed("mine"), f"{name}:999"), 404, "stream_not_found"),
        (get(unknown), 404, "stream_not_found"),
        (get("nonsense"), 404, "stream_not_found"),
        (get(unknown, f"{name}:1"), 400, "invalid_last_event_id"),
        (post(streamed("another"), f"{name}:1"), 409, "stream_of_another_request"),
        (post(streamed("mine"), x_headgate_resumable="perhaps"), 400, "invalid_resumable"),
    ]
    for data, status, expected in cases:
        refused = took(live, data)
        assert (refused.status, code(refused)) == (status, expected)
    assert runs(upstream)["mine"] == 1
    assert "another" not in runs(upstream)


def test_a_call_without_a_stream_has_no_ids(live: Live) -> None:
    whole = asyncio.run(send(live.port, message(chat("whole"), None, x_headgate_resumable="true", last_event_id="17")))
    assert whole.status == 200
    assert "x-headgate-stream" not in whole.headers


def test_an_idempotency_key_goes_first(live: Live) -> None:
    body = streamed("keyed")
    first = ask(live.port, body, "resume-and-key", x_headgate_resumable="true")
    again = ask(live.port, body, "resume-and-key", last_event_id=f"{first.headers['x-request-id']}:1")
    assert first.body == again.body
    assert again.replay == "true"
    assert b"\nid: " not in first.body
    assert "x-headgate-stream" not in first.headers


def test_an_answer_that_nobody_follows_ends_after_its_grace(live: Live, upstream: str) -> None:
    cancelled = upstream_get(upstream, "/stats")["cancelled"]
    part = took(live, post(streamed("left alone", "ok:tokens=5000,ms=20")), cut=800)
    name = part.headers["x-headgate-stream"]
    assert live.gauge("headgate_streams_in_progress") >= 1
    line = done(live, name)
    assert line["outcome"] == "cancelled"
    until(lambda: upstream_get(upstream, "/stats")["cancelled"] > cancelled)
    rest = took(live, get(name, id_of(part.frames[-1])))
    assert b'"stream_abandoned"' in rest.frames[-1]
    assert b"[DONE]" not in rest.body
    until(lambda: live.gauge("headgate_streams_in_progress") == 0)


def test_an_answer_that_is_followed_again_in_time_goes_on(live: Live) -> None:
    body = streamed("followed again", "ok:tokens=120,ms=25")  # three graces long
    part = took(live, post(body), cut=800)
    rest = took(live, post(body, id_of(part.frames[-1])))
    assert rest.body.endswith(DONE)
    assert done(live, part.headers["x-headgate-stream"])["outcome"] == "ok"


def test_who_leaves_before_a_byte_has_reached_him_leaves_no_answer_behind(live: Live) -> None:
    async def leave() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", live.port)
        writer.write(post(streamed("too slow", "slow_head")))
        await writer.drain()
        await asyncio.sleep(0.3)
        writer.transport.abort()

    asyncio.run(leave())
    until(lambda: live.gauge("headgate_streams_in_progress") == 0, 0.9)


def test_the_configuration_says_which_streams_can_be_resumed(upstream: str, tmp_path: Path) -> None:
    for when, asked, expected in (("always", None, True), ("always", "false", False), ("never", "true", False)):
        config = CONFIG.format(upstream=upstream, grace_s=1, more=f", resumable: {when}")
        with serving(tmp_path / f"{when} {asked}", config) as live:
            headers = {} if asked is None else {"x_headgate_resumable": asked}
            part = took(live, message(streamed("when"), None, **headers))
            assert ("x-headgate-stream" in part.headers) is expected
            assert part.body.startswith(b"id: ") is expected


def test_beyond_the_most_streams_calls_are_served_without_ids(upstream: str, tmp_path: Path) -> None:
    config = CONFIG.format(upstream=upstream, grace_s=2, more=", calls: 1")
    with serving(tmp_path / "few", config) as live:
        long = took(live, post(streamed("long", "ok:tokens=2000,ms=20")), cut=800)
        plain = took(live, post(streamed("plain")))
        assert plain.body.endswith(DONE)
        assert "x-headgate-stream" not in plain.headers
        assert 'headgate_streams_unkept_total{reason="too_many"} 1.0' in live.get("/metrics")[1].decode()
        assert live.stop() == 0  # and a stream that nobody follows does not keep it from stopping
        assert "x-headgate-stream" in long.headers


def test_the_log_says_how_a_resumed_stream_ended_for_its_caller(live: Live) -> None:
    part = took(live, post(streamed("ended how", "ok:tokens=150,ms=20")), cut=500)
    name, last = part.headers["x-headgate-stream"], id_of(part.frames[-1])
    late = took(live, post(streamed("ended how", "ok:tokens=150,ms=20"), last, x_headgate_timeout_s="0.2"))
    assert b'"deadline_exceeded"' in late.frames[-1]
    left = took(live, get(name, last), cut=300)
    whole = took(live, get(name, last))
    ends = [done(live, each.headers["x-request-id"]) for each in (late, left, whole)]
    assert [(line["outcome"], line.get("code")) for line in ends] == [
        ("failed", "deadline_exceeded"),
        ("cancelled", "client_closed"),
        ("ok", None),
    ]


def test_a_resumed_stream_says_how_good_its_answer_is(live: Live) -> None:
    part = took(live, post(streamed("how good")))
    again = took(live, get(part.headers["x-headgate-stream"]))
    assert part.headers["x-headgate-level"] == again.headers["x-headgate-level"] == "full"
