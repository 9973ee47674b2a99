"""Calls meet the kill switches: refused, given another model, or sent to another backend, on every replica at once."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.api.house import Wire
from tests.live import ADMIN_KEY, Live, serving_two, until
from tests.release.test_admin import BASE, ask

CONFIG = """
engine: {{enabled: false}}
discover: false
backends:
- {{name: demo, kind: scripted, models: [one, two]}}
- {{name: spare, kind: scripted, models: [three]}}
routes:
- {{model: both, targets: [{{backend: demo, model: one}}], fallbacks: [{{backend: spare, model: three}}]}}
storage: {{sql: "{url}"}}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, Live]]:
    with serving_two(tmp_path_factory.mktemp("calls"), CONFIG) as two:
        yield two


class Got:
    def __init__(self, status: int, headers: dict[str, str], body: Any) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def code(self) -> str | None:
        return None if self.status == 200 else str(self.body["error"]["code"])


def chat(live: Live, model: str = "one", key: str = ADMIN_KEY, once: str | None = None, **fields: Any) -> Got:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    headers = {} if once is None else {"idempotency_key": once}
    with Wire(live.port) as wire:
        wire.request("POST", "/v1/chat/completions", body, key, **headers)
        answer = wire.answer("POST")
        return Got(answer.status, answer.headers, json.loads(answer.body))


@contextmanager
def off(live: Live, kind: str, name: str, **fields: object) -> Iterator[None]:
    """Something is off on every replica until the end of the block."""
    _, made = ask(live, "POST", BASE, {"kind": kind, "name": name, "reason": "INC-secret", **fields})
    assert made["in_force"], made
    try:
        yield
    finally:
        assert ask(live, "DELETE", f"{BASE}/{made['id']}")[1]["in_force"]


def key_of(live: Live, **given: object) -> str:
    made: str = json.loads(live.post("/admin/keys", given)[1])["key"]
    return made


def serves(live: Live, key: str) -> bool:
    return chat(live, key=key).status == 200


def counted(live: Live, kind: str, result: str) -> float:
    series = f'headgate_kill_switch_calls_total{{kind="{kind}",result="{result}"}} '
    lines = live.get("/metrics")[1].decode().splitlines()
    return sum(float(line.removeprefix(series)) for line in lines if line.startswith(series))


def test_the_next_request_on_both_is_refused_and_after_it_is_off_served(pair: tuple[Live, Live]) -> None:
    for number in range(4):
        with off(pair[number % 2], "model", "one", message="Use two."):
            for live in pair:
                before = counted(live, "model", "refused")
                got = chat(live)
                assert (got.status, got.code) == (503, "switched_off"), got.body
                assert (got.headers["x-should-retry"], "retry-after" in got.headers) == ("false", False)
                message = got.body["error"]["message"]
                assert ("'one'" in message, "Use two." in message, "INC-secret" in message) == (True, True, False)
                assert counted(live, "model", "refused") == before + 1
                assert chat(live, "two").status == 200
        assert [chat(live).status for live in pair] == [200, 200]


def test_a_stream_is_refused_before_its_first_byte(pair: tuple[Live, Live]) -> None:
    with off(pair[0], "model", "on*"):
        assert chat(pair[1], stream=True).code == "switched_off"


def test_with_a_fallback_the_next_request_on_both_gets_that_model(pair: tuple[Live, Live]) -> None:
    with off(pair[0], "model", "one", fallback_model="three"):
        for live in pair:
            before = counted(live, "model", "diverted")
            got = chat(live)
            assert (got.status, got.headers["x-headgate-backend"]) == (200, "spare")
            assert got.headers["x-headgate-switched-from"] == "one"
            assert counted(live, "model", "diverted") == before + 1


def test_a_key_that_may_not_use_the_fallback_is_refused(pair: tuple[Live, Live]) -> None:
    one, two = pair
    key = key_of(one, tenant="narrow", models=["one"])
    until(lambda: chat(two, key=key).status == 200)
    with off(one, "model", "one", fallback_model="three"):
        assert (chat(two, key=key).code, chat(two).status) == ("switched_off", 200)


def test_a_backend_that_is_off_is_left_out_and_its_routes_fall_back(pair: tuple[Live, Live]) -> None:
    with off(pair[1], "backend", "demo"):
        for live in pair:
            assert chat(live, "both").headers["x-headgate-backend"] == "spare"
            got = chat(live, "one")
            assert (got.status, got.code) == (503, "switched_off"), "nothing else serves it"
    for live in pair:
        assert chat(live, "both").headers["x-headgate-backend"] == "demo"


def test_a_tenant_that_is_off_is_refused_and_no_other(pair: tuple[Live, Live]) -> None:
    one, two = pair
    mine, theirs = key_of(one, tenant="acme"), key_of(one, tenant="other")
    until(lambda: chat(two, key=mine).status == chat(two, key=theirs).status == 200)
    with off(one, "tenant", "acme", expires_in_seconds=30):
        for live in pair:
            got = chat(live, key=mine)
            assert (got.code, chat(live, key=theirs).status) == ("switched_off", 200)
            assert 1 <= int(got.headers["retry-after"]) <= 30
            assert "x-should-retry" not in got.headers


def test_a_feature_that_is_off_is_refused_wherever_it_asks(pair: tuple[Live, Live]) -> None:
    with off(pair[0], "feature", "sums"):
        for live in pair:
            assert chat(live, metadata={"feature": "sums"}).code == "switched_off"
            assert chat(live, "two", metadata={"feature": "sums"}).code == "switched_off"
            assert chat(live, metadata={"feature": "else"}).status == 200


def test_a_budget_does_not_send_calls_to_a_model_that_is_off(pair: tuple[Live, Live]) -> None:
    one, two = pair
    cheaper = {"unit": "tokens", "model": "one", "downgrade_to": "three"}
    spent = key_of(one, tenant="spent", policy={"budgets": [{**cheaper, "amount": 0, "at_limit": "downgrade"}]})
    soon = {**cheaper, "amount": 1e6, "soft": 0, "at_soft": "downgrade"}
    thrifty = key_of(one, tenant="thrifty", policy={"budgets": [soon]})
    for key in (spent, thrifty):
        until(partial(serves, two, key))
        assert chat(two, key=key).headers["x-headgate-model"] == "three"
    with off(one, "model", "three"):
        for live in pair:
            assert chat(live, key=spent).code == "insufficient_quota"
            assert "x-headgate-model" not in chat(live, key=thrifty).headers, "it can still pay for what it asked for"


def test_a_kept_answer_says_which_model_gave_it_whatever_is_off_by_now(pair: tuple[Live, Live]) -> None:
    told = ("x-headgate-backend", "x-headgate-switched-from", "x-headgate-model")
    before = chat(pair[0], once="kept-before")
    with off(pair[0], "model", "one", fallback_model="three"):
        instead = chat(pair[0], once="kept-meanwhile")
        replays = [chat(live, once="kept-before") for live in pair]
    replays += [chat(live, once="kept-meanwhile") for live in pair]
    for first, again in zip((before, before, instead, instead), replays, strict=True):
        assert again.headers["x-headgate-idempotent-replay"] == "true"
        assert again.body == first.body
        assert [again.headers.get(name) for name in told] == [first.headers.get(name) for name in told]
    assert [instead.headers[name] for name in told] == ["spare", "one", "three"]
    with off(pair[0], "model", "one"):
        assert chat(pair[1], once="kept-before").code == "switched_off"
