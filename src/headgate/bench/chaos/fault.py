"""What an order of a fault is made of. The faults themselves stand in `faults.py`."""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from headgate.bench.chaos.script import Script
from headgate.core.clock import Clock

NUMBERS = {"after": int, "tokens": int, "tools": int, "status": int, "mb": int, "size": int, "s": float, "ms": float,
           "rate": float, "first_ms": float, "end": int, "done": int}  # fmt: skip
"""Options that are numbers, none of them negative; the others are words."""
COMMON = ("tokens", "tools", "salt", "finish", "rate", "first_ms", "prefill", "framing")
"""Options of every order: they shape the honest answer."""


class Host(Protocol):
    """The server, as far as a fault needs it."""

    def refuse(self, seconds: float) -> None:
        """Takes no connection for so long, and closes those that are idle."""
        ...


class Exchange(Protocol):
    """One request on its way to an answer, as a fault sees it."""

    script: Script
    clock: Clock
    rng: random.Random
    host: Host

    @property
    def used(self) -> bool:
        """The connection carried a request before this one."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends these bytes as they are; returns when the client has room for more."""
        ...

    async def send(self, start: int, stop: int | None = None) -> None:
        """Sends these pieces of the script, framed, at the pace that was asked for; the head too where `start` is 0."""
        ...

    async def reset(self) -> None:
        """Sends what was written, then resets the connection."""
        ...


Shape = Callable[[Script, "Order"], Script]
"""A fault that is another answer, written as an honest one would be."""
Act = Callable[[Exchange, "Order"], Awaitable[bool]]
"""A fault in the writing; returns whether the connection may carry another request."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the table. `main` is the option that `name=value` sets."""

    name: str
    what: str
    options: tuple[str, ...] = ()
    main: str = ""
    preset: Mapping[str, str] = field(default_factory=dict)
    """Options that the fault needs set, unless the order sets them."""
    shape: Shape | None = None
    act: Act | None = None
    """Either of them."""


@dataclass(frozen=True, slots=True)
class Order:
    """A fault with its options; no fault, where only the honest answer is shaped."""

    fault: Fault | None
    options: Mapping[str, str]
    text: str = ""

    def number(self, name: str, default: float) -> float:
        return float(self.options.get(name, default))

    def whole(self, name: str, default: int) -> int:
        return int(self.options.get(name, default))

    def word(self, name: str, default: str) -> str:
        return self.options.get(name, default)
