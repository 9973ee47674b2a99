"""What a server says first is true: its line to try works, and a model that cannot be served is named at once."""

import json
import re
from pathlib import Path

from tests.backends import folders
from tests.backends.test_embedded_encoder import write
from tests.live import serving, start, until

CONFIG = """
discover: false
engine:
  models:
  - {{name: an-encoder, model: {folder}/encoder}}
  - {{name: the-writer, model: {folder}/writer}}
"""


def _models(folder: Path) -> Path:
    for name in ("encoder", "writer"):
        (folder / name).mkdir()
    write(folder / "encoder")
    folders.write(folder / "writer")
    return folder


def test_the_line_to_try_names_a_model_that_can_answer_it(tmp_path: Path) -> None:
    with serving(tmp_path / "home", CONFIG.format(folder=_models(tmp_path))) as live:
        until(lambda: "-d '" in live.log_path.read_text())
        told = live.log_path.read_text()
        assert "models    an-encoder, the-writer" in told
        found = re.search(r"-d '(.*)'", told)
        assert found is not None
        status, answer = live.post("/v1/chat/completions", json.loads(found[1]))
        assert status == 200, answer


def test_a_model_that_cannot_be_served_is_named_without_waiting_for_it(tmp_path: Path) -> None:
    (_models(tmp_path) / "encoder" / "model.safetensors").write_bytes(b"\xff" * 100)
    live = start(tmp_path / "home", CONFIG.format(folder=tmp_path))
    try:
        until(lambda: "not ready" in live.log_path.read_text(), 30, live.log_path.read_text)
        told = next(line for line in live.log_path.read_text().splitlines() if "not ready" in line)
        assert "'an-encoder' is refused: " in told
        assert "model.safetensors" in told
        assert "the-writer" not in told
    finally:
        live.process.terminate()
        live.process.wait(45)
