"""Numbers, names and keys that are wrong or strange, from every side: a clear error, nothing lost, the server lives."""

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.cli.shell import Shell
from tests.live import Live, serving, until
from tests.load.client import Refused, ask, chat
from tests.load.test_budget_race import CONFIG, PRICES
from tests.stores.liar import liar

POLICY = "/v1/organization/projects/acme/policy"
TOO_MUCH = 2**63
BAD_LIMITS: list[dict[str, Any]] = [
    {"amount": -1}, {"amount": 0}, {"amount": 1.5}, {"amount": 10**12 + 1}, {"amount": 2**53}, {"amount": TOO_MUCH},
    {"amount": 10**400}, {"amount": "many"}, {"amount": None}, {"amount": 5, "burst": -1}, {"amount": 5, "burst": 0},
    {"amount": 5, "per": "week"}, {"amount": 5, "unit": "dollars"}, {"amount": 5, "each": "planet"},
    {"amount": 5, "max_delay_s": -1}, {"amount": 5, "on_loss": "hope"}, {"amount": 5, "model": ""},
    {"amount": 5, "x": 1}, {"amount": 10**6, "algorithm": "sliding_log"},
    {"amount": 5, "algorithm": "leaky_bucket", "leased": True},
]  # fmt: skip
BAD_BUDGETS: list[dict[str, Any]] = [
    {"amount": -0.01}, {"amount": 9_000_001}, {"amount": 2**53}, {"amount": 10**400}, {"amount": "1"}, {"amount": True},
    {"amount": 1, "soft": -1}, {"amount": 1, "at_limit": "downgrade"}, {"amount": 1, "at_soft": "downgrade"},
    {"amount": 1, "per": "week"}, {"amount": 1, "raised_by": -1}, {"amount": 1, "raised_by": 5},
    {"amount": 1, "raised_by": 9_000_000, "raised_until": 1}, {"amount": 10**12 + 1, "unit": "tokens"},
    {"amount": 1, "each": "address"}, {"amount": 1, "per": "session", "each": "user"},
]  # fmt: skip
NAMES = [
    "Zürich-büro",
    "项目-七",
    "مشروع",
    "🚀 rocket",
    "o'brien; DROP TABLE ledger;--",
    "a%2Fb\u0301?x=1&y",
    "%s{0}$1\\",
]
INJECTIONS = [
    "' OR '1'='1", "hg-' UNION SELECT * FROM keys --", "hg-\"; DROP TABLE ledger; --", "hg-%00",
    "Robert'); DELETE FROM x;", "hg-" + "'" * 300, "\\x27 OR 1=1", "${jndi:ldap://x}", "hg-{{7*7}}",
]  # fmt: skip


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "prices.toml").write_text(PRICES.replace('model = "*"', 'model = "h*"'))
    with liar() as upstream:
        config = CONFIG.format(counters="memory", sql="null", folder=folder, upstream=upstream)
        with serving(folder / "home", config) as server:
            yield server
            assert server.process.poll() is None
            assert server.events("bug") == server.events("task.died") == []


