"""A running server whose model server is shared by identical calls, and then goes away."""

import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.live import Live, serving
from tests.upstream.process import get, upstream

CONFIG = """
discover: false
engine: {{enabled: false}}
retries: {{backoff_s: 0.02}}
backends:
  - {{name: up, base_url: "{upstream}"}}
routes:
  - model: m
    targets: [{{backend: up, model: "ok:ms=100"}}]
    rules: {{degraded: {{cached_s: 600, message: "Come back later."}}}}
"""
CALLERS = 20


def ask(live: Live, **more: Any) -> tuple[int, dict[str, str], bytes]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, **more}
    headers = {"content-type": "application/json", "authorization": f"Bearer {live.key}"}
    request = urllib.request.Request(live.api + "/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def texts(stream: bytes) -> str:
    frames = [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for frame in frames for choice in frame["choices"])


def together(live: Live) -> list[tuple[int, dict[str, str], bytes]]:
    ready = threading.Barrier(CALLERS)

    def one(_: int) -> tuple[int, dict[str, str], bytes]:
        ready.wait(20)
        return ask(live, stream=True)

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(one, range(CALLERS)))


def test_callers_who_ask_the_same_share_one_answer(tmp_path: Path) -> None:
    with upstream() as url, serving(tmp_path, CONFIG.format(upstream=url)) as live:
        before = get(url, "/stats")["requests"]
        answers = together(live)
        runs = get(url, "/stats")["requests"] - before
        assert [status for status, _, _ in answers] == [200] * CALLERS
        parts = [headers["x-headgate-single-flight"] for _, headers, _ in answers]
        assert parts.count("led") == runs < CALLERS
        assert parts.count("joined") == CALLERS - runs
        assert len({texts(body) for _, _, body in answers}) == 1
        assert len({body for _, _, body in answers}) <= runs
        live.settle()
        done = live.events("call.done")
        assert [line["outcome"] for line in done] == ["ok"] * CALLERS
        assert sum(line.get("joined", False) for line in done) == CALLERS - runs
        assert sum(line["output_tokens"] > 0 for line in done) == runs, "who joined used nothing"


def test_what_is_kept_and_the_message_stand_in_for_a_model_server_that_is_gone(tmp_path: Path) -> None:
    with ExitStack() as up, serving(tmp_path, CONFIG.format(upstream=up.enter_context(upstream()))) as live:
        good, whole = ask(live, stream=True), ask(live)
        up.close()
        assert (good[0], good[1]["x-headgate-level"]) == (200, "full")
        again, same = ask(live, stream=True), ask(live)
        assert (again[0], again[1]["x-headgate-level"]) == (200, "cached")
        assert int(again[1]["age"]) < 60
        assert (again[2], same[2]) == (good[2], whole[2]), "byte for byte"
        for stream in (True, False):
            status, headers, body = ask(live, stream=stream, user="somebody new")
            assert (status, headers["x-headgate-level"]) == (200, "message")
            if stream:
                assert texts(body) == "Come back later."
                assert body.endswith(b"data: [DONE]\n\n")
            else:
                answer = json.loads(body)
                assert answer["choices"][0]["message"]["content"] == "Come back later."
                assert (answer["model"], answer["usage"]["total_tokens"]) == ("m", 0)
        status, headers, body = ask(live, response_format={"type": "json_object"})
        assert status in {502, 503}
        assert "x-headgate-level" not in headers
        live.settle()
        levels = [line.get("served_level") for line in live.events("call.done")]
        assert levels == [None, None, "cached", "cached", "message", "message", None]
        assert b'headgate_degraded_total{level="message"} 2.0' in live.get("/metrics")[1]
