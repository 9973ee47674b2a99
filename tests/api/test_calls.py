"""`GET /v1/organization/calls/{request_id}`: one call's story for administrators, and for them alone."""

from collections.abc import Iterator

import pytest

from tests.api.house import ADMIN, KEY, House
from tests.cli.stories import CALL, RESCUED


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as house:
        house.accounts.receipts = RESCUED
        yield house


def test_an_administrator_reads_the_story_of_a_call(house: House) -> None:
    got = house.ask("GET", f"/v1/organization/calls/{CALL}", key=ADMIN)
    assert got.status == 200
    story = got.json()
    assert (story["object"], story["id"], story["outcome"]) == ("headgate.call", CALL, "ok")
    assert [(a["attempt"], a["reason"], a["replica"]) for a in story["attempts"]] == [
        (1, "first", "gpus-2"),
        (2, "retry", "gpus-3"),
        (3, "continue", None),
    ]


def test_others_may_not(house: House) -> None:
    assert house.ask("GET", f"/v1/organization/calls/{CALL}", key=KEY).status == 403


def test_an_unknown_call_is_not_found_with_the_remedy(house: House) -> None:
    got = house.ask("GET", "/v1/organization/calls/req_nobody", key=ADMIN)
    error = got.json()["error"]
    assert (got.status, error["param"]) == (404, "request_id")
    assert "call.done" in error["message"]
