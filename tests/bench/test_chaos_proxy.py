"""The TCP proxy: what passes, in what pieces and when, and how connections end."""

import random
import socket
import urllib.error
from collections.abc import Iterator

import pytest

from headgate.bench.chaos.weather import FAIR, Lane, Weather
from tests.bench.chaos_ask import MESSAGES, TEXT, Asker, connected, returned, spoken
from tests.live import until
from tests.upstream.chaos import Chaos, Proxy, chaos, listen, post, proxied

REQUEST = post({"model": "chaos", "messages": MESSAGES, "stream": True})


@pytest.fixture(scope="module")
def up() -> Iterator[Chaos]:
    with chaos() as running:
        yield running


@pytest.fixture(scope="module")
def served(up: Chaos) -> Iterator[Proxy]:
    with proxied(up.port) as running:
        yield running


@pytest.fixture
def line(served: Proxy) -> Iterator[Proxy]:
    served.set()
    yield served
    served.set()


def asked(line: Proxy, seconds: float = 5.0) -> tuple[bytes, str]:
    with connected(line.port) as peer:
        peer.sendall(REQUEST)
        heard = listen(peer, seconds)
        return heard.data, heard.end


def test_in_fair_weather_all_bytes_pass_and_both_ends_close(up: Chaos, line: Proxy) -> None:
    data, end = asked(line)
    assert (data, end) == (Asker(up)("").data, "fin")
    until(lambda: line.counts()["open"] == 0)


def test_a_half_closed_client_still_gets_its_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, proxied(server.getsockname()[1]) as line:
        with connected(line.port) as peer:
            peer.sendall(b"question")
            peer.shutdown(socket.SHUT_WR)
            far, _ = server.accept()
            with far:
                far.settimeout(5)
                assert far.recv(100) == b"question"
                assert far.recv(100) == b"", "the end passed on"
                far.sendall(b"answer")
                peer.settimeout(5)
                assert peer.recv(100) == b"answer", "and the other way still open"
            assert listen(peer).end == "fin"


def test_a_reset_passes_to_the_other_side(line: Proxy, up: Chaos) -> None:
    with connected(line.port) as peer:
        peer.sendall(post({"model": "chaos", "messages": MESSAGES, "stream": True}, headers={"x-chaos": "reset=2"}))
        assert listen(peer).end == "rst"


def test_bytes_are_counted_to_the_one_before_a_reset_or_a_cut(up: Chaos, line: Proxy) -> None:
    whole = Asker(up)("").data
    for after in (1, 100, 700):
        line.set(reset_after=after, direction="down")
        assert asked(line) == (whole[:after], "rst")
        line.set(cut_after=after, direction="down")
        assert asked(line) == (whole[:after], "fin")
    assert line.counts()["resets"] >= 3
    assert line.counts()["cuts"] >= 3


def test_slices_arrive_whole_and_in_order(up: Chaos, line: Proxy) -> None:
    line.set(slice=7)
    assert asked(line)[0] == Asker(up)("").data
    line.set(slice=3, slice_ms=30)
    with connected(line.port) as peer:
        peer.sendall(REQUEST[:9])
        peer.sendall(REQUEST[9:])
    line.set(slice=50, slice_ms=1, direction="down")
    with connected(line.port) as peer:
        peer.sendall(REQUEST)
        peer.settimeout(5)
        assert len(peer.recv(10_000)) == 50


def test_a_stalled_line_moves_again_when_told(up: Chaos, line: Proxy) -> None:
    line.set(stall=True)
    with connected(line.port) as peer:
        peer.sendall(REQUEST)
        assert listen(peer, 0.2).data == b""
        line.set()
        assert listen(peer).data == Asker(up)("").data


def test_a_line_that_refuses_takes_connections_again_when_told(line: Proxy) -> None:
    line.set(refuse=True)
    with pytest.raises(ConnectionRefusedError):
        connected(line.port)
    line.set()
    returned(line.port)


def test_open_connections_can_be_dropped(line: Proxy) -> None:
    with connected(line.port) as peer:
        peer.sendall(post({"model": "chaos", "messages": MESSAGES}, headers={"x-chaos": "no_head"}))
        assert listen(peer, 0.2).end == "open"
        line.drop()
        assert listen(peer).end == "rst"


def test_a_server_that_is_not_there_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with proxied(port) as line:
        try:
            with connected(line.port) as peer:
                end = listen(peer).end
        except ConnectionResetError:  # it was faster than the client's own look at the connection
            end = "rst"
        assert end == "rst"
        assert line.counts()["unreachable"] == 1


@pytest.mark.parametrize("weather", [{"latency_ms": -1}, {"slice": -4}, {"rain": 1}, {"direction": "left"}])
def test_wrong_weather_is_refused_and_the_old_stays(line: Proxy, weather: dict[str, object]) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        line.set(**weather)
    assert asked(line)[1] == "fin"


def test_latency_delays_all_pieces_alike_and_jitter_keeps_their_order() -> None:
    lane = Lane("down", random.Random(1))
    late = Weather(latency_ms=100)
    assert [lane.due(10, now, late) for now in (5.0, 5.0, 5.01)] == pytest.approx([5.1, 5.1, 5.11])
    jittery = Weather(latency_ms=10, jitter_ms=100)
    dues = [lane.due(10, 6 + number / 1000, jittery) for number in range(200)]
    assert dues == sorted(dues)
    assert max(dues) - 6.2 <= 0.11


def test_bandwidth_is_kept_over_any_number_of_pieces() -> None:
    lane, narrow = Lane("down", random.Random(1)), Weather(bytes_per_s=1000)
    pieces = lane.pieces(b"x" * 5000, narrow)
    assert max(map(len, pieces)) <= 50
    assert [lane.due(len(piece), 0.0, narrow) for piece in pieces][-1] == pytest.approx(5.0)
    assert b"".join(pieces) == b"x" * 5000


def test_weather_of_one_direction_leaves_the_other_fair() -> None:
    weather = Weather(latency_ms=5, direction="up")
    assert Lane("down", random.Random(1)).here(weather) is FAIR
    assert Lane("up", random.Random(1)).here(weather) is weather


def test_an_answer_survives_a_slow_narrow_line(up: Chaos) -> None:
    with proxied(up.port, latency_ms=5, jitter_ms=5, bytes_per_s=200_000, slice=100) as line:
        data, end = asked(line)
        assert end == "fin"
        assert data == Asker(up)("").data
        assert spoken(Asker(up)("")) == TEXT
