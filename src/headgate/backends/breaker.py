"""The circuit breaker of one replica: a table of states and events, and the little arithmetic beside it.

                    tripped, refused, stuck
        +--------+ -------------------------> +------+ <----------------+
        | closed |                            | open |                  |
        +--------+ <------------------------- +------+                  |
            ^        fine, of a call that        |                      | failed, refused
            |        was made all the same       | due                  |
            |                                    v                      |
            |  fine                        +-----------+    taken    +---------+
            +----------------------------- | half_open | ----------> | probing |
            |                              +-----------+ <---------- +---------+
            |                                                dropped    |
            +-----------------------------------------------------------+
                                     began, fine

`probing` is half-open with its one probe out. Only what is the replica's own fault gets here as an event
(`core.faults.blame`); a result of a call that began before the breaker last opened or closed is no event at all.
After Nygard, "Release It!" (2007), ch. 5.
"""

import random
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from headgate.backends.window import Window

State = Literal["closed", "open", "half_open", "probing"]
Event = Literal["began", "fine", "failed", "tripped", "refused", "stuck", "due", "taken", "dropped"]
"""`began`: a first piece came. `tripped`: a failure that was one too many. `refused`: our credential, or its quota.
`stuck`: calls wait there and no token comes. `due`: the open time is over. `dropped`: the probe ended without telling
anything."""

TABLE: Mapping[State, Mapping[Event, State]] = {
    "closed": {"tripped": "open", "refused": "open", "stuck": "open"},
    "open": {"fine": "closed", "due": "half_open"},
    "half_open": {"fine": "closed", "taken": "probing", "refused": "open"},
    "probing": {"began": "closed", "fine": "closed", "failed": "open", "tripped": "open", "refused": "open",
                "dropped": "half_open"},
}  # fmt: skip
"""Where an event leads; what is not here changes nothing."""

_Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class BreakerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """When a replica is left alone, and for how long. Raises `ValueError` where the times contradict each other."""

    failures: Annotated[int, Meta(ge=1, le=10_000)] = 5
    """So many failures in a row open it."""
    share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """So does this share of failures among the calls of the last `window_s`,"""
    min_calls: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    """where they are at least so many."""
    window_s: _Seconds = 30.0
    open_s: _Seconds = 2.0
    """How long it stays open the first time; each failed probe doubles it,"""
    open_max_s: _Seconds = 60.0
    """up to this."""
    jitter: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    """Up to this part of the open time is left out at random, so that processes do not probe in step."""
    auth_s: _Seconds = 300.0
    """How long it stays open after the upstream refused our credential or its quota was spent."""
    pause_s: _Seconds = 1.0
    """How long a replica that said it is overloaded rests, where it did not say itself; doubles while it goes on."""
    pause_max_s: _Seconds = 60.0
    """The longest rest, whatever the upstream asks for."""

    def __post_init__(self) -> None:
        if self.open_max_s < self.open_s:
            raise ValueError("open_max_s is below open_s. Raise it, or lower open_s.")
        if self.pause_max_s < self.pause_s:
            raise ValueError("pause_max_s is below pause_s. Raise it, or lower pause_s.")


class Breaker:
    """One replica's. Every method takes the monotonic time in seconds; `era` changes with each opening and closing."""

    __slots__ = ("_row", "_settings", "_strikes", "_window", "era", "state", "until", "why")

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._window = Window(settings.window_s)
        self._row = 0
        self._strikes = 0
        """How often it opened since a call last ended well."""
        self.state: State = "closed"
        self.era = 0
        self.until = 0.0
        """When an open one is due for its probe."""
        self.why = ""

    def fine(self, now: float) -> None:
        """A call ended well."""
        self._window.ended(now, failed=False)
        self._row = 0
        self._strikes = 0
        self._go("fine")

    def began(self) -> None:
        """A call's first piece came: enough for a probe. Until a call ends well, one more failure opens it again."""
        if self.state == "probing":
            self._go("began")
            self._row = self._settings.failures - 1

    def failed(self, now: float, rng: random.Random, why: str) -> None:
        """A call failed by the replica's fault."""
        self._window.ended(now, failed=True)
        self._row += 1
        calls, failures = self._window.counts(now)
        settings = self._settings
        many = calls >= settings.min_calls and failures >= settings.share * calls
        self._open("tripped" if many or self._row >= settings.failures else "failed", now, rng, f"breaker open ({why})")

    def refused(self, now: float, rng: random.Random, why: str) -> None:
        """The upstream does not take our credential, or its quota is spent."""
        self._open("refused", now, rng, f"credential refused ({why})")

    def stuck(self, now: float, rng: random.Random, why: str) -> None:
        self._open("stuck", now, rng, why)

    def look(self, now: float) -> None:
        """Lets an open one whose time is over become half-open."""
        if self.state == "open" and now >= self.until:
            self._go("due")

    def taken(self) -> None:
        self._go("taken")

    def dropped(self) -> None:
        self._go("dropped")

    def _open(self, event: Event, now: float, rng: random.Random, why: str) -> None:
        if not self._go(event):
            return
        settings = self._settings
        if event == "refused":
            seconds = settings.auth_s
        else:
            seconds = min(settings.open_max_s, settings.open_s * 2.0 ** min(self._strikes, 30))
            self._strikes += 1
        self.until = now + seconds * (1 - settings.jitter * rng.random())
        self.why = why

    def _go(self, event: Event) -> bool:
        """Whether the state has changed."""
        after = TABLE[self.state].get(event, self.state)
        if after == self.state:
            return False
        if after in {"open", "closed"}:
            self.era += 1
            self._row = 0
            self._window.clear()
        self.state = after
        return True
