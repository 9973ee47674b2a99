"""What is refused by a request's head, over a real socket."""

import json
from collections.abc import Iterator

import pytest

from tests.api.house import ADMIN, KEY, Answer, House

BODY = b'{"model":"hello","messages":[{"role":"user","content":"hi"}]}'


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House(max_body_mb=0.25, cors_origins=("https://console.example",)) as house:
        yield house


def raw(house: House, head: str, body: bytes = b"") -> Answer:
    with house.connect() as wire:
        wire.send(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        return wire.answer()


POST = f"POST /v1/chat/completions HTTP/1.1\nauthorization: Bearer {KEY}\ncontent-length: {len(BODY)}"


def test_the_plain_request_of_these_tests_is_good(house: House) -> None:
    assert raw(house, POST + "\nhost: a", BODY).status == 200
    assert raw(house, POST + "\nhost: [::1]:80", BODY).status == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("host: a\nhost: b", 400),
        ("host: a\nauthorization: Bearer other", 400),
        (f"host: a\ncontent-length: {len(BODY)}", 400),
        ("host: a\nx-api-key: a\nx-api-key: a", 400),
        ("host: a\ntransfer-encoding: chunked", 400),
        ("host: a\ntransfer-encoding: chunked, gzip", 400),
        ("user-agent: nobody", 400),
        ("host: a?b", 400),
        ("host: a/b", 400),
        ("host: a#b", 400),
        ("host: user@a", 400),
        ("host: a\\b", 400),
        ("host: a b", 400),
        ("host: a\nx: " + "y" * 33_000, 431),
        ("host: a\n" + "\n".join(f"x-{i}: 1" for i in range(201)), 431),
        ("host: a\ncontent-encoding: gzip", 415),
        ("host: a\ncontent-type: multipart/form-data; boundary=x", 415),
        ("host: a\nx: a\x00b", 400),
        ("host: a\n folded: x", 400),
        ("host: a\nx y: 1", 400),
    ],
)
def test_ambiguous_or_oversized_heads_are_refused(house: House, lines: str, status: int) -> None:
    before = len(house.gateway.calls)
    answer = raw(house, POST + "\n" + lines, BODY)
    assert answer.status == status
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]
    assert len(house.gateway.calls) == before


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /" + "a" * 9000 + " HTTP/1.1", 414),
        ("GET /?" + "a" * 100_000 + " HTTP/1.1", 414),
        ("GET /livez HTTP/2.0", 505),
        ("GET /livez HTTP/9.9", 400),
        ("GET /livez", 505),
        ("G\x00T /livez HTTP/1.1", 400),
        ("CONNECT a:1 HTTP/1.1", 400),
    ],
)
def test_bad_request_lines_are_refused(house: House, line: str, status: int) -> None:
    answer = raw(house, line + "\nhost: a")
    assert answer.status == status
    assert answer.error


def test_a_head_that_never_ends_is_refused_while_it_comes(house: House) -> None:
    with house.connect() as wire:
        wire.send(b"GET /livez HTTP/1.1\r\nhost: a\r\n")
        for _ in range(40):
            wire.send(b"x-filler: " + b"y" * 2000 + b"\r\n")
        assert wire.answer().status == 431


def test_a_body_over_the_limit_is_refused_before_it_is_read(house: House) -> None:
    answer = raw(house, f"POST /v1/chat/completions HTTP/1.1\nhost: a\nx-api-key: {KEY}\ncontent-length: 4294967296")
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert answer.headers["connection"] == "close"


def test_a_body_of_unknown_length_is_counted_while_it_comes(house: House) -> None:
    with house.connect() as wire:
        wire.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-api-key: " + KEY.encode() +
            b"\r\ntransfer-encoding: chunked\r\n\r\n"
        )  # fmt: skip
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(6):
            wire.send(piece)
        assert wire.answer().status == 413


def test_a_chunked_body_is_read(house: House) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\nhost: a\nx-api-key: {KEY}\ntransfer-encoding: chunked"
    half = len(BODY) // 2
    pieces = [b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:half], BODY[half:], b"")]
    assert raw(house, head, b"".join(pieces)).status == 200


