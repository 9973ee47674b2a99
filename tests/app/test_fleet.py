"""Backends in force: unchanged ones are kept, removed ones live on for their calls, bad settings change nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from headgate.app.config import Config, RouteSettings
from headgate.app.fleet import REFRESH_SECONDS, RETIRE_SECONDS, Fleet
from headgate.app.rules import RuleSettings, TargetSettings
from headgate.app.yamlfile import ConfigError
from headgate.backends.catalog import BackendSettings, ReplicaSettings
from headgate.core.ports import Backend, ModelInfo
from headgate.core.rules import Hedge
from headgate.core.target import RouteTable
from headgate.telemetry.log import Log
from tests.clock import VirtualClock
from tests.upstream.chaos import chaos
from tests.upstream.process import upstream


class House:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.lines: list[str] = []
        self.published: list[tuple[RouteTable, Mapping[str, Backend], Mapping[str, Sequence[str]]]] = []
        self.fleet = Fleet(
            self.clock, Log(self.clock, "debug", self.lines.append), {}, lambda *both: self.published.append(both), None
        )

    @property
    def models(self) -> list[str]:
        return sorted(self.published[-1][0].exact)

    @property
    def backends(self) -> Mapping[str, Backend]:
        return self.published[-1][1]


def config(*backends: BackendSettings) -> Config:
    return Config(backends=backends, discover=False)


def scripted(name: str, *models: str) -> BackendSettings:
    return BackendSettings(name=name, kind="scripted", models=models or None)


def run(main: Callable[[House], Awaitable[None]]) -> None:
    async def inside() -> None:
        house = House()
        try:
            await main(house)
        finally:
            await house.fleet.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(inside())


def test_unchanged_backends_are_kept_changed_ones_replaced_removed_ones_gone() -> None:
    async def main(house: House) -> None:
        await house.fleet.apply(config(scripted("a"), scripted("b", "x"), scripted("c")))
        before = house.backends
        await house.fleet.apply(config(scripted("a"), scripted("b", "y")))
        after = house.backends
        assert after["a"] is before["a"]
        assert after["b"] is not before["b"]
        assert sorted(after) == ["a", "b"]
        assert house.models == ["scripted", "y"]
        assert house.fleet.up() == {"a": 1.0, "b": 1.0}
        versions = [table.version for table, *_ in house.published]
        assert versions == sorted(set(versions))

    run(main)


def test_a_removed_backend_is_closed_only_when_its_calls_have_had_their_time() -> None:
    async def main(house: House) -> None:
        await house.fleet.apply(config(scripted("a"), scripted("b")))
        await house.fleet.apply(config(scripted("a")))
        task = asyncio.create_task(house.fleet.keep_fresh())
        await house.clock.advance(RETIRE_SECONDS - 1)
        assert len(house.fleet._retired) == 1
        await house.clock.advance(REFRESH_SECONDS + 2)
        assert house.fleet._retired == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main)


def test_settings_that_cannot_work_change_nothing_and_name_the_backend() -> None:
    async def main(house: House) -> None:
        await house.fleet.apply(config(scripted("a")))
        far = BackendSettings(name="far", base_url="http://127.0.0.1:9/v1", api_key_env="FAR_KEY")
        with pytest.raises(ConfigError, match=r"'far'.*FAR_KEY is not set"):
            await house.fleet.apply(config(scripted("new"), far))
        assert sorted(house.backends) == ["a"]
        assert len(house.published) == 1

    run(main)


def test_a_backends_own_list_is_followed_and_survives_its_silence() -> None:
    async def main(house: House) -> None:
        with upstream(models="one,two") as url:
            await house.fleet.apply(config(BackendSettings(name="up", base_url=url)))
            assert house.models == ["one", "two"]
        await house.fleet.refresh()
        assert house.models == ["one", "two"]
        assert any("lists no models" in line for line in house.lines)

    run(main)


def test_a_backend_built_elsewhere_is_listed_first_and_called_if_it_is_there() -> None:
    async def main(house: House) -> None:
        house.fleet.add_own("embedded", [ModelInfo("scripted")])
        await house.fleet.apply(config(scripted("a")))
        route = house.published[-1][0].exact["scripted"]
        assert [target.backend for target in (*route.targets, *route.fallbacks)] == ["embedded", "a"]
        assert sorted(house.backends) == ["a"]

    run(main)


def test_a_backend_with_replicas_is_one_to_callers_and_several_to_the_path() -> None:
    async def main(house: House) -> None:
        pool = BackendSettings(
            name="pool",
            kind="scripted",
            models=("x",),
            replicas=(ReplicaSettings(), ReplicaSettings(name="big", weight=3.0)),
        )
        await house.fleet.apply(config(pool))
        table, backends, pools = house.published[-1]
        assert (sorted(backends), pools["pool"]) == (["big", "pool-1"], ["pool-1", "big"])
        route = table.exact["x"]
        assert [(t.backend, t.at, t.weight) for t in route.targets] == [("pool", "pool-1", 0.25), ("pool", "big", 0.75)]
        assert route.owned_by == "pool"
        named = Config(
            backends=(pool,), discover=False, routes=(RouteSettings("chat", (TargetSettings("pool", "x", 2.0),)),)
        )
        await house.fleet.apply(named)
        targets = house.published[-1][0].exact["chat"].targets
        assert [(t.at, t.weight) for t in targets] == [("pool-1", 0.5), ("big", 1.5)]

    run(main)


def test_rules_of_all_routes_hold_where_a_route_says_nothing_else() -> None:
    async def main(house: House) -> None:
        longer = (TargetSettings("b", "long"),)
        given = Config(
            backends=(scripted("a", "x"), scripted("b", "long")),
            discover=False,
            rules=RuleSettings(
                balance="prefix", hedge=Hedge(), recovery=("replay",), on_error={"context_length": longer}
            ),
            routes=(
                RouteSettings("own", (TargetSettings("a", "x"),), rules=RuleSettings(hedge=None, balance="sticky")),
            ),
        )
        await house.fleet.apply(given)
        exact = house.published[-1][0].exact
        assert (exact["x"].rules.balance, exact["own"].rules.balance) == ("prefix", "sticky")
        assert exact["x"].rules.hedge == Hedge()
        assert exact["own"].rules.hedge is None
        assert exact["own"].rules.recovery == ("replay",)
        assert [target.model for target in exact["own"].chains["context_length"]] == ["long"]

    run(main)


def test_servers_are_asked_how_much_waits_only_where_a_route_is_balanced_by_it() -> None:
    async def main(house: House) -> None:
        heard: list[tuple[str, float]] = []
        house.fleet.hear = lambda at, seen: heard.append((at, seen.waiting))
        with chaos() as up:
            up.gauges(running=3, waiting=7, kv_usage=0.5)
            server = BackendSettings(name="up", base_url=up.base_url, models=("x",))
            await house.fleet.apply(Config(backends=(server,), discover=False))
            assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("scrape")]
            by_queue = Config(backends=(server,), discover=False, rules=RuleSettings(balance="queue_depth"))
            await house.fleet.apply(by_queue)
            async with asyncio.timeout(5):
                while not heard:
                    await asyncio.sleep(0.01)
        assert heard[0] == ("up", 7.0)

    run(main)
