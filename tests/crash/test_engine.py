"""An engine's process is killed or stopped in the midst of streams: a fallback completes them, or callers are told."""

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.live import Live, serving, until

CONFIG = """
discover: false
engine:
  models:
  - {name: one, model: bundled}
  - {name: two, model: bundled}
  settings: {hang_s: 1.0}
routes:
- {model: saved, targets: [{backend: embedded, model: one}], fallbacks: [{backend: embedded, model: two}]}
- {model: alone, targets: [{backend: embedded, model: one}], rules: {recovery: []}}
"""
STREAMS = 6
SIGNALS = pytest.mark.parametrize(
    "sig",
    [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGSTOP, id="stopped", marks=pytest.mark.prove)],
)
ENGINES = "/v1/organization/engines"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("engine") / "home", CONFIG) as server:
        yield server


def body(model: str, number: int, stream: bool = True, tokens: int = 300) -> dict[str, Any]:
    return {
        "model": model, "stream": stream, "max_tokens": tokens, "temperature": 0, "logit_bias": {"0": -100, "2": -100},
        "messages": [{"role": "user", "content": f"Tell me {number} things about ships."}],
    }  # fmt: skip


def engine(live: Live, name: str = "one") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(live.get(f"{ENGINES}/{name}", live.key)[1])
    return found


def stream(live: Live, asked: dict[str, Any], begun: Callable[[], object]) -> list[dict[str, Any]]:
    """The frames of an answer, the last one `{}` where it ended with `[DONE]`."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {live.key}"}
    request = urllib.request.Request(live.api + "/chat/completions", json.dumps(asked).encode(), headers)
    frames: list[dict[str, Any]] = []
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                data = line[6:].strip()
                frames.append({} if data == b"[DONE]" else json.loads(data))
                if len(frames) == 5:
                    begun()
    return frames


def text(frames: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content") or "" for frame in frames for c in frame.get("choices", []))


def broken(live: Live, model: str, sig: int) -> list[list[dict[str, Any]]]:
    """All streams begin, then the process that makes them gets the signal."""
    until(lambda: engine(live)["state"] == "ready", 30)
    all_begun = threading.Barrier(STREAMS + 1)
    with ThreadPoolExecutor(STREAMS) as pool:
        asked = [pool.submit(stream, live, body(model, number), all_begun.wait) for number in range(STREAMS)]
        all_begun.wait(30)
        os.kill(engine(live)["pid"], sig)
        return [one.result(60) for one in asked]


@SIGNALS
def test_with_a_fallback_every_caller_gets_a_complete_answer(live: Live, sig: int) -> None:
    before = engine(live)["restarts"]
    for number, frames in enumerate(broken(live, "saved", sig)):
        assert frames[-1] == {}
        assert not any("error" in frame for frame in frames)
        finishes = [c["finish_reason"] for frame in frames for c in frame.get("choices", []) if c["finish_reason"]]
        assert finishes == ["length"]
        assert len({frame["id"] for frame in frames[:-1]}) == 1
        if number > 1:
            continue  # what the others should say takes long to find out
        expected = json.loads(live.post("/v1/chat/completions", body("two", number, stream=False))[1])
        # The budget of tokens for the rest is reckoned from bytes: the end may come some tokens sooner or later.
        long, short = sorted([text(frames), expected["choices"][0]["message"]["content"]], key=len, reverse=True)
        assert long.startswith(short)
        assert len(short) > 0.8 * len(long)
    until(lambda: engine(live)["state"] == "ready", 30)
    assert engine(live)["restarts"] == before + 1
    assert engine(live, "two")["restarts"] == 0
    live.settle()


@SIGNALS
def test_without_one_they_are_told_and_never_shown_half_an_answer_as_whole(live: Live, sig: int) -> None:
    for frames in broken(live, "alone", sig):
        assert {} not in frames, "no [DONE]"
        assert frames[-1]["error"]["type"] == "server_error"
        assert frames[-1]["error"]["code"] == "overloaded"
        assert "restarted" in frames[-1]["error"]["message"]
    until(lambda: live.post("/v1/chat/completions", body("alone", 1, stream=False))[0] == 200, 30)
    live.settle()


@pytest.mark.prove
def test_whole_answers_are_tried_again_elsewhere_and_refusals_are_503(live: Live) -> None:
    until(lambda: engine(live)["state"] == "ready", 30)
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(live.post, "/v1/chat/completions", body(model, 1, stream=False, tokens=1800))
            for model in ("saved", "saved", "alone", "alone")
        ]
        until(lambda: engine(live)["requests"] > 0, 10)
        os.kill(engine(live)["pid"], signal.SIGKILL)
        statuses = [one.result(60) for one in asked]
    assert [status for status, _ in statuses[:2]] == [200, 200]
    for status, raw in statuses[2:]:
        assert status in {200, 503}, "200 where the retry met the new process"
        if status == 503:
            assert json.loads(raw)["error"]["code"] == "overloaded"
    live.settle()
