"""What the faults of the connection, of time and of the end look like on the wire."""

import pytest

from headgate.bench.chaos.acts import ALERT, GARBAGE
from tests.bench.chaos_ask import MESSAGES, TEXT, Asker, check, connected, data, returned, spoken
from tests.upstream.chaos import listen, post

EVENTS = 2 + len(TEXT.split(" ")) + 1
"""Of the honest stream: the role, the words, the finish, `[DONE]`."""


@check("refuse")
def _refuse(ask: Asker) -> None:
    with connected(ask.up.port) as idle:
        idle.sendall(post({"model": "chaos", "messages": MESSAGES}, close=False))
        assert listen(idle, 0.2).status == 200
        assert ask("refuse=0.5").end == "rst"
        assert listen(idle).end == "fin", "idle connections go with the server"
    with pytest.raises(ConnectionRefusedError):
        connected(ask.up.port)
    returned(ask.up.port)


@check("tls")
def _tls(ask: Asker) -> None:
    assert ask("tls").data == GARBAGE
    assert ask("tls=alert").data == ALERT
    assert b"HTTPS port" in ask("tls=plain").body
    assert ask("tls=silent", seconds=0.2).end == "open"
    with connected(ask.up.port) as peer:
        peer.sendall(bytes.fromhex("1603010200010001fc0303"))
        assert listen(peer).data == GARBAGE


@check("reset_reuse")
def _reset_reuse(ask: Asker) -> None:
    request = post({"model": "chaos", "messages": MESSAGES}, headers={"x-chaos": "reset_reuse"}, close=False)
    with connected(ask.up.port) as peer:
        peer.sendall(request)
        assert spoken(listen(peer, 0.2)) == TEXT
        peer.sendall(request)
        heard = listen(peer)
        assert (heard.data, heard.end) == (b"", "rst")


@check("reset")
def _reset(ask: Asker) -> None:
    heard = ask("reset=3")
    assert (len(heard.events), heard.end) == (3, "rst")
    assert ask("reset,after=3", stream=False).end == "rst"


@check("no_head")
def _no_head(ask: Asker) -> None:
    heard = ask("no_head", seconds=0.3)
    assert (heard.data, heard.end) == (b"", "open")
    assert ask("no_head=0.1").end == "fin"


@check("slow_head")
def _slow_head(ask: Asker) -> None:
    assert ask("slow_head=60", seconds=0.3).data == b""
    assert spoken(ask("slow_head=0.05")) == TEXT


@check("slow_first")
def _slow_first(ask: Asker) -> None:
    heard = ask("slow_first=60", seconds=0.3)
    assert (heard.status, heard.rest, heard.end) == (200, b"", "open")
    assert spoken(ask("slow_first=0.05")) == TEXT
    assert spoken(ask("slow_first=0.05", stream=False)) == TEXT


@check("stall")
def _stall(ask: Asker) -> None:
    heard = ask("stall,after=4", seconds=0.3)
    assert (len(heard.events), heard.end) == (4, "open")
    assert len(ask("stall,after=4", stream=False, seconds=0.3).rest) == 64
    assert spoken(ask("stall,after=4,s=0.05")) == TEXT


@check("slow_drip")
def _slow_drip(ask: Asker) -> None:
    assert ask("slow_drip,ms=0").data == ask("").data
    assert len(ask("slow_drip,ms=20", most=3).data) == 3, "a byte at a time"


@check("slow")
def _slow(ask: Asker) -> None:
    heard = ask("slow=4,tokens=100", seconds=0.1)
    assert heard.end == "open"
    assert len(heard.events) <= 2
    assert spoken(ask("slow=2000")) == TEXT


@check("only_comments")
def _only_comments(ask: Asker) -> None:
    assert set(ask("only_comments,ms=1,s=0.02").events) == {b": still there"}
    assert ask("only_comments,ms=1,s=0.02", stream=False).body.strip() == b""


@check("cut")
def _cut(ask: Asker) -> None:
    for after in range(EVENTS):
        heard = ask(f"cut,after={after}")
        assert (len(heard.events), heard.end) == (after, "fin")
        assert not heard.data.endswith(b"0\r\n\r\n")
    assert ask("cut,after=2,end=1").data.endswith(b"\r\n0\r\n\r\n"), "as if the answer were whole"
    assert len(ask("cut,after=2", stream=False).body) == 32
    heard = ask("cut,after=3,framing=close")
    assert b"chunked" not in heard.head
    assert len(heard.events) == 3


@check("cut_event")
def _cut_event(ask: Asker) -> None:
    heard, honest = ask("cut_event,after=3"), ask("")
    assert honest.data.startswith(heard.data)
    assert len(heard.events) == 3
    assert not heard.data.endswith(b"\n\n\r\n")
    assert ask("cut_event,after=2", stream=False).body == ask("", stream=False).body[:40]


@check("cut_utf8")
def _cut_utf8(ask: Asker) -> None:
    for stream in (True, False):
        heard = ask("cut_utf8", stream=stream)
        assert heard.end == "fin"
        assert ask("", stream=stream).data.startswith(heard.data)
        with pytest.raises(UnicodeDecodeError, match="unexpected end"):
            heard.data.decode()


@check("no_done")
def _no_done(ask: Asker) -> None:
    heard = ask("no_done")
    assert data(heard.events[-1]) != b"[DONE]"
    assert heard.data.endswith(b"0\r\n\r\n")
    assert spoken(heard) == TEXT
    assert ask("no_done", dialect="anthropic").events[-1].startswith(b"event: message_delta")
    body = ask("no_done", stream=False)
    assert body.body == ask("", stream=False).body[:-1]
    assert b"content-length: %d\r\n" % len(body.body) in body.head + b"\r\n"


@check("after_done")
def _after_done(ask: Asker) -> None:
    assert [data(event) for event in ask("after_done").events].index(b"[DONE]") == EVENTS - 1
    assert ask("after_done", stream=False).data.endswith(b"for-them")


@check("two_done")
def _two_done(ask: Asker) -> None:
    assert [data(event) for event in ask("two_done").events[-2:]] == [b"[DONE]", b"[DONE]"]
