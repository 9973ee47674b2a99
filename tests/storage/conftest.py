"""The drivers under test: real files, real PostgreSQL, real Redis."""

import secrets

import pytest

from headgate.core.counters import Counters
from headgate.storage.counters.memory import MemoryCounters
from headgate.storage.counters.redis import RedisCounters
from tests import servers
from tests.clock import VirtualClock
from tests.storage.driver import CountersDriver


@pytest.fixture(scope="session")
def redis_url() -> str:
    return servers.redis_url()


@pytest.fixture(params=["memory", "redis"])
def driver(request: pytest.FixtureRequest) -> CountersDriver:
    """Empty counters of each kind."""
    if request.param == "memory":
        clock = VirtualClock()
        shared = MemoryCounters(clock)
        return CountersDriver(lambda: shared, clock)
    url, prefix = request.getfixturevalue("redis_url"), f"test-{secrets.token_hex(6)}:"

    def replica() -> Counters:
        return RedisCounters.at(url, timeout_s=20.0, prefix=prefix)

    return CountersDriver(replica, None)
