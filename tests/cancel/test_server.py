"""The same through a real server and a real upstream: a client leaves, or its time is over; nothing stays behind."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import Live, serving, until
from tests.upstream.process import get, upstream

CONFIG = """
engine: {{enabled: false}}
discover: false
backends:
- {{name: up, base_url: "{url}", models: [endless, stall, slow_head]}}
- {{name: demo, kind: scripted, models: [scripted], script: {{tokens: 3, never_finish: true}}}}
"""


class Place:
    def __init__(self, live: Live, url: str) -> None:
        self.live = live
        self.url = url


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("cancel")
    with upstream(models="endless,stall,slow_head") as url, serving(folder, CONFIG.format(url=url)) as live:
        yield Place(live, url)


def send(live: Live, model: str, stream: bool = True, **headers: str) -> socket.socket:
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": "x"}]}).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: test",
        f"authorization: Bearer {live.key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    connection = socket.create_connection(("127.0.0.1", live.port), timeout=20)
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """The last of what came, up to the mark."""
    data = b""
    while mark not in data:
        piece = connection.recv(1 << 20)
        assert piece, data
        data = (data + piece)[-100_000 - len(piece) :]
    return data


STREAMED = ["endless", "stall", "slow_head", "scripted"]
CASES = [*((model, True) for model in STREAMED), ("slow_head", False), ("scripted", False)]


@pytest.mark.parametrize(("model", "stream"), CASES)
def test_a_client_that_leaves_ends_the_upstreams_work_and_has_one_line_and_one_receipt(
    place: Place, model: str, stream: bool
) -> None:
    live = place.live
    before = len(live.events("call.done"))
    connection = send(live, model, stream)
    until(lambda: live.gauge("headgate_calls_in_flight") == 1)
    connection.close()
    live.settle()
    until(lambda: len(live.events("call.done")) == before + 1)
    line = live.events("call.done")[-1]
    assert (line["outcome"], line["status"], line["model"]) == ("cancelled", 499, model)
    until(lambda: get(place.url, "/stats")["open"] <= 1, tell=lambda: get(place.url, "/stats"))
    usage = json.loads(live.get(f"/admin/usage?group_by=outcome&model={model}", live.key)[1])
    counted = {row["group"]["outcome"]: row["num_model_requests"] for row in usage["data"][0]["results"]}
    lines = [line for line in live.events("call.done") if line["model"] == model]
    assert sum(counted.values()) == len(lines)


@pytest.mark.parametrize("model", STREAMED)
def test_a_call_whose_time_is_over_ends_with_an_error_and_not_as_if_complete(place: Place, model: str) -> None:
    live = place.live
    with send(live, model, x_headgate_timeout_s="0.4") as connection:
        data = read_until(connection, b"deadline_exceeded")
    assert b"[DONE]" not in data
    live.settle()
    until(lambda: live.events("call.done")[-1]["outcome"] == "failed", tell=lambda: live.events("call.done")[-1])
    assert live.events("call.done")[-1]["status"] == 504
