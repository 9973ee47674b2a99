"""One server for all attacks: small limits for slow clients, a scripted backend, an upstream and the engine."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.live import Live, serving
from tests.upstream.process import upstream

UPSTREAM_KEY = "sk-upstream-canary-5a5a5a5a5a5a5a5a"
CONFIG = """
discover: false
server: {{head_s: 1.0, body_window_s: 1.0, linger_s: 0.1, idle_s: 1.0}}
backends:
  - {{name: script, kind: scripted}}
  - {{name: up, base_url: "{upstream}", api_key_env: UP_KEY}}
  - {{name: dead, base_url: "http://127.0.0.1:9/v1", models: [dead]}}
"""


class Canary:
    """A listener that nobody has a reason to call."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.hits = 0
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        while True:
            peer, _ = self._socket.accept()
            peer.close()
            if self.hits < 0:
                return
            self.hits += 1

    def stop(self) -> None:
        self.hits = -1
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="session")
def model_server() -> Iterator[str]:
    with upstream(models="ok,echo_key,status:code=500,reset_before_head,bad_json,huge_header,html") as url:
        yield url


@pytest.fixture(scope="session")
def gate(model_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    config = CONFIG.format(upstream=model_server)
    with serving(tmp_path_factory.mktemp("attacked"), config, {"UP_KEY": UPSTREAM_KEY}) as live:
        yield live


@pytest.fixture
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _still_alive(gate: Live) -> Iterator[None]:
    """After every attack the server lives, and found no fault of its own."""
    yield
    assert gate.get("/livez")[0] == 200
    assert gate.events("bug") == []
