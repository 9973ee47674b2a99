"""Outlier ejection: a replica that is far worse than the others of its pool is left out for a while.

A breaker knows one replica and needs it to be bad by itself; here the others say what is usual. Judged are the share
of failures and, only where it is extreme, the mean time to the first piece: what is merely slower is the balancer's.
After Envoy's outlier detection.
"""

from collections.abc import Mapping
from statistics import median
from typing import Annotated

from msgspec import Meta, Struct

from headgate.backends.window import Window

_Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class OutlierSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is far off, and what follows. Raises `ValueError` where the times contradict each other."""

    max_share: Annotated[float, Meta(ge=0, le=0.5)] = 0.5
    """At most this part of a pool is ejected at once; 0 switches ejection off."""
    window_s: _Seconds = 30.0
    min_calls: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    """A replica with fewer calls in the window is not judged, and neither is one whose fellows have fewer together."""
    min_failures: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    error_share: Annotated[float, Meta(gt=0, le=1)] = 0.15
    """Its share of failures must be at least this,"""
    error_factor: Annotated[float, Meta(gt=1, le=1_000)] = 3.0
    """and so many times that of the others."""
    slow_factor: Annotated[float, Meta(gt=1, le=1_000)] = 5.0
    """Or it is so many times slower than the median of the others,"""
    slow_s: _Seconds = 1.0
    """and slower than this."""
    eject_s: _Seconds = 10.0
    """How long it is out the first time; each further time adds as much,"""
    eject_max_s: _Seconds = 300.0
    """up to this. A replica that behaved for as long begins anew."""
    return_s: Annotated[float, Meta(ge=0, le=3_600)] = 10.0
    """How long its share of the calls takes to grow to a full one when it is back."""

    def __post_init__(self) -> None:
        if self.eject_max_s < self.eject_s:
            raise ValueError("eject_max_s is below eject_s. Raise it, or lower eject_s.")


class Conduct:
    """How one replica has behaved lately, and its ejections."""

    __slots__ = ("ejections", "out", "until", "why", "window")

    def __init__(self, settings: OutlierSettings) -> None:
        self.window = Window(settings.window_s)
        self.ejections = 0
        self.out = False
        self.until = 0.0
        """When the present ejection ends, or the last one ended."""
        self.why = ""

    def eject(self, now: float, settings: OutlierSettings, why: str) -> None:
        if self.ejections and now - self.until > settings.eject_max_s:
            self.ejections = 0
        self.ejections += 1
        self.out = True
        self.until = now + min(settings.eject_max_s, settings.eject_s * self.ejections)
        self.why = why
        self.window.clear()

    def look(self, now: float) -> None:
        if self.out and now >= self.until:
            self.out = False
            self.window.clear()  # what was still on its way when it was ejected is not held against it


def room(conducts: Mapping[str, Conduct], settings: OutlierSettings) -> bool:
    """Whether one more of a pool may be ejected."""
    out = sum(conduct.out for conduct in conducts.values())
    return out + 1 <= len(conducts) * settings.max_share


def far_off(name: str, conducts: Mapping[str, Conduct], settings: OutlierSettings, now: float) -> str | None:
    """Why this one of a pool is an outlier; None where it is none. Those that are out are no measure."""
    conduct = conducts[name]
    others = [other for key, other in conducts.items() if key != name and not other.out]
    if conduct.out or not others:
        return None
    return _faulty(conduct, others, settings, now) or _slow(conduct, others, settings, now)


def _faulty(conduct: Conduct, others: list[Conduct], settings: OutlierSettings, now: float) -> str | None:
    calls, failures = conduct.window.counts(now)
    if calls < settings.min_calls or failures < settings.min_failures or failures < settings.error_share * calls:
        return None
    told = [other.window.counts(now) for other in others]
    all_calls, all_failures = sum(entry[0] for entry in told), sum(entry[1] for entry in told)
    if all_calls < settings.min_calls:
        return None
    usual = all_failures / all_calls
    if failures < settings.error_factor * usual * calls:
        return None
    return f"{failures / calls:.0%} of its calls fail, {usual:.0%} of the others'"


def _slow(conduct: Conduct, others: list[Conduct], settings: OutlierSettings, now: float) -> str | None:
    timed, mean = conduct.window.latency(now)
    if timed < settings.min_calls or mean <= settings.slow_s:
        return None
    means = [mean for timed, mean in (other.window.latency(now) for other in others) if timed >= settings.min_calls]
    if not means or mean <= settings.slow_factor * median(means):
        return None
    return f"begins its answers after {mean:.1f} s, the others after {median(means):.1f} s"
