"""Invoices over HTTP: drafts, issued ones, their forms, and who may see them."""

from collections.abc import Iterator

import pytest

from tests.api.house import ADMIN, KEY, House

PATH = "/v1/organization/projects/acme/invoices/2026-10"


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as house:
        yield house


def test_a_draft_is_shown_under_both_addresses_in_every_form(house: House) -> None:
    draft = house.ask("GET", PATH, key=ADMIN).json()
    assert (draft["object"], draft["tenant"], draft["month"], draft["number"]) == (
        "headgate.invoice", "acme", "2026-10", None,
    )  # fmt: skip
    assert house.ask("GET", "/admin/invoices?tenant=acme&month=2026-10", key=ADMIN).json() == draft
    text = house.ask("GET", PATH + "?format=text", key=ADMIN)
    assert text.headers["content-type"].startswith("text/plain")
    assert text.body.startswith(b"Draft of an invoice")
    table = house.ask("GET", PATH + "?format=csv", key=ADMIN)
    assert table.body.startswith(b"number,tenant,month,part")


def test_an_invoice_is_issued_and_listed(house: House) -> None:
    issued = house.ask("POST", "/admin/invoices", {"tenant": "acme", "month": "2026-10"}, ADMIN).json()
    assert (issued["number"], len(issued["hash"])) == ("HG-000001", 64)
    assert house.ask("GET", "/admin/invoices", key=ADMIN).json() == {"object": "list", "data": [issued]}
    assert house.ask("GET", "/admin/invoices?tenant=other", key=ADMIN).json()["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("GET", PATH + "?format=pdf", None, "format"),
        ("GET", "/admin/invoices?month=2026-10", None, "tenant"),
        ("POST", "/admin/invoices", {"tenant": "acme"}, "month"),
        ("POST", "/admin/invoices", {"tenant": "acme", "month": "2026-10", "colour": 1}, "colour"),
        ("POST", "/admin/invoices", {"tenant": 1, "month": "2026-10"}, "tenant"),
    ],
)
def test_a_bad_question_is_refused_by_field(house: House, method: str, path: str, body: object, param: str) -> None:
    answer = house.ask(method, path, body, ADMIN)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_only_administrators_see_invoices(house: House) -> None:
    for method, path in (("GET", PATH), ("GET", "/admin/invoices"), ("POST", "/admin/invoices")):
        assert house.ask(method, path, key=KEY).status == 403
