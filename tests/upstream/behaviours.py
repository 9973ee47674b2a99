"""What the fake upstream does, by the name of the model. Each behaviour writes its answer and says whether to go on."""

import asyncio
import gzip
import json
from typing import Any

from tests.upstream.exchange import (
    USAGE,
    Behaviour,
    Exchange,
    chunk,
    chunks,
    delta,
    honest_usage,
    whole,
)


async def ok(exchange: Exchange) -> bool:
    if exchange.path.endswith("/embeddings"):
        entry = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
        usage = {"prompt_tokens": 4, "total_tokens": 4}
        return await exchange.json({"object": "list", "data": [entry], "model": "up", "usage": usage})
    if exchange.path.endswith("/rerank"):
        ranked = [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.25}]
        return await exchange.json({"results": ranked, "model": "up", "usage": {"total_tokens": 6}})
    if not exchange.streaming:
        headers = {"x-request-id": "up-1", "openai-processing-ms": "5", "set-cookie": "a=b", "server": "secret"}
        return await exchange.json(whole(exchange), headers=headers)
    await exchange.sse_head()
    pause = exchange.number("ms", 0) / 1000
    for data in chunks(exchange):
        await exchange.piece(b"data: " + data + b"\n\n")
        if pause:
            await asyncio.sleep(pause)
    return await exchange.end()


def framed(line_end: bytes, name: bytes = b"data: ", before: bytes = b"") -> Any:
    async def run(exchange: Exchange) -> bool:
        await exchange.sse_head()
        stream = before + b"".join(name + data + line_end * 2 for data in chunks(exchange))
        size = exchange.number("cut", 7)
        for place in range(0, len(stream), size):
            await exchange.piece(stream[place : place + size])
        return await exchange.end()

    return run


async def multiline(exchange: Exchange) -> bool:
    await exchange.sse_head()
    for data in chunks(exchange):
        lines = b"".join(b"data: " + line + b"\n" for line in data.replace(b',"choices"', b',\n"choices"').split(b"\n"))
        await exchange.piece(b"id: 3\nretry: 5\n: note\n" + lines + b"\n")
    return await exchange.end()


def events(*data: bytes, end: bool = True, reset: bool = False) -> Any:
    """Writes this as a stream's body."""

    async def run(exchange: Exchange) -> bool:
        await exchange.sse_head()
        for part in data:
            await exchange.piece(part)
        if reset:
            await asyncio.sleep(0.05)
            exchange.reset()
        return await exchange.end() if end else False

    return run


def answer(data: bytes, kind: str = "application/json") -> Any:
    async def run(exchange: Exchange) -> bool:
        return await exchange.body(data, kind)

    return run


def raw(data: bytes, *, reset: bool = False, again: bool = False) -> Any:
    async def run(exchange: Exchange) -> bool:
        if data:
            await exchange.write(data)
        if reset:
            exchange.reset()
        return again

    return run


async def status(exchange: Exchange) -> bool:
    code = exchange.number("code", 500)
    names = {"after": "retry-after", "ms": "retry-after-ms"}
    headers = {
        header: exchange.options[key].replace("_", " ") for key, header in names.items() if key in exchange.options
    }
    if code // 100 == 3:
        headers["location"] = exchange.options.get("to", "http://169.254.169.254/latest/meta-data/")
    inner = {"message": f"upstream says {code}", "type": "x", "param": "messages", "code": exchange.options.get("why")}
    return await exchange.json({"error": inner}, status=code, headers=headers)


async def echo_key(exchange: Exchange) -> bool:
    """Refuses and repeats the key it was given, as careless servers do."""
    key = {name.lower(): value for name, value in exchange.stats.last["headers"]}.get("authorization", "")
    return await exchange.json({"error": {"message": f"bad request with {key}"}}, status=exchange.number("code", 400))


async def slow_head(exchange: Exchange) -> bool:
    await asyncio.sleep(exchange.number("ms", 60_000) / 1000)
    return await ok(exchange)


async def slow_refusal(exchange: Exchange) -> bool:
    """Says at once that it failed, and takes for ever to say why."""
    lines = ["HTTP/1.1 503 Service Unavailable", "content-type: application/json", "content-length: 9999", "", "{"]
    await exchange.write("\r\n".join(lines).encode())
    while True:
        await asyncio.sleep(0.1)
        await exchange.write(b" ")


async def stall(exchange: Exchange) -> bool:
    await exchange.sse_head()
    await exchange.piece(b"data: " + delta("first") + b"\n\n")
    await asyncio.sleep(3600)
    return False


