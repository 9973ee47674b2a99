"""Sinks in `headgate.yaml`: what is wrong is said at the start, with its line; secrets are never shown."""

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
