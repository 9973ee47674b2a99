"""Runs a server: start, welcome, signals, drain, stop. The steps of stopping are in `_stop`, in order."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack

import uvloop
from msgspec import Struct, structs

from headgate.api import build as api
from headgate.api.server import Server, bind
from headgate.app.build import Parts, build, keep, services
from headgate.app.config import Config, Environment, find_file, load, read_environment
from headgate.app.engine_views import starting, to_try, troubles
from headgate.app.first_key import first_key
from headgate.app.home import Home
from headgate.app.reload import Reloader
from headgate.app.welcome import Progress, welcome
from headgate.app.yamlfile import ConfigError
from headgate.core.clock import Clock, SystemClock
from headgate.telemetry import names
from headgate.telemetry.log import Log

READY_SECONDS = 120.0
"""How long the welcome waits for the engine before it says so and goes on."""
ECHO_SECONDS = 0.2
"""A second signal sooner than this is the first one's echo: `timeout` and its like pass on what the whole group got."""


class ServeOptions(Struct, frozen=True):
    """What the command line may say; None leaves it to the settings file."""

    config: str | None = None
    home: str | None = None
    host: str | None = None
    port: int | None = None
    quiet: bool = False


def serve(options: ServeOptions) -> int:
    """Until a signal ends it. The exit status: 0 after an orderly stop. Raises `ConfigError` before the start."""
    path = find_file(options.config)
    config = with_options(load(path), options)
    environment = read_environment(options.home)
    clock = SystemClock()
    log = Log(clock, config.log.level)
    return uvloop.run(_Run(options, config, environment, clock, log).run())


def with_options(config: Config, options: ServeOptions) -> Config:
    """The command line wins over the file."""
    server = config.server
    if options.host is not None:
        server = structs.replace(server, host=options.host)
    if options.port is not None:
        if not 0 <= options.port <= 65_535:
            raise ConfigError(f"--port {options.port}: a port lies between 0 and 65535; 0 takes any free one.")
        server = structs.replace(server, port=options.port)
    return structs.replace(config, server=server)


class _Run:
    def __init__(self, options: ServeOptions, config: Config, environment: Environment, clock: Clock, log: Log) -> None:
        self._options = options
        self._config = config
        self._environment = environment
        self._clock = clock
        self._log = log
        self._stopping = asyncio.Event()
        self._asked_at = 0.0

    async def run(self) -> int:
        settings = self._config.server
        try:
            sock = bind(settings.host, settings.port)
        except OSError as error:
            raise ConfigError(
                f"{settings.host}:{settings.port} cannot be used: {error.strerror}. "
                "Stop what uses it, or choose another with --port."
            ) from error
        port: int = sock.getsockname()[1]
        async with AsyncExitStack() as stack:
            stack.callback(sock.close)
            home = Home(self._environment.home)
            stack.callback(home.close)
            started = self._clock.monotonic()
            parts = await stack.enter_async_context(
                build(self._config, self._environment, home, port, self._clock, self._log)
            )
            key = await first_key(parts.keys, home, self._environment.bootstrap_key)
            server = api.build(services(parts), settings)
            await server.start(sock)
            self._log.event(
                names.SERVER_STARTED,
                host=settings.host,
                port=port,
                pid=os.getpid(),
                seconds=round(self._clock.monotonic() - started, 3),
                models=len(parts.gateway.routes.exact),
            )
            reloader = Reloader(parts, self._config, self._options.config, self._load_again, self._log)
            self._catch_signals(reloader)
            keep(parts.tasks, reloader.watch(), "configuration watcher", self._log)
            keep(parts.tasks, self._welcome(parts, port, key), "welcome", self._log)
            await self._stopping.wait()
            await self._stop(parts, server)
        self._log.event(names.SERVER_STOPPED, pid=os.getpid())
        return 0

    async def _stop(self, parts: Parts, server: Server) -> None:
        """Not ready; stop accepting; finish what was accepted; then the parts close in reverse order of building."""
        parts.readiness.draining = True
        self._log.event(
            names.SERVER_DRAINING, calls=parts.gateway.admission.gate.active, grace_s=self._config.server.grace_s
        )
        began = self._clock.monotonic()
        await server.stop()
        left = self._config.server.grace_s - (self._clock.monotonic() - began)
        await parts.runs.aclose(max(0.0, left))  # calls with an Idempotency-Key go on when their callers have left
        left = self._config.server.grace_s - (self._clock.monotonic() - began)
        await parts.streams.aclose(max(0.0, left))  # and so do resumable streams

    def _load_again(self) -> Config:
        return with_options(load(find_file(self._options.config)), self._options)

    def _catch_signals(self, reloader: Reloader) -> None:
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, reloader.ask)

    def _on_stop_signal(self) -> None:
        now = self._clock.monotonic()
        if not self._stopping.is_set():
            self._asked_at = now
            self._stopping.set()
        elif now - self._asked_at > ECHO_SECONDS:
            os._exit(130)  # the journal needs no closing, and the engine ends with its pipe

    async def _welcome(self, parts: Parts, port: int, key: str | None) -> None:
        """Says where and how, once a model really answers; waiting shows progress."""
        if self._options.quiet:
            return
        write: Callable[[str], object] = sys.stdout.write
        progress = Progress(write, sys.stdout.isatty())
        end = self._clock.monotonic() + READY_SECONDS
        own = {} if parts.engines is None else parts.engines.models
        while not parts.readiness()[0] and (starting(own) or not own) and self._clock.monotonic() < end:
            loading = parts.engines.progress() if parts.engines is not None else ""
            progress.step(f"loading {loading or 'the model'}")
            await self._clock.sleep(0.1)
        progress.done()
        models = sorted(parts.gateway.routes.exact)
        ok, detail = parts.readiness()
        trouble = None if ok else troubles(own) or str(detail)
        write(welcome(self._config.server.host, port, key, models, trouble, to_try(models, own)))
        sys.stdout.flush()
