"""What the guide shows, run against a real server with its own model."""

import re
import subprocess
import sys
from pathlib import Path

from tests.live import serving

GUIDE = (Path(__file__).parents[2] / "docs" / "howto" / "resume.md").read_text()


def test_the_client_of_the_guide_gets_all_of_the_answer(tmp_path: Path) -> None:
    found = re.search(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert found is not None
    with serving(tmp_path / "home", "discover: false\n") as live:
        example = found[1].replace("http://127.0.0.1:4000/v1", live.api).replace("hg-…", live.key)
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "headgate" in done.stdout.lower()
        page = live.get("/metrics")[1].decode()
        assert "headgate_streams_resumed_total{result=" in page
        assert sum(line["attempts"] for line in live.events("call.done")) == 1
