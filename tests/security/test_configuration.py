"""Secrets in the configuration or the environment show up in no message, log or file, however the start goes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECRET = "canary-5ec7e7-9b1d"
UP = 'backends:\n  - {name: up, base_url: "http://127.0.0.1:9/v1", '
WRONG = {
    "a key in the file": f"{UP}api_key: {SECRET}}}\n",
    "a key as the variable's name": f"{UP}api_key_env: {SECRET}}}\n",
    "a key in an address": f'backends:\n  - {{name: up, base_url: "http://user:{SECRET}@127.0.0.1:9/v1"}}\n',
    "a database out of reach": f"storage: {{sql: 'postgresql://user:{SECRET}@127.0.0.1:9/none'}}\n",
    "a database of no known kind": f"storage: {{sql: 'mysql://user:{SECRET}@127.0.0.1:9/none'}}\n",
    "a database's address cut short": f"storage: {{sql: 'postgresql://user:{SECRET}@'}}\n",
    "counters of no known kind": f"storage: {{counters: 'memcached://:{SECRET}@127.0.0.1:9/0'}}\n",
    "counters with a bad port": f"storage: {{counters: 'redis://:{SECRET}@127.0.0.1:port/0'}}\n",
}  # fmt: skip


def headgate(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return subprocess.run(
        [sys.executable, "-m", "headgate.cli.main", *arguments],
        cwd=home, env=given | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def written(home: Path) -> list[Path]:
    files = [path for path in home.rglob("*") if path.is_file() and path.name != "headgate.yaml"]
    return [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", WRONG)
def test_a_start_that_fails_says_why_without_the_secret(tmp_path: Path, name: str) -> None:
    (tmp_path / "headgate.yaml").write_text("discover: false\nengine: {enabled: false}\n" + WRONG[name])
    done = headgate(tmp_path, "serve", "--home", str(tmp_path / "home"), "--port", "0")
    assert done.returncode not in {0, -11}
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert SECRET not in done.stdout + done.stderr
    assert written(tmp_path) == []


@pytest.mark.parametrize("key", [SECRET[:8], f"{SECRET} with blanks", f"{SECRET}é"])
def test_a_bootstrap_key_that_cannot_be_used_is_not_shown(tmp_path: Path, key: str) -> None:
    done = headgate(
        tmp_path, "serve", "--home", str(tmp_path / "home"), "--port", "0", HEADGATE_BOOTSTRAP_KEY=key
    )  # fmt: skip
    assert done.returncode not in {0, -11}
    assert "HEADGATE_BOOTSTRAP_KEY" in done.stderr
    assert key not in done.stdout + done.stderr


def test_what_is_shown_of_the_configuration_hides_passwords(tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(
        f"storage: {{sql: 'postgresql://user:{SECRET}@127.0.0.1:9/none', counters: 'redis://:{SECRET}@127.0.0.1:9/0'}}\n"
        f'backends:\n  - {{name: up, base_url: "http://127.0.0.1:9/v1", headers: {{authorization: "Bearer {SECRET}"}}, '
        f"query: {{api-key: {SECRET}}}}}\n"
    )
    for command in ("show", "check"):
        done = headgate(tmp_path, "config", command)
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stdout + done.stderr
