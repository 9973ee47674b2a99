"""The official SDK's admin client against a served process: usage and costs, up to the last call."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from openai import OpenAI

from headgate.core.usage import Receipt, Usage
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from tests.ledger.test_journal import receipt
from tests.live import ADMIN_KEY, Live, serving

CONFIG = """\
engine: {enabled: false}
discover: false
server: {port: 0}
backends:
- {name: demo, kind: scripted, models: [one]}
"""
DAY = 86_400
START = 20_000 * DAY


def entry(number: int, at: float, **more: Any) -> Receipt:
    return msgspec.structs.replace(receipt(number), started_at=START + at, **more)


ENTRIES = [
    entry(1, 0, tenant="acme", key_id="k1", user="ann", model="gpt-4o", cost_nanos=1_500_000_000,
          usage=Usage(input=100, cached=40, cache_write=10, output=5)),
    entry(2, 3_599, tenant="acme", key_id="k2", model="gpt-4o", cost_nanos=1, usage=Usage(input=10, output=1)),
    entry(3, 3_600, tenant="bolt", key_id="k3", model="small", cost_nanos=None, usage=Usage(input=7, output=2)),
    entry(4, 2 * DAY, tenant="bolt", key_id="k3", model="vec", operation="embedding", cost_nanos=9,
          usage=Usage(input=30)),
    entry(5, 10, tenant="acme", key_id="k1", model="gpt-4o", outcome="correction", corrects="att_000001",
          cost_nanos=-500_000_000, usage=Usage(input=-20)),
]  # fmt: skip


async def fill(home: Path) -> None:
    sql = await open_sql(f"sqlite:///{home}/headgate.db")
    try:
        await Store(sql).add_receipts(ENTRIES, "seeded", 1)
    finally:
        await sql.aclose()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home = tmp_path_factory.mktemp("usage")
    asyncio.run(fill(home))
    with serving(home, CONFIG) as server:
        yield server


@pytest.fixture(scope="module")
def sdk(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.api, api_key=ADMIN_KEY, admin_api_key=ADMIN_KEY, max_retries=0) as client:
        yield client


def test_completions_come_in_buckets_with_empty_ones_between(sdk: OpenAI) -> None:
    page = sdk.admin.organization.usage.completions(start_time=START, end_time=START + 3 * DAY)
    assert (page.object, page.has_more, page.next_page) == ("page", False, None)
    assert [(bucket.start_time, bucket.end_time) for bucket in page.data] == [
        (START + n * DAY, START + (n + 1) * DAY) for n in range(3)
    ]
    (result,) = page.data[0].results
    assert result.object == "organization.usage.completions.result"
    assert (result.input_tokens, result.output_tokens, result.num_model_requests) == (97, 8, 3)
    assert (result.input_cached_tokens, result.input_cache_write_tokens, result.input_uncached_tokens) == (40, 10, 47)
    assert (result.project_id, result.model, result.batch) == (None, None, None)
    assert [bucket.results for bucket in page.data[1:]] == [[], []]


def test_groups_and_filters_mean_what_they_mean_there(sdk: OpenAI) -> None:
    usage = sdk.admin.organization.usage
    page = usage.completions(
        start_time=START,
        end_time=START + 7_200,
        bucket_width="1h",
        group_by=["project_id", "user_id", "api_key_id", "model", "batch"],
        project_ids=["acme", "bolt"],
        models=["gpt-4o", "small"],
    )
    found: list[Any] = [result for bucket in page.data for result in bucket.results]
    assert [(r.project_id, r.user_id, r.api_key_id, r.model, r.batch, r.input_tokens) for r in found] == [
        ("acme", None, "k1", "gpt-4o", False, -20),
        ("acme", None, "k2", "gpt-4o", False, 10),
        ("acme", "ann", "k1", "gpt-4o", False, 100),
        ("bolt", None, "k3", "small", False, 7),
    ]
    some = usage.completions(start_time=START, end_time=START + DAY, user_ids=["ann"], api_key_ids=["k1"])
    assert [r.num_model_requests for r in some.data[0].results if hasattr(r, "num_model_requests")] == [1]
    assert usage.completions(start_time=START, end_time=START + DAY, batch=True).data[0].results == []


def test_pages_follow_each_other_to_the_end(sdk: OpenAI) -> None:
    starts: list[int] = []
    cursor: Any = openai.omit
    for _ in range(4):
        page: Any = sdk.admin.organization.usage.completions(
            start_time=START + 10, end_time=START + 7 * 60, bucket_width="1m", limit=2, page=cursor
        )
        starts += [bucket.start_time for bucket in page.data]
        cursor = page.next_page
    assert starts == [START + 10, *(START + n * 60 for n in range(1, 7))]
    assert (page.has_more, cursor) == (False, None)


def test_embeddings_are_shown_apart(sdk: OpenAI) -> None:
    page = sdk.admin.organization.usage.embeddings(start_time=START, end_time=START + 3 * DAY, group_by=["model"])
    found: list[list[Any]] = [list(bucket.results) for bucket in page.data]
    assert [[(r.model, r.input_tokens) for r in results] for results in found] == [[], [], [("vec", 30)]]


def test_costs_are_the_ledgers_sums_by_project_and_line_item(sdk: OpenAI) -> None:
    page = sdk.admin.organization.usage.costs(
        start_time=START, end_time=START + 3 * DAY, group_by=["project_id", "line_item"]
    )
    found: list[Any] = [result for bucket in page.data for result in bucket.results]
    assert [(r.project_id, r.line_item, r.amount.value, r.amount.currency, r.quantity) for r in found] == [
        ("acme", "gpt-4o", 1.000000001, "usd", 96.0),
        ("bolt", "small", 0.0, "usd", 9.0),
        ("bolt", "vec", 9e-09, "usd", 30.0),
    ]
    only = sdk.admin.organization.usage.costs(start_time=START, project_ids=["bolt"], line_items=["vec"], limit=3)
    assert only.has_more
    assert [len(bucket.results) for bucket in only.data] == [0, 0, 1]


def test_a_call_is_in_the_answer_as_soon_as_it_is_over(sdk: OpenAI) -> None:
    sdk.chat.completions.create(model="one", messages=[{"role": "user", "content": "hi"}], user="eve")
    page: Any = sdk.admin.organization.usage.completions(
        start_time=START + 100 * DAY, bucket_width="1d", limit=31, user_ids=["eve"], page=openai.omit
    )
    while page.has_more:
        page = sdk.admin.organization.usage.completions(
            start_time=START + 100 * DAY, limit=31, user_ids=["eve"], page=page.next_page
        )
    assert [r.num_model_requests for r in page.data[-1].results] == [1]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "start_time"),
        ("start_time=5&end_time=4", "start_time"),
        ("start_time=0&bucket_width=1w", "bucket_width"),
        ("start_time=0&limit=32", "limit"),
        ("start_time=0&group_by=colour", "group_by"),
        ("start_time=0&batch=maybe", "batch"),
        ("start_time=100&page=WzFd", "page"),
        ("start_time=100&page=x", "page"),
        ("start_time=0&colour=1", "colour"),
    ],
)
def test_a_bad_question_is_refused_by_field(live: Live, query: str, param: str) -> None:
    status, body = live.get(f"/v1/organization/usage/completions?{query}", ADMIN_KEY)
    assert (status, msgspec.json.decode(body)["error"]["param"]) == (400, param)


def test_only_administrators_ask(live: Live) -> None:
    made = msgspec.json.decode(live.post("/admin/keys", {"name": "app"})[1])
    for path in ("usage/completions", "usage/embeddings", "costs"):
        assert live.get(f"/v1/organization/{path}?start_time=0", made["key"])[0] == 403
