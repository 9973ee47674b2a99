"""CSV that no spreadsheet runs and any reader reads, JSON lines, and both agree with the ledger."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.core.usage import Usage
from headgate.ledger.accounts import questions
from headgate.ledger.accounts.export import ENTRY_COLUMNS, Format, csv_line, export_entries, export_sums
from headgate.ledger.accounts.questions import Accounts, Filter, UsageQuery
from headgate.ledger.accounts.store import Store as Reader
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from tests.ledger.test_usage import DAY, START, entry

EVIL = '=HYPERLINK("http://x","y")'
RECEIPTS = [
    entry(0, tenant="acme, inc", model=EVIL, user="a\r\nb", tags={"team": "+1", "q": '"'}, cost_nanos=1),
    entry(1, tenant="b", cost_nanos=-5, outcome="correction", corrects="x", usage=Usage(input=-3)),
    entry(1, id="twin", tenant="b", cost_nanos=None, ttft_ms=1.5),
]
SPAN = UsageQuery(START, START + DAY)


async def nothing() -> None:
    return


async def read(pieces: AsyncIterator[bytes]) -> str:
    return b"".join([piece async for piece in pieces]).decode()


def export(url: str, query: UsageQuery, form: Format, sums: bool = False) -> str:
    async def main() -> str:
        sql = await open_sql(url)
        try:
            await Store(sql).add_receipts(RECEIPTS, "log", 1)
            accounts = Accounts(Reader(sql), nothing)
            return await read((export_sums if sums else export_entries)(accounts, query, form))
        finally:
            await sql.aclose()

    return asyncio.run(main())


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_entries_keep_every_field_and_texts_that_look_like_formulas_are_tamed(sql_url: str) -> None:
    rows = table(export(sql_url, SPAN, "csv"))
    assert [row["id"] for row in rows] == ["att_000000", "att_000001", "twin"]
    assert tuple(rows[0]) == ENTRY_COLUMNS
    assert (rows[0]["model"], rows[0]["tenant"], rows[0]["user"]) == ("'" + EVIL, "acme, inc", "a\r\nb")
    assert json.loads(rows[0]["tags"]) == {"team": "+1", "q": '"'}
    assert (rows[0]["cost_nanos"], rows[0]["cost_usd"]) == ("1", "0.000000001")
    assert rows[0]["started_at"] == "2024-10-04T00:00:00.000+00:00"
    assert (rows[1]["cost_usd"], rows[1]["input_tokens"], rows[1]["corrects"]) == ("-0.000000005", "-3", "x")
    assert (rows[2]["cost_nanos"], rows[2]["cost_usd"], rows[2]["ttft_ms"]) == ("", "", "1.5")


def test_json_lines_are_the_same_entries(sql_url: str) -> None:
    lines = [json.loads(line) for line in export(sql_url, SPAN, "json").splitlines()]
    assert [line["id"] for line in lines] == ["att_000000", "att_000001", "twin"]
    assert tuple(lines[0]) == ENTRY_COLUMNS
    assert (lines[0]["model"], lines[0]["cost_usd"], lines[0]["tags"]["team"]) == (EVIL, "0.000000001", "+1")
    assert lines[2]["cost_usd"] is None


def test_sums_are_those_of_the_usage_query(sql_url: str) -> None:
    query = msgspec.structs.replace(SPAN, group_by=("tenant", "tag:team"))
    rows = table(export(sql_url, query, "csv", sums=True))
    assert [(r["tenant"], r["tag:team"], r["requests"], r["cost_nanos"], r["corrections"]) for r in rows] == [
        ("acme, inc", "'+1", "1", "1", "0"),
        ("b", "", "1", "-5", "1"),
    ]
    (whole,) = [json.loads(line) for line in export(sql_url, SPAN, "json", sums=True).splitlines()]
    assert (whole["requests"], whole["cost_usd"], whole["unpriced"]) == (2, "-0.000000004", 1)


def test_filters_leave_out_the_rest_and_an_empty_export_has_its_head(sql_url: str) -> None:
    none = msgspec.structs.replace(SPAN, filters=(Filter("tenant", ("nobody",)),))
    assert export(sql_url, none, "csv") == ",".join(ENTRY_COLUMNS) + "\r\n"
    assert export(sql_url, none, "json") == ""


@pytest.mark.parametrize("sums", [False, True])
def test_many_pages_are_one_export(tmp_path: Any, sums: bool) -> None:
    async def main() -> None:
        sql = await open_sql(f"sqlite:///{tmp_path}/x.db")
        try:
            count = questions.PAGE * 2 + 7
            many = [entry(n % 5, id=f"e{n}", model=f"m{n}", cost_nanos=n) for n in range(count)]
            await Store(sql).add_receipts(many, "log", 1)
            accounts = Accounts(Reader(sql), nothing)
            query = msgspec.structs.replace(SPAN, group_by=("model",) if sums else ())
            text = await read((export_sums if sums else export_entries)(accounts, query, "csv"))
            found = table(text)
            assert {row["model"] for row in found} == {f"m{n}" for n in range(count)}
            assert sum(Decimal(row["cost_usd"]) for row in found) * 10**9 == sum(range(count))
        finally:
            await sql.aclose()

    asyncio.run(main())


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), min_size=2, max_size=4))
def test_any_text_comes_back_as_it_was_or_with_an_apostrophe_in_front_of_a_formula(cells: list[str]) -> None:
    (back,) = csv.reader(io.StringIO(csv_line(cells).decode(), newline=""))
    for given_, read_ in zip(cells, back, strict=True):
        assert read_ in {given_, "'" + given_}
        assert not read_.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r"))
