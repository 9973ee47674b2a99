"""Sinks in `headgate.yaml`: what is wrong is said at the start, with its line; secrets are never shown."""

import subprocess
import sys
from pathlib import Path

import pytest

from headgate.app.config import load, show
from headgate.app.yamlfile import ConfigError
from headgate.core.bus import KafkaSettings, NatsSettings


def written(folder: Path, text: str) -> Path:
    path = folder / "headgate.yaml"
    path.write_text(text)
    return path


def test_sinks_are_read_by_their_kind_with_defaults(tmp_path: Path) -> None:
    text = (
        'events:\n  - {kind: nats, url: "nats://h:4222", stream: S}\n  - {kind: kafka, servers: "k:9092", name: dwh}\n'
    )
    assert load(written(tmp_path, text)).events == (
        NatsSettings(name="nats", url="nats://h:4222", stream="S", subject="headgate.usage"),
        KafkaSettings(name="dwh", servers="k:9092", topic="headgate.usage"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('events:\n  - {kind: nats, url: "nats://h:1"}\n', "stream"),
        ('events:\n  - {kind: rabbit, url: "x"}\n', "rabbit"),
        ("events:\n  - {kind: kafka, servers: s, acks: none}\n", "acks"),
        ("events:\n  - {kind: kafka, servers: s}\n  - {kind: kafka, servers: t}\n", ":3: two events sinks are named"),
        ("ledger: {max_unshipped_mb: 0}\n", "max_unshipped_mb"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path, text))
    assert words in str(refused.value)


def test_a_password_that_was_put_into_a_url_is_not_shown(tmp_path: Path) -> None:
    config = load(written(tmp_path, 'events:\n  - {kind: nats, url: "nats://u:pw1234@h:1", stream: S}\n'))
    assert "pw1234" not in str(show(config))


WITHOUT = """
import sys
sys.modules["nats"] = sys.modules["confluent_kafka"] = None  # as where the extras are not installed
from headgate.core.bus import KafkaSettings, NatsSettings
from headgate.storage.bus.open import open_bus
from headgate.storage.errors import StorageError
for settings in (NatsSettings(url="nats://h:1", stream="S"), KafkaSettings(servers="h:1")):
    try:
        open_bus(settings, {})
    except StorageError as error:
        print(error)
"""


def test_a_client_that_is_not_installed_is_named_with_the_command_that_brings_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "events: 'nats' needs a client that is not installed; run: pip install 'headgate[nats]'",
        "events: 'kafka' needs a client that is not installed; run: pip install 'headgate[kafka]'",
    ], done.stderr
