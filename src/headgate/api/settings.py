"""The api's settings. Sizes are binary (1 KB = 1024 bytes), times are seconds."""

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
Size = Annotated[float, Meta(gt=0.0, le=65_536.0)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Number = Annotated[int, Meta(ge=1, le=1_000_000)]


class ServerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What the server accepts, and for how long it waits for a client."""

    host: str = "127.0.0.1"
    port: Port = 4000
    max_body_mb: Size = 32.0
    """For inference endpoints."""
    max_admin_body_kb: Size = 256.0
    """For every other endpoint."""
    max_header_kb: Size = 32.0
    max_headers: Number = 200
    max_url_kb: Size = 8.0
    max_connections: Number = 10_000
    head_s: Seconds = 10.0
    """A request's head must be complete this long after its first byte, or after connecting."""
    body_window_s: Seconds = 12.0
    """In each window of this length a body must bring `body_min_rate` bytes a second, or end."""
    body_min_rate: Annotated[float, Meta(ge=0.0)] = 500.0
    idle_s: Seconds = 75.0
    """How long a connection is kept between requests."""
    send_s: Seconds = 120.0
    """How long a client may leave its receive window shut before its call is cancelled."""
    linger_s: Seconds = 2.0
    """How long a refused client may take to read why."""
    heartbeat_s: Seconds = 15.0
    """A silent stream gets a comment line this often."""
    grace_s: Seconds = 30.0
    """How long accepted calls may go on once the server is told to stop."""
    default_timeout_s: Seconds = 600.0
    max_timeout_s: Seconds = 3_600.0
    """The most a caller may ask for with `x-headgate-timeout-s`."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call this server from a browser; `*` for all."""
    passthrough: bool = True
    """Whether keys may send calls to a backend's own endpoints, below /passthrough."""
