"""Importing anything does nothing: no socket, no file, no process, no environment."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("importing.py")
HOUSE = Path(__file__).parents[2] / "src" / "headgate"


def _import_all(package: Path) -> dict[str, Any]:
    command = [sys.executable, "-B", str(SCRIPT), str(package)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert outcome.returncode == 0, outcome.stderr
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


def test_importing_any_module_does_nothing() -> None:
    found = _import_all(HOUSE)
    assert found["effects"] == []
    assert all(name.startswith("headgate.training.") for name in found["skipped"]), "only training may need PyTorch"


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import socket; socket.getaddrinfo('localhost', 1)",
        "import pathlib; pathlib.Path(__file__).with_name('left').write_text('')",
        "import os; os.open(__file__ + '.left', os.O_CREAT | os.O_WRONLY)",
        "import os; os.environ['LEFT'] = '1'",
        "import pathlib; pathlib.Path('/etc/hostname').read_bytes()",
        "import subprocess; subprocess.run(['true'])",
        "import tempfile; tempfile.mkdtemp()",
    ],
)
def test_what_a_module_does_on_import_is_seen(tmp_path: Path, code: str) -> None:
    package = tmp_path / "sample"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "busy.py").write_text(code)
    effects = _import_all(package)["effects"]
    assert effects
    assert any("sample.busy" in effect or "LEFT" in effect for effect in effects)


def test_reading_the_data_beside_a_module_is_no_effect(tmp_path: Path) -> None:
    package = tmp_path / "sample"
    package.mkdir()
    (package / "prices.toml").write_text("a = 1")
    (package / "__init__.py").write_text(
        textwrap.dedent("""
        from pathlib import Path
        DATA = Path(__file__).with_name("prices.toml").read_text()
        """)
    )
    assert _import_all(package) == {"effects": [], "skipped": []}
