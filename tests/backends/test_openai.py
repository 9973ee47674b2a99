"""The OpenAI backend against a real server in another process."""

import asyncio
import json
from typing import Any

import pytest
from msgspec import structs

from headgate.core.errors import BadCall, HeadgateError
from headgate.core.events import Finish
from headgate.core.usage import Usage
from tests.backends.calls import backend, call, collect, target, until_idle, until_stats
from tests.upstream.behaviours import TOOL_FRAMES
from tests.upstream.exchange import USAGE, chunk, delta, last_user_text
from tests.upstream.process import get

WORDS = "Good evening, Zürich 🌇"


def frames(*data: bytes) -> bytes:
    return b"".join(b"data: " + part + b"\n\n" for part in data)


def told(usage: bool = False, text: str = WORDS) -> bytes:
    """What the fake upstream's good stream is, byte for byte, as a caller should see it."""
    more: dict[str, Any] = {"usage": None} if usage else {}
    pieces = [text[place : place + 3] for place in range(0, len(text), 3)]
    parts = [delta("", **more), *(delta(piece, **more) for piece in pieces), delta("", 0, "stop", **more)]
    return frames(*parts, *([chunk([], usage=USAGE)] if usage else []))


def test_a_whole_answer_passes_untouched_with_its_usage(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        answer = await up.open(call("ok"), target("ok"))
        assert answer.stream is None
        body = json.loads(answer.body or b"")
        assert body["choices"][0]["message"]["content"] == WORDS
        assert answer.body == json.dumps(body).encode()  # the server's own spelling
        assert answer.usage == Usage(input=7, output=3)
        assert dict(answer.headers) == {b"x-upstream-request-id": b"up-1", b"x-upstream-processing-ms": b"5"}
        await answer.aclose()
        await until_idle(up)
        await up.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("model", ["ok", "crlf", "cr", "bom", "no_space", "cut_anywhere:cut=1", "cut_anywhere:cut=11"])
@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_passes_byte_for_byte_however_it_was_framed(server: str, model: str, usage: bool) -> None:
    async def main() -> None:
        up = backend(server)
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
        answer = await up.open(call(model, stream=True, **options), target(model))
        data, events, error = await collect(answer)
        assert error is None
        assert data == told(usage)
        assert events == [Finish("stop"), Usage(input=7, output=3)]
        assert answer.progress.output_tokens == (len(WORDS) + 2) // 3
        await until_idle(up)
        assert up.counts.idle == 1  # the connection is good for the next call
        await up.aclose()

    asyncio.run(main())


def test_data_over_several_lines_means_the_same(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        data, _, error = await collect(await up.open(call("multiline", stream=True), target("multiline")))
        assert error is None
        assert [json.loads(line[6:]) for line in data.split(b"\n\n") if line] == [
            json.loads(line[6:]) for line in told().split(b"\n\n") if line
        ]
        await up.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["missing", "absurd", "last", "null", "spaced"])
def test_a_caller_who_did_not_ask_sees_no_usage_and_the_meter_still_has_it(server: str, kind: str) -> None:
    async def main() -> None:
        up = backend(server)
        model = f"usage:is={kind}"
        answer = await up.open(call(model, stream=True), target(model))
        data, events, error = await collect(answer)
        assert error is None
        values = [json.loads(line[6:]) for line in data.split(b"\n\n") if line]
        assert all("usage" not in value and value["choices"] for value in values)
        usage = events[-1]
        assert isinstance(usage, Usage)
        if kind in {"last", "null"}:
            assert usage == Usage(input=7, output=3)
        else:
            assert usage.estimated
            assert usage.output == 2
            assert 10 < usage.input < 100
        if kind == "null":  # a text that looks like the member is left alone
            assert values[0]["choices"][0]["delta"]["content"] == 'say ,"usage":null twice'
        await up.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "estimated"), [("missing", True), ("absurd", True), ("last", False)])
