"""The drivers under test: this process, and real Redis, both with time in the test's hand."""

import secrets
from collections.abc import Iterator

import pytest

from headgate.core.clock import SystemClock
from headgate.core.limiter import Limiter
from headgate.storage.limits.memory import MemoryLimiter
from headgate.storage.limits.redis import RedisLimiter, connect
from headgate.storage.limits.scripts import Scripts
from tests.storage.limits.driver import Driver, MemoryDriver, RedisDriver, StepClock, lua_clock


@pytest.fixture
def prefix() -> str:
    return f"test-{secrets.token_hex(6)}:"


@pytest.fixture
def redis_driver(redis_url: str, prefix: str) -> Iterator[RedisDriver]:
    scripts = Scripts(lua_clock(prefix))

    def replica() -> Limiter:
        return RedisLimiter(connect(redis_url, 20.0), SystemClock(), 20.0, prefix, scripts)

    driver = RedisDriver(redis_url, prefix, replica)
    yield driver
    driver.close()


@pytest.fixture(params=["memory", "redis"])
def driver(request: pytest.FixtureRequest) -> Driver:
    """Empty limits of each kind."""
    if request.param == "memory":
        clock = StepClock()
        return MemoryDriver(clock, MemoryLimiter(clock))
    found: RedisDriver = request.getfixturevalue("redis_driver")
    return found
