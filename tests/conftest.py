"""What tests share. For every one of them: hypothesis judges results, never the speed of a busy machine.

On a developer's machine it looks for new examples with every run; in CI the same commit gives the same result.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import servers

settings.register_profile(
    "headgate", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("headgate")


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A database of its own."""
    with servers.postgres_database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    return str(request.getfixturevalue("postgres_url"))
