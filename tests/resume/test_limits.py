"""To come back for the rest of a stream is a call: what its key's limits say of it."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.idempotency.talk import message
from tests.idempotency.upstream import counting, runs
from tests.live import Live, serving, until
from tests.resume.talk import DONE, Part, get, id_of, post, streamed, take
from tests.resume.test_live import CONFIG


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with counting() as url:
        yield url


@pytest.fixture(scope="module")
def live(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("limits"), CONFIG.format(upstream=upstream, grace_s=1.5, more="")) as live:
        yield live


def took(live: Live, data: bytes, cut: int | None = None) -> Part:
    return asyncio.run(take(live.port, data, cut))


def key_of(live: Live, tenant: str, *limits: dict[str, Any]) -> str:
    made: str = json.loads(live.post("/admin/keys", {"tenant": tenant, "policy": {"limits": limits}})[1])["key"]
    return made


def test_the_call_that_lost_its_connection_does_not_stand_in_its_own_way(live: Live) -> None:
    key = key_of(live, "single", {"unit": "concurrency", "amount": 1})
    body = streamed("one place", "ok:tokens=80,ms=20")
    part = took(live, post(body, credential=key), cut=600)
    assert took(live, post(streamed("another"), credential=key)).status == 429
    rest = took(live, post(body, id_of(part.frames[-1]), credential=key))
    assert rest.status == 200, rest.body
    assert len(part.frames) + len(rest.frames) == 83
    assert rest.body.endswith(DONE)
    until(lambda: took(live, post(streamed("another"), credential=key)).status == 200)


def test_nor_does_one_with_an_idempotency_key(live: Live, upstream: str) -> None:
    key = key_of(live, "patient", {"unit": "concurrency", "amount": 1})
    body = streamed("one place, keyed", "ok:tokens=80,ms=20")
    took(live, message(body, "once", credential=key), cut=600)
    again = took(live, message(body, "once", credential=key))
    assert (again.status, again.headers.get("x-headgate-idempotent-replay")) == (200, "joined"), again.body
    assert again.body.endswith(DONE)
    assert runs(upstream)["one place, keyed"] == 1


def test_who_is_refused_does_not_keep_an_answer_going(live: Live) -> None:
    key = key_of(live, "eager", {"unit": "requests", "amount": 3, "per": "hour"})
    part = took(live, post(streamed("refused", "ok:tokens=400,ms=20"), credential=key), cut=600)
    name = part.headers["x-headgate-stream"]
    statuses = [took(live, get(name, id_of(part.frames[-1]), key), cut=1).status for _ in range(2)]
    assert statuses == [200, 200]

    def over() -> bool:
        refused = took(live, get(name, id_of(part.frames[-1]), key))
        assert (refused.status, b'"rate_limit_exceeded"' in refused.body) == (429, True), refused.body
        return live.gauge("headgate_streams_in_progress") == 0

    until(over, 6)
    assert took(live, get(name, None, "hg-nobody")).status == 401
