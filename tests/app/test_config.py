"""Every error of the settings file names file, line and remedy; what is shown can be read again and holds no secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from headgate.app.config import Config, Environment, find_file, load, read_environment, schema, show
from headgate.app.yamlfile import ConfigError
from tests.app.fits import misfits

BAD = [
    ("unknown section", "server: {}\nserveer: {}\n", 2, "unknown setting 'serveer'"),
    ("unknown setting", "server:\n  port: 1\n  foo: 2\n", 3, "unknown setting 'foo'"),
    ("wrong type", "server:\n\n  port: many\n", 3, "Expected `int`, got `str` in 'server.port'"),
    ("out of range", "admission:\n  concurrency: 0\n", 2, ">= 1 in 'admission.concurrency'"),
    ("not a number", "admission:\n  queue_wait_s: .nan\n", 2, "admission.queue_wait_s"),
    ("not a level", "log:\n  level: loud\n", 2, "Invalid enum value 'loud'"),
    ("missing field", "backends:\n- kind: scripted\n", 2, "missing required field `name`"),
    ("deep in a list", "backends:\n- name: a\n  kind: scripted\n- name: b\n  kind: scrpted\n", 5, "'scrpted'"),
    ("deeper", "backends:\n- name: a\n  kind: scripted\n  script:\n    foo: 1\n", 5, "unknown setting 'foo'"),
    ("key of a mapping", "backends:\n- name: a\n  headers:\n    1: x\n", 3, "headers"),
    ("duplicate key", "server:\n  port: 1\n  host: a\n  port: 2\n", 4, "'port' stands twice (first on line 2)"),
    ("duplicate section", "log: {}\nserver: {}\nlog: {}\n", 3, "'log' stands twice"),
    ("broken YAML", "server:\n  port: [1\n", 3, "not valid YAML"),
    ("tab", "server:\n\tport: 1\n", 2, "not valid YAML"),
    ("a list", "- a\n- b\n", 1, "expected 'name: value' lines"),
    ("an empty list", "[]\n", 1, "expected 'name: value' lines"),
    ("a word", "hello\n", 1, "expected 'name: value' lines"),
    ("within itself", "server: &a\n  x: *a\n", 2, "unknown setting 'x'"),
    ("too deep", "[" * 5000, 1, "nested too deeply"),
    ("a tag", "server: !!python/object:os.system {}\n", 1, "not valid YAML"),
    ("control characters", "server: {host: '\x01'}\n", 1, "not valid YAML"),
    ("two of a name", "backends:\n- {name: a, kind: scripted}\n- kind: scripted\n  name: a\n", 4, "stands twice"),
    (
        "a backend named like a replica",
        "backends:\n- {name: a, kind: scripted, replicas: [{name: b}]}\n"
        "- {name: b, kind: scripted, replicas: [{weight: 1}]}\n",
        3,
        "stands twice",
    ),
    ("the engine's name", "backends:\n- name: embedded\n  kind: scripted\n", 2, "taken by the engine"),
    ("the engine's kind", "backends:\n- name: e\n  kind: embedded\n", 3, "set under 'engine'"),
    ("no address", "backends:\n- name: far\n", 2, "base_url or a provider"),
    ("unknown provider", "backends:\n- name: far\n  provider: opnai\n", 3, "there is no provider 'opnai'"),
    ("unknown backend", "routes:\n- model: m\n  targets:\n  - backend: nobody\n", 4, "there is no backend 'nobody'"),
    (
        "unknown fallback",
        "discover: false\nroutes:\n- model: m\n  targets: [{backend: embedded}]\n  fallbacks:\n  - {backend: openai}\n",
        6,
        "Known are: embedded",
    ),
    ("engine off", "engine: {enabled: false}\ndiscover: false\nroutes:\n- {model: m, targets: [{backend: embedded}]}\n",
     4, "Known are: none"),
    (
        "two routes of a model",
        "routes:\n- {model: m, targets: [{backend: embedded}]}\n- {model: m, targets: [{backend: embedded}]}\n",
        3,
        "has two routes. Merge",
    ),
    ("no weight", "routes:\n- model: m\n  targets: [{backend: embedded, weight: 0}]\n", 2, "Raise one"),
    ("negative weight", "routes:\n- model: m\n  targets:\n  - {backend: embedded, weight: -1}\n", 4, "weight"),
    ("no targets", "routes:\n- {model: m, targets: []}\n", 2, "targets"),
    ("a bool for a name", "backends:\n- name: no\n", 2, "got `bool` in 'backends.0.name'. Put the value in quotes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "line", "words"), BAD, ids=[case[0] for case in BAD])
def test_a_bad_file_is_refused_with_file_line_and_what_to_do(
    tmp_path: Path, name: str, text: str, line: int, words: str
) -> None:
    path = tmp_path / "headgate.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    message = str(refused.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert words in message
    assert message.count(". ") + message.endswith(".") >= 1, "a remedy is a sentence of its own"


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "headgate.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)


def test_a_few_lines_of_aliases_take_no_time_to_refuse(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path = tmp_path / "headgate.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="unknown setting 'a0'"):
        load(path)


def test_a_missing_file_is_refused_and_none_is_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file(None) is None
    assert load(None) == Config()
    with pytest.raises(ConfigError, match="no such file"):
        find_file("elsewhere.yaml")
    (tmp_path / "headgate.yaml").write_text("")
    assert load(find_file(None)) == Config()


FULL = """
server: {port: 0, cors_origins: ["*"]}
log: {level: debug}
storage: {sql: "postgresql://me:secret-1@db:5432/x", counters: "redis://:secret-2@cache:6379/0"}
admission: {concurrency: 5}
engine: {enabled: false, model: /models/x, name: mine}
backends:
- name: far
  base_url: https://user:secret-3@far.example/v1
  api_key_env: FAR_KEY
  headers: {authorization: secret-4}
  query: {api-version: "1", key: secret-5}
  aliases: {small: big-model-small}
  models: [big-model]
- {name: demo, kind: scripted, script: {tokens: 5, rate: 10}}
routes:
- {model: "gpt-*", targets: [{backend: far, weight: 3}, {backend: demo, model: scripted}]}
- {model: "*", targets: [{backend: openai}], fallbacks: [{backend: demo, model: scripted}]}
discover: true
prices: my.toml
"""


def test_what_is_shown_fits_the_schema_and_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "headgate.yaml"
    path.write_text(FULL)
    shown = json.loads(json.dumps(show(load(path))))
    assert misfits(shown, schema(), schema()) == []
    assert misfits(json.loads(json.dumps(show(Config()))), schema(), schema()) == []
    assert misfits({**shown, "foo": 1, "server": {"port": "x"}}, schema(), schema()) != []
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(shown))
    assert json.loads(json.dumps(show(load(again)))) == shown


def test_what_is_shown_holds_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "headgate.yaml"
    path.write_text(FULL)
    text = json.dumps(show(load(path)))
    assert "secret-" not in text
    assert "postgresql://me:***@db:5432/x" in text
    assert '"api-version": "1"' in text


def test_the_environment_is_read_once_and_empty_means_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HEADGATE_BOOTSTRAP_KEY", "")
    found: Environment = read_environment()
    assert (found.home, found.bootstrap_key) == (tmp_path / "state", None)
    assert read_environment(str(tmp_path / "other")).home == tmp_path / "other"
    variables: Any = found.variables
    monkeypatch.setenv("HEADGATE_LATER", "1")
    assert "HEADGATE_LATER" not in variables
