"""All engines of this server under one cap of memory: launched, put to sleep, woken, loaded and unloaded while it runs.

What the admin API loads lives as long as this process: what shall be there after a restart belongs in the settings.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import asdict, replace

from headgate.app.config import EngineConfig, engine_settings
from headgate.app.drifts import Drifts
from headgate.app.engine_offers import Allow, Offers, Routes
from headgate.app.engine_turns import Turns
from headgate.app.engine_views import check_idle, check_room, shown, standing, view
from headgate.app.inference import Hosted, Inference, allowed_folder, hosted_models, memory_mib
from headgate.app.yamlfile import ConfigError
from headgate.core.clock import Clock
from headgate.core.errors import BadCall, Conflict, HeadgateError, NotFound, Overloaded
from headgate.core.hosting import EngineView, LoadSpec, Memory
from headgate.core.ids import Ids
from headgate.core.tasks import Tasks
from headgate.engine.errors import ModelFolderError
from headgate.engine.front.memory import MEMORY_FULL, make_room
from headgate.engine.front.process import no_memory
from headgate.telemetry import names
from headgate.telemetry.log import Level, Log
from headgate.tenancy.records import Actor

ENGINES_MAX = 64
NAME_MAX = 256
DRAIN_SECONDS = 600.0
"""How long a model that is unloaded lives on for the calls it still serves."""
LOOK_SECONDS = 1.0
TELL_SECONDS = 5.0
"""How often a long load says how far it has come."""


Note = Callable[[Actor, str, str, Struct | None], Awaitable[None]]
"""Writes a line of the audit log: who, what, which model."""


class Around(NamedTuple):
    """What the engines are told to, or ask."""

    routes: Routes
    allow: Allow
    note: Note
    folder: Path | None = None
    """Where it is kept what encoders gave at first."""


class Engines:
    """Implements `api.services.EngineDesk`."""

    def __init__(self, config: EngineConfig, around: Around, clock: Clock, ids: Ids, log: Log) -> None:
        """Raises `ConfigError`."""
        self._config = config
        self._note = around.note
        self._clock = clock
        self._ids = ids
        self._log = log
        self._tasks = Tasks()
        self._drifts = Drifts(around.folder, clock, log, self._tasks)
        self._room = asyncio.Lock()
        self._turns = Turns(config.turn_s, clock)
        self.models: dict[str, Inference] = {}
        """By the name that callers use."""
        self._offers = Offers(around.routes, around.allow, self.models)
        for hosted in hosted_models(config):
            try:
                self._add(Inference(hosted, self._offers.replica(hosted.name), clock, ids))
            except (ValueError, OSError) as error:
                raise ConfigError(f"engine: the model '{hosted.name}' cannot be served: {error}") from error
        check_room(config.memory_mib, [one for one in self.models.values() if not one.hosted.lazy])

    def launch(self) -> None:
        """Offers all models and starts their processes; those for which there is no room, and lazy ones, begin asleep.

        The offers are in force when the routes are published next.
        """
        for one in self.models.values():
            self._offers.add(one)
        limit = self._config.memory_mib
        for one in sorted(self.models.values(), key=lambda one: one.hosted.keep != "always"):
            if not one.hosted.lazy and (limit == 0 or self.memory().used_mib + one.mib <= limit):
                one.holds = True
                one.process.launch()
            else:
                one.process.rest()
            self._changed(one)

    def ready(self) -> tuple[bool, Any]:
        """At the start every model of the settings must have been ready; later one that is suffices, asleep or not."""
        wanted = [one for one in self.models.values() if not one.hosted.lazy]
        begun = all(one.begun for one in wanted if one.hosted.origin == "settings")
        alive = not wanted or any(one.process.state in {"ready", "asleep"} for one in wanted)
        return begun and alive, {name: standing(one) for name, one in self.models.items()}

    def progress(self) -> str:
        """What is being loaded and how far that has come, for people."""
        loading = [one for one in self.models.values() if one.process.state == "loading"]
        return ", ".join(f"{one.name}{shown(one.process.progress)}" for one in loading)

    def all(self) -> list[EngineView]:
        return [view(one) for one in self.models.values()]

    def get(self, name: str) -> EngineView:
        return view(self._find(name))

    def memory(self) -> Memory:
        return Memory(sum(one.mib for one in self.models.values() if one.holds), self._config.memory_mib)

    async def load(self, spec: LoadSpec, by: Actor) -> EngineView:
        self._check_name(spec.name)
        folder = allowed_folder(spec.model, self._config.models_dir)
        try:
            settings = engine_settings(self._config.settings, spec.settings)
        except ValueError as error:
            raise BadCall(f"{error}.", param="settings", code="invalid_value") from error
        if "speculation" in spec.settings and settings.speculation.model is not None:
            draft = str(allowed_folder(settings.speculation.model, self._config.models_dir))
            settings = replace(settings, speculation=replace(settings.speculation, model=draft))
        hosted = Hosted(spec.name, spec.model, folder, settings, spec.keep, "api")
        try:
            one = await asyncio.to_thread(Inference, hosted, self._offers.replica(spec.name), self._clock, self._ids)
        except (ValueError, OSError) as error:
            raise BadCall(
                f"'{spec.model[:200]}' cannot be served: {error}", param="model", code="model_unservable"
            ) from error
        try:
            self._check_name(spec.name)  # somebody else may have been faster
            self._add(one)
            await self._admit(one)
            await self._note(by, "engine.loaded", one.name, spec)
        except BaseException as error:
            self._forget(one)
            await one.aclose()
            if isinstance(error, Overloaded) and error.code == MEMORY_FULL:
                raise Conflict(error.message, code=error.code) from error
            raise
        one.process.launch()
        self._tasks.spawn(self._offer_when_ready(one), f"load {one.name}")
        self._changed(one)
        return view(one)

    async def unload(self, name: str, by: Actor) -> EngineView:
        one = self._find(name)
        if not one.leaving:
            await self._note(by, "engine.unloaded", name, None)
            one.leaving = True
            self._offers.withdraw(one)
            self._changed(one)
            self._tasks.spawn(self._end(one), f"unload {name}")
        return view(one)

    async def sleep(self, name: str, by: Actor) -> EngineView:
        one = self._find(name)
        check_idle(one)
        if not one.process.asleep:
            await self._note(by, "engine.put_to_sleep", name, None)
            async with self._room:
                check_idle(one)
                await self._put_to_sleep(one)
        return view(one)

    async def wake(self, name: str, by: Actor) -> EngineView:
        one = self._find(name)
        if one.state in {"asleep", "refused"}:
            await self._note(by, "engine.woken", name, None)
            if one.state == "refused":
                one.process.forgive()
                one.mib = memory_mib(one.hosted)
                self._tasks.spawn(self._offer_when_ready(one), f"load {name}")
            self._tasks.spawn(_quietly(one.process.awake()), f"wake {name}")
            await asyncio.sleep(0)
        return view(one)

    async def watch(self) -> None:
        """Until cancelled: puts idle ones to sleep, and tells of long loads."""
        after = self._config.sleep_after_s
        look = min(LOOK_SECONDS, after / 4) if after else LOOK_SECONDS
        while True:
            await self._clock.sleep(look)
            self._drifts.look(self.models.values())
            await self._change_places()
            for one in list(self.models.values()):
                if after and not one.occupant.stays and one.idle_s >= after:
                    async with self._room:
                        if one.idle_s >= after:
                            await self._put_to_sleep(one)
                if one.process.state == "loading":
                    self._tell(one)

    async def aclose(self) -> None:
        await self._tasks.aclose()
        for one in list(self.models.values()):
            await one.aclose()

    async def _offer_when_ready(self, one: Inference) -> None:
        try:
            await one.process.wait_ready()
        except (ModelFolderError, HeadgateError):
            return  # its state says so
        if not one.leaving:
            self._offers.add(one)
            self._offers.publish()

    async def _end(self, one: Inference) -> None:
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await one.client.drain()
        except TimeoutError:
            pass  # what is left is cut
        await one.aclose()
        self._forget(one)
        self._offers.gone(one)

    async def _admit(self, one: Inference) -> None:
        """Counts its memory, if need be after others were put to sleep. Raises `Overloaded` with the numbers."""
        async with self._room:
            await self._hold(one)

    async def _hold(self, one: Inference) -> None:
        """The room's lock is held."""
        awake = self._awake(one)
        while leaving := make_room(one.name, one.mib, self._config.memory_mib, [each.occupant for each in awake]):
            await self._put_to_sleep(self.models[leaving[0]])
            awake = self._awake(one)
        one.holds = True
        self._turns.served(one)

    async def _admitted(self, one: Inference) -> None:
        try:
            await self._admit(one)
        except Overloaded as error:
            now = self._clock.monotonic()
            if now - one.refused_told >= TELL_SECONDS:  # each of many callers would else write a line
                one.refused_told = now
                self._log.event(names.ENGINE_STATE, "warning", model=one.name, state="asleep", detail=error.message)
            turn = self._turns.refused(one, self._awake(one), self._config.memory_mib)
            for each in [] if turn is None else turn.leaving:
                detail = f"gives way to '{one.name}', which was called for {self._config.turn_s:g} s and had no room"
                self._log.event(names.ENGINE_STATE, "warning", model=each.name, state=each.state, detail=detail)
            raise no_memory() from error

    async def _change_places(self) -> None:
        """Puts to sleep who gives way and has ended what it did, and wakes the one whose turn it is."""
        turn = self._turns.due()
        if turn is None:
            return
        try:
            async with self._room:
                for each in turn.leaving:
                    await self._put_to_sleep(each)
                await self._hold(turn.one)
        except Overloaded:
            return  # somebody else was faster: it waits on
        finally:
            self._turns.end()
        self._tasks.spawn(_quietly(turn.one.process.awake()), f"wake {turn.one.name}")

    def _awake(self, wanting: Inference) -> list[Inference]:
        return [one for one in self.models.values() if one.holds and one is not wanting]

    async def _put_to_sleep(self, one: Inference) -> None:
        """The room's lock is held: its memory counts until its process has ended."""
        await one.process.sleep()
        one.holds = not one.process.asleep
        self._changed(one)

    def _changed(self, one: Inference) -> None:
        """Its state may have; each is told once."""
        state = one.state
        if self.models.get(one.name) is not one or state in {one.told, "closed"}:
            return
        one.told = state
        one.begun = one.begun or state in {"ready", "asleep"}
        process, detail = one.process, None
        level: Level = "info"
        if state == "refused":
            one.holds = False
            level, detail = "error", str(process.refused)
        elif state == "restarting":
            level, detail = "warning", process.trouble
        phases = {name: round(seconds, 3) for name, seconds in process.phases.items()} if state == "ready" else None
        self._log.event(
            names.ENGINE_STATE, level, model=one.name, state=state, detail=detail, seconds=phases, mib=one.mib
        )
        one.loading_told = self._clock.monotonic()

    def _tell(self, one: Inference) -> None:
        now, progress = self._clock.monotonic(), one.process.progress
        if now - one.loading_told >= TELL_SECONDS:
            one.loading_told = now
            self._log.event(names.ENGINE_LOADING, model=one.name, **({} if progress is None else asdict(progress)))

    def _add(self, one: Inference) -> None:
        self.models[one.name] = one
        one.process.told = lambda: self._changed(one)
        one.process.admit = lambda: self._admitted(one)
        self._drifts.adopt(one)

    def _forget(self, one: Inference) -> None:
        if self.models.get(one.name) is one:
            del self.models[one.name]

    def _check_name(self, name: str) -> None:
        if not 0 < len(name) <= NAME_MAX or not name.isprintable() or name.isspace() or name == "*":
            raise BadCall(
                f"'name' has 1 to {NAME_MAX} characters, all printable; '*' stands for any model.",
                param="name",
                code="invalid_value",
            )
        if name in self.models:
            raise Conflict(
                f"There is an engine '{name}' already; unload it first, or use another name.", code="engine_exists"
            )
        if len(self.models) >= ENGINES_MAX:
            raise Conflict(f"There are {ENGINES_MAX} engines already; unload one.", code="too_many_engines")

    def _find(self, name: str) -> Inference:
        one = self.models.get(name)
        if one is None:
            raise NotFound(f"There is no engine '{name[:100]}'. List them to see their names.", code="engine_not_found")
        return one


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    """How it ended is told by the engine's state."""
    try:
        await work
    except HeadgateError:
        pass
