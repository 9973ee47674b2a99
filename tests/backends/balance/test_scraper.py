"""Servers are asked for their metrics; who says nothing is told apart, and asked less often."""

import asyncio

import pytest

from headgate.backends.balance.scraper import BACK_OFF_MOST, Scraper, ScrapeSettings
from headgate.backends.balance.server_metrics import ServerLoad
from headgate.backends.openai import OpenAIBackend, OpenAISettings
from headgate.core.clock import SystemClock
from headgate.core.errors import Upstream
from tests.clock import VirtualClock

PAGE = "vllm:num_requests_waiting 3\nvllm:num_requests_running 5\n"


class Servers:
    """What is fetched, by address, and who was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, str | Exception] = {}
        self.asked: list[str] = []
        self.heard: list[tuple[str, ServerLoad]] = []

    async def fetch(self, address: str) -> str:
        self.asked.append(address)
        page = self.pages.get(address)
        if page is None:
            await asyncio.Event().wait()
        if isinstance(page, Exception):
            raise page
        return str(page)

    def hear(self, at: str, seen: ServerLoad) -> None:
        self.heard.append((at, seen))


def test_every_server_is_asked_once_an_interval_until_it_is_not_watched() -> None:
    async def main() -> None:
        clock, servers = VirtualClock(), Servers()
        servers.pages = {"http://a/metrics": PAGE, "http://b/metrics": PAGE}
        scraper = Scraper(clock, servers.fetch, servers.hear, ScrapeSettings(interval_s=2.0))
        scraper.watch({"a": "http://a/metrics", "b": "http://b/metrics"})
        await clock.advance(5.0)
        assert sorted(servers.asked) == ["http://a/metrics"] * 3 + ["http://b/metrics"] * 3
        assert servers.heard[0] == ("a", ServerLoad(3, 5))
        scraper.watch({"a": "http://a/metrics"})
        servers.asked.clear()
        await clock.advance(4.0)
        assert servers.asked == ["http://a/metrics"] * 2
        await scraper.aclose()
        assert clock.sleeping == 0

    asyncio.run(main())


def test_a_server_that_fails_is_named_and_asked_less_often() -> None:
    async def main() -> None:
        clock, servers = VirtualClock(), Servers()
        address = "http://a/metrics"
        servers.pages = {address: Upstream("http://a/metrics closed the connection")}
        scraper = Scraper(clock, servers.fetch, servers.hear)
        scraper.watch({"a": address})
        await clock.advance(1_000.0)
        assert len(servers.asked) <= 6 + 1_000 / BACK_OFF_MOST
        assert address in scraper.silent["a"]
        servers.pages[address] = "nothing_known 1\n"
        await clock.advance(BACK_OFF_MOST)
        assert "flag" in scraper.silent["a"]
        servers.pages[address] = ConnectionRefusedError("refused")
        await clock.advance(BACK_OFF_MOST)
        assert "refused" in scraper.silent["a"]
        assert servers.heard == []
        servers.pages[address] = PAGE
        await clock.advance(BACK_OFF_MOST)
        assert servers.heard
        assert scraper.silent == {}
        await scraper.aclose()

    asyncio.run(main())


def test_a_server_that_does_not_answer_is_given_up() -> None:
    async def main() -> None:
        clock, servers = VirtualClock(), Servers()
        scraper = Scraper(clock, servers.fetch, servers.hear, ScrapeSettings(timeout_s=0.01))
        scraper.watch({"a": "http://a/metrics"})
        async with asyncio.timeout(10):
            while "a" not in scraper.silent:
                await asyncio.sleep(0.005)
        assert "did not answer" in scraper.silent["a"]
        scraper.watch({"a": "http://other/metrics"})
        assert scraper.silent == {}
        await scraper.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(("prefix", "path"), [("/v1", "/metrics"), ("/qwen/v1/", "/qwen/metrics"), ("", "/metrics")])
def test_metrics_stand_beside_the_api(prefix: str, path: str) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(PAGE) + PAGE.encode())
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            backend = OpenAIBackend(
                OpenAISettings(name="up", base_url=f"http://127.0.0.1:{port}{prefix}"), SystemClock()
            )
            assert await backend.metrics() == PAGE
            await backend.aclose()
        assert asked == [f"GET {path} HTTP/1.1\r\n".encode()]

    asyncio.run(main())
