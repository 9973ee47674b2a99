"""Runs commands, as people do: in a folder, each in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cli.ask import ask
from tests.cli.warm import warm

CONFIG = "engine: {enabled: false}\ndiscover: false\nbackends:\n- {name: demo, kind: scripted, models: [one]}\n"


class Shell:
    """A folder to run commands in; `home` is where the state is."""

    def __init__(self, folder: Path, config: str | None = CONFIG) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if config is not None:
            (folder / "headgate.yaml").write_text(config)

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
        return {**clean, "HEADGATE_HOME": str(self.folder), **more}

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """In a process forked from one that has the code loaded."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given = self._environment(environment)
            status = ask(warm(), arguments, str(self.folder), given, out.fileno(), err.fileno())
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(arguments, status, out.read().decode(), err.read().decode())

    def start(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """In a new interpreter."""
        return subprocess.run(
            [sys.executable, "-m", "headgate.cli.main", *arguments],
            cwd=self.folder,
            env=self._environment(environment),
            capture_output=True,
            text=True,
            timeout=60,
        )
