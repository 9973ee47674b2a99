"""An engine asleep has no process; the first call wakes it, all who wait hear the same, and nobody waits for ever."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from headgate import engine
from headgate.core.clock import SystemClock
from headgate.core.errors import Failed, Overloaded
from headgate.engine.front import waking
from headgate.engine.front.client import EngineClient
from headgate.engine.front.waking import Waking
from headgate.engine.plan import SamplingParams
from tests.engine import tiny

BUNDLED = Path(engine.__path__[0]) / "bundled" / "headgate-demo"
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


def run(folder: Path, work: Callable[[EngineClient], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        client = await EngineClient.start(folder, clock=SystemClock())
        try:
            await work(client)
        finally:
            await client.aclose()
        assert client.pid is None
        assert client.process.state == "closed"

    asyncio.run(asyncio.wait_for(main(), 60))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def answer(client: EngineClient) -> list[int]:
    await client.awake()
    generation = client.submit([(4, 5)], GREEDY, max_tokens=20)
    return [token async for delta in generation for token in delta.tokens]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.write(tmp_path)
    return tmp_path


def test_asleep_it_has_no_process_and_one_start_serves_all_who_wait(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        expected, pid = await answer(client), client.pid
        states: list[str] = []
        client.process.told = lambda: states.append(client.process.state)
        assert client.process.idle_s >= 0
        await client.process.sleep()
        assert (client.asleep, client.pid, client.process.state) == (True, None, "asleep")
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(Overloaded, match="asleep"):
            client.submit([(4, 5)], GREEDY, max_tokens=20)
        asking = [asyncio.ensure_future(answer(client)) for _ in range(10)]
        await asyncio.sleep(0)
        assert client.process.busy
        asking.pop().cancel()  # the others do not hear of it
        assert await asyncio.gather(*asking) == [expected] * 9
        assert (client.process.starts, client.restarts, client.process.state) == (2, 0, "ready")
        assert states[-1] == "ready"
        assert "loading" in states
        assert client.process.start_s > 0
        assert client.stats.generated_tokens == 200, "totals go on"

    run(folder, work)


def test_a_start_tells_how_far_it_has_come() -> None:
    async def work(client: EngineClient) -> None:
        await client.process.sleep()
        asking = asyncio.ensure_future(answer(client))
        seen: set[str] = set()
        while not asking.done():
            await asyncio.sleep(0.001)
            if client.process.progress is not None:
                seen.add(client.process.progress.phase)
        assert len(await asking) == 20
        assert seen
        assert seen <= set(client.phases)

    run(BUNDLED, work)


def test_where_there_is_no_room_the_callers_are_told_and_it_stays_asleep(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        async def full() -> None:
            raise Overloaded("No room: 3 of 2 MiB.")

        async def room() -> None:
            return

        await client.process.sleep()
        client.process.admit = full
        told = await asyncio.gather(answer(client), answer(client), return_exceptions=True)
        assert [str(error) for error in told] == ["No room: 3 of 2 MiB."] * 2
        assert client.process.state == "asleep"
        client.process.admit = room
        assert len(await answer(client)) == 20

    run(folder, work)


def test_waking_while_it_falls_asleep_and_sleeping_while_it_wakes(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        sleeping = asyncio.ensure_future(client.process.sleep())
        await asyncio.sleep(0)
        assert len(await answer(client)) == 20
        await sleeping
        assert client.ready
        await client.process.sleep()
        asking = asyncio.ensure_future(answer(client))
        await until(lambda: client.pid is not None)
        await client.process.sleep()
        with pytest.raises(Overloaded, match="put to sleep"):
            await asking
        assert (client.process.state, client.pid) == ("asleep", None)
        assert len(await answer(client)) == 20

    run(folder, work)


def test_a_process_that_dies_while_it_wakes_fails_who_waits_and_is_tried_again(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        await client.process.sleep()
        asking = asyncio.ensure_future(answer(client))
        await until(lambda: client.pid is not None)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(Overloaded, match=r"could not be woken: its process ended \(signal 9, Killed\)"):
            await asking
        await until(lambda: client.ready)
        assert len(await answer(client)) == 20

    run(folder, work)


def test_a_folder_spoilt_while_it_slept_fails_its_callers_without_its_path(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        await client.process.sleep()
        (folder / "model.safetensors").write_bytes(b"gone")
        for _ in range(2):
            with pytest.raises(Failed, match="cannot be served") as told:
                await answer(client)
            assert str(folder) not in told.value.message
        assert client.process.state == "refused"

    run(folder, work)


def test_they_are_bounded_in_number() -> None:
    async def main() -> None:
        one = Waking()
        one.begin()
        waiting = [asyncio.ensure_future(one.wait()) for _ in range(waking.MAX_WAITERS)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1000 calls wait"):
            await one.wait()
        one.end(None)
        await asyncio.gather(*waiting)
        assert one.waiting == 0

    asyncio.run(main())
