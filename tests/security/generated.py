"""Requests that nobody would write, made from a seed: good ones, broken at a random place or in a random way."""

import json
import random
from typing import Any

from headgate.core.request import ChatRequest, CompletionRequest, EmbeddingRequest
from tests.security.nasty import TEXTS

PATHS = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
}
OTHER = (
    ("GET", "/v1/models"), ("GET", "/v1/models/"), ("GET", "/admin/keys"), ("POST", "/admin/keys"),
    ("DELETE", "/admin/keys/"), ("GET", "/admin/usage?"), ("GET", "/metrics"), ("GET", "/openapi.json"),
    ("PUT", "/livez"), ("OPTIONS", "/v1/completions"), ("HEAD", "/readyz"), ("POST", "/nowhere"),
)  # fmt: skip
SCRIPTS = (
    '{"echo":true}',
    '{"tokens":3}',
    '{"text":"x"}',
    '{"tool":"f","arguments":{}}',
    '{"reasoning":"r"}',
    "{",
    "[]",
)


def text(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(TEXTS)[:300]
    return "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0xD800)))) for _ in range(rng.randrange(12)))


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, the awkward ones more often."""
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice((0, -1, 1, 2, 2**31, 2**53, 2**64, -(2**63), 10**40, rng.randrange(-999, 999)))
    if kind == 2:
        return rng.choice((0.0, -0.0, 0.5, 1e308, 5e-324, -2.5, rng.random()))
    if kind <= 5:
        return text(rng)
    if kind <= 7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {text(rng): value(rng, depth + 1) for _ in range(rng.randrange(5))}


def good(rng: random.Random, path: str) -> dict[str, Any]:
    """A call that would be answered at once."""
    model = rng.choice(["scripted", "scripted", "ok", "headgate-demo", "nobody"])
    body: dict[str, Any] = {"model": model}
    if path == "/v1/embeddings":
        return {**body, "input": rng.choice([text(rng) or "a", ["a", "b"], [1, 2], [[1], [2]]])}
    body |= {"max_tokens": rng.randint(1, 4), "n": rng.randint(1, 3), "stream": rng.random() < 0.3}
    body |= {"metadata": {"script": rng.choice(SCRIPTS)}} if rng.random() < 0.3 else {}
    if path == "/v1/completions":
        return {**body, "prompt": rng.choice([text(rng), ["a", text(rng)], [1, 2]])}
    roles = ("system", "user", "assistant", "tool", "developer")
    messages = [{"role": rng.choice(roles), "content": text(rng)} for _ in range(rng.randint(1, 4))]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
    body |= {"tools": [tool], "tool_choice": rng.choice(["auto", "none"])} if rng.random() < 0.3 else {}
    return {**body, "messages": messages}


def changed(rng: random.Random, whole: Any) -> Any:
    """The same with one value somewhere inside replaced."""
    if isinstance(whole, dict) and whole and rng.random() < 0.8:
        key = rng.choice(sorted(whole))
        return {**whole, key: changed(rng, whole[key])}
    if isinstance(whole, list) and whole and rng.random() < 0.8:
        place = rng.randrange(len(whole))
        return [*whole[:place], changed(rng, whole[place]), *whole[place + 1 :]]
    return value(rng)


def body(rng: random.Random, path: str) -> bytes:
    made: Any = good(rng, path)
    known = [name for name in PATHS[path].__struct_fields__ if name not in {"max_tokens", "max_completion_tokens", "n"}]
    for _ in range(rng.randrange(3)):
        made = changed(rng, made) if rng.random() < 0.5 else {**made, rng.choice(known): value(rng)}
        if not isinstance(made, dict):
            break
    if isinstance(made, dict) and made.get("model") == "headgate-demo":
        made |= {"max_tokens": rng.choice([1, 2]), "max_completion_tokens": None, "n": 1, "best_of": 1}
    data = bytearray(json.dumps(made, ensure_ascii=rng.random() < 0.5).encode())
    if rng.random() < 0.25:
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def headers(rng: random.Random, key: str) -> list[str]:
    """Mostly a good key; sometimes headers that say odd things."""
    lines = [f"Authorization: Bearer {key}"] if rng.random() < 0.95 else []
    odd = (
        "x-headgate-timeout-s: nan", "x-headgate-timeout-s: 5", "x-stainless-retry-count: 99999",
        "Idempotency-Key: \xff", "Content-Type: text/plain", "Content-Type: application/json; charset=utf-16",
        "Content-Encoding: gzip", "Accept: nothing", "Expect: 200-ok", "Range: bytes=0-", "Upgrade: h2c",
        "x-api-key: other", "Origin: null", "Cookie: " + "a" * 5_000, "X-Client-Request-Id: \x80",
        "Accept-Encoding: br;q=2", "If-Match: *",
    )  # fmt: skip
    if rng.random() < 0.15:
        lines.append(rng.choice(odd))
    return lines


def request(rng: random.Random, key: str) -> tuple[str, bytes]:
    """The method and a whole request; its framing is right."""
    if rng.random() < 0.9:
        method, path = "POST", rng.choice(list(PATHS))
        data = body(rng, path)
    else:
        method, path = rng.choice(OTHER)
        path += "".join(rng.choice("abc%?&=/.;0") for _ in range(rng.randrange(8))) if path.endswith(("/", "?")) else ""
        data = json.dumps(value(rng)).encode() if method == "POST" else b""
    head = [f"{method} {path} HTTP/1.1", "Host: a", *headers(rng, key), f"Content-Length: {len(data)}", "", ""]
    return method, "\r\n".join(head).encode("latin-1") + data
