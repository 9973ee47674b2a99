"""Every fault of the hostile upstream, through a real server: what callers, ledger and budgets see, row by row."""

import json
import re
import traceback
from collections.abc import Iterator

import pytest

from headgate.bench.chaos.faults import TABLE
from tests.faults.checks import Measured, check
from tests.faults.house import CASES, House, house
from tests.faults.rows import ROWS
from tests.faults.table import PAGE, measure, rendered
from tests.live import until


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("faults")) as standing:
        yield standing


@pytest.fixture(scope="module")
def found(standing: House) -> list[Measured]:
    return measure(standing, CASES)


def test_no_fault_is_told_as_an_answer_none_outlasts_the_deadline_and_none_is_charged_twice(
    found: list[Measured],
) -> None:
    wrong = []
    for one in found:
        try:
            check(one)
        except AssertionError as error:
            broken = traceback.extract_tb(error.__traceback__)[-1].line
            wrong.append(
                f"{one.case.row.orders or one.case.row.what} {one.case.form} {one.case.situation}: {error} {broken}"
                f"\n    {one.told.status} {one.told.error} {[(e['outcome'], e['code']) for e in one.entries]}"
            )
    assert not wrong, "\n".join(wrong)


def test_the_page_says_what_was_measured(found: list[Measured]) -> None:
    assert rendered(found) == PAGE.read_text(), "python -m tests.faults.table writes it anew"


def test_every_fault_has_a_row() -> None:
    ordered = {re.split("[=,]", row.order)[0] for row in ROWS}
    assert {fault.name for fault in TABLE} - ordered == {"status"} - ordered


def test_the_caller_s_budget_has_paid_the_sum_of_all_attempts_and_nothing_is_held(
    standing: House, found: list[Measured]
) -> None:
    spent = sum(one.story["cost_nanos"] or 0 for one in found)

    def paid() -> tuple[int, int]:
        """What a refusal says is spent and held, in microdollars."""
        standing.budget(0.000001)
        status, body = 200, b""

        def refused() -> bool:
            nonlocal status, body
            status, body = standing.live.post("/v1/chat/completions", {"model": found[0].case.name, "messages": [
                {"role": "user", "content": "one more"}]}, standing.key)  # fmt: skip
            return status == 429

        until(refused)
        told = re.search(r"\$([\d.]+) of \$[\d.e-]+ spent, \$([\d.]+) held", json.loads(body)["error"]["message"])
        assert told is not None, body
        return round(float(told[1]) * 1e6), round(float(told[2]) * 1e6)

    assert paid() == (round(spent / 1000), 0)


def test_all_is_given_back(standing: House, found: list[Measured]) -> None:
    standing.live.settle()
    page = standing.live.get("/metrics")[1].decode()
    busy = re.findall(r"^headgate_(?:backend_)?calls_(?:in_flight|waiting)(?:\{.*\})? (?!0\.0$).*$", page, re.MULTILINE)
    assert busy == []
    for upstream in standing.upstreams:
        upstream.idle()
