"""Usage, invoices, reconciliation and prices on the command line, end to end beside a database."""

import asyncio
import csv
import io
import json
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.cli.main import main
from headgate.core.usage import Receipt, Usage
from headgate.ledger.billing.invoices import Invoice, invoice_hash
from headgate.ledger.prices import BUNDLED_BOOK, PriceTable, read_book
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from tests.cli.shell import Shell
from tests.ledger.test_invoices import at
from tests.ledger.test_usage import START, entry

FILES = Path(__file__).parents[1] / "ledger" / "files"
OPENAI = "openai_completions.json openai_costs.json openai_completions.csv openai_costs.csv"
ANTHROPIC = "anthropic_messages.json anthropic_costs.json anthropic_usage.csv anthropic_costs.csv"


def used(number: int, backend: str, model: str, usage: Usage, **more: Any) -> Receipt:
    price = PriceTable(read_book(BUNDLED_BOOK)).find(backend, model, START)
    fields = {"tenant": "acme", "cost_nanos": price.cost_nanos(usage) if price else None, **more}
    return entry(number, backend=backend, model=model, upstream_model=model, usage=usage, **fields)


ENTRIES = [
    used(0, "openai", "gpt-4o", Usage(input=1000, cached=400, output=70)),
    used(1, "openai", "gpt-4o", Usage(input=150, output=15, estimated=True), tenant="bolt"),
    used(2, "openai", "gpt-4o-mini", Usage(input=500, output=50)),
    used(25, "openai", "gpt-4o", Usage(input=100, output=10), user="eve\x1b[2J\n"),
    used(3, "anthropic", "claude-sonnet-4", Usage(input=1250, cached=300, output=90), cost_nanos=5_000_000),
]


