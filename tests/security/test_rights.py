"""Callers who lie about who they are or where their call shall go."""

import json
import statistics
import time
from typing import Any

import pytest

from tests.api.house import Wire
from tests.live import Live, until
from tests.security.conftest import UPSTREAM_KEY, Canary
from tests.security.raw import HELLO, ask, hello, send, statuses
from tests.upstream.process import get

ORGANIZATION = {
    "projects": "GET POST",
    "projects/{id}": "GET POST",
    "projects/{id}/archive": "POST",
    "projects/{id}/users": "GET POST",
    "projects/{id}/users/{user_id}": "GET POST DELETE",
    "projects/{id}/service_accounts": "GET POST",
    "projects/{id}/service_accounts/{account_id}": "GET POST DELETE",
    "projects/{id}/service_accounts/{account_id}/api_keys": "POST",
    "projects/{id}/api_keys": "GET",
    "projects/{id}/api_keys/{key_id}": "GET DELETE",
    "projects/{id}/api_keys/{key_id}/policy": "GET PUT",
    "projects/{id}/rate_limits": "GET",
    "projects/{id}/rate_limits/{rate_limit_id}": "POST",
    "projects/{id}/model_permissions": "GET POST DELETE",
    "projects/{id}/spend_limit": "GET POST DELETE",
    "projects/{id}/spend_alerts": "GET POST",
    "projects/{id}/spend_alerts/{alert_id}": "GET POST DELETE",
    "projects/{id}/spend_stop": "GET POST DELETE",
    "projects/{id}/policy": "GET PUT",
    "projects/{id}/invoices/{month}": "GET",
    "users": "GET POST",
    "users/{id}": "GET POST DELETE",
    "users/{id}/policy": "GET PUT",
    "invites": "GET POST",
    "invites/{id}": "GET DELETE",
    "admin_api_keys": "GET POST",
    "admin_api_keys/{id}": "GET DELETE",
    "spend_limit": "GET POST DELETE",
    "spend_alerts": "GET POST",
    "spend_alerts/{alert_id}": "GET POST DELETE",
    "policy": "GET PUT",
    "kill_switches": "GET POST",
    "kill_switches/{id}": "GET DELETE",
    "engines": "GET POST",
    "engines/{id}": "GET DELETE",
    "engines/{id}/sleep": "POST",
    "engines/{id}/wake": "POST",
    "audit_logs": "GET",
    "calls/{request_id}": "GET",
    "usage/completions": "GET",
    "usage/embeddings": "GET",
    "costs": "GET",
}
"""Below /v1/organization; all of it is administration."""
WHO_MAY = {
    ("POST", "/v1/chat/completions"): "inference",
    ("POST", "/v1/completions"): "inference",
    ("POST", "/v1/embeddings"): "inference",
    ("POST", "/v1/rerank"): "inference",
    ("POST", "/v2/rerank"): "inference",
    ("POST", "/rerank"): "inference",
    ("POST", "/passthrough/{backend}/{path}"): "inference",
    ("GET", "/v1/models"): "inference",
    ("GET", "/v1/models/{id}"): "inference",
    ("GET", "/v1/streams/{id}"): "inference",
    ("GET", "/admin/keys"): "admin",
    ("POST", "/admin/keys"): "admin",
    ("GET", "/admin/keys/{id}"): "admin",
    ("DELETE", "/admin/keys/{id}"): "admin",
    ("GET", "/admin/usage"): "admin",
    ("GET", "/admin/ledger/export"): "admin",
    ("GET", "/admin/invoices"): "admin",
    ("POST", "/admin/invoices"): "admin",
    ("GET", "/livez"): None,
    ("GET", "/readyz"): None,
    ("GET", "/metrics"): None,
    ("GET", "/openapi.json"): None,
    **{
        (method, f"/v1/organization/{path}"): "admin"
        for path, methods in ORGANIZATION.items()
        for method in methods.split()
    },
}
"""Every endpoint, and the scope of keys it wants. A new one fails the test below until it stands here."""


def make_key(live: Live, **spec: Any) -> str:
    status, body = live.post("/admin/keys", spec)
    assert status == 200, body
    key: str = json.loads(body)["key"]
    return key


def described(live: Live) -> dict[tuple[str, str], Any]:
    paths = json.loads(live.get("/openapi.json")[1])["paths"]
    return {(method.upper(), path): operation for path, known in paths.items() for method, operation in known.items()}


def test_every_endpoint_is_listed_with_the_scope_it_wants(gate: Live) -> None:
    assert {route: operation["x-headgate-scope"] for route, operation in described(gate).items()} == WHO_MAY


@pytest.mark.parametrize(("method", "path"), WHO_MAY)
def test_only_keys_of_the_right_scope_pass(gate: Live, method: str, path: str) -> None:
    wanted = WHO_MAY[method, path]
    where = path.replace("{id}", "nobody")
    body: dict[str, str] | None = {} if method == "POST" else None
    made = {
        "no key": (None, wanted is None),
        "a wrong key": ("hg-wrong", wanted is None),
        "inference": (make_key(gate, scopes=["inference"]), wanted in {None, "inference"}),
        "admin": (make_key(gate, scopes=["admin"]), wanted in {None, "admin"}),
    }
    for name, (key, passes) in made.items():
        status = ask(gate, method, where, body, key).status
        if passes:
            assert status not in {401, 403}, name
        else:
            assert status == (401 if name in {"no key", "a wrong key"} else 403), name


