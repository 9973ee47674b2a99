"""What tests share. For every one of them: hypothesis judges results, never the speed of a busy machine.

On a developer's machine it looks for new examples with every run; in CI the same commit gives the same result.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import servers

settings.register_profile(
    "headgate", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("headgate")

MEMORY, ROOM_BYTES = Path("/dev/shm"), 4 << 30
FOLDER = "headgate-tests-"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """The tests' folders lie in memory where there is room: hundreds of journals and databases wait for their disk.

    Not those of proofs, and not where `--basetemp` names a place, as to look at the folders afterwards.
    """
    if config.option.basetemp or config.option.markexpr != "not prove" or not _has_room():
        return
    for left in MEMORY.glob(FOLDER + "*"):  # by runs that were killed
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=MEMORY)
    config.option.basetemp = str(Path(folder) / "run")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def _has_room() -> bool:
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK) or not Path("/proc/self").exists():
        return False
    programs = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    return programs and shutil.disk_usage(MEMORY).free > ROOM_BYTES


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
