"""What is refused before it becomes a call is told once, with names that a caller cannot choose."""

import pytest

from headgate.core.errors import BadCall
from tests.api.house import KEY, House, Wire, eventually

BODY = {"model": "hello", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "told"),
    [
        ("POST", CHAT, b"{oops", KEY, ("POST", CHAT, 400, "invalid_json")),
        ("POST", CHAT, b"{oops", None, ("POST", CHAT, 401, "invalid_api_key")),
        ("POST", CHAT, b"x" * 70_000, None, ("POST", CHAT, 401, "invalid_api_key")),
        ("POST", CHAT, b"x" * 200_000, KEY, ("POST", CHAT, 413, "request_too_large")),
        ("POST", "/v1/nothing/of/mine", {}, KEY, ("POST", "-", 404, "unknown_url")),
        ("DELETE", CHAT, None, KEY, ("DELETE", CHAT, 405, "method_not_allowed")),
        ("GET", "/v1/models/mine", None, KEY, ("GET", "/v1/models/{id}", 404, "model_not_found")),
        ("POST", "/admin/keys", {}, KEY, ("POST", "/admin/keys", 403, "permission_denied")),
    ],
)
def test_a_request_refused_before_it_is_a_call_is_told_once(
    method: str, path: str, body: object, key: str | None, told: tuple[str, str, int, str]
) -> None:
    with House(max_body_mb=0.125) as house:
        answer = house.ask(method, path, body, key, x_client_request_id="mine-1")
        assert answer.status == told[2]
        (request,) = house.refused
        assert (request.method, request.route, request.status, request.code) == told
        assert (request.request_id, request.client_request_id) == (answer.headers["x-request-id"], "mine-1")


def test_what_is_no_http_is_told_without_a_route() -> None:
    with House() as house, house.connect() as wire:
        wire.send(b"what do you want?\r\n\r\n")
        answer = wire.answer()
        (request,) = house.refused
        assert (request.method, request.route, request.status, request.code) == ("-", "-", 400, "invalid_http")
        assert request.request_id == answer.headers["x-request-id"]


def test_a_call_and_a_fault_of_ours_are_told_elsewhere() -> None:
    with House() as house:
        house.gateway.answers["refuses"] = BadCall("No.")
        house.gateway.answers["breaks"] = RuntimeError("secret")
        assert [house.chat(model).status for model in ("hello", "refuses", "breaks", "unknown")] == [200, 400, 500, 404]
        assert house.chat(key="bad").status == 401  # a small body's key is looked at by the pipeline, as a call
        assert house.refused == []


def test_a_client_that_leaves_while_sending_is_not_refused() -> None:
    with House() as house:
        with Wire(house.port) as wire:
            wire.send(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode())
            wire.send(b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        eventually(lambda: house.server.connections == 0)
        assert house.refused == []
