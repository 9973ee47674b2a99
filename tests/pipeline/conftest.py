"""What several tests of this folder are given."""

from pathlib import Path

import pytest

from tests.pipeline.door import Door, MakeDoor


@pytest.fixture
def door(tmp_path: Path) -> MakeDoor:
    return lambda **more: Door(tmp_path, **more)
