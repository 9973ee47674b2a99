"""Two processes on one Redis: a stream cut on one goes on in the other, whatever happens to the first."""

import asyncio
import json
import random
import signal
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests import servers
from tests.idempotency.upstream import counting, runs
from tests.live import Live, serving, start, until, wait_ready
from tests.resume.talk import DONE, Part, data_of, get, id_of, post, streamed, take
from tests.storage.proxy import Proxy
from tests.upstream.process import get as upstream_get

CONFIG = """
discover: false
engine: {{enabled: false}}
storage: {{counters: "{redis}"}}
streams: {{grace_s: {grace_s}, keep_s: {keep_s}, lease_s: 1}}
backends:
  - {{name: up, base_url: "{upstream}", models: ["*"]}}
routes:
  - {{model: "*", targets: [{{backend: up}}]}}
"""
AT_ONCE = 50
GAUGES = ("headgate_streams_in_progress", "headgate_streams_resumable", "headgate_streams_held_bytes")


@contextmanager
def pair(folder: Path, upstream: str, redis: str, grace_s: float = 10, keep_s: float = 120) -> Iterator[list[Live]]:
    config = CONFIG.format(upstream=upstream, redis=redis, grace_s=grace_s, keep_s=keep_s)
    with ExitStack() as stack:
        yield [stack.enter_context(serving(folder / name, config)) for name in ("a", "b")]


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with counting() as url:
        yield url


@pytest.fixture(scope="module")
def replicas(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Live]]:
    with pair(tmp_path_factory.mktemp("replicas"), upstream, servers.redis_url()) as lives:
        yield lives


def took(live: Live, data: bytes, cut: int | None = None) -> Part:
    return asyncio.run(take(live.port, data, cut))


async def whole(ports: list[int], text: str, rng: random.Random) -> list[bytes]:
    """One stream, cut at a random byte; resumed on the other process, and on the one before, until it has ended."""
    body = streamed(text, f"ok:ms={rng.choice((0, 2, 10))}")
    at = rng.randrange(2)
    part = await take(ports[at], post(body), rng.randrange(0, 6000))
    name, frames = part.headers["x-headgate-stream"], part.frames
    cuts = rng.choice((0, 0, 1, 2, 5))
    while not part.ended:
        at = 1 - at
        last = f"{name}:{len(frames)}"
        assert not frames or id_of(frames[-1]) == last
        cut = rng.randrange(0, 3000) if cuts > 0 else None
        cuts -= 1
        part = await take(ports[at], get(name, last) if rng.random() < 0.3 else post(body, last), cut)
        assert (part.status, part.headers["x-headgate-resumed"]) == (200, "true"), part.body
        frames += part.frames
    undisturbed = await take(ports[rng.randrange(2)], get(name))
    assert b"".join(frames) == undisturbed.body
    return frames


async def many(ports: list[int], texts: list[str], seed: int) -> list[list[bytes]]:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, text: str) -> list[bytes]:
        async with room:
            return await whole(ports, text, random.Random(seed * 1_000_000 + number))

    return await asyncio.gather(*(one(number, text) for number, text in enumerate(texts)))


