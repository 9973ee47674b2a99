"""Stopping under load: what was accepted is finished, what comes later is refused at once."""

import asyncio
import signal
import time
from pathlib import Path

from tests.live import Live, serving, until
from tests.load.client import Refused, ask, chat, told_by_upstream
from tests.load.conftest import CONFIG

STREAMS = 60


class Hammer:
    """Clients that make one short call after the other, each on a new connection, until they are refused."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.answered = 0
        self.refused = 0
        self.lost = 0
        """Still in the kernel's queue, unseen by the server, when it stopped listening."""

    async def run(self) -> None:
        while await self._goes_on():
            self.answered += 1

    async def _goes_on(self) -> bool:
        try:
            async with ask(self.live.port, self.live.key, chat("ok:tokens=3", "hi")) as answer:
                return b"t0 t1 t2" in await answer.body()
        except ConnectionRefusedError:
            self.refused += 1
        except Refused as error:
            self.refused += error.status == 503
        except ConnectionError:
            self.lost += 1
        except asyncio.IncompleteReadError as error:
            self.lost += not error.partial
        return False


async def stream(live: Live, number: int, begun: asyncio.Barrier) -> None:
    body = chat("ok:tokens=60,ms=40", f"{number}", stream=True)
    async with ask(live.port, live.key, body) as answer:
        first = await answer.piece()
        await begun.wait()
        assert first + await answer.body() == told_by_upstream(body)


def test_a_stop_signal_under_load_fails_no_accepted_call(model_server: str, tmp_path: Path) -> None:
    async def under_load(live: Live, hammer: Hammer) -> None:
        begun = asyncio.Barrier(STREAMS + 1)
        async with asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                group.create_task(stream(live, number, begun))
            hammers = [group.create_task(hammer.run()) for _ in range(8)]
            await begun.wait()
            await asyncio.to_thread(until, lambda: hammer.answered > 20)
            live.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(2):  # refused at once, not at the end of the streams
                await asyncio.wait(hammers)

    with serving(tmp_path, CONFIG.format(upstream=model_server, engine="false")) as live:
        hammer = Hammer(live)
        asyncio.run(under_load(live, hammer))
        assert live.process.wait(10) == 0
        print(f"{hammer.answered} short calls answered, {hammer.refused} refused, {hammer.lost} lost")
        assert hammer.refused + hammer.lost == 8
        done = live.events("call.done")
        assert {line["outcome"] for line in done} == {"ok"}
        assert len(done) == STREAMS + hammer.answered
        assert live.events("server.stopped")


def test_a_second_stop_signal_ends_at_once(model_server: str, tmp_path: Path) -> None:
    async def stuck(live: Live) -> float:
        async with ask(live.port, live.key, chat("stall", "hi", stream=True)) as answer:
            await answer.piece()
            live.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(until, lambda: bool(live.events("server.draining")))
            assert live.process.poll() is None
            await asyncio.sleep(1.1)  # sooner it would count as the first one's echo
            live.process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            assert await asyncio.to_thread(live.process.wait, 5) == 130
            return time.monotonic() - begun

    with serving(tmp_path, CONFIG.format(upstream=model_server, engine="false")) as live:
        print(f"ended {asyncio.run(stuck(live)):.3f} s after the second signal")


def test_the_grace_time_ends_what_would_never_end(model_server: str, tmp_path: Path) -> None:
    config = CONFIG.format(upstream=model_server, engine="false") + "server: {grace_s: 1.0}\n"

    async def stuck(live: Live) -> bytes:
        async with ask(live.port, live.key, chat("stall", "hi", stream=True)) as answer:
            live.process.send_signal(signal.SIGTERM)
            return await answer.body()

    with serving(tmp_path, config) as live:
        heard = asyncio.run(stuck(live))
        assert b"[DONE]" not in heard
        assert b'"error"' in heard
        assert live.process.wait(10) == 0
        assert [line["outcome"] for line in live.events("call.done")] != ["ok"]
