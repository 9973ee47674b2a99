"""Several engines in one process: who begins, who is ready, who gives way, what is told; with real engine processes."""

import asyncio
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec import Struct, structs

from headgate.app.config import EngineConfig, ModelConfig
from headgate.app.engine_turns import Turns
from headgate.app.engine_views import shown
from headgate.app.engines import Around, Engines
from headgate.app.inference import allowed_folder, hosted_models
from headgate.app.yamlfile import ConfigError
from headgate.core.clock import SystemClock
from headgate.core.errors import BadCall, Conflict, Overloaded
from headgate.core.hosting import LoadSpec
from headgate.core.ids import Ids
from headgate.core.ports import Backend, ModelInfo
from headgate.engine.front.client import EngineClient
from headgate.engine.plan import SamplingParams
from headgate.engine.settings import EngineSettings
from headgate.engine.wire import Loading
from headgate.telemetry.log import Log
from headgate.tenancy.records import CLI, Actor
from tests.backends import folders
from tests.clock import VirtualClock

SMALL = EngineSettings(kv_cache_mib=1, max_sequences=2)


class House:
    """Where the engines tell what they do."""

    def __init__(self) -> None:
        self.offered: dict[str, tuple[str, ...]] = {}
        self.published: list[dict[str, tuple[str, ...]]] = []
        self.allowed: dict[str, int | None] = {}
        self.notes: list[str] = []
        self.lines: list[str] = []
        self.sql_is_away = False

    def add_own(
        self, name: str, models: tuple[ModelInfo, ...], backend: Backend | None = None, pool: str | None = None
    ) -> None:
        assert pool == "embedded"
        self.offered[name] = tuple(model.id for model in models)

    def remove_own(self, name: str) -> None:
        del self.offered[name]

    def publish(self) -> None:
        self.published.append(dict(self.offered))

    def allow(self, replica: str, limit: int | None) -> None:
        self.allowed[replica] = limit

    async def note(self, by: Actor, kind: str, target: str, after: Struct | None) -> None:
        if self.sql_is_away:
            raise Overloaded("SQL is away.")
        self.notes.append(f"{kind} {target}")

    def states(self, model: str) -> list[str]:
        lines = [json.loads(line) for line in self.lines]
        return [line["state"] for line in lines if line["event"] == "engine.state" and line["model"] == model]


def run(config: EngineConfig, work: Callable[[Engines, House], Awaitable[None]]) -> None:
    async def main() -> None:
        house, clock = House(), SystemClock()
        ids = Ids(clock, random.Random(1))
        log = Log(clock, "info", house.lines.append)
        engines = Engines(config, Around(house, house.allow, house.note), clock, ids, log)
        engines.launch()
        watching = asyncio.ensure_future(engines.watch())
        try:
            await work(engines, house)
        finally:
            watching.cancel()
            await engines.aclose()
        assert all(one.process.pid is None for one in engines.models.values())

    asyncio.run(asyncio.wait_for(main(), 60))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        folders.write(tmp_path / name)
    return tmp_path


def of(folder: Path, **changes: object) -> EngineConfig:
    models = tuple(ModelConfig(name, str(folder / name)) for name in ("a", "b"))
    return structs.replace(EngineConfig(settings=SMALL, models=models, models_dir=str(folder)), **changes)


def test_a_crash_of_one_leaves_the_server_ready_and_the_other_alone(folder: Path) -> None:
    async def work(engines: Engines, house: House) -> None:
        assert not engines.ready()[0]
        assert "a" in engines.progress()
        await until(lambda: engines.ready()[0])
        assert house.offered == {"embedded": ("a",), "embedded:b": ("b",)}
        assert house.allowed == {"embedded": 4, "embedded:b": 4}
        pid, other = engines.models["a"].process.pid, engines.models["b"].process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: engines.get("a").state == "restarting")
        assert engines.get("a").trouble == "its process ended (signal 9, Killed)"
        assert engines.ready()[0]
        await until(lambda: engines.get("a").state == "ready")
        assert engines.get("a").restarts == 1
        assert engines.models["b"].process.pid == other
        assert house.states("a") == ["loading", "ready", "restarting", "ready"]
        assert house.states("b") == ["loading", "ready"]

    run(of(folder), work)


