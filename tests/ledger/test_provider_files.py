"""Providers' files as they come: each shape gives the same rows, and a bad file is named with place and remedy."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headgate.core.errors import BadCall
from headgate.ledger.billing.auditor import read_file
from headgate.ledger.billing.openai_files import COMPLETIONS
from headgate.ledger.billing.provider_files import Billed
from tests.ledger.test_usage import DAY, START

FILES = Path(__file__).parent / "files"
FIRST = START // DAY


def rows(provider: str, name: str) -> tuple[Billed, ...]:
    return read_file(FILES / name, provider).rows


def test_openais_usage_is_the_same_from_the_api_and_from_the_dashboard() -> None:
    pages, table = (read_file(FILES / f"openai_completions.{end}", "openai") for end in ("json", "csv"))
    assert (pages.sort, pages.operations, pages.first, pages.end) == ("usage", COMPLETIONS, FIRST, FIRST + 3)
    assert (table.sort, table.operations, table.first, table.end) == ("usage", COMPLETIONS, FIRST, FIRST + 2)
    seen = [(r.day - FIRST, r.model, r.requests, r.input, r.cached, r.output) for r in pages.rows]
    assert seen == [
        (0, "gpt-4o-2024-08-06", 3, 1200, 400, 90),
        (0, "gpt-4o-mini-2024-07-18", 1, 500, 0, 50),
        (1, "gpt-4o-2024-08-06", 1, 100, 0, 10),
    ]
    assert [(r.day - FIRST, r.model, r.requests, r.input, r.cached, r.output) for r in table.rows] == seen[:2]
    assert table.rows[0].api_key == "key_1"


def test_openais_costs_are_by_model_and_exact() -> None:
    assert [(r.model, r.usd) for r in rows("openai", "openai_costs.json")] == [
        ("gpt-4o-2024-08-06", Decimal("0.0025")),
        ("gpt-4o-2024-08-06", Decimal("0.0009")),
        ("gpt-4o-mini-2024-07-18", Decimal("0.000075")),
        ("web search tool calls", Decimal("0.01")),
    ]
    assert sum(r.usd for r in rows("openai", "openai_costs.csv")) == Decimal("0.0034")


def test_anthropics_usage_counts_what_was_cached_as_input_as_we_do() -> None:
    for name in ("anthropic_messages.json", "anthropic_usage.csv"):
        (row,) = rows("anthropic", name)
        assert (row.input, row.cached, row.cache_write, row.hour_writes, row.output) == (1250, 300, 150, 50, 90)
        assert row.model == "claude-sonnet-4-20250514"


def test_anthropics_report_is_in_cents_and_its_csv_in_dollars() -> None:
    report, table = rows("anthropic", "anthropic_costs.json"), rows("anthropic", "anthropic_costs.csv")
    assert [r.usd for r in report] == [Decimal("0.0024"), Decimal("0.00135"), Decimal("0.01")]
    assert [(r.model, r.usd) for r in table] == [
        ("Claude Sonnet 4", Decimal("0.0024")),
        ("Claude Sonnet 4", Decimal("0.00135")),
    ]


def test_pages_may_stand_one_a_line(tmp_path: Path) -> None:
    pages = json.loads((FILES / "openai_completions.json").read_text())
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(page) + "\n" for page in pages))
    assert read_file(path, "openai").rows == rows("openai", "openai_completions.json")


def page(*results: object, **more: Any) -> str:
    bucket = {"start_time": START, "end_time": START + DAY, "results": list(results), **more}
    return json.dumps({"data": [bucket]})


USE = {"object": "organization.usage.completions.result", "model": "m", "input_tokens": 1, "output_tokens": 1}
COST = {"object": "organization.costs.result", "line_item": "m", "amount": {"value": 1, "currency": "usd"}}
HEAD = "start_time,end_time,model,input_tokens,output_tokens\n"
CONSOLE = "usage_date_utc,model_version,usage_input_tokens_no_cache,usage_output_tokens\n"


@pytest.mark.parametrize(
    ("provider", "text", "said"),
    [
        ("openai", "", r"line 1: no CSV of OpenAI's usage dashboard.*export Activity"),
        ("openai", '{"data": [\n{"x": }]}', r"line 2: no JSON: .*save the provider's answer as it came"),
        ("openai", "{}", r"no 'data' list"),
        ("openai", "[1]", r"no 'data' list"),
        ("openai", '{"data": [1]}', r"data\[0\]: no 'results' list"),
        ("openai", page(1), r"data\[0\]\.results\[0\]: 'object' is ''"),
        ("openai", page({**USE, "object": "x"}), r"'object' is 'x'; known are organization\.usage\.completions"),
        ("openai", page({**USE, "model": None}), r"no 'model'; export usage grouped by model"),
        ("openai", page({**USE, "input_tokens": -1}), r"results\[0\]: 'input_tokens' must be a whole number"),
        ("openai", page({**USE, "input_tokens": 1.5}), r"'input_tokens' must be a whole number"),
        ("openai", page({**USE, "input_tokens": "many"}), r"'input_tokens' must be a number, not 'many'"),
        ("openai", page({**USE, "input_tokens": True}), r"'input_tokens' must be a number"),
        ("openai", page({**USE, "input_tokens": 10**20}), r"'input_tokens' must be a number"),
        ("openai", page({**USE, "input_cached_tokens": 2}), r"more cached tokens \(2\) than input tokens \(1\)"),
        ("openai", page(USE, COST), r"another kind of result than before"),
        ("openai", page({**COST, "line_item": None}), r"export costs grouped by line item"),
        ("openai", page({**COST, "amount": {"value": 1, "currency": "eur"}}), r"the currency is 'eur'"),
        ("openai", page({**COST, "amount": {}}), r"results\[0\]\.amount: 'value' is missing"),
        ("openai", page(USE, end_time=START + 7 * DAY), r"data\[0\]: this bucket does not lie within one day"),
        ("openai", page(USE, start_time="soon"), r"'start_time' is no time: 'soon'"),
        ("openai", page(USE, start_time=[]), r"'start_time' is no time"),
        ("openai", page(USE, start_time=None), r"'start_time' is missing"),
        ("openai", page(USE) + "\n" + page(USE), r"line 2: data\[0\]: this bucket stands twice"),
        ("openai", page(USE) + "\n" + page(USE, start_time=START + 2 * DAY, end_time=START + 3 * DAY),
         r"one ends at \d+, the next begins at \d+; save every page"),
        ("openai", page(USE) + "\n" + page(start_time=START + 3600, end_time=START + 7200), r"save every page"),
        ("openai", "[" * 100_000, r"no JSON: nested too deeply|no JSON"),
        ("openai", HEAD + f"{START},{START + DAY},m,1\n", r"line 2: 4 cells under 5 columns"),
        ("openai", HEAD + f"{START},{START + DAY},m,x,1\n", r"line 2: 'input_tokens' must be a number"),
        ("openai", HEAD + f'{START},{START + DAY},m,"1,50",1\n', r"line 2: 'input_tokens' must be a number, not '1,"),
        ("openai", HEAD + f"{START},{START + DAY},,3,1\n", r"line 2: no 'model'"),
        ("openai", HEAD + '1,2,"m,1,1\n', r"line \d: no CSV"),
        ("anthropic", '{"data": [{"starting_at": "2024-10-04T00:00:00Z", "ending_at": "2024-10-05T00:00:00Z", '
         '"results": [{}]}]}', r"results\[0\]: neither 'amount' nor 'uncached_input_tokens'"),
        ("anthropic", '{"data": [{"starting_at": "2024-10-04T00:00:00Z", "ending_at": "2024-10-05T00:00:00Z", '
         '"results": [{"amount": "1", "currency": "USD", "cost_type": null}]}]}', r"grouped by description"),
        ("anthropic", "a,b\n1,2\n", r"line 1: no CSV of Anthropic's Console"),
        ("anthropic", CONSOLE + "yesterday,m,1,1\n", r"line 2: 'usage_date_utc' is no day: 'yesterday'"),
        ("anthropic", CONSOLE + "2024-10-04,,1,1\n", r"line 2: no 'model_version'"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_its_name_the_place_and_the_remedy(
    tmp_path: Path, provider: str, text: str, said: str
) -> None:
    path = tmp_path / "theirs"
    path.write_text(text)
    with pytest.raises(BadCall, match=r"theirs: .*" + said):
        read_file(path, provider)


def test_what_is_no_file_or_no_text_or_no_provider_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCall, match=r"nowhere: cannot be read: No such file"):
        read_file(tmp_path / "nowhere", "openai")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadCall, match=r"bytes: byte 0 is not UTF-8"):
        read_file(tmp_path / "bytes", "openai")
    with pytest.raises(BadCall, match=r"'acme' is no provider"):
        read_file(tmp_path / "bytes", "acme")
