"""`headgate explain`: every attempt, why it was made, what it cost; refusals out of the log."""

import asyncio
import http.client
import json
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from headgate.core.usage import Receipt, Usage
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from tests.cli.stories import CALL, RESCUED
from tests.cli.test_ledger import Office, good
from tests.live import Live, serving, until
from tests.upstream.process import upstream

REFUSED = {"event": "call.done", "level": "info", "at": 1_795_287_900.5, "request_id": "req_refused", "status": 429}
REFUSED |= {"outcome": "refused", "code": "rate_limit_exceeded", "queue_ms": 0.0, "overhead_ms": 0.8}


def office(folder: Path, captured: pytest.CaptureFixture[str], receipts: list[Receipt] = RESCUED) -> Office:
    async def fill() -> None:
        sql = await open_sql(f"sqlite:///{folder}/headgate.db")
        try:
            await Store(sql).add_receipts(receipts, "log", 1)
        finally:
            await sql.aclose()

    asyncio.run(fill())
    return Office(folder, captured)


def test_every_attempt_is_told_with_its_reason_place_times_end_and_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = good(office(tmp_path, capsys).run("explain", CALL))
    assert said.startswith(f"{CALL} ended ok (200) after 2,400 ms\n")
    for part in (
        "1. first: gpus (gpus-2), model llama-3.1-8b",
        "passed over: gpus-1: its breaker is open",
        "waited 40 ms, sent at 41.2 ms, no piece came, lasted 55 ms",
        "failed (503 upstream_overloaded)",
        "2. retry: gpus (gpus-3), model llama-3.1-8b",
        "waited 180 ms, sent at 276 ms, first piece after 180 ms, lasted 1,220 ms",
        "412 tokens in, 37 out, estimated; $0.0000449",
        "3. continue: openai, model gpt-4o-mini",
        "451 tokens in (256 cached), 120 out; $0.00012045",
        "3 attempts: 863 tokens in, 157 out; $0.00016535",
        "first piece at 456 ms, waited 220 ms, our own time before the first attempt 1.25 ms",
    ):
        assert part in said


def test_the_timeline_is_as_wide_for_every_attempt_and_shows_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = good(office(tmp_path, capsys).run("explain", CALL))
    bars = [line.split("|")[1] for line in said.splitlines() if line.count("|") == 2]
    assert [len(bar) for bar in bars] == [48, 48, 48]
    assert [bar.strip()[0] for bar in bars] == [".", ".", "-"]
    assert bars[2].endswith("=")
    assert "=" not in bars[0]


def test_json_is_the_same_story_and_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = office(tmp_path, capsys)
    story = json.loads(good(shell.run("explain", CALL, "--json")))
    assert (story["object"], story["id"], story["status"], story["outcome"]) == ("headgate.call", CALL, 200, "ok")
    assert [(a["reason"], a["waited_ms"], a["at_ms"]) for a in story["attempts"]] == [
        ("first", 40.0, 41.25),
        ("retry", 180.0, 276.25),
        ("continue", 0.0, 1_500.0),
    ]
    assert "log" not in story
    log = tmp_path / "log"
    log.write_text(f"Listening.\n{json.dumps(REFUSED)}\n")
    found = json.loads(good(shell.run("explain", "req_refused", "--json", "--log", str(log))))
    assert found == {"object": "headgate.call", "id": "req_refused", "log": [REFUSED]}


def test_a_refused_call_is_found_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    other = {**REFUSED, "request_id": "req_other", "client_request_id": "req_refused"}
    log.write_text(f'{json.dumps(other)}\n{{"request_id": "req_refused"\n{json.dumps(REFUSED)}\n')
    said = good(office(tmp_path, capsys).run("explain", "req_refused", "--log", str(log)))
    assert said.startswith("req_refused made no attempt at a backend\n")
    assert "19:05:00.500  call.done  status=429 outcome=refused code=rate_limit_exceeded queue_ms=0.0" in said
    assert said.count("call.done") == 1


def test_an_unknown_call_is_explained_with_where_to_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = office(tmp_path, capsys)
    done = shell.run("explain", "req_nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert "The ledger has no attempt of 'req_nobody'." in done.stderr
    assert "call.done" in done.stderr
    missing = shell.run("explain", "req_nobody", "--log", "/nowhere/log")
    assert missing.stderr == "headgate: --log /nowhere/log: cannot be read: No such file or directory.\n"


def test_corrections_lost_prices_and_names_of_callers_are_told_safely(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = structs.replace(RESCUED[1], attempt=1, cost_nanos=None, user="eve\x1b[2J", reason="first")
    mend = structs.replace(
        first, id="cor_1", call_id="rec_1", outcome="correction", corrects=first.id, usage=Usage(input=-12, output=3)
    )
    said = good(office(tmp_path, capsys, [first, mend]).run("explain", CALL))
    assert "corrected by cor_1: -12 in, +3 out, no price" in said
    assert "1 attempt: 400 tokens in, 40 out; no price" in said
    assert "\x1b" not in said


def test_an_entry_from_before_reasons_were_kept_is_told_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Receipt(**{
        name: getattr(RESCUED[1], name)
        for name in ("id", "call_id", "tenant", "key_id", "operation", "model", "backend", "upstream_model",
                     "started_at", "duration_ms", "outcome", "status")
    }, attempt=2)  # fmt: skip
    said = good(office(tmp_path, capsys, [old]).run("explain", CALL))
    assert "2. again: gpus, model llama-3.1-8b" in said
    assert "sent at 0 ms, no piece came, lasted 1,220 ms" in said


def test_the_id_that_an_answer_says_is_explained_by_the_server_and_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    with upstream() as url:
        config = f'discover: false\nengine: {{enabled: false}}\nbackends: [{{name: up, base_url: "{url}"}}]\n'
        with serving(home, config) as live:
            told = []
            for model in ("ok", "nobody"):
                status, headers = ask(live, model)
                assert status == (200 if model == "ok" else 404)
                told.append(headers["x-request-id"])
            status, body = live.get(f"/v1/organization/calls/{told[0]}", live.key)
            assert status == 200
            story = json.loads(body)
            assert (story["id"], story["outcome"], story["model"]) == (told[0], "ok", "ok")
            assert [step["backend"] for step in story["attempts"]] == ["up"]
            assert live.get(f"/v1/organization/calls/{told[1]}", live.key)[0] == 404
            until(lambda: any(line["request_id"] == told[1] for line in live.events("call.done")))
            beside = Office(home, capsys)
            assert json.loads(good(beside.run("explain", told[0], "--json"))) == story
            refused = good(beside.run("explain", told[1], "--log", str(live.log_path)))
            assert "code=model_not_found" in refused


def ask(live: Live, model: str) -> tuple[int, dict[str, str]]:
    with closing(http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)) as wire:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        wire.request("POST", "/v1/chat/completions", json.dumps(body), {"authorization": f"Bearer {live.key}"})
        answer = wire.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}