@pytest.mark.parametrize("filler", [b"x: y\r\n" * 1000, b"x" * 6000])
def test_trailers_without_end_are_refused_while_they_come(house: House, filler: bytes) -> None:
    with house.connect() as wire:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-api-key: {KEY}\r\n".encode()
        wire.send(head + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx: ")
        for _ in range(100):
            wire.send(filler)
        assert wire.answer().status == 431


@pytest.mark.parametrize(
    "framing", [b"x\r\nabc\r\n0\r\n\r\n", b"-1\r\n\r\n", b"3\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n"]
)
def test_malformed_chunks_are_refused(house: House, framing: bytes) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\nhost: a\nx-api-key: {KEY}\ntransfer-encoding: chunked"
    answer = raw(house, head, framing)
    assert (answer.status, answer.error["code"]) == (400, "invalid_http")


def test_a_client_that_waits_for_leave_to_send_gets_it_or_the_refusal(house: House) -> None:
    with house.connect() as wire:
        wire.send((POST + "\nhost: a\nexpect: 100-continue\n\n").replace("\n", "\r\n").encode())
        assert wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(BODY)
        assert wire.answer().status == 200
    refused = raw(house, "POST /nowhere HTTP/1.1\nhost: a\ncontent-length: 10\nexpect: 100-continue")
    assert refused.status == 404


def test_an_offer_to_upgrade_is_passed_over(house: House) -> None:
    with house.connect() as wire:
        wire.send(
            (POST + "\nhost: a\nconnection: upgrade, http2-settings\nupgrade: h2c\n\n").replace("\n", "\r\n").encode()
        )
        wire.send(BODY[:10])
        wire.send(BODY[10:])
        assert wire.answer().status == 200
        wire.request("GET", "/livez", connection="upgrade", upgrade="websocket")
        assert wire.answer().status == 200
        wire.request("GET", "/livez")
        assert wire.answer().status == 200


def test_requests_sent_ahead_are_answered_in_order(house: House) -> None:
    with house.connect() as wire:
        one = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"
        two = b"GET /v1/models/hello HTTP/1.1\r\nhost: a\r\nx-api-key: " + KEY.encode() + b"\r\n\r\n"
        wire.send(one + two + one)
        assert [wire.answer().json().get("id", "-") for _ in range(3)] == ["-", "hello", "-"]


def test_a_client_may_not_send_ahead_without_end(house: House) -> None:
    with house.connect() as wire:
        wire.send(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n" * 500)
        with pytest.raises((EOFError, ConnectionError)):
            wire.exactly(500 * 200)


def test_unknown_paths_and_methods_have_clear_answers(house: House) -> None:
    missing = house.ask("GET", "/v1/assistants")
    assert (missing.status, missing.error["code"]) == (404, "unknown_url")
    assert house.ask("GET", "/v1/models/").status == 404
    wrong = house.ask("GET", "/v1/chat/completions")
    assert (wrong.status, wrong.error["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST, OPTIONS"
    assert house.ask("PURGE", "/livez").status == 405


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/embeddings", "/v1/embeddings"),
        ("/v1/models/", "/v1/models"),
        ("/v1/livez", "/livez"),
    ],
)
def test_a_path_that_is_nearly_right_is_told_the_right_one(house: House, path: str, meant: str) -> None:
    assert f"Did you mean {meant}?" in house.ask("GET", path).error["message"]


def test_head_and_options_answer_without_a_body(house: House) -> None:
    head = house.ask("HEAD", "/livez")
    assert (head.status, head.body) == (200, b"")
    options = house.ask("OPTIONS", "/v1/models", key=None)
    assert (options.status, options.headers["allow"]) == (204, "GET, OPTIONS, HEAD")


def test_a_client_of_http_1_0_gets_no_chunks(house: House) -> None:
    body = b'{"model":"hello","stream":%b,"messages":[{"role":"user","content":"hi"}]}'
    for stream in (b"false", b"true"):
        sent = body % stream
        with house.connect() as wire:
            wire.send(b"POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\n")
            wire.send(b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n" % (KEY.encode(), len(sent)) + sent)
            head, _, answer = wire.rest().partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        if stream == b"true":
            assert answer.startswith(b'data: {"id":')
            assert answer.endswith(b"\n\ndata: [DONE]\n\n")
        else:
            assert json.loads(answer)["choices"][0]["message"]["content"] == "Hello"
            assert b"content-length: %d\r\n" % len(answer) in head
    for request in (b"HEAD /livez HTTP/1.0\r\n\r\n", b"GET /livez HTTP/1.0\r\n\r\n"):
        with house.connect() as wire:
            wire.send(request)
            assert wire.rest().endswith(b"\r\n\r\n" if b"HEAD" in request else b'{"status":"live"}')


def test_head_leaves_the_connection_usable(house: House) -> None:
    with house.connect() as wire:
        wire.request("HEAD", "/livez")
        assert wire.answer("HEAD").status == 200
        wire.request("GET", "/livez")
        assert wire.answer().json() == {"status": "live"}


def test_only_pages_of_allowed_origins_may_read_answers(house: House) -> None:
    good = house.ask("OPTIONS", "/v1/chat/completions", key=None, origin="https://console.example")
    assert good.headers["access-control-allow-origin"] == "https://console.example"
    assert good.headers["access-control-allow-headers"] == "authorization, *"  # the star does not stand for the key
    bad = house.ask("GET", "/v1/models", origin="https://evil.example")
    assert "access-control-allow-origin" not in bad.headers


def test_a_caller_without_a_key_learns_nothing_about_its_body(house: House) -> None:
    for key in (None, "wrong"):
        for body in (b"{", b"{}", BODY, b" " * 200_000):
            answer = house.ask("POST", "/v1/chat/completions", body, key)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


def test_admin_endpoints_ask_for_an_admin_key(house: House) -> None:
    for method, path in (
        ("GET", "/admin/keys"),
        ("POST", "/admin/keys"),
        ("GET", "/admin/keys/k"),
        ("DELETE", "/admin/keys/k"),
        ("GET", "/admin/usage"),
    ):
        assert house.ask(method, path, key=None).status == 401
        assert house.ask(method, path).status == 403
        assert house.ask(method, path, key=ADMIN).status != 403


def test_control_characters_in_a_path_never_reach_a_header(house: House) -> None:
    answer = house.ask("GET", "/v1/models/a%0d%0aset-cookie:%20x%1b")
    assert answer.status == 404
    assert "set-cookie" not in answer.headers
    assert b"\x1b" not in answer.body
    assert b"\r\n" not in answer.body


def test_a_connection_too_many_is_told_so() -> None:
    with House(max_connections=1) as house, house.connect() as first:
        first.request("GET", "/livez")
        assert first.answer().status == 200
        with house.connect() as second:
            answer = second.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