async def mumble(exchange: Exchange) -> bool:
    """A role and empty pieces for ever, after `after` tokens: it is alive, and says nothing."""
    await exchange.sse_head()
    role = chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    for data in (role, *[delta("word")] * exchange.number("after", 0)):
        await exchange.piece(b"data: " + data + b"\n\n")
    while True:
        await exchange.piece(b"data: " + delta("") + b"\n\n")
        await asyncio.sleep(0.02)


async def comments(exchange: Exchange) -> bool:
    await exchange.sse_head()
    while True:
        await exchange.piece(b": still there\n\n")
        await asyncio.sleep(0.02)


async def endless(exchange: Exchange) -> bool:
    await exchange.sse_head()
    data = b"data: " + delta("x" * 1000) + b"\n\n"
    while True:
        await exchange.piece(data)


async def endless_line(exchange: Exchange) -> bool:
    await exchange.sse_head()
    await exchange.piece(b"data: ")
    while True:
        await exchange.piece(b"x" * 65536)


async def big_json(exchange: Exchange) -> bool:
    return await exchange.json(whole(exchange, padding="x" * exchange.number("size", 1000)))


async def endless_json(exchange: Exchange) -> bool:
    await exchange.head(200, {"content-type": "application/json"})
    while True:
        await exchange.piece(b" " * 65536)


async def zipped(exchange: Exchange) -> bool:
    data = gzip.compress(json.dumps(whole(exchange)).encode())
    return await exchange.body(data, headers={"content-encoding": "gzip"})


async def many_headers(exchange: Exchange) -> bool:
    return await exchange.json(whole(exchange), headers={f"x-{number}": "1" for number in range(20_000)})


async def huge_header(exchange: Exchange) -> bool:
    return await exchange.json(whole(exchange), headers={"x-big": "a" * 1_000_000})


async def close_delimited(exchange: Exchange) -> bool:
    await exchange.head(200, {"content-type": "application/json", "connection": "close"}, "none")
    await exchange.write(json.dumps(whole(exchange)).encode())
    return False


async def extra_bytes(exchange: Exchange) -> bool:
    """More bytes than announced: `late=1` sends them a moment later."""
    data = json.dumps(whole(exchange)).encode()
    extra = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nfor-them"
    await exchange.head(200, {"content-type": "application/json"}, str(len(data)))
    if "late" not in exchange.options:
        await exchange.write(data + extra)
    else:
        await exchange.write(data)
        await exchange.write(extra)
    return True


async def then_close(exchange: Exchange) -> bool:
    """Promises to stay, and leaves: what a pool finds when it was idle for too long."""
    await ok(exchange)
    return False


async def close_once(exchange: Exchange) -> bool:
    """Closes unanswered on a connection that was used before, as a server does whose keep-alive has just run out."""
    return False if exchange.used else await ok(exchange)


async def early(exchange: Exchange) -> bool:
    for _ in range(3):
        await exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return await ok(exchange)


async def usage(exchange: Exchange) -> bool:
    """`is=missing|absurd|last|null|spaced`: the ways in which servers tell usage, or do not."""
    kind = exchange.options.get("is", "missing")
    absurd = {"prompt_tokens": -5, "completion_tokens": 999_999_999, "total_tokens": "many"}
    if not exchange.streaming:
        value = whole(exchange)
        value["usage"] = {"missing": None, "absurd": absurd}.get(kind, USAGE)
        return await exchange.json(value)
    await exchange.sse_head()
    frames = [delta("a"), delta("b"), delta("", 0, "stop")]
    if kind == "absurd":
        frames.append(chunk([], usage=absurd))
    elif kind == "last":
        frames[-1] = delta("", 0, "stop", usage=USAGE)
    elif kind == "null":
        frames = [
            delta('say ,"usage":null twice', usage=None),
            delta("", 0, "stop", usage=None),
            chunk([], usage=USAGE),
        ]
    elif kind == "spaced":
        frames = [json.dumps({"usage": None, **json.loads(frame)}).encode() for frame in frames]
    for frame in [*frames, b"[DONE]"]:
        await exchange.piece(b"data: " + frame + b"\n\n")
    return await exchange.end()


async def honest(exchange: Exchange) -> bool:
    """Usage that follows the request, as a real model server counts it."""
    prompt, answer = honest_usage(exchange.request)
    told = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    await asyncio.sleep(exchange.number("ms", 0) / 1000)
    if not exchange.streaming:
        return await exchange.json({**whole(exchange), "usage": told})
    await exchange.sse_head()
    for number in range(answer):
        await exchange.piece(b"data: " + delta(f"t{number} ") + b"\n\n")
        await asyncio.sleep(exchange.number("gap", 0) / 1000)
    for data in (delta("", 0, "stop"), chunk([], usage=told), b"[DONE]"):
        await exchange.piece(b"data: " + data + b"\n\n")
    return await exchange.end()


