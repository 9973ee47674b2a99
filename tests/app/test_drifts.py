"""A server tells when the model behind the name of an encoder is another than it was, until somebody has taken note."""

import base64
import json
from array import array
from pathlib import Path

from tests.backends.test_embedded_encoder import write
from tests.live import Live, serving, until

CONFIG = "discover: false\nengine: {{models: [{{name: a/b, model: {folder}}}]}}\n"


def drift(live: Live) -> float:
    page = live.get("/metrics")[1].decode()
    line = next(line for line in page.splitlines() if line.startswith("headgate_encoder_drift{"))
    return float(line.rpartition(" ")[2])


def test_a_record_that_cannot_be_kept_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "encoders").write_text("in the way")
    with serving(tmp_path / "home", CONFIG.format(folder=write(tmp_path / "model"))) as live:
        until(lambda: bool(live.events("encoder.changed")))
        (told,) = live.events("encoder.changed")
        assert "cannot be kept" in told["detail"]
        assert live.post("/v1/embeddings", {"model": "a/b", "input": "paris"})[0] == 200


def test_another_model_behind_the_same_name_is_told_of_at_each_start(tmp_path: Path) -> None:
    config = CONFIG.format(folder=write(tmp_path / "model"))
    record = tmp_path / "home" / "encoders" / "a%2Fb.json"
    with serving(tmp_path / "home", config) as live:
        until(record.exists)
        assert drift(live) == 0.0
        assert live.post("/v1/embeddings", {"model": "a/b", "input": "paris"})[0] == 200
    found = json.loads(record.read_text())
    other = array("f", base64.b64decode(found["vector"]))
    other[0] += 0.5
    found["vector"] = base64.b64encode(other.tobytes()).decode()
    record.write_text(json.dumps(found))
    with serving(tmp_path / "home", config) as live:
        until(lambda: bool(live.events("encoder.changed")))
        (told,) = live.events("encoder.changed")
        assert (told["model"], told["record"]) == ("a/b", str(record))
        assert "stored vectors" in told["remedy"]
        assert drift(live) == told["distance"] > 0.1
