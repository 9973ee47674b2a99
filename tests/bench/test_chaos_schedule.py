"""Faults by schedule, what the chaos upstream tells of itself, and how it bears abuse."""

import json
import urllib.error
from collections.abc import Iterator

import pytest

from headgate.bench.chaos.schedule import RULES, Rule, Schedule
from tests.bench.chaos_ask import MESSAGES, TEXT, Asker, connected, returned, spoken
from tests.upstream.chaos import ask as fetch
from tests.upstream.chaos import chaos, listen, post


@pytest.fixture
def asker(served: Asker) -> Iterator[Asker]:
    served.up.reset()
    yield served
    served.up.reset()


@pytest.fixture(scope="module")
def served() -> Iterator[Asker]:
    with chaos("--model", "small", "--model", "large") as up:
        yield Asker(up)


def struck(schedule: Schedule, count: int, now: float = 0.0) -> list[bool]:
    return [schedule.strike(now) is not None for _ in range(count)]


def test_a_share_is_kept_and_the_same_seed_strikes_the_same_requests() -> None:
    runs = []
    for _ in range(2):
        schedule = Schedule()
        schedule.set([Rule(fault="cut,after=3", share=0.3, seed=7)], 0.0)
        runs.append(struck(schedule, 5000))
    assert runs[0] == runs[1]
    assert 0.27 < sum(runs[0]) / 5000 < 0.33
    schedule.set([Rule(fault="cut,after=3", share=0.3, seed=8)], 0.0)
    assert struck(schedule, 5000) != runs[0]


def test_a_rule_holds_for_the_first_requests_and_within_its_time() -> None:
    schedule = Schedule()
    schedule.set([Rule(fault="500", first=3, from_s=10.0, to_s=20.0)], 100.0)
    assert struck(schedule, 5, 105.0) == [False] * 5
    assert struck(schedule, 5, 110.0) == [True] * 3 + [False] * 2
    assert struck(schedule, 1, 120.0) == [False]
    schedule.set([Rule(fault="500", to_s=20.0)], 100.0)
    assert [struck(schedule, 1, now)[0] for now in (100.0, 119.9, 120.0)] == [True, True, False]


def test_the_first_rule_that_strikes_decides_and_probes_are_apart() -> None:
    schedule = Schedule()
    schedule.set([Rule(fault="500", first=1), Rule(fault="cut"), Rule(fault="503", on="probes")], 0.0)
    orders = [schedule.strike(0.0) for _ in range(2)]
    assert [order.fault.name for order in orders if order and order.fault] == ["500", "cut"]
    probe = schedule.strike(0.0, probe=True)
    assert probe is not None
    assert probe.text == "503"


@pytest.mark.parametrize(
    "rule", [{"fault": "explode"}, {"fault": "cut", "share": 2}, {"fault": "cut", "on": "x"}, {"faults": "cut"}, {}]
)
def test_a_wrong_rule_is_refused_and_the_old_ones_stay(asker: Asker, rule: dict[str, object]) -> None:
    asker.up.set("cut", share=0.0)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        asker.up.rules([rule])
    with pytest.raises(urllib.error.HTTPError, match="400"):
        asker.up.rules([{"fault": "cut"}] * (RULES + 1))
    assert [found["fault"] for found in fetch(f"{asker.up.root}/chaos")] == ["cut"]


def test_faults_come_by_header_by_model_and_by_schedule(asker: Asker) -> None:
    assert len(asker("cut,after=2").events) == 2
    assert len(asker("", model="chaos:fault=cut,after=3").events) == 3
    asker.up.set("cut,after=4", first=2)
    assert [len(asker("").events) for _ in range(3)][:2] == [4, 4]
    assert spoken(asker("")) == TEXT
    assert len(asker("cut,after=5").events) == 5, "what a request asks for comes first"
    assert asker.up.stats()["faults"] == {"cut": 5}
    asker.up.set("500")
    asker.up.calm()
    assert spoken(asker("")) == TEXT


def test_stats_count_what_is_open_finished_and_left_by_the_client(asker: Asker) -> None:
    request = post({"model": "m", "messages": MESSAGES, "stream": True}, headers={"x-chaos": "stall,after=2"})
    peers = [connected(asker.up.port) for _ in range(3)]
    for peer in peers:
        peer.sendall(request)
    asker.up.until(lambda stats: stats["open"] == 3)
    for peer in peers:
        peer.close()
    stats = asker.up.idle()
    assert {name: stats[name] for name in ("requests", "peak", "cancelled", "finished")} == {
        "requests": 3, "peak": 3, "cancelled": 3, "finished": 0,
    }  # fmt: skip
    asker("")
    assert asker.up.idle()["finished"] == 1
    asker.up.reset()
    assert asker.up.stats()["requests"] == 0