def put(live: Live, path: str, body: object) -> tuple[int, Any]:
    """As an administrator; the body may be one that `json` would not write."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def main() -> tuple[int, Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        head = f"PUT {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {live.key}\r\nconnection: close\r\n"
        writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        answer = await reader.read()
        writer.close()
        told, _, rest = answer.partition(b"\r\n\r\n")
        return int(told.split()[1]), json.loads(rest)

    return asyncio.run(main())


def key_of(live: Live, tenant: str) -> str:
    status, body = live.post("/admin/keys", {"name": "app", "tenant": tenant})
    assert status == 200, body
    return str(json.loads(body)["key"])


def used(live: Live, tenant: str) -> Any:
    status, body = live.get(f"/admin/usage?tenant={quote(tenant, safe='')}", live.key)
    assert status == 200, body
    return json.loads(body)["data"][0]["results"]


async def said(live: Live, key: str, model: str = "honest", **fields: Any) -> bytes:
    async with ask(live.port, key, chat(model, "hello", **{"max_tokens": 3, **fields})) as answer:
        return await answer.body()


def code(live: Live, key: str, model: str = "honest", **fields: Any) -> tuple[int, str | None]:
    try:
        asyncio.run(said(live, key, model, **fields))
    except Refused as refused:
        return refused.status, refused.code
    return 200, None


def test_limits_and_budgets_that_make_no_sense_are_refused_by_name_and_change_nothing(live: Live) -> None:
    key = key_of(live, "acme")
    good = {"limits": [{"unit": "requests", "amount": 1_000}], "budgets": [{"amount": 5}]}
    assert put(live, POLICY, good)[0] == 200
    bad = [("limits", {"unit": "requests", **limit}) for limit in BAD_LIMITS]
    bad += [("budgets", budget) for budget in BAD_BUDGETS]
    for field, rule in bad:
        status, answer = put(live, POLICY, {field: [rule]})
        assert status == 400, (rule, status, answer)
        assert field in answer["error"]["message"], (rule, answer)
    for text in (b'{"budgets": [{"amount": NaN}]}', b'{"budgets": [{"amount": 1e999}]}', b'{"limits": 5}', b"[]", b"{"):
        assert put(live, POLICY, text)[0] == 400, text
    twice = [{"unit": "requests", "amount": 1}] * 2
    assert put(live, POLICY, {"limits": twice})[0] == 400
    assert (
        put(live, POLICY, {"limits": [{"unit": "requests", "amount": 1, "model": f"m{n}"} for n in range(40)]})[0]
        == 400
    )
    assert json.loads(live.get(POLICY, live.key)[1]) == good
    assert code(live, key) == (200, None)


def test_the_largest_numbers_that_are_taken_are_counted(live: Live) -> None:
    key = key_of(live, "giant")
    policy = {
        "limits": [
            {"unit": "requests", "amount": 10**12, "per": "day"}, {"unit": "tokens", "amount": 10**12, "burst": 10**12},
            {"unit": "concurrency", "amount": 10**12},
        ],
        "budgets": [{"amount": 9_000_000, "per": "total"}, {"amount": 10**12, "unit": "tokens", "per": "total"}],
    }  # fmt: skip
    assert put(live, "/v1/organization/projects/giant/policy", policy)[0] == 200
    until(lambda: code(live, key) == (200, None))
    for most in (2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 10**30, -1, 0):
        status, told = code(live, key, max_tokens=most)
        assert (status == 200) == (told is None)
        assert status in {200, 400, 429}, (most, status, told)
    assert code(live, key) == (200, None)
    assert used(live, "giant")[0]["num_model_requests"] >= 2


def test_usage_that_cannot_be_true_is_replaced_and_the_ledger_stays_right(live: Live) -> None:
    key = key_of(live, "odd")
    for count in (-5, 2**31, 2**53, 2**63 - 1, 2**63, 10**40):
        for stream in (False, True):
            assert code(live, key, f"huge_usage:count={count}", stream=stream) == (200, None), count
    (result,) = used(live, "odd")
    assert result["num_model_requests"] == 12
    assert 0 < result["input_tokens"] < 12 * 20_000_000
    assert result["cost_usd"] >= 0


def test_a_model_without_a_price_spends_no_dollar_budget(live: Live) -> None:
    key = key_of(live, "priceless")
    assert code(live, key, "ok") == (200, None)
    path = "/v1/organization/projects/priceless/policy"
    assert put(live, path, {"budgets": [{"amount": 1, "per": "total"}]})[0] == 200
    assert code(live, key, "ok") == (429, "price_unknown")
    assert code(live, key, "honest") == (200, None)
    assert put(live, path, {"budgets": [{"amount": 1, "per": "total", "at_limit": "notify"}]})[0] == 200
    assert code(live, key, "ok") == (200, None)
    (result,) = used(live, "priceless")
    assert (result["num_model_requests"], result["unpriced_requests"]) == (3, 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_any_script_goes_the_whole_way(live: Live, name: str) -> None:
    key, path = key_of(live, name), f"/v1/organization/projects/{quote(name, safe='')}"
    budget = {"amount": 0.02, "per": "total"}
    policy = {"limits": [{"unit": "requests", "amount": 600}], "budgets": [budget]}
    assert put(live, f"{path}/policy", policy) == (200, policy)
    assert code(live, key) == (200, None)
    assert code(live, key, max_tokens=1_000) == (429, "insufficient_quota")
    (result,) = used(live, name)
    assert result["num_model_requests"] == 1
    month = datetime.now(UTC).strftime("%Y-%m")
    status, body = live.get(f"{path}/invoices/{month}", live.key)
    assert (status, json.loads(body)["tenant"]) == (200, name)
    for form in ("csv", "text"):
        status, body = live.get(f"{path}/invoices/{month}?format={form}", live.key)
        assert status == 200
        assert name in body.decode() or form == "csv"
    status, body = live.get(f"/admin/ledger/export?tenant={quote(name, safe='')}", live.key)
    assert status == 200
    (row,) = csv.DictReader(io.StringIO(body.decode(), newline=""))
    assert row["tenant"].lstrip("'") == name


def test_keys_that_are_attacks_are_only_wrong_keys(live: Live) -> None:
    before = json.loads(live.get("/admin/keys", live.key)[1])
    for text in INJECTIONS:
        assert code(live, text) == (401, "invalid_api_key"), text
        assert live.get(f"/admin/keys/{quote(text, safe='')}", live.key)[0] == 404
        status, body = live.get(f"/admin/usage?tenant={quote(text, safe='')}", live.key)
        assert status == 200
        assert all(
            not bucket["results"][0]["num_model_requests"] for bucket in json.loads(body)["data"] if bucket["results"]
        )
    assert json.loads(live.get("/admin/keys", live.key)[1]) == before


def test_the_command_line_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    assert shell.run("keys", "create", "--tenant", "acme").returncode == 0
    bad = [
        ("limits", "set", "--project", "acme", "--requests-per-minute", "-5"),
        ("budgets", "set", "--project", "acme", "--usd", "9e18"),
        ("prices", "check", str(tmp_path / "bad.toml")),
    ]
    (tmp_path / "bad.toml").write_text(PRICES.replace("input = 20", "input = -20"))
    for arguments in bad:
        done = shell.run(*arguments)
        assert done.returncode in {1, 2}, (arguments, done.stdout)
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
    shown = json.loads(shell.run("limits", "show", "--project", "acme", "--json").stdout)
    assert not shown.get("limits")
    assert not shown.get("budgets")
