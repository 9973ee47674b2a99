"""Texts that come back exactly, or do not come back at all: echoes, control characters, internals, secrets."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live import Live
from tests.security.conftest import UPSTREAM_KEY
from tests.security.nasty import TEXTS
from tests.security.raw import ask, chat, hello, send

EVIL = "evil\r\nset-cookie: a=b\x1b[31m\x00\x07\x7f\x9b31m\u2028\u202e"
PROMPT = "CANARY-PROMPT-7f3a9c51"


def said(text: str) -> dict[str, Any]:
    return hello(messages=[{"role": "user", "content": text}], metadata={"script": '{"echo": true}'})


@pytest.mark.parametrize("ascii_only", [True, False])
def test_nasty_texts_come_back_exactly_in_answers_and_in_streams(gate: Live, ascii_only: bool) -> None:
    for text in TEXTS:
        whole = chat(gate, json.dumps(said(text), ensure_ascii=ascii_only).encode())
        assert whole.status == 200, text
        assert (whole.json()["choices"][0]["message"]["content"] or "") == text
        stream = chat(gate, json.dumps({**said(text), "stream": True}, ensure_ascii=ascii_only).encode())
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in stream.chunks) == text
        assert stream.frames[-1] == "[DONE]"


def test_nasty_texts_do_no_harm_in_any_other_place(gate: Live) -> None:
    def tool(text: str) -> dict[str, Any]:
        return {"type": "function", "function": {"name": text or "a", "description": text, "parameters": {text: text}}}

    for text in TEXTS:
        places: list[dict[str, Any]] = [
            {"user": text, "metadata": {"a": text}},
            {"metadata": {text: "a"}},
            {"messages": [{"role": "user", "content": "hi", "name": text}]},
            {"messages": [{"role": "system", "content": text}, {"role": "user", "content": "hi"}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
            {"stop": [text]},
            {"tools": [tool(text)]},
            {"model": text},
            {"response_format": {"type": "json_schema", "json_schema": {"name": text, "schema": {"const": text}}}},
        ]  # fmt: skip
        for fields in places:
            answer = chat(gate, hello(**fields))
            assert answer.status in {200, 400, 404}, (text, fields)


def test_the_engine_takes_nasty_texts_too(gate: Live) -> None:
    for text in TEXTS:
        answer = chat(
            gate, hello(model="headgate-demo", max_tokens=1, messages=[{"role": "user", "content": text}])
        )  # fmt: skip
        assert answer.status in {200, 400}, text


def clean(text: str) -> bool:
    return not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", text)


def test_control_characters_reach_no_header_and_no_log_line(gate: Live) -> None:
    answers = [
        chat(gate, hello(model=EVIL)),
        chat(gate, hello(user=EVIL, metadata={EVIL: EVIL})),
        ask(gate, "GET", "/v1/models/evil%0d%0aset-cookie:%20a=b%1b", key=gate.key),
        ask(gate, "GET", "/evil%0d%0aset-cookie:%20a=b%1b[31m", key=gate.key),
        ask(gate, "POST", "/admin/keys", {"name": EVIL, "tenant": EVIL}, gate.key),
        ask(gate, "GET", "/admin/usage?tenant=%0d%0aset-cookie:a%1b", key=gate.key),
        ask(gate, "POST", "/v1/chat/completions", hello(), gate.key, x_client_request_id="a\x80\xffb"),
    ]
    for answer in answers:
        assert answer.status < 500
        assert "set-cookie" not in answer.headers
        assert all(clean(value) for value in answer.headers.values())
        assert "\x1b" not in answer.body.decode()
    assert [line for line in gate.log_path.read_bytes().decode().split("\n") if not clean(line)] == []
    key = answers[4]
    if key.status == 200:
        used = chat(gate, hello(), key.json()["key"])
        assert used.status == 200
    page = gate.get("/metrics")[1].decode()
    assert clean(page)


def provoked(gate: Live) -> Iterator[str]:
    """Error texts of every kind that a caller can provoke."""
    for model in (
        "echo_key",
        "status:code=500",
        "reset_before_head",
        "bad_json",
        "huge_header",
        "html",
        "dead",
        "nobody",
    ):
        for stream in (False, True):
            yield chat(gate, hello(model=model, stream=stream)).body.decode()
    yield from (chat(gate, body).body.decode() for body in (b"{", b"[]", b"\xff", b"[" * 100_000))
    yield chat(gate, hello(metadata={"script": "{"})).body.decode()
    yield chat(gate, hello(metadata={"script": '{"fail_status": 500}'})).body.decode()
    yield chat(gate, hello(tools=[{"type": "x"}], tool_choice={"type": "y"}, model="headgate-demo")).body.decode()
    for path in (
        "/nowhere",
        "/admin/keys/nobody",
        "/admin/usage?start_time=x",
        "/v1/models/nobody",
        "/v1/chat/completions",
    ):
        yield ask(gate, "GET", path, key=gate.key).body.decode()
    yield send(gate, b"nonsense\r\n\r\n").decode("latin-1")


INTERNALS = re.compile(
    r"Traceback|File \"|\.py\b|/(home|root|usr|tmp|opt|var|etc)/|site-packages|msgspec|sqlalchemy|sqlite|uvicorn"
    r"|0x[0-9a-f]{6,}|127\.0\.0\.1|<class|object at|errno|KeyError|ValueError|TypeError",
    re.IGNORECASE,
)  # fmt: skip


def test_errors_tell_nothing_of_the_inside(gate: Live, model_server: str) -> None:
    port = model_server.split(":")[2].partition("/")[0]
    for text in provoked(gate):
        assert not INTERNALS.search(text), text
        assert port not in text
        assert UPSTREAM_KEY not in text
        assert gate.key not in text


def test_keys_and_prompts_are_in_no_log_no_metric_and_no_file(gate: Live) -> None:
    status, body = gate.post("/admin/keys", {"name": "watched"})
    assert status == 200
    key = json.loads(body)["key"]
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": PROMPT}]
    tools = [{"type": "function", "function": {"name": "f", "description": PROMPT}}]
    for model in ("scripted", "headgate-demo", "ok", "status:code=500", "reset_before_head", "dead", "nobody"):
        for stream in (False, True):
            chat(gate, hello(model=model, messages=messages, tools=tools, stream=stream, max_tokens=2), key)
    ask(gate, "POST", "/v1/completions", {"model": "scripted", "prompt": PROMPT}, key)
    ask(gate, "POST", "/v1/embeddings", {"model": "scripted", "input": PROMPT}, key)
    chat(gate, hello(messages=[{"role": PROMPT, "content": PROMPT}], temperature=9), key)
    chat(gate, (json.dumps(hello(messages=messages)) + "}").encode(), key)
    ask(gate, "GET", "/v1/models", key=key + "x")
    gate.settle()
    assert gate.get("/admin/usage", gate.key)[0] == 200  # the last receipts are in SQL now
    secrets = [PROMPT, key, UPSTREAM_KEY, gate.key]
    assert not [secret for secret in secrets if secret in gate.get("/metrics")[1].decode()]
    files = [path for path in gate.home.rglob("*") if path.is_file()]
    assert {"headgate.db", "secret", "test.log"} <= {path.name for path in files}
    for path in files:
        held = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in held], path
    assert all(path.stat().st_mode & 0o077 == 0 for path in files if path.name in {"secret", "api-key", "headgate.db"})