def test_usage_that_cannot_be_true_is_replaced_by_our_count_and_flagged(
    server: str, kind: str, estimated: bool
) -> None:
    async def main() -> None:
        up = backend(server)
        answer = await up.open(call(f"usage:is={kind}"), target(f"usage:is={kind}"))
        assert answer.usage is not None
        assert answer.usage.estimated is estimated
        assert 0 < answer.usage.input < 100
        assert 0 < answer.usage.output < 100
        await up.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("model", ["no_done", "twice_done", "no_blank_line"])
def test_a_finished_answer_is_complete_whatever_ends_the_stream(server: str, model: str) -> None:
    async def main() -> None:
        up = backend(server)
        data, events, error = await collect(await up.open(call(model, stream=True), target(model)))
        assert error is None
        assert data == frames(delta("one"), delta("", 0, "stop"))
        assert events[0] == Finish("stop")
        await until_idle(up)
        await up.aclose()

    asyncio.run(main())


def test_several_choices_finish_each_for_itself(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        answer = await up.open(call("ok", stream=True, n=3), target("ok"))
        _, events, error = await collect(answer)
        assert error is None
        assert events[:3] == [Finish("stop", 0), Finish("stop", 1), Finish("stop", 2)]
        await up.aclose()

    asyncio.run(main())


def test_interleaved_tool_calls_pass_untouched(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        data, events, error = await collect(await up.open(call("tools", stream=True), target("tools")))
        assert error is None
        assert data == frames(*TOOL_FRAMES)
        assert events[0] == Finish("tool_calls")
        await up.aclose()

    asyncio.run(main())


def test_the_body_is_sent_as_it_came_but_for_the_name_of_the_model(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        plain = call("ok", unknown={"kept": [1, 2.50]}, temperature=0.1)
        await up.open(plain, target("ok"))
        assert get(server, "/last")["body"].encode() == plain.raw
        await up.open(call("alias", unknown={"kept": [1, 2.50]}), target("ok"))
        sent = get(server, "/last")["body"]
        assert '"kept": [1, 2.5]' in sent
        assert json.loads(sent)["model"] == "ok"
        await up.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("twice", [b'{"model":"dear",', b'{"mod\\u0065l":"dear",'])
def test_a_body_that_names_two_models_is_sent_with_the_one_that_was_checked(server: str, twice: bytes) -> None:
    async def main() -> None:
        up = backend(server)
        plain = call("ok")
        doubled = structs.replace(plain, raw=twice + plain.raw[1:])
        await up.open(doubled, target("ok"))
        sent = get(server, "/last")["body"]
        assert "dear" not in sent
        assert json.loads(sent) == json.loads(plain.raw)
        await up.aclose()

    asyncio.run(main())


def test_usage_is_asked_for_in_streams_unless_the_server_refuses_to_be_asked(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        options = {"include_obfuscation": False}
        await collect(await up.open(call("ok", stream=True, stream_options=options), target("ok")))
        assert json.loads(get(server, "/last")["body"])["stream_options"] == {**options, "include_usage": True}
        with pytest.raises(BadCall):
            await up.open(call("no_stream_options", stream=True), target("no_stream_options"))
        await up.aclose()
        shy = backend(server, usage_in_stream=False)
        data, _, error = await collect(
            await shy.open(call("no_stream_options", stream=True), target("no_stream_options"))
        )
        assert error is None
        assert data == told()
        await shy.aclose()

    asyncio.run(main())


def test_completions_and_embeddings_go_the_same_way(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        answer = await up.open(call("ok", operation="embedding"), target("ok"))
        assert json.loads(answer.body or b"")["data"][0]["embedding"] == [0.5, 0.25]
        assert answer.usage == Usage(input=4)
        assert get(server, "/last")["path"] == "/v1/embeddings"
        answer = await up.open(call("ok", operation="completion"), target("ok"))
        assert answer.usage == Usage(input=7, output=3)
        assert get(server, "/last")["path"] == "/v1/completions"
        _, events, error = await collect(await up.open(call("ok", operation="completion", stream=True), target("ok")))
        assert error is None
        assert events[-1] == Usage(input=7, output=3)
        await up.aclose()

    asyncio.run(main())


def test_a_key_is_sent_as_the_server_wants_it_and_nothing_of_the_caller_s(server: str) -> None:
    async def main() -> None:
        root = server.removesuffix("/v1")
        azure = backend(
            root + "/openai/deployments/{model}",
            api_key="k-123",
            auth="api-key",
            query={"api-version": "2026-01-01"},
            headers={"X-Extra": "yes"},
        )
        await azure.open(call("ok"), target("../../ok"))
        last = get(server, "/last")
        assert last["path"] == "/openai/deployments/..%2F..%2Fok/chat/completions?api-version=2026-01-01"
        headers = dict(last["headers"])
        assert headers["api-key"] == "k-123"
        assert headers["x-extra"] == "yes"
        assert headers["accept-encoding"] == "identity"
        assert headers["x-client-request-id"] == "req_1"
        assert "authorization" not in headers
        await azure.open(call("ok"), target(".."))
        assert "/deployments/%2E%2E/chat" in get(server, "/last")["path"]
        await azure.aclose()
        bearer = backend(server, api_key="k-123")
        await bearer.open(call("ok"), target("ok"))
        assert dict(get(server, "/last")["headers"])["authorization"] == "Bearer k-123"
        await bearer.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("headers", [{"host": "x"}, {"a": "b\r\nc: d"}, {"content-length": "3"}])
def test_headers_that_would_break_the_request_stop_the_start(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        backend("http://127.0.0.1:1/v1", headers=headers)


def test_models_are_listed_and_a_probe_is_a_real_request(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        assert [model.id for model in await up.models()] == ["ok", "other"]
        found = await up.probe()
        assert found.ok
        assert found.latency_ms is not None
        assert up.counts.active == 0
        await up.aclose()
        for base_url, path, good in [
            (server, "//health", True),
            (server, "/no", False),
            ("http://127.0.0.1:1", "/", False),
        ]:
            up = backend(base_url, probe_path=path)
            assert (await up.probe()).ok is good
            await up.aclose()

    asyncio.run(main())


def test_closing_an_answer_in_the_middle_closes_the_upstream_call(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        cancelled = (await asyncio.to_thread(get, server, "/stats"))["cancelled"]
        answer = await up.open(call("endless", stream=True), target("endless"))
        assert answer.stream is not None
        async for _ in answer.stream:
            break
        await answer.aclose()
        await answer.aclose()
        assert up.counts.active == 0
        await until_stats(server, lambda now: now["open"] == 0 and now["cancelled"] == cancelled + 1)
        with pytest.raises(HeadgateError):
            [item async for item in answer.stream]  # what is missing does not look complete

    asyncio.run(main())


def test_cancelling_open_ends_the_upstream_s_work(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        opening = asyncio.ensure_future(up.open(call("slow_head"), target("slow_head")))
        await until_stats(server, lambda now: now["open"] == 1)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert up.counts.active == 0
        await until_stats(server, lambda now: now["open"] == 0)

    asyncio.run(main())


def test_a_hundred_streams_at_once_are_each_their_own(server: str) -> None:
    """No caller ever sees a byte of another's answer, while others leave."""

    async def main() -> None:
        up = backend(server)

        async def one(number: int) -> None:
            marker = f"<{number}>" * 20
            asked = call("ok:ms=1", stream=True, messages=[{"role": "user", "content": marker}])
            assert last_user_text(json.loads(asked.raw)) == marker
            data, _, error = await collect(await up.open(asked, target("ok:ms=1")))
            assert error is None
            assert data == told(text=marker)

        tasks = [asyncio.ensure_future(one(number)) for number in range(100)]
        await asyncio.sleep(0.01)
        for task in tasks[::5]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result).__name__ for result in results if result is not None] == ["CancelledError"] * 20
        await until_idle(up)
        await until_stats(server, lambda now: now["open"] == 0)
        await up.aclose()

    asyncio.run(main())