def test_the_last_request_is_kept_as_it_came(asker: Asker) -> None:
    asker("", stream=False, model="m-7")
    last = asker.up.last()
    assert last["path"] == "/v1/chat/completions"
    assert json.loads(last["body"])["model"] == "m-7"
    assert last["headers"]["host"] == "chaos"


def test_metrics_have_vllms_names_and_may_be_set(asker: Asker) -> None:
    with connected(asker.up.port) as peer:
        peer.sendall(post({"model": "m", "messages": MESSAGES}, headers={"x-chaos": "no_head"}))
        asker.up.until(lambda stats: stats["open"] == 1)
        assert b'vllm:num_requests_running{engine="0",model_name="small"} 1\n' in metrics(asker)
    asker.up.idle()
    asker.up.gauges(waiting=17, kv_usage=0.5)
    assert b'vllm:num_requests_waiting{engine="0",model_name="small"} 17' in metrics(asker)
    assert b'vllm:kv_cache_usage_perc{engine="0",model_name="small"} 0.5' in metrics(asker)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        asker.up.gauges(latency=1.0)


def metrics(asker: Asker) -> bytes:
    with connected(asker.up.port) as peer:
        peer.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return listen(peer).body


def test_probes_are_answered_while_calls_fail_and_the_other_way_round(asker: Asker) -> None:
    asker.up.set("500")
    assert fetch(f"{asker.up.root}/health") == {"status": "ok"}
    assert [entry["id"] for entry in fetch(f"{asker.up.base_url}/models")["data"]] == ["small", "large"]
    asker.up.set("503", on="probes")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        fetch(f"{asker.up.root}/health")
    assert spoken(asker("")) == TEXT


def test_a_server_refuses_connections_for_a_while_and_comes_back_on_its_port(asker: Asker) -> None:
    asker.up.refuse(0.3)
    with pytest.raises(ConnectionRefusedError):
        connected(asker.up.port)
    returned(asker.up.port)
    assert spoken(asker("")) == TEXT


def test_requests_come_one_after_another_on_one_connection_and_in_pieces(asker: Asker) -> None:
    request = post({"model": "m", "messages": MESSAGES}, close=False)
    with connected(asker.up.port) as peer:
        peer.sendall(request * 3)
        assert listen(peer, 0.3).data.count(b"HTTP/1.1 200") == 3
        for place in range(0, len(request), 40):
            peer.sendall(request[place : place + 40])
        assert listen(peer, 0.3).status == 200
    slow = post({"model": "m", "messages": MESSAGES, "stream": True}, headers={"x-chaos": "slow_head=0.1"}, close=False)
    with connected(asker.up.port) as peer:
        peer.sendall(slow + request)
        assert listen(peer, 0.5).data.count(b"HTTP/1.1 200") == 2, "the second waits for the first"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / SPDY/3\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST /v1/messages HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 411),
        (b"POST /v1/messages HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"POST /v1/messages HTTP/1.1\r\ncontent-length: -4\r\n\r\n", 400),
        (b"x" * 70_000, 431),
        (b"GET /nowhere HTTP/1.1\r\nconnection: close\r\n\r\n", 404),
        (b"DELETE /health HTTP/1.1\r\nconnection: close\r\n\r\n", 405),
        (b"GET /chaos/nowhere HTTP/1.1\r\nconnection: close\r\n\r\n", 404),
    ],
)
def test_what_is_no_request_is_refused_and_closed(asker: Asker, sent: bytes, status: int) -> None:
    with connected(asker.up.port) as peer:
        peer.sendall(sent)
        heard = listen(peer)
        assert (heard.status, heard.end) == (status, "fin")


def test_the_pace_of_a_server_holds_for_its_streams() -> None:
    with chaos("--rate", "1000", "--first-ms", "1", "--tokens", "30", "--salt", "z") as up:
        heard = Asker(up)("")
        assert len(heard.events) == 33
        assert spoken(Asker(up)("salt=", stream=False)).split(" ")[0] == TEXT.split(" ")[0]


def test_a_deaf_server_takes_no_orders_from_requests() -> None:
    with chaos("--deaf") as up:
        body = {"model": "chaos:500", "messages": MESSAGES}
        for orders in ({}, {"x-chaos": "cut"}):
            with connected(up.port) as peer:
                peer.sendall(post(body, headers=orders))
                assert listen(peer).status == 200
        up.set("503")
        with connected(up.port) as peer:
            peer.sendall(post(body))
            assert listen(peer).status == 503
