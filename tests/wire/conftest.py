"""Two set-ups, each tested alike: Headgate on its bundled model, and a Headgate in front of that one."""

from collections.abc import Iterator

import pytest

from tests.live import ADMIN_KEY, Live, serving
from tests.upstream.process import upstream

BACK = """
discover: false
server: {{heartbeat_s: 0.2}}
retries: {{backoff_s: 0.05}}
health: {{breaker: {{pause_s: 0.05, pause_max_s: 0.1}}}}
backends:
  - {{name: script, kind: scripted}}
  - {{name: up, base_url: "{upstream}"}}
routes:
  - {{model: "scripted:*", targets: [{{backend: script}}]}}
  - {{model: "ok:*", targets: [{{backend: up}}]}}
  - {{model: "status:*", targets: [{{backend: up}}]}}
"""
FRONT = """
discover: false
server: {{heartbeat_s: 0.2}}
engine: {{enabled: false}}
retries: {{backoff_s: 0.05}}
health: {{breaker: {{pause_s: 0.05, pause_max_s: 0.1}}}}
backends:
  - {{name: back, base_url: "{back}", api_key_env: BACK_KEY}}
routes:
  - {{model: "scripted:*", targets: [{{backend: back}}]}}
  - {{model: "ok:*", targets: [{{backend: back}}]}}
  - {{model: "status:*", targets: [{{backend: back}}]}}
"""


@pytest.fixture(scope="session")
def model_server() -> Iterator[str]:
    """The upstream that does what its model's name says."""
    with upstream(models="ok,stall,crlf,cr,bom,cut_anywhere,reset_in_stream,error_event,endless") as url:
        yield url


@pytest.fixture(scope="session")
def direct(model_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("direct"), BACK.format(upstream=model_server)) as live:
        yield live


@pytest.fixture(scope="session")
def front(direct: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    config = FRONT.format(back=direct.api)
    with serving(tmp_path_factory.mktemp("front"), config, {"BACK_KEY": ADMIN_KEY}) as live:
        yield live


@pytest.fixture(scope="session", params=["direct", "front"])
def gate(request: pytest.FixtureRequest) -> Live:
    live: Live = request.getfixturevalue(request.param)
    return live
