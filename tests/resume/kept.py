"""Resumable streams for a server made of core types: little is kept, not for long."""

from headgate.api.resume import Streams
from headgate.core.clock import SystemClock
from headgate.core.streams import StreamSettings
from headgate.storage.streams.memory import MemoryStreams


def kept_streams(bugs: list[tuple[str, BaseException]], told: list[str]) -> Streams:
    """Bugs go to `bugs`, what became of streams to `told`."""
    settings, clock = StreamSettings(grace_s=0.5, stream_mb=0.125), SystemClock()

    def bug(request_id: str, error: BaseException) -> None:
        bugs.append((request_id, error))

    return Streams(MemoryStreams(settings, clock), settings, clock, bug, told.append, told.append)
