"""HTTP that two parties could read differently, that is malformed, or too large."""

import pytest

from tests.live import Live
from tests.security.raw import HELLO, post_head, send, statuses

SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HELLO), HELLO)
HIDDEN = b"0\r\n\r\n" + SMUGGLED
"""A body that is nothing where it is read as chunks, and a request of its own behind it."""

AMBIGUOUS: dict[str, list[str | bytes]] = {
    "length and chunked": [f"Content-Length: {len(HIDDEN)}", "Transfer-Encoding: chunked"],
    "chunked and length": ["Transfer-Encoding: chunked", f"Content-Length: {len(HIDDEN)}"],
    "length 0 and chunked": ["Content-Length: 0", "Transfer-Encoding: chunked"],
    "two lengths": ["Content-Length: 5", f"Content-Length: {len(HIDDEN)}"],
    "the same length twice": ["Content-Length: 5", "Content-Length: 5"],
    "a list of lengths": ["Content-Length: 5, 5"],
    "a signed length": ["Content-Length: +5"],
    "a negative length": ["Content-Length: -1"],
    "a hexadecimal length": ["Content-Length: 0x5"],
    "a length with a blank": ["Content-Length: 5 5"],
    "a length with an underscore": ["Content-Length: 5_0"],
    "a length with letters": ["Content-Length: 5abc"],
    "an empty length": ["Content-Length: "],
    "an overflowing length": ["Content-Length: 18446744073709551621"],
    "a blank before the colon": ["Transfer-Encoding : chunked"],
    "a tab before the colon": ["Transfer-Encoding\t: chunked"],
    "an unknown coding": ["Transfer-Encoding: xchunked"],
    "chunked not last": ["Transfer-Encoding: chunked, identity"],
    "chunked after another": ["Transfer-Encoding: gzip, chunked"],
    "chunked twice in a line": ["Transfer-Encoding: chunked, chunked"],
    "chunked in two lines": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "chunked and identity": ["Transfer-Encoding: identity", "Transfer-Encoding: chunked"],
    "a vertical tab": [b"Transfer-Encoding: \x0bchunked"],
    "a zero byte": [b"Transfer-Encoding: chunked\x00"],
    "a zero byte in a name": [b"Transfer\x00-Encoding: chunked"],
    "a folded line": ["Transfer-Encoding:", " chunked"],
    "a folded line behind another": ["X-A: b", "\tTransfer-Encoding: chunked", f"Content-Length: {len(HIDDEN)}"],
    "a bare CR in a value": [b"X-A: b\rTransfer-Encoding: chunked", f"Content-Length: {len(HIDDEN)}"],
    "a name with a blank": ["Transfer Encoding: chunked"],
    "an empty name": [": chunked"],
    "no colon": ["Transfer-Encoding"],
}
BAD_CHUNKS = {
    "hexadecimal prefix": b"0x5\r\nabcde\r\n0\r\n\r\n",
    "sign": b"+5\r\nabcde\r\n0\r\n\r\n",
    "negative": b"-5\r\nabcde\r\n0\r\n\r\n",
    "underscore": b"5_0\r\nabcde\r\n0\r\n\r\n",
    "leading blank": b" 5\r\nabcde\r\n0\r\n\r\n",
    "no size": b"\r\nabcde\r\n0\r\n\r\n",
    "overflow": b"ffffffffffffffff5\r\nabcde\r\n0\r\n\r\n",
    "longer than said": b"3\r\nabcde\r\n0\r\n\r\n",
    "line feed after the size": b"5\nabcde\r\n0\r\n\r\n",
    "line feed after the data": b"5\r\nabcde\n0\r\n\r\n",
    "line feed in an extension": b"5;a=\nb\r\nabcde\r\n0\r\n\r\n",
    "letters": b"zz\r\nabcde\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("form", AMBIGUOUS)
def test_a_request_whose_length_is_ambiguous_is_refused_once(gate: Live, form: str) -> None:
    said = send(gate, post_head(gate, *AMBIGUOUS[form]) + b"\r\n\r\n" + HIDDEN)
    assert b'"live"' not in said
    assert [status in {400, 501} for status in statuses(said)] == [True], said


@pytest.mark.parametrize("form", BAD_CHUNKS)
def test_malformed_chunks_end_the_connection_with_one_refusal(gate: Live, form: str) -> None:
    said = send(gate, post_head(gate, "Transfer-Encoding: chunked") + b"\r\n\r\n" + BAD_CHUNKS[form] + SMUGGLED)
    assert b'"live"' not in said
    assert [400 <= status < 500 for status in statuses(said)] == [True], said


def test_legal_chunks_are_read_and_a_request_sent_ahead_gets_its_own_answer(gate: Live) -> None:
    pieces = b"%x;name=value\r\n%s\r\n" % (len(HELLO), HELLO) + b"000\r\nTrailer: x\r\n\r\n"
    said = send(gate, post_head(gate, "transfer-encoding: Chunked") + b"\r\n\r\n" + pieces + SMUGGLED)
    assert statuses(said) == [200, 200]
    assert b'"live"' in said


INVALID = {
    "no version": b"GET /livez\r\n\r\n",
    "an old version": b"GET /livez HTTP/0.9\r\n\r\n",
    "a new version": b"GET /livez HTTP/3.0\r\nHost: a\r\n\r\n",
    "a long version": b"GET /livez HTTP/1.11\r\nHost: a\r\n\r\n",
    "a lower-case version": b"GET /livez http/1.1\r\nHost: a\r\n\r\n",
    "a blank first": b" GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "a bad method": b"G=T /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "a zero byte in the path": b"GET /liv\x00ez HTTP/1.1\r\nHost: a\r\n\r\n",
    "an escape in the path": b"GET /\x1b[31m HTTP/1.1\r\nHost: a\r\n\r\n",
    "raw UTF-8 in the path": "GET /v1/models/é HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "the same host twice": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "a blank line in the head": b"GET /livez HTTP/1.1\r\n Host: a\r\n\r\n",
    "a bare CR for a line end": b"GET /livez HTTP/1.1\rHost: a\r\r",
    "a control character in a value": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
    "a delete character in a value": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
    "a parenthesis in a name": b"GET /livez HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n",
    "raw UTF-8 in a name": "GET /livez HTTP/1.1\r\nHost: a\r\né: z\r\n\r\n".encode(),
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300 + b"\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "JSON": b'{"model":"scripted"}\r\n\r\n',
    "nothing but line ends": b"\r\n" * 20 + b"x\r\n\r\n",
    "a response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a proxy's line": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
}
VALID = {
    "the least": b"GET /livez HTTP/1.1\r\nHost: a\r\n",
    "HTTP/1.0 without a host": b"GET /livez HTTP/1.0\r\n",
    "a line end before": b"\r\nGET /livez HTTP/1.1\r\nHost: a\r\n",
    "odd case": b"GET /livez HTTP/1.1\r\nhOsT: a\r\n",
    "no blank after the colon": b"GET /livez HTTP/1.1\r\nHost:a\r\n",
    "blanks and tabs around a value": b"GET /livez HTTP/1.1\r\nHost: \t a \t \r\n",
    "an empty value": b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Empty:\r\n",
    "every character of a token": b"GET /livez HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~09aZ: z\r\n",
    "Latin-1 in a value": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: \xe9\xff\r\n",
    "a query": b"GET /livez?a=b&c=%20 HTTP/1.1\r\nHost: a\r\n",
    "a body where none is needed": b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n",
    "an address and a port": b"GET /livez HTTP/1.1\r\nHost: [::1]:4000\r\n",
    "the same header twice": b"GET /livez HTTP/1.1\r\nHost: a\r\nAccept: a\r\nAccept: b\r\n",
}


@pytest.mark.parametrize("form", INVALID)
def test_malformed_requests_are_refused_or_dropped(gate: Live, form: str) -> None:
    found = statuses(send(gate, INVALID[form]))
    assert len(found) <= 1
    assert all(400 <= status < 500 or status == 505 for status in found)


@pytest.mark.parametrize("form", VALID)
def test_unusual_but_valid_requests_are_answered(gate: Live, form: str) -> None:
    assert statuses(send(gate, VALID[form] + b"Connection: close\r\n\r\n")) == [200]


def test_what_is_too_large_is_refused_while_memory_stays_flat(gate: Live) -> None:
    auth = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + gate.key.encode() + b"\r\n"
    cases = {
        431: [
            b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(10_000)) + b"\r\n",
            b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(210)) + b"\r\n",
        ],
        414: [b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"],
        413: [
            auth + b"Content-Length: 4294967296\r\n\r\n" + b" " * 100_000,
            auth + b"Content-Length: 99999999999999999\r\n\r\n",
        ],
    }
    before = gate.rss_mb()
    for status, requests in cases.items():
        for data in requests:
            for _ in range(2):
                assert statuses(send(gate, data)) in ([status], []), data[:60]  # a reset may overtake the refusal
    endless = auth + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 530
    assert statuses(send(gate, endless)) in ([413], [])
    assert gate.rss_mb() - before < 80
