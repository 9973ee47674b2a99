"""One execution for each key: real servers, a real upstream that counts."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.idempotency.talk import Got, ask, chat, leave, message, send, together
from tests.idempotency.upstream import counting, runs
from tests.live import Live, serving, start, until, wait_ready

CONFIG = """
discover: false
engine: {{enabled: false}}
retries: {{backoff_s: 0.05}}
health: {{breaker: {{open_s: 0.2, pause_s: 0.05, pause_max_s: 0.1}}}}
backends:
  - {{name: up, base_url: "{upstream}", models: ["*"]}}
routes:
  - {{model: "*", targets: [{{backend: up}}]}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with counting() as url:
        yield url


@pytest.fixture(scope="module")
def live(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("once"), CONFIG.format(upstream=upstream)) as live:
        yield live


def done(live: Live, answer: Got) -> list[dict[str, Any]]:
    return [event for event in live.events("call.done") if event["request_id"] == answer.headers["x-request-id"]]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_twenty_callers_at_once_cost_one_execution_and_get_the_same_bytes(
    live: Live, upstream: str, stream: bool
) -> None:
    text = f"at once {stream}"
    data = message(chat(text, "ok:ms=20", stream=stream), f"key {stream}")
    answers = asyncio.run(together([live.port] * 20, data))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert runs(upstream)[text] == 1
    assert sorted(str(answer.replay) for answer in answers) == ["None", *["joined"] * 19]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 20
    later = ask(live.port, chat(text, "ok:ms=20", stream=stream), f"key {stream}")
    assert (later.body, later.replay, later.headers["x-headgate-backend"]) == (answers[0].body, "true", "up")
    assert later.headers["content-type"] == answers[0].headers["content-type"]
    assert runs(upstream)[text] == 1
    if stream:
        assert later.body.endswith(b"data: [DONE]\n\n")


def test_a_replay_is_a_call_that_costs_nothing(live: Live) -> None:
    first = ask(live.port, chat("paid once"), "paid")
    again = ask(live.port, chat("paid once"), "paid")
    (paid,) = done(live, first)
    (free,) = done(live, again)
    assert (paid["attempts"], paid["outcome"], paid.get("replayed")) == (1, "ok", None)
    assert (free["attempts"], free["outcome"], free["replayed"]) == (0, "ok", True)
    assert (free["input_tokens"], free["output_tokens"], free.get("cost_usd")) == (0, 0, None)
    ledger = json.loads(live.get("/admin/usage", live.key)[1])["data"][0]["results"]
    assert sum(row["num_model_requests"] for row in ledger) == len(
        [event for event in live.events("call.done") if event["attempts"]]
    )


def test_a_replay_counts_as_one_request_and_no_tokens(live: Live, upstream: str) -> None:
    limits = {"requests_per_minute": 3, "tokens_per_minute": 300}
    status, made = live.post("/admin/keys", {"name": "small", "limits": limits})
    assert status == 200, made
    data = message(chat("limited", max_tokens=250), "limited", credential=json.loads(made)["key"])
    answers = [asyncio.run(send(live.port, data)) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.replay for answer in answers] == [None, "true", "true", None]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers[:3]]
    assert left == ["2", "1", "0"]
    assert runs(upstream)["limited"] == 1


def test_another_body_under_the_same_key_is_a_conflict_and_runs_nothing(live: Live, upstream: str) -> None:
    ask(live.port, chat("the one"), "one body")
    other = ask(live.port, chat("the other"), "one body")
    assert (other.status, other.code) == (409, "idempotency_key_reused")
    assert other.headers["x-should-retry"] == "false"
    assert "the other" not in runs(upstream)


def test_the_same_key_on_another_endpoint_is_another_key(live: Live) -> None:
    assert ask(live.port, chat("here"), "both").status == 200
    body = {"model": "ok", "input": "there"}
    assert asyncio.run(send(live.port, message(body, "both", "/v1/embeddings"))).status == 200


def test_a_call_without_a_key_leaves_nothing(live: Live, upstream: str) -> None:
    for _ in range(2):
        assert ask(live.port, chat("no key"), None).replay is None
    assert runs(upstream)["no key"] == 2


def comes_back(live: Live, upstream: str, text: str, stream: bool, after: int) -> None:
    """Leaves after so many bytes of the answer, or as soon as the call runs, and asks again."""
    data = message(chat(text, "ok:ms=10", stream=stream), text)

    async def main() -> Got:
        await leave(live.port, data, after)
        if after == 0:
            await asyncio.to_thread(until, lambda: runs(upstream).get(text) == 1)
        return await send(live.port, data)

    again = asyncio.run(main())
    assert again.status == 200
    assert again.replay in {"joined", "true"}
    assert runs(upstream)[text] == 1
    assert again.body.endswith(b"data: [DONE]\n\n" if stream else b"}")


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("after", [0, 1, 150, 500, 900])
def test_a_caller_that_leaves_and_comes_back_finds_the_answer_of_the_first_time(
    live: Live, upstream: str, stream: bool, after: int
) -> None:
    comes_back(live, upstream, f"leaving {stream} {after}", stream, after)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_a_caller_may_leave_after_any_byte(live: Live, upstream: str) -> None:
    for after in range(0, 2_400, 6):
        comes_back(live, upstream, f"any byte {after}", after % 12 == 0, after)


