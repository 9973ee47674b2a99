"""What the README shows, run: its Python against a real server with the real SDK, its settings, its promised pieces."""

import re
import subprocess
import sys
from pathlib import Path

from headgate.app.config import load
from tests.live import serving

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"the README has no {kind} block"
    return found.group(1)


def test_the_first_screen_says_what_it_is_and_has_two_commands_and_a_picture() -> None:
    screen = "\n".join(README.splitlines()[:25])
    assert "production layer for LLM applications" in screen
    assert [line.split()[1] for line in block("sh").splitlines()] == ["serve", "test"]
    assert re.search(r"!\[.+\]\(docs/images/serve\.svg\)", screen)


def test_the_python_example_streams_an_answer_of_the_bundled_model(tmp_path: Path) -> None:
    with serving(tmp_path / "home", "discover: false\n") as live:
        example = block("python").replace("http://127.0.0.1:4000/v1", live.api).replace("hg-…", live.key)
        assert live.api in example, "the README no longer names the default address"
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "headgate" in done.stdout.lower()


def test_the_settings_example_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "headgate.yaml"
    path.write_text(block("yaml"))
    config = load(path)
    assert config.routes[0].model == "assistant"
