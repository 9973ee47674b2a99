"""What the guides show works: YAML marked `test` is valid, shell marked `test` runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headgate.app.config import load
from tests.cli import ask
from tests.cli.warm import warm

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs" / "howto").glob("*.md"), *(ROOT / "docs" / "reference").glob("*.md")])
HEADGATE = """#!/bin/sh
case "$1" in
serve | chaos-*) exec {python} -m headgate.cli.main "$@" ;;
*) exec {python} -I -S {ask} {warm} "$@" ;;
esac
"""
"""What runs long and is ended by a signal is a process of the shell's; for the rest the code is loaded once."""


def blocks(kind: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in PAGES:
        shown = re.findall(rf"^```{kind} test\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        found += [(f"{path.stem}-{number}", text) for number, text in enumerate(shown)]
    return found


YAML, SHELL = blocks("yaml"), blocks("sh")


@pytest.mark.parametrize("text", [text for _, text in YAML], ids=[name for name, _ in YAML])
def test_settings_shown_are_valid(tmp_path: Path, text: str) -> None:
    path = tmp_path / "headgate.yaml"
    path.write_text(text)
    load(path)


@pytest.mark.parametrize("text", [text for _, text in SHELL], ids=[name for name, _ in SHELL])
def test_commands_shown_succeed(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "headgate").write_text(HEADGATE.format(python=sys.executable, ask=ask.__file__, warm=warm()))
    (folder / "headgate").chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", text],
        cwd=tmp_path,
        env={"PATH": f"{folder}:{os.defpath}", "HOME": str(tmp_path), "HEADGATE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "headgate" in text