async def no_stream_options(exchange: Exchange) -> bool:
    if "stream_options" in exchange.request:
        return await exchange.json({"error": {"message": "unknown field stream_options"}}, status=400)
    return await ok(exchange)


def _tool(position: int, arguments: str, name: str | None = None) -> bytes:
    call: dict[str, Any] = {"index": position, "function": {"arguments": arguments}}
    if name is not None:
        call.update(id=f"call_{position}", type="function")
        call["function"]["name"] = name
    return chunk([{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}])


TOOL_FRAMES = [
    _tool(0, "", "first"), _tool(1, "", "second"), _tool(0, '{"a"'), _tool(1, '{"b'), _tool(0, ":1}"), _tool(1, '":2}'),
    delta("", 0, "tool_calls"),
]  # fmt: skip
A, B, END = (b"data: " + data + b"\n\n" for data in (delta("one"), delta("two"), delta("", 0, "stop")))
DONE = b"data: [DONE]\n\n"
BIG_EVENT = b"data: " + delta("y" * 20_000_000) + b"\n\n"

BEHAVIOURS: dict[str, Any] = {
    "ok": ok, "honest": honest, "status": status, "slow_head": slow_head, "stall": stall, "comments": comments,
    "slow_refusal": slow_refusal,
    "mumble": mumble,
    "endless": endless, "endless_line": endless_line, "endless_json": endless_json, "big_json": big_json,
    "gzip": zipped, "usage": usage,
    "many_headers": many_headers, "huge_header": huge_header, "close_delimited": close_delimited, "early": early,
    "close_once": close_once,
    "extra_bytes": extra_bytes, "then_close": then_close, "echo_key": echo_key, "multiline": multiline,
    "no_stream_options": no_stream_options,
    "crlf": framed(b"\r\n"), "cr": framed(b"\r"), "bom": framed(b"\n", before=b"\xef\xbb\xbf"),
    "no_space": framed(b"\n", b"data:"), "cut_anywhere": framed(b"\n"),
    "reset_before_head": raw(b"", reset=True), "close_before_head": raw(b""),
    "cut_head": raw(b"HTTP/1.1 200 OK\r\ncontent-ty"), "no_http": raw(b"what do you want?\r\n\r\n"),
    "cut_body": raw(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"choices":['),
    "both_framings": raw(
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ),
    "continue_forever": raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "reset_in_stream": events(A, B, end=False, reset=True), "cut_in_event": events(A, B[:-9], end=False),
    "cut_in_event_cleanly": events(A, B[:-9]), "no_done": events(A, END), "no_finish": events(A, B),
    "no_blank_line": events(A, END, DONE[:-2]), "twice_done": events(A, END, DONE, A, DONE),
    "only_done": events(DONE), "nothing": events(), "done_unfinished": events(A, DONE),
    "bad_json_event": events(A, b"data: {oops\n\n", DONE),
    "bad_utf8": events(A, b'data: {"choices":["\xff"]}\n\n', DONE),
    "null_event": events(A, b"data: null\n\n", DONE), "deep_event": events(A, b"data: " + b"[" * 100_000 + b"\n\n"),
    "error_event": events(A, b'data: {"error":{"message":"out of memory","code":500}}\n\n', DONE),
    "named_error_event": events(A, b'event: error\ndata: {"message":"lost"}\n\n'),
    "huge_event": events(A, BIG_EVENT, DONE),
    "tools": events(*(b"data: " + data + b"\n\n" for data in TOOL_FRAMES), DONE),
    "html": answer(b"<html>Bad Gateway</html>", "text/html"), "empty": answer(b""), "null": answer(b"null"),
    "list": answer(b"[]"), "no_choices": answer(b'{"choices":[]}'), "bad_json": answer(b'{"choices":'),
    "bad_utf8_json": answer(b'{"choices":["\xff"]}'), "json_for_stream": answer(b'{"choices":[{"index":0}]}'),
    "error_200": answer(b'{"error":{"message":"model crashed","type":"x"}}'),
    "sse_for_json": events(A, END, DONE),
}  # fmt: skip


async def behaviour(exchange: Exchange) -> bool:
    """Runs what the model's name asks for; an unknown name is answered well."""
    name, _, options = str(exchange.request.get("model", "")).partition(":")
    exchange.options = dict(option.split("=", 1) for option in options.split(",") if "=" in option)
    run: Behaviour = BEHAVIOURS.get(name, ok)
    return await run(exchange)