class Office:
    """The commands in this process: they do the same there, and a process each takes long to start."""

    def __init__(self, folder: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._captured = captured

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        places = () if arguments[0] == "prices" else ("--home", str(self.folder))
        status = main([*arguments, *places])
        out, err = self._captured.readouterr()
        return subprocess.CompletedProcess(arguments, status, out, err)


async def fill(folder: Path) -> None:
    sql = await open_sql(f"sqlite:///{folder}/headgate.db")
    try:
        await Store(sql).add_receipts(ENTRIES, "log", 1)
    finally:
        await sql.aclose()


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Office:
    asyncio.run(fill(tmp_path))
    return Office(tmp_path, capsys)


def good(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def reconcile(shell: Office, provider: str, name: str, *more: str) -> str:
    order = ("--provider", provider, "--backend", provider, "--file", str(FILES / name))
    return good(shell.run("reconcile", *order, *more))


def month(shell: Office, tenant: str = "acme") -> Any:
    return json.loads(good(shell.run("invoices", "--tenant", tenant, "--month", "2024-10", "--json")))


@pytest.mark.parametrize(
    ("provider", "name"),
    [*(("openai", name) for name in OPENAI.split()), *(("anthropic", name) for name in ANTHROPIC.split())],
)
def test_every_file_of_a_provider_is_compared_then_applied_once(shell: Office, provider: str, name: str) -> None:
    before = month(shell)["total_nanos"] + month(shell, "bolt")["total_nanos"]
    said = reconcile(shell, provider, name)
    assert "corrections would make them equal. Add them with --apply." in said
    assert "money, $" in said
    assert month(shell)["total_nanos"] + month(shell, "bolt")["total_nanos"] == before
    report = json.loads(reconcile(shell, provider, name, "--apply", "--json"))
    assert report["applied"]
    drift = sum(d["theirs"]["nanos"] - d["ours"]["nanos"] for d in report["drifts"])
    unclaimed = sum(d["theirs"]["nanos"] for d in report["unclaimed"])
    assert month(shell)["total_nanos"] + month(shell, "bolt")["total_nanos"] == before + drift - unclaimed
    assert "Nothing to correct." in reconcile(shell, provider, name, "--apply")


def test_a_bad_file_is_named_with_its_line_and_the_remedy(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    path = shell.folder / "bad.csv"
    path.write_text("usage_date_utc,model_version,usage_input_tokens_no_cache,usage_output_tokens\n2024-10-04,m,x,1\n")
    done = shell.run("reconcile", "--provider", "anthropic", "--backend", "b", "--file", str(path))
    assert done.returncode == 1
    assert done.stderr == (
        f"headgate: {path}: line 2: 'usage_input_tokens_no_cache' must be a number, not 'x'; export the file again\n"
    )


def test_usage_is_shown_and_exported(shell: Office) -> None:
    span = ("--from", "2024-10-01", "--to", "2024-11-01")
    lines = good(shell.run("usage", "show", "--by", "tenant", *span)).splitlines()
    assert lines[0].split() == ["TENANT", "REQUESTS", "INPUT", "OUTPUT", "COST", "UNPRICED", "ESTIMATED"]
    assert [line.split()[:4] for line in lines[1:]] == [["acme", "4", "2,850", "220"], ["bolt", "1", "150", "15"]]
    rows = list(csv.DictReader(io.StringIO(good(shell.run("usage", "export", *span, "--tenant", "acme")))))
    assert [row["id"] for row in rows] == [f"att_{n:06d}" for n in (0, 2, 3, 25)]
    file = shell.folder / "sums.jsonl"
    good(shell.run("usage", "export", *span, "--by", "model", "--format", "json", "-o", str(file)))
    sums = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["model"] for row in sums] == ["claude-sonnet-4", "gpt-4o", "gpt-4o-mini"]


def test_a_past_month_is_issued_once_and_stays(shell: Office) -> None:
    order = ("--tenant", "bolt", "--month", "2024-10")  # whose tokens were estimated
    draft = good(shell.run("invoices", *order))
    assert "Draft of an invoice" in draft
    assert "gpt-4o  (openai)" in draft
    issued = good(shell.run("invoices", "issue", *order))
    assert issued.startswith("Invoice HG-000001")
    reconcile(shell, "openai", "openai_completions.json", "--apply")
    assert good(shell.run("invoices", *order)) == issued
    again = shell.run("invoices", "issue", *order)
    assert (again.returncode, again.stdout) == (1, "")
    assert "has an invoice for 2024-10" in again.stderr
    following = month_of(shell, "2024-11")
    assert [each["month"] for each in following["adjustments"]] == ["2024-10"]
    assert following["total_nanos"] == following["adjustments"][0]["amount_nanos"]
    assert "HG-000001" in good(shell.run("invoices", "list"))
    table = good(shell.run("invoices", *order, "--csv"))
    assert table.startswith("number,tenant,month,part,")


def month_of(shell: Office, month: str) -> Any:
    return json.loads(good(shell.run("invoices", "--tenant", "bolt", "--month", month, "--json")))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("invoices",), "Say whose invoice and of which month"),
        (("invoices", "--tenant", "a", "--month", "10/2024"), "'10/2024' is no month; write it as 2026-11."),
        (("invoices", "issue", "--tenant", "a", "--month", "2999-01"), "2999-01 is not over yet"),
        (("usage", "show", "--by", "colour"), "--by: 'colour' is none of tenant"),
        (("usage", "show", "--from", "soon"), "--from soon: write a day"),
        (("usage", "show", "--from", "2024-01-02", "--to", "2024-01-01"), "--from must lie before --to."),
        (("usage", "show", "--tag", "team"), "--tag team: write NAME:VALUE."),
        (("usage", "export", "-o", "/nowhere/x.csv"), "/nowhere/x.csv: cannot be written"),
        (("prices", "check", "nowhere.toml"), "nowhere.toml: not a price book"),
        (("prices", "check", "--model", "nobody-knows"), "no price for 'nobody-knows'"),
        (("prices", "check", "--model", "gpt-4o", "--day", "soon"), "--day soon: write a day"),
    ],
)
def test_mistakes_are_explained(shell: Office, arguments: tuple[str, ...], said: str) -> None:
    done = shell.run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.startswith("headgate: ")


def test_a_price_book_is_checked_and_asked(shell: Office) -> None:
    assert "a good price book" in good(shell.run("prices", "check"))
    said = good(shell.run("prices", "check", "--model", "gpt-4o-2024-08-06", "--day", "2026-11-21"))
    assert said.startswith("gpt-4o-2024-08-06: the price of 'gpt-4o*' from 2024-10-01 on")
    book = shell.folder / "mine.toml"
    book.write_text(f'version = "1"\n[[price]]\nmodel = "m"\neffective = {date(2025, 1, 1)}\ninput = -1\noutput = 1\n')
    done = shell.run("prices", "check", str(book))
    assert done.returncode == 1
    assert "mine.toml: not a price book" in done.stderr
    assert "line 2" in done.stderr


def test_an_invoice_in_json_proves_its_hash(shell: Office) -> None:
    issued = good(shell.run("invoices", "issue", "--tenant", "acme", "--month", "2024-10", "--json"))
    invoice = msgspec.json.decode(issued, type=Invoice)
    assert invoice.hash == invoice_hash(invoice)
    assert invoice.drawn_at > at("2026-01-01")


def test_names_of_callers_move_no_cursor(shell: Office) -> None:
    shown = good(shell.run("usage", "show", "--by", "user", "--from", "2024-10-01"))
    assert "eve\ufffd[2J\ufffd" in shown
    assert "\x1b" not in shown
