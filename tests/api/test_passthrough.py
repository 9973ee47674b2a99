"""Passthrough: a backend's own endpoints, with the URL held in, the answer untouched, and everything counted.

Run as a module this file is the model server of its tests: the one of tests/upstream, with endpoints of other kinds.
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.house import House as SmallHouse
from tests.live import Live, serving, until
from tests.upstream import server
from tests.upstream.behaviours import BEHAVIOURS, events
from tests.upstream.exchange import Exchange
from tests.upstream.process import ROOT, get

SOUND = bytes(range(256)) * 40
NEWER = {"input_tokens": 11, "output_tokens": 5, "total_tokens": 16, "input_tokens_details": {"cached_tokens": 4},
         "output_tokens_details": {"reasoning_tokens": 2}}  # fmt: skip
OLDER = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
COMPLETED = json.dumps({"type": "response.completed", "response": {"id": "r", "usage": NEWER}}).encode()
RESPONSE_STREAM = (
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","usage":null}}\n\n'
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"say [DONE] or usage"}\n\n'
    b"event: response.completed\ndata: " + COMPLETED + b"\n\n"
)
OLDER_STREAM = b'data: {"a":"data: [DONE]"}\r\n\r\ndata: {"usage":{"prompt_tokens":7,"completion_tokens":3}}\r\n\r\n'


async def _sound(exchange: Exchange) -> bool:
    return await exchange.body(SOUND, "audio/mpeg")


async def _json(exchange: Exchange) -> bool:
    """`told` is the answer."""
    return await exchange.json(exchange.request["told"])


async def _bytes(exchange: Exchange) -> bool:
    """A stream of these bytes, cut at odd places."""
    stream = {"newer": RESPONSE_STREAM, "older": OLDER_STREAM + b"data: [DONE]\r\n\r\n"}[exchange.options["is"]]
    await exchange.sse_head()
    for place in range(0, len(stream), 7):
        await exchange.piece(stream[place : place + 7])
        await asyncio.sleep(0)
    return await exchange.end()


OWN: dict[str, Any] = {
    "sound": _sound,
    "told": _json,
    "bytes": _bytes,
    "cut": events(b'data: {"a":1}\n\n', b'data: {"b":', end=False),
    "half": events(b'data: {"a":1}\n\n', b'data: {"b":'),
    "leak": events(b'data: {"a":1}\n\n', b'data: {"error":{"message":"no such key: sk-upstream-secret"}}\n\n'),
}

CONFIG = """
discover: false
engine: {{enabled: false}}
prices: {folder}/prices.toml
backends:
  - {{name: up, base_url: "{upstream}/deep", api_key_env: UP_KEY}}
  - {{name: play, kind: scripted, models: [one]}}
