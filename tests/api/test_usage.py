"""`GET /admin/usage`: what is asked of the ledger, how it is shown, what is refused."""

from collections.abc import Iterator

import pytest

from headgate.core.errors import Overloaded
from headgate.ledger.accounts.questions import Filter, UsageRow, cursor
from tests.api.house import ADMIN, KEY, House
from tests.ledger.test_journal import receipt


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as house:
        yield house


def row(*place: str | int, **group: str) -> UsageRow:
    return UsageRow(
        group=group, requests=3, input=10, cached=4, cache_write=2, output=5, reasoning=1,
        cost_nanos=250_000_000, unpriced=1, estimated=2, corrections=1, place=place,
    )  # fmt: skip


def test_usage_is_asked_for_and_shown_by_group(house: House) -> None:
    house.accounts.rows = [row("a", "t", model="a", tenant="t")]
    path = "/admin/usage?start_time=100&end_time=200&group_by=model&group_by[]=tenant&model=a&model=b&tag=team:red:1"
    page = house.ask("GET", path, key=ADMIN).json()
    query = house.accounts.queries[-1]
    assert (query.start, query.end, query.group_by) == (100.0, 200.0, ("model", "tenant"))
    assert query.filters == (Filter("model", ("a", "b")), Filter("tag:team", ("red:1",)))
    assert (page["object"], page["has_more"], page["next_page"]) == ("page", False, None)
    assert page["data"] == [
        {
            "object": "bucket",
            "start_time": 100.0,
            "end_time": 200.0,
            "results": [
                {
                    "object": "headgate.usage.result",
                    "group": {"model": "a", "tenant": "t"},
                    "num_model_requests": 3,
                    "input_tokens": 10,
                    "input_cached_tokens": 4,
                    "input_cache_write_tokens": 2,
                    "output_tokens": 5,
                    "output_reasoning_tokens": 1,
                    "cost_usd": 0.25,
                    "cost_nanos": 250_000_000,
                    "unpriced_requests": 1,
                    "estimated_requests": 2,
                    "corrections": 1,
                }
            ],
        }
    ]


@pytest.mark.parametrize(
    ("width", "field", "seconds"), [("1d", "day", 86_400), ("1h", "hour", 3_600), ("1m", "minute", 60)]
)
def test_buckets_are_as_wide_as_asked_for(house: House, width: str, field: str, seconds: int) -> None:
    house.accounts.rows = [row(20_000, "a", model="a", **{field: "x"}), row(20_001, "a", model="a", **{field: "y"})]
    page = house.ask("GET", f"/admin/usage?bucket_width={width}&group_by=model", key=ADMIN).json()
    assert house.accounts.queries[-1].group_by == (field, "model")
    assert [(b["start_time"], b["end_time"]) for b in page["data"]] == [
        (20_000.0 * seconds, 20_001.0 * seconds),
        (20_001.0 * seconds, 20_002.0 * seconds),
    ]
    assert [r["group"] for b in page["data"] for r in b["results"]] == [{"model": "a"}, {"model": "a"}]


def test_the_next_page_goes_on_after_the_last_row(house: House) -> None:
    house.accounts.rows = [row(20_000, "a", model="a", day="x"), row(20_000, "b", model="b", day="x")]
    path = "/admin/usage?bucket_width=1d&group_by=model&limit=1"
    page = house.ask("GET", path, key=ADMIN).json()
    assert (page["has_more"], len(page["data"][0]["results"])) == (True, 1)
    house.ask("GET", f"{path}&page={page['next_page']}", key=ADMIN)
    assert house.accounts.queries[-1].after == (20_000, "a")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("start_time=x", "start_time"),
        ("start_time=nan", "start_time"),
        ("start_time=5&end_time=4", "start_time"),
        ("group_by=colour", "group_by"),
        ("group_by=tag:", "group_by"),
        ("group_by=tag:a%22b", "group_by"),
        ("tag=team", "tag"),
        ("tag=:x", "tag"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("bucket_width=1w", "bucket_width"),
        ("group_by=model&page=what", "page"),
        ("group_by=model&page=%C3%A9", "page"),
        (f"group_by=model&page={cursor(('a', 'b'))}", "page"),
        (f"group_by=model&page={cursor((5,))}", "page"),
        (f"group_by=day&page={cursor(('a',))}", "page"),
        (f"group_by=day&page={cursor((2**53,))}", "page"),
        (f"group_by=day&page={cursor((-1,))}", "page"),
        ("what=1", "what"),
    ],
)
def test_a_bad_question_about_usage_is_refused_by_field(house: House, query: str, param: str) -> None:
    answer = house.ask("GET", f"/admin/usage?{query}", key=ADMIN)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_a_query_of_many_fields_is_refused(house: House) -> None:
    assert house.ask("GET", "/admin/usage?" + "&".join(["limit=1"] * 60), key=ADMIN).status == 400


def test_only_administrators_ask(house: House) -> None:
    assert house.ask("GET", "/admin/usage", key=KEY).status == 403
    assert house.ask("GET", "/admin/usage", key=None).status == 401


def test_an_export_comes_as_a_file_of_csv_or_json_lines(house: House) -> None:
    house.accounts.receipts = [receipt(1), receipt(2)]
    answer = house.ask("GET", "/admin/ledger/export?tenant=acme&start_time=1&end_time=2", key=ADMIN)
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="entries.csv"'
    assert answer.headers["transfer-encoding"] == "chunked"
    assert [line.split(b",")[0] for line in answer.body.splitlines()] == [b"id", b"att_000001", b"att_000002"]
    assert house.accounts.queries[-1].filters == (Filter("tenant", ("acme",)),)
    house.accounts.rows = [row("a", model="a")]
    sums = house.ask("GET", "/admin/ledger/export?of=sums&group_by=model&format=json", key=ADMIN)
    assert (sums.headers["content-type"], sums.json()["cost_usd"]) == ("application/jsonl", "0.250000000")
    assert house.accounts.queries[-1].group_by == ("model",)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_an_export_that_is_cut_says_so_in_its_last_line(house: House, form: str) -> None:
    house.accounts.receipts = [receipt(1)]
    house.accounts.cut = Overloaded("the database went away")
    answer = house.ask("GET", f"/admin/ledger/export?format={form}", key=ADMIN)
    house.accounts.cut = None
    assert answer.status == 200
    assert b"The export was cut: the database went away" in answer.body.splitlines()[-1]


def test_an_export_that_cannot_begin_is_an_error(house: House) -> None:
    house.accounts.receipts = []
    house.accounts.cut = Overloaded("the database went away")
    answer = house.ask("GET", "/admin/ledger/export?format=json", key=ADMIN)
    house.accounts.cut = None
    assert answer.status == 503


@pytest.mark.parametrize(
    ("query", "param"), [("format=xml", "format"), ("of=x", "of"), ("group_by=model", "group_by"), ("x=1", "x")]
)
def test_a_bad_export_is_refused_by_field(house: House, query: str, param: str) -> None:
    answer = house.ask("GET", f"/admin/ledger/export?{query}", key=ADMIN)
    assert (answer.status, answer.error["param"]) == (400, param)