def test_a_revoked_or_expired_key_fails_at_once(gate: Live) -> None:
    _, body = gate.post("/admin/keys", {"name": "short"})
    made = json.loads(body)
    assert ask(gate, "GET", "/v1/models", key=made["key"]).status == 200
    assert ask(gate, "DELETE", f"/admin/keys/{made['id']}", key=gate.key).status == 200
    assert ask(gate, "GET", "/v1/models", key=made["key"]).status == 401
    soon = make_key(gate, expires_at=time.time() + 1.0)
    until(lambda: ask(gate, "GET", "/v1/models", key=soon).status == 401)
    assert ask(gate, "GET", "/v1/models", key=soon).error["code"] == "expired_api_key"


FIELDS = (
    "api_base", "base_url", "custom_host", "api_url", "endpoint", "host", "url", "proxy", "upstream", "azure_endpoint",
    "api_version", "backend", "provider", "extra_headers", "litellm_params", "target", "route", "webhook_url",
)  # fmt: skip
HEADERS = (
    "x-api-base", "x-base-url", "x-portkey-custom-host", "x-upstream-url", "helicone-target-url", "x-forwarded-host",
    "x-original-url", "x-rewrite-url", "x-headgate-upstream", "x-headgate-backend", "forwarded", "x-proxy", "origin",
    "x-litellm-api-base", "x-portkey-config", "referer", "x-http-method-override", "x-forwarded-for",
)  # fmt: skip


@pytest.mark.parametrize("model", ["scripted", "ok", "headgate-demo"])
def test_no_field_and_no_header_sends_a_call_elsewhere(
    gate: Live, model: str, canary: Canary, model_server: str
) -> None:
    there = f"http://127.0.0.1:{canary.port}/v1"
    body = hello(model=model, max_tokens=2, **dict.fromkeys(FIELDS, there), api_key="sk-other", headers={"a": there})
    answer = ask(gate, "POST", "/v1/chat/completions", body, gate.key, **dict.fromkeys(HEADERS, there))
    assert answer.status == 200
    for target in (f"{there}/chat/completions", f"//127.0.0.1:{canary.port}/v1/chat/completions"):
        send(gate, (f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{canary.port}\r\nAuthorization: Bearer {gate.key}\r\n"
                    f"Connection: close\r\nContent-Length: {len(HELLO)}\r\n\r\n").encode() + HELLO)  # fmt: skip
    said = send(gate, f"CONNECT 127.0.0.1:{canary.port} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert all(status >= 400 for status in statuses(said))
    assert canary.hits == 0
    if model == "ok":
        headers = {name.lower(): value for name, value in get(model_server, "/last")["headers"]}
        assert headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
        assert not set(HEADERS) & set(headers)
        assert gate.key not in json.dumps(get(model_server, "/last")["headers"])


HOSTS = (
    "", "localhost", "127.0.0.1:1", "[::1]", "evil.example", "a/livez", "a/livez?", "a#", "a?b", "a@b", "a\\b", "a b",
    "/livez", "livez", "a:4000/../livez", "a:99999", "a:-1", "a:b", ":", "..", "a.", "*", "a,b", "a%0d%0ab", "é",
    "[::1", "a" * 300, "admin", "0", "metrics",
)  # fmt: skip
PATHS = (
    "/livez/../v1/models", "//v1/models", "/v1//models", "/v1/./models", "/v1/models/", "/v1/models/../models",
    "/v1/models;/livez", "/livez;/../v1/models", "/livez%2f..%2fv1/models", "/%76%31/models", "/V1/models",
    "/metrics/../admin/keys", "/admin/keys/../../livez/../admin/keys", "/admin%2fkeys", "/v1/models%00",
    "/v1/models%23",
    "/v1/models?/livez", "/v1/models%3f/livez", "/./v1/models", "/livez/v1/models", "*", "/v1/models\\..\\livez",
)  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_no_host_header_opens_a_door_without_a_key(gate: Live, host: str) -> None:
    for path in ("/v1/models", "/admin/keys"):
        said = send(gate, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert [400 <= status < 500 for status in statuses(said)] == [True], said


@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_of_a_path_opens_a_door_without_a_key(gate: Live, path: str) -> None:
    extra = "X-Original-URL: /livez\r\nX-Rewrite-URL: /livez\r\nX-Forwarded-Prefix: /livez\r\n"
    said = send(gate, f"GET {path} HTTP/1.1\r\nHost: a\r\n{extra}Connection: close\r\n\r\n".encode())
    assert [400 <= status < 500 for status in statuses(said)] == [True], said


def test_guesses_do_not_lock_out_a_good_key(gate: Live) -> None:
    with Wire(gate.port) as wire:
        for number in range(400):
            wire.request("GET", "/v1/models", key=f"{gate.key[:-4]}{number:04}")
            assert wire.answer().status == 401
        wire.request("GET", "/v1/models", key=gate.key)
        assert wire.answer().status == 200


@pytest.mark.prove
def test_the_time_of_a_guess_tells_nothing_about_how_much_of_it_was_right(gate: Live) -> None:
    def spent(wire: Wire, key: str) -> float:
        begun = time.perf_counter()
        wire.request("GET", "/v1/models", key=key)
        assert wire.answer().status == 401
        return time.perf_counter() - begun

    near, far = gate.key[:-1] + "!", "z" * len(gate.key)
    with Wire(gate.port) as wire:
        pairs = [(spent(wire, near), spent(wire, far)) for _ in range(1500)]
    medians = [statistics.median(side) for side in zip(*pairs[300:], strict=True)]
    print(f"near {medians[0] * 1e6:.1f} µs, far {medians[1] * 1e6:.1f} µs")
    assert abs(medians[0] - medians[1]) < 0.1 * max(medians)