def test_what_does_not_fit_begins_asleep_and_those_who_rest_give_way(folder: Path) -> None:
    async def work(engines: Engines, house: House) -> None:
        await until(lambda: engines.ready()[0])
        assert (engines.get("a").state, engines.get("b").state) == ("ready", "asleep")
        assert house.offered["embedded:b"] == ("b",), "asleep, and still listed"
        with pytest.raises(Overloaded) as told:
            await engines.models["b"].process.awake()
        assert "a" not in told.value.message.split(), "callers are not told who is there"
        await until(lambda: engines.models["a"].idle_s > 1.1)
        await engines.models["b"].process.awake()
        assert (engines.get("a").state, engines.get("b").state) == ("asleep", "ready")
        assert engines.memory().used_mib <= engines.memory().limit_mib
        with pytest.raises(Conflict, match="MiB"):
            await engines.load(LoadSpec(name="c", model="a"), CLI)
        assert "c" not in engines.models
        assert house.notes == []

    run(of(folder, memory_mib=100), work)


def test_models_that_are_all_in_use_have_the_memory_by_turns(folder: Path) -> None:
    async def work(engines: Engines, house: House) -> None:
        await until(lambda: engines.ready()[0])
        answered, refused, calling = Counter[str](), Counter[str](), True

        async def call(name: str) -> None:
            client = engines.models[name].client
            assert isinstance(client, EngineClient)
            while calling:
                try:
                    await client.awake()
                    generation = client.submit(((1,),), SamplingParams(ignore_eos=True), max_tokens=20)
                    answered[name] += len([delta async for delta in generation if delta.finish])
                except Overloaded:
                    refused[name] += 1
                    await asyncio.sleep(0.02)

        callers = [asyncio.ensure_future(call(name)) for name in ("a", "b") for _ in range(3)]
        await until(lambda: engines.models["b"].process.starts == 2)
        calling = False
        await asyncio.gather(*callers)
        assert min(answered["a"], answered["b"], refused["a"], refused["b"]) > 0
        assert engines.memory().used_mib <= engines.memory().limit_mib
        told = [line for line in house.lines if "gives way to" in line]
        assert len(told) >= 3, "a, b, and a again"
        lines = sum("Raise engine.memory_mib" in line for line in house.lines)
        assert lines * 5 < refused.total(), "not one for each of the calls"

    run(of(folder, memory_mib=100, turn_s=0.3), work)


def test_whoever_is_never_to_give_way_does_not(folder: Path) -> None:
    async def work(engines: Engines, house: House) -> None:
        await until(lambda: engines.ready()[0])
        a, b = engines.models["a"], engines.models["b"]
        turns = Turns(0.0 if a.hosted.keep == "idle" else 1e-9, SystemClock())
        for _ in range(3):
            await asyncio.sleep(0.001)
            assert turns.refused(b, [a], 100) is None
        assert turns.due() is None

    run(of(folder, memory_mib=100), work)
    models = (ModelConfig("a", str(folder / "a"), keep="always"), ModelConfig("b", str(folder / "b")))
    run(of(folder, memory_mib=100, models=models), work)


def test_a_turn_that_cannot_be_had_is_given_up_and_everybody_takes_calls_again(folder: Path) -> None:
    async def work(engines: Engines, house: House) -> None:
        await until(lambda: engines.ready()[0])
        clock = VirtualClock()
        turns, a, b = Turns(5.0, clock), engines.models["a"], engines.models["b"]
        assert isinstance(a.client, EngineClient)
        assert turns.refused(b, [a], 100) is None
        clock.jump(6.0)
        assert turns.refused(b, [a], 100) is not None
        with pytest.raises(Overloaded, match="no memory"):
            await a.client.awake()
        long = a.client.submit(((1,),), SamplingParams(ignore_eos=True), max_tokens=400)
        assert turns.due() is None, "it ends what it does first"
        clock.jump(61.0)
        assert turns.due() is None
        await a.client.awake()
        long.close()
        clock.jump(11.0)
        assert turns.refused(b, [a], 100) is None, "nobody called for it meanwhile: it waits anew"

    run(of(folder, memory_mib=100), work)


