"""Clients that are slow, silent or gone, and servers that stop. The limits are small here, so that tests are short."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from headgate.core.call import Call
from headgate.core.events import Event, Finish, Text
from tests.api.house import KEY, House, eventually, script

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-api-key: " + KEY.encode() + b"\r\n"


async def forever(_: Call) -> AsyncIterator[Event | bytes]:
    yield Text("first")
    await asyncio.Event().wait()


async def flood(_: Call) -> AsyncIterator[Event | bytes]:
    while True:
        yield Text("x" * 10_000)


def stream(house: House, model: str) -> Any:
    wire = house.connect()
    wire.request(
        "POST",
        "/v1/chat/completions",
        {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]},
    )
    return wire


def test_a_hundred_slow_connections_are_cut_and_others_are_served() -> None:
    with House(head_s=0.4, body_window_s=0.4, linger_s=0.2) as house:
        wires = [house.connect() for _ in range(100)]
        for number, wire in enumerate(wires):
            if number % 4 == 1:
                wire.send(b"GET /livez HTTP/1.1\r\nhost: a\r\n")
            elif number % 4 == 2:
                wire.send(HEAD + b"content-length: 100\r\n\r\n{")
            elif number % 4 == 3:
                wire.send(HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{")
        assert house.chat().status == 200
        for wire in wires:
            data = wire.rest()
            assert b" 408 " in data.partition(b"\r\n")[0]
            assert json.loads(data.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
            wire.socket.close()
        eventually(lambda: house.server.connections == 0)
        assert house.server.calls == 0


def test_a_client_that_drips_its_body_is_cut() -> None:
    with House(body_window_s=0.3, body_min_rate=1000.0, linger_s=0.2) as house, house.connect() as wire:
        wire.send(HEAD + b"content-length: 1000000\r\n\r\n")
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.02):
                try:
                    wire.send(b" ")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert wire.answer().status == 408
        finally:
            stop.set()
            thread.join()


def test_a_client_that_never_reads_its_refusal_is_let_go() -> None:
    with House(linger_s=0.2) as house, house.connect() as wire:
        wire.send(b"nonsense\r\n\r\n")
        eventually(lambda: house.server.connections == 0)


def test_a_whole_answer_on_a_closing_connection_waits_for_a_client_that_is_slow_to_read_it() -> None:
    async def large(_: Call) -> AsyncIterator[Event | bytes]:
        yield Text("x" * 20_000_000)
        yield Finish("stop")

    with House(linger_s=0.1, send_s=30.0) as house, house.connect() as wire:
        house.gateway.answers["large"] = large
        body = b'{"model":"large","messages":[{"role":"user","content":"hi"}]}'
        wire.send(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        status, headers = wire.head()
        time.sleep(1.0)  # longer than the connection may linger
        assert status == 200
        assert len(wire.rest()) == int(dict(headers)["content-length"])
        eventually(lambda: house.server.connections == 0)


def test_an_idle_connection_is_closed() -> None:
    with House(idle_s=0.5) as house, house.connect() as wire:
        wire.request("GET", "/livez")
        assert wire.answer().status == 200
        assert wire.rest() == b""


def test_a_silent_stream_is_kept_alive_by_comments() -> None:
    with House(heartbeat_s=0.05) as house:
        house.gateway.answers["forever"] = forever
        with stream(house, "forever") as wire:
            assert wire.head()[0] == 200
            assert b'"first"' in wire.chunk()
            assert [wire.chunk() for _ in range(3)] == [b": ping\n\n"] * 3


def test_a_silent_stream_to_a_client_of_http_1_0_is_kept_alive_too() -> None:
    with House(heartbeat_s=0.05) as house, house.connect() as wire:
        house.gateway.answers["forever"] = forever
        body = b'{"model":"forever","stream":true,"messages":[{"role":"user","content":"hi"}]}'
        wire.send(b"POST /v1/chat/completions HTTP/1.0\r\nx-api-key: %b\r\n" % KEY.encode())
        wire.send(b"content-length: %d\r\n\r\n" % len(body) + body)
        assert wire.head()[0] == 200
        assert b'"first"' in wire.until(b": ping\n\n")
        assert wire.until(b": ping\n\n") == b": ping\n\n"


def test_a_comment_never_delays_or_splits_a_frame() -> None:
    async def paced(_: Call) -> AsyncIterator[Event | bytes]:
        for number in range(60):
            await asyncio.sleep(0.003)
            yield Text(str(number))
        yield Finish("stop")

    with House(heartbeat_s=0.002) as house:
        house.gateway.answers["paced"] = paced
        answer = house.chat("paced", stream=True)
        texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in answer.chunks]
        assert "".join(texts) == "".join(str(number) for number in range(60))
        assert b": ping\n\n" in answer.body
        assert answer.frames[-1] == "[DONE]"


def test_a_client_that_leaves_ends_its_call_and_the_reply_is_closed_once() -> None:
    with House() as house:
        house.gateway.answers["forever"] = forever
        for _ in range(20):
            with stream(house, "forever") as wire:
                wire.head()
        eventually(lambda: len(house.gateway.replies) == 20 and all(r.closes for r in house.gateway.replies))
        assert {reply.closes for reply in house.gateway.replies} == {1}
        assert house.gateway.cancelled == 20
        eventually(lambda: house.server.calls == 0)
        assert house.bugs == []


def test_a_client_that_leaves_during_a_whole_answer_ends_its_call() -> None:
    with House() as house:
        house.gateway.answers["forever"] = forever
        with house.connect() as wire:
            wire.request(
                "POST", "/v1/chat/completions", {"model": "forever", "messages": [{"role": "user", "content": "hi"}]}
            )
            eventually(lambda: len(house.gateway.replies) == 1)
        eventually(lambda: house.gateway.replies[0].closes == 1)


def test_a_stream_that_never_waits_leaves_others_their_turn() -> None:
    async def endless(_: Call) -> AsyncIterator[Event | bytes]:
        while True:
            yield Text("x")

    with House() as house:
        house.gateway.answers["endless"] = endless
        with stream(house, "endless") as wire:
            wire.head()
            assert house.ask("GET", "/livez").status == 200
        eventually(lambda: house.gateway.replies[0].closes == 1)


def test_a_client_that_leaves_with_requests_sent_ahead_ends_its_call() -> None:
    with House() as house:
        house.gateway.answers["forever"] = forever
        with stream(house, "forever") as wire:
            wire.head()
            wire.send(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n" * 3)
        eventually(lambda: house.gateway.replies[0].closes == 1)
        eventually(lambda: house.server.calls == 0)


def test_a_client_that_leaves_while_sending_its_body_leaves_nothing_behind() -> None:
    with House() as house:
        with house.connect() as wire:
            wire.send(HEAD + b"content-length: 200000\r\n\r\n" + b" " * 150_000)
            eventually(lambda: house.server.calls == 1)
        eventually(lambda: house.server.calls == 0 and house.server.connections == 0)
        assert house.gateway.calls == []
        assert house.bugs == []


def test_a_client_that_does_not_read_costs_bounded_memory_and_is_cut() -> None:
    made = 0

    async def counted(call: Call) -> AsyncIterator[Event | bytes]:
        nonlocal made
        async for item in flood(call):
            made += 1
            yield item

    with House(send_s=0.5) as house:
        house.gateway.answers["flood"] = counted
        wire = socket.socket()
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.connect(("127.0.0.1", house.port))
        body = b'{"model":"flood","stream":true,"messages":[{"role":"user","content":"hi"}]}'
        wire.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: bool(house.gateway.replies) and house.gateway.replies[0].closes == 1)
        # what left the gateway fits the kernel's buffers and ours: megabytes, not all that could be made
        assert made * 10_000 < 16 * 1024 * 1024
        wire.close()
        eventually(lambda: house.server.connections == 0)


def test_a_stopping_server_finishes_what_it_accepted() -> None:
    gate = threading.Event()

    async def gated(_: Call) -> AsyncIterator[Event | bytes]:
        yield Text("a")
        while not gate.is_set():
            await asyncio.sleep(0.005)
        yield Text("b")
        yield Finish("stop")

    with House(grace_s=15.0) as house:
        house.gateway.answers["gated"] = gated
        idle = house.connect()
        idle.request("GET", "/livez")
        assert idle.answer().status == 200
        with stream(house, "gated") as wire:
            wire.head()
            stopping = threading.Thread(target=house.stop)
            stopping.start()
            assert idle.rest() == b""
            assert stopping.is_alive()
            gate.set()
            assert b"[DONE]" in wire.rest()
        stopping.join()
        idle.socket.close()


def test_calls_beyond_the_grace_time_are_told_why_they_end() -> None:
    house = House(grace_s=0.1)
    with house:
        house.gateway.answers["forever"] = forever
        streaming = stream(house, "forever")
        streaming.head()
        whole = house.connect()
        whole.request(
            "POST", "/v1/chat/completions", {"model": "forever", "messages": [{"role": "user", "content": "hi"}]}
        )
        eventually(lambda: len(house.gateway.replies) == 2)
        house.stop()
        data = streaming.rest()
        assert b'"code":"overloaded"' in data
        assert b"[DONE]" not in data
        assert whole.answer().status == 503
        assert [reply.closes for reply in house.gateway.replies] == [1, 1]
        for wire in (streaming, whole):
            wire.socket.close()


def test_head_and_first_frame_leave_together() -> None:
    with House() as house:
        house.gateway.answers["forever"] = script(Text("a"), Finish("stop"))
        with stream(house, "forever") as wire:
            first = wire.socket.recv(65536)
            assert b"\r\n\r\n" in first
            assert b"data: " in first