"""
PRICES = 'version = "1"\n[[price]]\nmodel = "bytes*"\neffective = 2020-01-01\ninput = 1000\noutput = 1000\n'
_numbers = itertools.count()


@contextlib.contextmanager
def _upstream() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.api.test_passthrough", "--models", ""]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}/v1"
        finally:
            process.kill()


class Got:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()
        self.id = self.headers["x-request-id"]

    @property
    def code(self) -> str | None:
        found: str | None = json.loads(self.body)["error"]["code"]
        return found


class House:
    def __init__(self, live: Live, upstream: str) -> None:
        self.live = live
        self.upstream = upstream
        self.mine = self.key()

    def key(self, **spec: object) -> str:
        status, body = self.live.post("/admin/keys", {"tenant": f"p{next(_numbers)}", **spec})
        assert status == 200, body
        made: str = json.loads(body)["key"]
        return made

    def post(self, path: str, body: object, key: str | None = "", **headers: str) -> Got:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        if key is not None:
            given["authorization"] = f"Bearer {key or self.mine}"
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.live.port, timeout=30)) as wire:
            wire.request("POST", path, raw, given)
            return Got(wire.getresponse())

    def line(self, call_id: str) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [line for line in self.live.events("call.done") if line["request_id"] == call_id]

        until(lambda: bool(found()))
        (line,) = found()
        return line

    def entry(self, call_id: str) -> dict[str, Any]:
        assert self.live.get("/admin/usage", self.live.key)[0] == 200
        with contextlib.closing(sqlite3.connect(self.live.home / "headgate.db")) as db:
            db.row_factory = sqlite3.Row
            (row,) = db.execute("select * from ledger where call_id = ?", (call_id,))
        return dict(row)

    def last(self) -> Any:
        return get(self.upstream, "/last")

    def asked(self) -> int:
        return int(get(self.upstream, "/stats")["requests"])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("passthrough")
    (folder / "prices.toml").write_text(PRICES)
    with _upstream() as url:
        config = CONFIG.format(folder=folder, upstream=url)
        with serving(folder / "home", config, {"UP_KEY": "sk-upstream-secret"}) as live:
            yield House(live, url)


def test_a_call_reaches_the_backends_own_path_with_its_key_and_none_of_the_callers_headers(house: House) -> None:
    body = b'{ "model":"told", "told": {"results": [{"flagged": false}]}, "unknown": [1, 2.50] }'
    got = house.post("/passthrough/up/moderations", body, x_custom="1", cookie="a=b", openai_beta="x")
    assert (got.status, json.loads(got.body)) == (200, {"results": [{"flagged": False}]})
    assert got.headers["x-headgate-backend"] == "up"
    last = house.last()
    assert (last["path"], last["body"].encode()) == ("/v1/deep/moderations", body)
    sent = {name.lower(): value for name, value in last["headers"]}
    assert sent["authorization"] == "Bearer sk-upstream-secret"
    assert not sent.keys() & {"x-custom", "cookie", "openai-beta"}
    assert house.mine not in str(last)


def test_where_the_answer_tells_no_usage_the_prompt_is_estimated_and_the_cost_unknown(house: House) -> None:
    got = house.post("/passthrough/up/moderations", {"model": "told", "told": {"results": []}})
    entry = house.entry(got.id)
    assert (entry["operation"], entry["model"], entry["outcome"]) == ("passthrough", "told", "ok")
    assert entry["estimated"] == 1
    assert entry["input_tokens"] > 0
    assert entry["output_tokens"] == 0
    assert entry["cost_nanos"] is None


@pytest.mark.parametrize(
    ("usage", "tokens", "estimated"),
    [
        (NEWER, (11, 4, 5, 2), False),
        (OLDER, (7, 2, 3, 0), False),
        ({"prompt_tokens": 7, "total_tokens": 7}, (7, 0, 0, 0), False),
        ({"total_tokens": 9}, (9, 0, 0, 0), False),
        ({"prompt_tokens": -1, "completion_tokens": 10**12, "total_tokens": "x"}, None, True),
        ({"seconds": 3}, None, True),
        ([], None, True),
    ],
)
def test_usage_is_read_under_every_known_name(house: House, usage: object, tokens: object, estimated: bool) -> None:
    got = house.post("/passthrough/up/anything", {"model": "told", "told": {"error": None, "usage": usage}})
    entry = house.entry(got.id)
    found = tuple(entry[f"{kind}_tokens"] for kind in ("input", "cached", "output", "reasoning"))
    assert bool(entry["estimated"]) is estimated
    assert found == tokens if tokens is not None else found[0] > 0


def test_a_stream_passes_byte_for_byte_and_its_usage_is_read(house: House) -> None:
    got = house.post("/passthrough/up/responses", {"model": "bytes:is=newer", "stream": True})
    assert got.headers["content-type"].startswith("text/event-stream")
    assert got.body == RESPONSE_STREAM, "no [DONE] where the upstream writes none"
    entry = house.entry(got.id)
    assert (entry["input_tokens"], entry["cached_tokens"], entry["output_tokens"]) == (11, 4, 5)
    assert (entry["estimated"], entry["cost_nanos"]) == (0, 16 * 1000 * 1000)
    got = house.post("/passthrough/up/older", {"model": "bytes:is=older", "stream": True})
    assert got.body == OLDER_STREAM + b"data: [DONE]\n\n"
    assert (house.entry(got.id)["input_tokens"], house.entry(got.id)["output_tokens"]) == (7, 3)


@pytest.mark.parametrize("model", ["crlf:cut=1", "cr", "bom", "no_space", "cut_anywhere:cut=3", "no_blank_line", "ok"])
def test_streams_pass_whatever_their_framing(house: House, model: str) -> None:
    got = house.post("/passthrough/up/a/stream", {"model": model, "stream": True, "prompt": "hello there"})
    text = got.body.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    frames = [part.removeprefix("data:").strip() for part in text.split("\n\n") if part]
    assert frames[-1] == "[DONE]"
    assert [json.loads(frame)["object"] for frame in frames[:-1]] == ["chat.completion.chunk"] * (len(frames) - 1)
    assert house.entry(got.id)["outcome"] == "ok"


@pytest.mark.parametrize("model", ["cut", "half", "leak", "reset_in_stream", "named_error_event", "cut_in_event"])
def test_a_cut_stream_or_an_error_in_it_never_looks_complete(house: House, model: str) -> None:
    got = house.post("/passthrough/up/responses", {"model": model, "stream": True})
    assert b'"code":"upstream_' in got.body
    assert b"[DONE]" not in got.body
    assert b"sk-upstream-secret" not in got.body
    assert house.entry(got.id)["outcome"] == "failed"
    assert house.line(got.id)["outcome"] == "failed"


def test_an_answer_that_is_no_json_passes_with_its_type_and_is_replayed_with_it(house: House) -> None:
    body = {"model": "sound", "input": "say it"}
    for replayed in (None, "true"):
        got = house.post("/passthrough/up/audio/speech", body, idempotency_key="speech-1")
        assert (got.status, got.body, got.headers["content-type"]) == (200, SOUND, "audio/mpeg")
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers.get("x-headgate-idempotent-replay") == replayed
        assert "x-upstream-content-type" not in got.headers
    page = house.post("/passthrough/up/page", {"model": "html"})
    assert (page.body, page.headers["content-type"]) == (b"<html>Bad Gateway</html>", "text/html")


def test_events_that_nobody_asked_to_stream_pass_as_a_whole_and_are_counted(house: House) -> None:
    got = house.post("/passthrough/up/audio/speech", {"model": "bytes:is=newer", "stream_format": "sse"})
    assert (got.status, got.body, got.headers["content-type"]) == (200, RESPONSE_STREAM, "text/event-stream")
    assert "content-length" in got.headers
    entry = house.entry(got.id)
    assert (entry["input_tokens"], entry["output_tokens"], entry["estimated"]) == (11, 5, 0)


def test_a_refusal_of_the_model_server_is_told_as_anywhere(house: House) -> None:
    got = house.post("/passthrough/up/moderations", {"model": "status:code=400"})
    assert got.status == 400
    assert json.loads(got.body)["error"]["message"].endswith("upstream says 400")
    assert house.entry(got.id)["outcome"] == "failed"
    got = house.post("/passthrough/up/moderations", {"model": "echo_key:code=403"})
    assert got.status >= 400
    assert b"sk-upstream-secret" not in got.body


def test_a_key_for_retries_counts_for_one_path(house: House) -> None:
    body = {"model": "told", "told": {"a": 1}}
    before = house.asked()
    for path in ("one", "two", "two"):
        assert house.post(f"/passthrough/up/{path}", body, idempotency_key="same").status == 200
    assert house.asked() - before == 2
    assert house.post("/passthrough/up/two", {**body, "b": 1}, idempotency_key="same").code == "idempotency_key_reused"


def test_an_answer_without_end_is_cut_off(house: House) -> None:
    got = house.post("/passthrough/up/files", {"model": "endless_json"})
    assert (got.status, got.code) == (502, "upstream_error")
    assert b"larger than" in got.body


def test_the_key_must_be_allowed_the_model_or_where_there_is_none_the_paths_last_part(house: House) -> None:
    key = house.key(models=["told", "speech"])
    told: dict[str, object] = {"told": {}}
    assert house.post("/passthrough/up/x", {"model": "told", **told}, key).status == 200
    assert house.post("/passthrough/up/audio/speech", told, key).status == 200
    assert house.post("/passthrough/up/audio/speech", {"model": None, **told}, key).status == 200
    for path, body in (("audio/speech", {"model": "other"}), ("audio/other", told), ("speech/other", told)):
        got = house.post(f"/passthrough/up/{path}", body, key)
        assert (got.status, got.code) == (403, "model_not_allowed")
    for model in (5, "", "x" * 257, ["told"]):
        assert house.post("/passthrough/up/x", {"model": model}).status == 400


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"other","model":"told","told":{}}',
        b'{"mod\\u0065l":"other","model":"told","told":{}}',
        b'{"model":"other","mod\\u0065l":"told","told":{"model":1}}',
    ],
)
def test_a_body_that_names_two_models_is_sent_with_the_one_that_was_checked(house: House, raw: bytes) -> None:
    assert house.post("/passthrough/up/x", raw, house.key(models=["told"])).status == 200
    sent = house.last()["body"]
    assert json.loads(sent)["model"] == "told"
    assert "other" not in sent


BAD = [
    "..", ".", "a/..", "../a", "a/../b", "a//b", "/a", "a/", "%2e%2e/a", "a/%2e%2e", "%252e%252e/a", "a%2f..%2fb",
    "a%5cb", "...", "http:%2f%2fexample.com", "https://example.com/", "a%00b", "a%0d%0ax", "a%20b", "a;b", "a@b", "a:b",
    "a%3fb", "a%23b", "%c3%a9", "a" * 257,
]  # fmt: skip


@pytest.mark.parametrize("path", BAD)
def test_a_path_that_could_leave_the_base_url_is_refused_and_nothing_is_sent(house: House, path: str) -> None:
    before = house.asked()
    got = house.post(f"/passthrough/up/{path}", {"model": "ok"})
    assert got.status in {400, 404}, got.body
    assert house.asked() == before


def test_what_is_encoded_for_no_reason_is_what_it_says(house: House) -> None:
    assert house.post("/passthrough/up/%61udio%2Fspeech", {"model": "told", "told": {}}).status == 200
    assert house.last()["path"] == "/v1/deep/audio/speech"
    longest = "a" * 256
    assert house.post(f"/passthrough/up/{longest}", {"model": "told", "told": {}}).status == 200


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/passthrough/play/x", "backend_not_found"),
        ("/passthrough/embedded/x", "backend_not_found"),
        ("/passthrough/nowhere/x", "backend_not_found"),
        ("/passthrough/up/chat/completions", "unknown_url"),
        ("/passthrough/up/Embeddings", "unknown_url"),
        ("/passthrough/up/batches", "unknown_url"),
        ("/passthrough/up/fine_tuning/jobs", "unknown_url"),
        ("/passthrough/up/v1/organization/admin_api_keys", "unknown_url"),
        ("/passthrough/up/realtime/client_secrets", "unknown_url"),
        ("/passthrough/up", "unknown_url"),
        ("/passthrough/up/", "unknown_url"),
    ],
)
def test_what_is_not_there_or_cannot_be_counted_is_a_clear_404(house: House, path: str, code: str) -> None:
    before = house.asked()
    got = house.post(path, {"model": "ok"})
    assert (got.status, got.code) == (404, code)
    assert house.post(path, {"model": "ok"}, None).status in {401, 404}
    assert house.asked() == before


def test_strangers_learn_nothing_and_queries_are_refused(house: House) -> None:
    for backend in ("up", "nowhere"):
        assert house.post(f"/passthrough/{backend}/x", {"model": "ok"}, None).code == "missing_api_key"
    assert house.post("/passthrough/up/x?a=1", {"model": "ok"}).status == 400
    for body in (b"", b"[]", b"no", b'"text"'):
        assert house.post("/passthrough/up/x", body).status == 400


def test_under_a_hard_budget_the_hold_is_what_the_body_allows_or_the_budgets_own_bound(house: House) -> None:
    key = house.key(policy={"budgets": [{"amount": 1000, "unit": "tokens", "per": "total"}]})
    told = {"model": "told", "told": {"usage": {"input_tokens": 5, "output_tokens": 5}}}
    got = house.post("/passthrough/up/responses", told, key)
    assert (got.status, got.code) == (429, "insufficient_quota"), "4,096 tokens are held for it"
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        got = house.post("/passthrough/up/responses", {**told, name: 20}, key)
        assert got.status == 200, got.body
        assert json.loads(house.last()["body"]) == {**told, name: 20}, "nothing is put in"
    got = house.post("/passthrough/up/responses", {**told, "max_tokens": 20, "max_output_tokens": 2000}, key)
    assert got.status == 429, "the largest counts"
    assert house.post("/passthrough/up/images", {**told, "max_tokens": 200, "n": 9}, key).status == 429


def test_an_inlined_picture_is_no_text(house: House) -> None:
    picture = "data:image/png;base64," + "A" * 400_000
    got = house.post("/passthrough/up/x", {"model": "told", "told": {}, "image": picture})
    assert 1000 < house.entry(got.id)["input_tokens"] < 1100
    words = "no picture " * 40_000
    got = house.post("/passthrough/up/x", {"model": "told", "told": {}, "text": "data:text/plain;base64," + words})
    assert house.entry(got.id)["input_tokens"] > 100_000


def test_it_can_be_switched_off() -> None:
    with SmallHouse(passthrough=False) as house:
        answer = house.ask("POST", "/passthrough/up/x", {"model": "hello"})
        assert (answer.status, answer.error["code"]) == (404, "passthrough_off")


if __name__ == "__main__":
    BEHAVIOURS.update(OWN)
    server.main()
