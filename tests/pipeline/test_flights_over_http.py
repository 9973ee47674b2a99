"""Single flight over real HTTP: one request reaches the model server, everyone gets its bytes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from headgate.core.events import Event
from headgate.core.target import Route, RouteTable, Target
from tests.backends.calls import backend, stats, until_idle, until_stats
from tests.pipeline.flying import Flying
from tests.pipeline.spine import until
from tests.upstream.process import upstream

SLOW = "ok:ms=20"


@asynccontextmanager
async def house(folder: Path, url: str, model: str) -> AsyncIterator[Flying]:
    up = backend(url)
    spine = Flying(folder, [up])
    spine.gateway.routes = RouteTable(1, {"m": Route("m", (Target("up", model),))})
    try:
        yield spine
    finally:
        await until_idle(up)
        await up.aclose()


def content(items: list[Event | bytes]) -> bytes:
    return b"".join(item for item in items if isinstance(item, bytes))


def test_a_hundred_identical_calls_are_one_request_and_the_same_bytes(tmp_path: Path) -> None:
    async def main(url: str) -> None:
        for number, more in enumerate(({"stream": True}, {"stream": False})):
            async with house(tmp_path / str(number), url, SLOW) as spine:
                before = (await stats(url))["requests"]
                answers = await asyncio.gather(*(spine.outcome(**more) for _ in range(100)))
                assert (await stats(url))["requests"] - before == 1
                bodies = {content(items) for _, items in answers}
                assert len(bodies) == 1
                assert b"data: " in bodies.pop() if more["stream"] else bodies.pop().startswith(b"{")
                assert [receipt.outcome for receipt in spine.receipts()] == ["ok"]
                assert [line["outcome"] for line in spine.done()] == ["ok"] * 100
                spine.at_rest()

    with upstream() as url:
        asyncio.run(main(url))


def test_when_all_have_left_the_model_server_sees_it(tmp_path: Path) -> None:
    async def main(url: str) -> None:
        async with house(tmp_path, url, "ok:ms=500") as spine:
            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(spine.outcome()) for _ in range(5)]
            await until_stats(url, lambda seen: seen["open"] == 1)
            await until(lambda: spine.admission.gate.active == 5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await until_stats(url, lambda seen: seen["open"] == 0 and seen["cancelled"] == 1)
            assert [receipt.outcome for receipt in spine.receipts()] == ["cancelled"]
            spine.at_rest()

    with upstream() as url:
        asyncio.run(main(url))
