"""PostgreSQL goes away under a running server: calls with a key wait for it, all others do not need it."""

import asyncio
import json
from pathlib import Path

import psycopg
from psycopg import sql

from tests.idempotency.talk import Got, ask, chat, message, send
from tests.idempotency.test_live import CONFIG
from tests.idempotency.upstream import counting, runs
from tests.live import serving, until
from tests.servers import postgres_database


class Switch:
    """Lets nobody into one database, and again all."""

    def __init__(self, url: str) -> None:
        self.name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        self.other = psycopg.conninfo.make_conninfo(url, dbname="postgres")

    def turn(self, on: bool) -> None:
        with psycopg.connect(self.other, autocommit=True) as db:
            allow = sql.SQL("alter database {} allow_connections {}")
            db.execute(allow.format(sql.Identifier(str(self.name)), sql.Literal(on)))
            if not on:
                db.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [self.name])


def test_without_postgresql_a_key_gets_a_503_and_comes_back_with_it(tmp_path: Path) -> None:
    with postgres_database() as url, counting() as upstream:
        config = CONFIG.format(upstream=upstream) + f"storage: {{sql: {json.dumps(url)}}}\n"
        switch = Switch(url)
        with serving(tmp_path, config) as live:
            kept = ask(live.port, chat("kept"), "kept")
            assert kept.status == 200

            async def during() -> Got:
                slow = asyncio.create_task(send(live.port, message(chat("during", "slow_head:ms=1000"), "during")))
                await asyncio.to_thread(until, lambda: runs(upstream).get("during") == 1)
                await asyncio.to_thread(switch.turn, False)
                return await slow

            try:
                told = asyncio.run(during())
                assert told.status == 200  # it had begun: it is answered, and kept as soon as that can be
                for text in ("new", "kept"):
                    away = ask(live.port, chat(text), text)
                    assert (away.status, away.code) == (503, "storage_unavailable")
                    assert "x-should-retry" not in away.headers
                assert ask(live.port, chat("plain"), None).status == 200
                assert "new" not in runs(upstream)
            finally:
                switch.turn(True)
            until(lambda: ask(live.port, chat("new"), "new").status == 200, 30)
            assert ask(live.port, chat("kept"), "kept").body == kept.body
            until(lambda: ask(live.port, chat("during", "slow_head:ms=1000"), "during").replay == "true", 30)
            again = ask(live.port, chat("during", "slow_head:ms=1000"), "during")
            assert again.body == told.body
        assert set(runs(upstream).values()) == {1}
