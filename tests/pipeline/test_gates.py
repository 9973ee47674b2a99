"""The gates of all backends, when their settings change."""

import asyncio
from pathlib import Path

from msgspec import structs

from headgate.app.build import build
from headgate.app.config import Config, Environment
from headgate.app.home import Home
from headgate.app.reload import Reloader
from headgate.core.clock import SystemClock
from headgate.pipeline.capacity import AdaptiveSettings
from headgate.pipeline.gate import GateSettings
from headgate.pipeline.gates import Gates
from headgate.telemetry.log import Log
from tests.clock import VirtualClock


def test_new_bounds_of_what_is_found_reach_the_gates_that_find_it_and_no_others() -> None:
    gates = Gates(VirtualClock(), GateSettings())
    gates.use(GateSettings(), {"set": 7})
    found, fixed = gates.of("found"), gates.of("set")
    kept = found.capacity
    gates.use(GateSettings(), {"set": 7}, AdaptiveSettings())
    assert found.capacity is kept
    gates.use(GateSettings(), {"set": 7}, AdaptiveSettings(initial=50, max=60))
    assert (found.limit, fixed.limit, gates.of("other").limit) == (50, 7, 50)


def test_what_needs_a_restart_changes_no_gate_before_it(tmp_path: Path) -> None:
    async def main() -> None:
        config, clock, lines = Config(), SystemClock(), list[str]()
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