@pytest.mark.parametrize(
    "model", ["status:code=500", "status:code=429", "status:code=400", "no_finish", "reset_in_stream"]
)
def test_what_failed_is_not_kept(live: Live, upstream: str, model: str) -> None:
    text = f"failing {model}"
    stream = model in {"no_finish", "reset_in_stream"}
    made = []
    for _ in range(2):
        answer = ask(live.port, chat(text, model, stream=stream), f"fails {model}")
        assert answer.replay is None
        assert not answer.body.endswith(b"[DONE]\n\n")
        assert answer.status >= 400 or b'"error"' in answer.body
        made.append(runs(upstream)[text])
    assert made[1] > made[0], "each call makes its attempts anew"


def test_those_who_joined_a_call_that_fails_get_its_error(live: Live, upstream: str) -> None:
    data = message(
        chat("fails together", "slow_head:ms=700", stream=False), "fails together", x_headgate_timeout_s="0.5"
    )
    answers = asyncio.run(together([live.port] * 5, data))
    assert {(answer.status, answer.code) for answer in answers} == {(504, "deadline_exceeded")}
    assert runs(upstream)["fails together"] == 1


def test_a_restart_between_does_not_matter(upstream: str, tmp_path: Path) -> None:
    config = CONFIG.format(upstream=upstream)
    bodies = [chat("restart"), chat("restart stream", stream=True)]
    with serving(tmp_path, config) as live:
        before = [ask(live.port, body, "k" + str(place)) for place, body in enumerate(bodies)]
    with serving(tmp_path, config) as live:
        after = [ask(live.port, body, "k" + str(place)) for place, body in enumerate(bodies)]
    assert [answer.body for answer in before] == [answer.body for answer in after]
    assert [answer.replay for answer in after] == ["true", "true"]
    assert runs(upstream)["restart"] == runs(upstream)["restart stream"] == 1


def test_a_killed_server_leaves_a_clear_conflict_and_never_a_second_execution(upstream: str, tmp_path: Path) -> None:
    config = CONFIG.format(upstream=upstream)
    data = message(chat("killed", "slow_head:ms=60000"), "killed")
    live = wait_ready(start(tmp_path, config))
    try:
        finished = asyncio.run(send(live.port, message(chat("finished"), "finished")))

        async def cut() -> None:
            with pytest.raises((EOFError, OSError)):
                await send(live.port, data)

        async def main() -> None:
            caller = asyncio.create_task(cut())
            await asyncio.to_thread(until, lambda: runs(upstream).get("killed") == 1)
            live.process.send_signal(signal.SIGKILL)
            await caller

        asyncio.run(main())
    finally:
        live.process.kill()
        live.process.wait(10)
    with serving(tmp_path, config) as again:
        assert ask(again.port, chat("finished"), "finished").body == finished.body
        answer = ask(again.port, chat("killed", "slow_head:ms=60000"), "killed")
        assert (answer.status, answer.code) == (409, "idempotency_outcome_unknown")
        assert answer.headers["x-should-retry"] == "false"
        assert runs(upstream)["killed"] == 1


def test_a_call_whose_caller_left_ends_within_the_grace_time_of_a_stop(upstream: str, tmp_path: Path) -> None:
    config = CONFIG.format(upstream=upstream)
    data = message(chat("drained", "slow_head:ms=800"), "drained")
    live = wait_ready(start(tmp_path, config))
    try:

        async def main() -> None:
            await leave(live.port, data, 0)
            await asyncio.to_thread(until, lambda: runs(upstream).get("drained") == 1)

        asyncio.run(main())
        assert live.stop() == 0
    finally:
        live.process.kill()
    with serving(tmp_path, config) as again:
        answer = asyncio.run(send(again.port, data))
    assert (answer.status, answer.replay, runs(upstream)["drained"]) == (200, "true", 1)


def test_openais_client_retries_after_its_timeout_and_gets_the_one_answer(live: Live, upstream: str) -> None:
    client = openai.OpenAI(base_url=live.api, api_key=live.key, timeout=0.6, max_retries=5)
    with client:
        answer = client.chat.completions.create(
            model="slow_head:ms=1500",
            messages=[{"role": "user", "content": "patience"}],
            extra_headers={"Idempotency-Key": "sdk"},
        )
        assert (answer.choices[0].message.content or "").startswith("patience run ")
        assert runs(upstream)["patience"] == 1
        told = []
        for _ in range(2):
            with client.chat.completions.create(
                model="ok",
                messages=[{"role": "user", "content": "stream"}],
                stream=True,
                extra_headers={"Idempotency-Key": "sdk stream"},
            ) as stream:
                told.append([chunk.model_dump() for chunk in stream])
        assert told[0] == told[1]
        with pytest.raises(openai.ConflictError) as caught:
            client.chat.completions.create(
                model="ok", messages=[{"role": "user", "content": "else"}], extra_headers={"Idempotency-Key": "sdk"}
            )
        assert caught.value.code == "idempotency_key_reused"
        conflicts = [event for event in live.events("request.refused") if event["code"] == "idempotency_key_reused"]
    assert runs(upstream)["stream"] == 1
    assert "else" not in runs(upstream)
    assert conflicts
