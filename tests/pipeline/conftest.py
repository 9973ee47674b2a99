"""What several tests of this folder are given."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.pipeline.door import Door, MakeDoor


@pytest.fixture
def door(tmp_path: Path) -> MakeDoor:
    return lambda **more: Door(tmp_path, **more)


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