def said(frames: list[bytes]) -> str:
    datas = [line for line in data_of(frames).split(b"\n\n") if line and not line.endswith(b"[DONE]")]
    choices = [choice for data in datas for choice in json.loads(data.removeprefix(b"data: "))["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def idle(live: Live) -> bool:
    return all(live.gauge(name) == 0 for name in GAUGES)


def check(replicas: list[Live], upstream: str, count: int, seed: int) -> None:
    texts = [f"stream {number} of {seed}, long enough to be cut somewhere in its middle" for number in range(count)]
    before = runs(upstream)
    answers = asyncio.run(many([live.port for live in replicas], texts, seed))
    for text, frames in zip(texts, answers, strict=True):
        ids = [id_of(frame) for frame in frames]
        name = ids[0].partition(":")[0]
        assert ids == [f"{name}:{number}" for number in range(1, len(ids) + 1)]
        assert frames[-1].endswith(DONE)
        assert said(frames).startswith(f"{text} run ")
    ran = Counter(runs(upstream)) - Counter(before)
    assert ran == Counter(texts)
    for live in replicas:
        live.settle()
        until(partial(idle, live))
        assert not live.events("bug")
        assert not live.events("task.died")


def test_streams_cut_at_random_places_are_completed_by_the_other_process(replicas: list[Live], upstream: str) -> None:
    check(replicas, upstream, 30, seed=1)


@pytest.mark.prove
def test_a_thousand_streams_cut_at_random_places_are_completed(replicas: list[Live], upstream: str) -> None:
    check(replicas, upstream, 1000, seed=2)


def test_a_project_cannot_resume_anothers_stream_in_another_process(replicas: list[Live]) -> None:
    one, two = replicas
    part = took(one, post(streamed("private")))
    key = json.loads(two.post("/admin/keys", {"tenant": "other"})[1])["key"]
    refused = took(two, get(part.headers["x-headgate-stream"], credential=key))
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (404, "stream_not_found")


def test_a_follower_in_another_process_keeps_the_answer_going(tmp_path: Path, upstream: str) -> None:
    with pair(tmp_path, upstream, servers.redis_url(), grace_s=0.6) as (one, two):
        body = streamed("followed elsewhere", "ok:tokens=100,ms=25")  # four graces long
        part = took(one, post(body), cut=600)
        rest = took(two, post(body, id_of(part.frames[-1])))
        assert rest.body.endswith(DONE)
        assert len(part.frames) + len(rest.frames) == 103
        left = took(one, post(streamed("left", "ok:tokens=5000,ms=20")), cut=600)
        name = left.headers["x-headgate-stream"]
        took(two, get(name, id_of(left.frames[-1])), cut=400)
        until(lambda: any(line["request_id"] == name for line in one.events("call.done")))
        (line,) = [line for line in one.events("call.done") if line["request_id"] == name]
        assert line["outcome"] == "cancelled"
        ended = took(two, get(name, id_of(left.frames[-1])))
        assert b'"stream_abandoned"' in ended.frames[-1]


def test_a_stream_of_a_killed_process_ends_in_an_error_and_never_in_done(tmp_path: Path, upstream: str) -> None:
    redis = servers.redis_url()
    with pair(tmp_path, upstream, redis) as (one, two):
        body = streamed("killed", "ok:tokens=5000,ms=20")
        part = took(one, post(body), cut=3000)

        async def follow_while_it_dies() -> Part:
            following = asyncio.ensure_future(take(two.port, post(body, id_of(part.frames[0]))))
            await asyncio.sleep(0.5)
            one.process.send_signal(signal.SIGKILL)
            return await following

        rest = asyncio.run(follow_while_it_dies())
        one.process.wait(10)
        assert (rest.status, rest.ended) == (200, True)
        assert rest.frames[0].startswith(f"id: {part.headers['x-headgate-stream']}:2\n".encode())
        assert b'"stream_lost"' in rest.frames[-1]
        assert b"[DONE]" not in rest.body
        later = took(two, get(part.headers["x-headgate-stream"], id_of(rest.frames[-2])))
        assert b'"stream_lost"' in later.body
        assert 'headgate_streams_resumed_total{result="lost"}' in two.get("/metrics")[1].decode()


def test_a_server_that_is_asked_to_stop_finishes_what_can_be_resumed(tmp_path: Path, upstream: str) -> None:
    with pair(tmp_path, upstream, servers.redis_url()) as (one, two):
        body = streamed("drained", "ok:tokens=40,ms=25")
        part = took(one, post(body), cut=800)
        one.process.send_signal(signal.SIGTERM)
        rest = took(two, post(body, id_of(part.frames[-1])))
        assert rest.body.endswith(DONE)
        assert len(part.frames) + len(rest.frames) == 43
        assert one.process.wait(40) == 0


@pytest.mark.prove
def test_without_redis_streams_go_on_for_those_who_listen(tmp_path: Path, upstream: str) -> None:
    redis, url = servers.start_redis()
    try:
        with pair(tmp_path, upstream, url) as (one, two):
            body = streamed("redis dies", "ok:tokens=60,ms=25")

            async def listen_while_redis_dies() -> tuple[Part, Part]:
                listening = asyncio.ensure_future(take(one.port, post(body)))
                await asyncio.sleep(0.4)
                await asyncio.to_thread(redis.kill)
                fresh = asyncio.ensure_future(take(two.port, post(streamed("begun without"))))
                return await listening, await fresh

            part, fresh = asyncio.run(listen_while_redis_dies())
            assert (len(part.frames), part.frames[-1].endswith(DONE)) == (63, True)
            assert fresh.frames[-1].endswith(DONE)
            refused = took(two, get(part.headers["x-headgate-stream"], id_of(part.frames[5])))
            assert (refused.status, json.loads(refused.body)["error"]["code"]) == (503, "streams_unavailable")
            unkept = 'headgate_streams_unkept_total{reason="store"} 1.0'
            until(lambda: unkept in one.get("/metrics")[1].decode(), 30)
            until(partial(idle, one))
    finally:
        redis.stop()


def test_a_redis_that_comes_back_gets_what_it_missed(tmp_path: Path, upstream: str) -> None:
    redis, url = servers.start_redis()
    try:
        with pair(tmp_path, upstream, url) as (one, two):
            body = streamed("redis pauses", "ok:tokens=100,ms=25")

            async def listen_while_redis_pauses() -> Part:
                listening = asyncio.ensure_future(take(one.port, post(body)))
                await asyncio.sleep(0.4)
                redis.pause()
                await asyncio.sleep(1.5)
                redis.resume()
                return await listening

            part = asyncio.run(listen_while_redis_pauses())
            assert len(part.frames) == 103
            until(lambda: one.gauge(GAUGES[1]) == 0, 20)
            assert took(two, get(part.headers["x-headgate-stream"])).body == part.body
    finally:
        redis.stop()


def test_a_process_that_stood_still_for_longer_than_its_lease_loses_no_stream(tmp_path: Path, upstream: str) -> None:
    with pair(tmp_path, upstream, servers.redis_url()) as (one, two):
        body = streamed("stood still", "ok:tokens=120,ms=25")
        part = took(one, post(body), cut=800)
        one.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)

        async def follow_while_it_stands_still() -> Part:
            following = asyncio.ensure_future(take(two.port, post(body, id_of(part.frames[-1]))))
            await asyncio.sleep(0.5)
            one.process.send_signal(signal.SIGCONT)
            return await following

        rest = asyncio.run(follow_while_it_stands_still())
        assert rest.frames[-1].endswith(DONE), rest.frames[-1]
        assert len(part.frames) + len(rest.frames) == 123


def test_a_redis_that_is_away_for_a_moment_ends_no_answer_that_is_followed(tmp_path: Path, upstream: str) -> None:
    redis = servers.redis_url()
    port = urllib.parse.urlsplit(redis).port or 6379

    async def main() -> None:
        async with Proxy(port) as proxy:
            # Redis is waited for as long as a lease: with the others' one second, a busy machine's pause was too much.
            config = partial(CONFIG.replace("lease_s: 1", "lease_s: 3").format, upstream=upstream, grace_s=1, keep_s=60)
            shaky = redis.replace(f":{port}", f":{proxy.port}")
            one = await asyncio.to_thread(start, tmp_path / "one", config(redis=shaky))
            two = await asyncio.to_thread(start, tmp_path / "two", config(redis=redis))
            try:
                for live in (one, two):
                    await asyncio.to_thread(wait_ready, live)
                body = streamed("shaky", "ok:tokens=150,ms=25")
                part = await take(one.port, post(body), 800)
                following = asyncio.ensure_future(take(two.port, post(body, id_of(part.frames[-1]))))
                await asyncio.sleep(0.5)
                proxy.set("drop")
                await asyncio.sleep(1.2)  # longer than the grace: somebody looks meanwhile who follows
                proxy.set("none")
                rest = await following
                assert rest.frames[-1].endswith(DONE), rest.frames[-1]
                assert len(part.frames) + len(rest.frames) == 153
            finally:
                for live in (one, two):
                    await asyncio.to_thread(live.stop)

    asyncio.run(main())


def test_a_server_started_anew_has_the_streams_that_redis_keeps(tmp_path: Path, upstream: str) -> None:
    config = CONFIG.format(upstream=upstream, redis=servers.redis_url(), grace_s=5, keep_s=60)
    with serving(tmp_path / "one", config) as one:
        part = took(one, post(streamed("kept")))
        until(lambda: one.gauge(GAUGES[1]) == 0)
    two = wait_ready(start(tmp_path / "one", config))
    try:
        assert took(two, get(part.headers["x-headgate-stream"])).body == part.body
        request = urllib.request.Request(two.api + "/streams/" + part.headers["x-headgate-stream"])
        request.add_header("authorization", f"Bearer {two.key}")
        request.add_header("last-event-id", id_of(part.frames[0]))
        with urllib.request.urlopen(request, timeout=10) as answer:  # any client of server-sent events will do
            assert answer.read() == b"".join(part.frames[1:])
    finally:
        two.stop()
    assert upstream_get(upstream, "/stats")["open"] == 0