def test_who_is_not_called_falls_asleep_and_who_must_stay_does_not(folder: Path) -> None:
    models = (ModelConfig("a", str(folder / "a"), keep="always"), ModelConfig("b", str(folder / "b")))

    async def work(engines: Engines, house: House) -> None:
        await until(lambda: engines.get("b").state == "asleep")
        assert engines.get("a").state == "ready"
        assert house.states("b") == ["loading", "ready", "asleep"]
        assert (await engines.wake("b", CLI)).state in {"loading", "ready"}
        await until(lambda: engines.get("b").state == "ready")
        assert house.notes == ["engine.woken b"]

    run(of(folder, models=models, sleep_after_s=0.4), work)


def test_what_cannot_be_written_to_the_audit_log_is_not_done(folder: Path) -> None:
    async def work(engines: Engines, house: House) -> None:
        await until(lambda: engines.ready()[0])
        house.sql_is_away = True
        with pytest.raises(Overloaded, match="SQL"):
            await engines.load(LoadSpec(name="c", model="a"), CLI)
        with pytest.raises(Overloaded, match="SQL"):
            await engines.unload("a", CLI)
        with pytest.raises(Overloaded, match="SQL"):
            await engines.sleep("a", CLI)
        assert [one.state for one in engines.all()] == ["ready", "ready"]
        house.sql_is_away = False
        both = await asyncio.gather(
            *(engines.load(LoadSpec(name="c", model="a"), CLI) for _ in range(2)), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in both) == ["Conflict", "EngineView"]
        await until(lambda: house.published[-1:] == [{**house.offered, "embedded:c": ("c",)}])
        await engines.unload("a", CLI)
        assert house.published[-1]["embedded"] == (), "the pool stays for the others"
        await until(lambda: "a" not in engines.models)

    run(of(folder), work)


def test_a_limit_that_can_never_hold_is_refused_at_the_start_with_the_numbers(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.memory_mib: 50 MiB do not hold 'a' 8\d"):
        run(of(folder, memory_mib=50), lambda engines, house: asyncio.sleep(0))
    always = tuple(ModelConfig(name, str(folder / name), keep="always") for name in ("a", "b"))
    with pytest.raises(ConfigError, match=r"'a' .*, 'b' "):
        run(of(folder, memory_mib=100, models=always), lambda engines, house: asyncio.sleep(0))


def test_the_settings_name_models_by_folder_package_or_as_bundled(folder: Path) -> None:
    (only,) = hosted_models(EngineConfig(model="bundled", name="mine"))
    assert (only.name, only.folder.name) == ("mine", "headgate-demo")
    assert hosted_models(EngineConfig())[0].name == "headgate-demo"
    assert [one.name for one in hosted_models(of(folder))] == ["a", "b"]
    with pytest.raises(ConfigError, match="two models are named 'b'"):
        hosted_models(of(folder, model=str(folder / "b")))
    with pytest.raises(ConfigError, match="the model of 'c': /nowhere is no"):
        hosted_models(of(folder, models=(ModelConfig("c", "/nowhere"),)))
    for model in ("package:no_such", "long" * 100, "package:os.path", "package:__main__", str(folder)):
        with pytest.raises(ConfigError, match=r"config\.json"):
            hosted_models(EngineConfig(model=model))


def test_only_folders_below_the_given_one_can_be_asked_for(folder: Path) -> None:
    assert allowed_folder("a", str(folder)) == folder / "a"
    assert allowed_folder("bundled", None).name == "headgate-demo"
    with pytest.raises(BadCall, match="models_dir is not set"):
        allowed_folder("a", None)
    (folder / "a" / "inner").symlink_to("/etc")
    for model in ("..", "../a", "/", str(folder / "a"), "a/../../x", "a/inner", ".", "", "a\0", "~/a"):
        with pytest.raises(BadCall):
            allowed_folder(model, str(folder))


def test_how_far_a_load_has_come_is_shown_as_far_as_it_is_known() -> None:
    assert shown(None) == ""
    assert shown(Loading("grammar")) == " (grammar)"
    assert shown(Loading("weights", 2**20, 4 * 2**20)) == " (weights 25% of 4 MiB)"
