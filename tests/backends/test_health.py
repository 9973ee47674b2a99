import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from headgate.backends.health import Condition, HealthMonitor, HealthSettings, judge
from headgate.core.call import Call
from headgate.core.ports import Answer, Health, ModelInfo
from headgate.core.target import Target
from tests.backends.calls import CLOCK, backend, until
from tests.upstream.process import upstream

QUICK = HealthSettings(interval_s=0.01, timeout_s=2.0, failures=2)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4))
def test_so_many_misses_in_a_row_are_failing_and_one_hit_is_ok(probes: list[bool], failures: int) -> None:
    condition = Condition()
    for place, good in enumerate(probes):
        condition = judge(condition, Health(good, "x"), failures, float(place))
        last = probes[: place + 1][-failures:]
        if good:
            assert condition.state == "ok"
        elif len(last) == failures and not any(last):
            assert condition.state == "failing"
        else:
            assert condition.state != "failing" or not any(probes[:place][-failures:])


def test_a_server_that_dies_is_seen_and_one_that_comes_back_too() -> None:
    async def main() -> None:
        changes: list[tuple[str, str]] = []
        monitor = HealthMonitor(CLOCK, QUICK, lambda name, now: changes.append((name, now.state)))
        with upstream() as base_url:
            up = backend(base_url)
            assert monitor.usable("up")
            monitor.watch([up])
            await until(lambda: monitor.condition("up").state == "ok")
            assert monitor.condition("up").latency_ms is not None
        await until(lambda: monitor.condition("up").state == "failing")
        assert not monitor.usable("up")
        assert "upstream_" in monitor.condition("up").detail
        port = int(base_url.rsplit(":", 1)[1].split("/")[0])
        with upstream(port=port):
            await until(lambda: monitor.condition("up").state == "ok")
        assert changes[:3] == [("up", "ok"), ("up", "failing"), ("up", "ok")]
        monitor.watch([])
        assert monitor.conditions == {}
        await monitor.aclose()
        await up.aclose()

    asyncio.run(main())


class Silent:
    name = "silent"
    kind = "silent"

    async def open(self, call: Call, target: Target) -> Answer:
        raise NotImplementedError

    async def models(self) -> Sequence[ModelInfo]:
        return []

    async def probe(self) -> Health:
        await asyncio.Event().wait()
        raise AssertionError

    async def aclose(self) -> None:
        pass


def test_a_probe_that_never_returns_is_a_miss() -> None:
    async def main() -> None:
        monitor = HealthMonitor(CLOCK, HealthSettings(interval_s=0.01, timeout_s=0.02, failures=1))
        monitor.watch([Silent()])
        await until(lambda: monitor.condition("silent").state == "failing")
        assert monitor.condition("silent").detail == "no answer within 0.02 s"
        await monitor.aclose()

    asyncio.run(main())


class Changing(Silent):
    """Answers its probe, or does not, as told."""

    name = "changing"
    there = True
    asked = 0

    async def probe(self) -> Health:
        self.asked += 1
        return Health(True, "answered") if self.there else await super().probe()


def test_a_suspect_is_out_with_its_first_miss_and_asked_until_it_answers() -> None:
    async def main() -> None:
        settings = HealthSettings(interval_s=60.0, failures=5, suspect_timeout_s=0.02, suspect_interval_s=0.01)
        monitor, up = HealthMonitor(CLOCK, settings), Changing()
        monitor.watch([up])
        await until(lambda: monitor.condition("changing").state == "ok")
        monitor.suspect("changing")
        await until(lambda: up.asked == 2)
        await asyncio.sleep(0.01)
        assert monitor.usable("changing")  # it answered: it is no suspect any more
        up.there = False
        monitor.suspect("changing")
        await until(lambda: not monitor.usable("changing"))
        assert monitor.condition("changing").detail == "no answer within 0.02 s"
        up.there = True
        await until(lambda: monitor.usable("changing"))
        monitor.suspect("unknown")
        await monitor.aclose()

    asyncio.run(main())


def test_a_suspect_that_is_taken_out_of_the_configuration_is_asked_no_more() -> None:
    async def main() -> None:
        monitor, up = HealthMonitor(CLOCK, HealthSettings(suspect_timeout_s=0.02, suspect_interval_s=0.01)), Changing()
        monitor.watch([up])
        await until(lambda: monitor.condition("changing").state == "ok")
        up.there = False
        monitor.suspect("changing")
        await until(lambda: up.asked > 2)
        monitor.watch([])
        asked = up.asked
        await asyncio.sleep(0.05)
        assert up.asked == asked
        assert monitor.conditions == {}
        await monitor.aclose()

    asyncio.run(main())
