"""The gates of all backends, when their settings change."""

import asyncio
from pathlib import Path

from msgspec import structs

from headgate.app.build import build
from headgate.app.config import Config, Environment
from headgate.app.home import Home
from headgate.app.reload import Reloader
from headgate.backends.catalog import BackendSettings
from headgate.core.clock import SystemClock
from headgate.core.events import Text
from headgate.core.target import Route, RouteTable, Target
from headgate.pipeline.admission import AdmissionSettings
from headgate.pipeline.capacity import AdaptiveSettings
from headgate.pipeline.gate import GateSettings
from headgate.pipeline.gates import Gates
from headgate.telemetry.log import Log
from tests.clock import VirtualClock
from tests.pipeline.spine import Spine, Telling, hangs, until


def test_new_bounds_of_what_is_found_reach_the_gates_that_find_it_and_no_others() -> None:
    gates = Gates(VirtualClock(), GateSettings())
    gates.use(GateSettings(), {"set": 7})
    found, fixed = gates.of("found"), gates.of("set")
    kept = found.capacity
    gates.use(GateSettings(), {"set": 7}, AdaptiveSettings())
    assert found.capacity is kept
    gates.use(GateSettings(), {"set": 7}, AdaptiveSettings(initial=50, max=60))
    assert (found.limit, fixed.limit, gates.of("other").limit) == (50, 7, 50)


def test_calls_that_wait_for_one_backend_do_not_keep_out_those_of_another(tmp_path: Path) -> None:
    async def main() -> None:
        slow, idle = Telling("slow", hangs(Text("x"))), Telling("idle", hangs(Text("y")))
        spine = Spine(tmp_path, [slow, idle], settings=AdmissionSettings(concurrency=3))
        spine.gateway.routes = RouteTable(1, {name: Route(name, (Target(name, "*"),)) for name in ("slow", "idle")})
        spine.path.gates.use(GateSettings(), {"slow": 1})
        inside = await spine.handle(model="slow")
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(spine.handle(model="slow")) for _ in range(3)]
            await until(lambda: spine.path.gates.waiting()["slow"] == 3)
            others = [await spine.handle(model="idle") for _ in range(2)]
            # The server is full now: who is not at a backend's gate yet waits at its door.
            late = group.create_task(spine.handle(model="idle"))
            await until(lambda: spine.admission.gate.waiting == 1)
            assert spine.admission.gate.active == 3
            waiting[2].cancel()
            await inside.aclose()
            for task in waiting[:2]:
                await (await task).aclose()
            await others[0].aclose()
            await (await late).aclose()
        await others[1].aclose()
        spine.at_rest()

    asyncio.run(main())


def test_what_needs_a_restart_changes_no_gate_before_it(tmp_path: Path) -> None:
    async def main() -> None:
        another = BackendSettings(name="another", kind="scripted")
        config, clock, lines = Config(backends=(another,)), SystemClock(), list[str]()
        log = Log(clock, "info", lines.append)
        engine = structs.replace(config.engine, settings=structs.replace(config.engine.settings, max_sequences=3))
        changed = structs.replace(config, engine=engine, capacity=AdaptiveSettings(initial=9))
        home = Home(tmp_path)
        environment = Environment(tmp_path, None, None, {})
        async with build(config, environment, home, 1, clock, log) as parts:
            before = parts.path.gates.of("embedded").limit
            found = parts.path.gates.of("another")
            assert await Reloader(parts, config, None, lambda: changed, log).reload()
            assert parts.path.gates.of("embedded").limit == before
            assert found.limit == 9
        home.close()

    asyncio.run(main())
