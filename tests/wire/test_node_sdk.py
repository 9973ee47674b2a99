"""The official Node SDK, unchanged, against both set-ups. Its own tests are in `node/suite.test.mjs`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import Live

NODE = Path(__file__).parent / "node"
BIN = Path(sys.executable).parent
"""Node.js and npm come as a wheel with the test requirements."""


def run(*command: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    program = BIN / command[0]
    assert program.exists(), f"{program} is missing: run 'make dev', which installs requirements/dev.txt"
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    done = subprocess.run(
        [program, *command[1:]], cwd=folder, env={**os.environ, "PATH": path, **(environment or {})},
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite with the SDK of the lock file beside it, installed once and away from the sources."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", ".npmrc", "suite.test.mjs"):
        shutil.copy(NODE / name, folder)
    run("npm", "ci", "--ignore-scripts", "--prefer-offline", folder=folder)
    return folder


def test_the_lock_file_names_no_registry() -> None:
    text = (NODE / "package-lock.json").read_text()
    assert "resolved" not in text
    assert '"integrity": "sha512-' in text


def test_the_node_sdk_works_unchanged(suite: Path, gate: Live, direct: Live) -> None:
    where = {"HEADGATE_URL": gate.url, "HEADGATE_KEY": gate.key, "HEADGATE_BACK": direct.url}
    told = run("node", "--test", folder=suite, environment=where)
    assert "pass 8\n" in told, told
