"""Runs the chaos upstream, or the chaos proxy, until it is told to stop."""

import asyncio
import json
import os
import random
import signal
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headgate.bench.chaos.proxy import ChaosProxy, ProxyControl
from headgate.bench.chaos.schedule import Rule
from headgate.bench.chaos.server import ChaosServer, Tuning
from headgate.bench.chaos.weather import Weather
from headgate.core.clock import SystemClock


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen, and for how long."""

    host: str = "127.0.0.1"
    port: int = 0
    cert: Path | None = None
    key: Path | None = None
    control: int = 0
    """The port on which a proxy takes its orders, on this machine only."""
    with_stdin: bool = False
    """Ends when standard input does, so that no test leaves it running."""


async def upstream(place: Place, tuning: Tuning, rules: list[Rule], seed: int, say: Callable[[str], None]) -> None:
    """Says `{"port": N}` first. Raises `OSError` where the address is taken, `ValueError` for a wrong rule."""
    told = watch(place.with_stdin)
    clock = SystemClock()
    tls = None
    if place.cert is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(place.cert, place.key)
    server = ChaosServer(clock, random.Random(seed), tuning, tls)
    server.schedule.set(rules, clock.monotonic())
    port = await server.open(place.host, place.port)
    say(json.dumps({"port": port}))
    try:
        await told.wait()
    finally:
        await server.close()


async def proxy(place: Place, target: tuple[str, int], weather: Weather, seed: int, say: Callable[[str], None]) -> None:
    """Says `{"port": N, "control": M}` first. Raises `OSError` where the address is taken."""
    told = watch(place.with_stdin)
    clock = SystemClock()
    passing = ChaosProxy(target, clock, random.Random(seed))
    control = ProxyControl(passing, clock)
    await passing.listener.open(place.host, place.port)
    await control.listener.open("127.0.0.1", place.control)
    passing.set(weather)
    say(json.dumps({"port": passing.listener.port, "control": control.listener.port}))
    try:
        await told.wait()
    finally:
        control.listener.close()
        await passing.close()


def watch(with_stdin: bool) -> asyncio.Event:
    """Set at SIGINT, SIGTERM or, if asked, the end of standard input."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    if with_stdin:
        loop.add_reader(sys.stdin.fileno(), _read, sys.stdin.fileno(), told)
    return told


def _read(number: int, told: asyncio.Event) -> None:
    """Takes what came; sets the event at the end."""
    if not os.read(number, 4096):
        asyncio.get_running_loop().remove_reader(number)
        told.set()
