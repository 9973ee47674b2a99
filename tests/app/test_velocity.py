"""A served process stops a project that spends too fast, and lets it go on when told to."""

import json
from pathlib import Path

from tests.cli.shell import Shell
from tests.live import serving, until

BOOK = 'version = "1"\n[[price]]\nmodel = "one"\neffective = 2020-01-01\ninput = 50000\noutput = 50000\n'
CONFIG = """\
engine: {{enabled: false}}
discover: false
server: {{port: 0}}
prices: {book}
backends:
- {{name: demo, kind: scripted, models: [one]}}
"""
CALL = {"model": "one", "messages": [{"role": "user", "content": "hi"}]}


def test_a_project_that_spends_too_fast_is_stopped_within_seconds_and_can_be_let_go(tmp_path: Path) -> None:
    book = tmp_path / "book.toml"
    book.write_text(BOOK)
    home = tmp_path / "home"

    def headgate(*arguments: str) -> None:
        done = Shell(home, None).run(*arguments)
        assert done.returncode == 0, done.stderr

    with serving(home, CONFIG.format(book=book)) as live:
        key = json.loads(live.post("/admin/keys", {"name": "app", "tenant": "acme"})[1])["key"]
        headgate("budgets", "velocity", "--project", "acme", "--times", "2", "--window", "60", "--floor", "0.01")

        def status() -> int:
            return live.post("/v1/chat/completions", CALL, key)[0]

        assert status() == 200
        until(lambda: bool(live.events("velocity.tripped")), 30.0)
        (event,) = live.events("velocity.tripped")
        assert event["tenant"] == "acme"
        until(lambda: status() != 200, 10.0)
        refused = json.loads(live.post("/v1/chat/completions", CALL, key)[1])["error"]
        assert "stopped until" in refused["message"]
        assert "usual are $0.00" in refused["message"]
        headgate("budgets", "release", "acme")
        until(lambda: status() == 200, 10.0)
