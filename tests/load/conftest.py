"""A gateway in front of a paced upstream process."""

from collections.abc import Iterator

import pytest

from tests.live import Live, serving
from tests.upstream.process import upstream

CONFIG = """
discover: false
engine: {{enabled: {engine}}}
backends:
  - {{name: script, kind: scripted}}
  - {{name: up, base_url: "{upstream}", concurrency: 10000}}
routes:
  - {{model: "*", targets: [{{backend: up}}]}}
"""


@pytest.fixture(scope="session")
def model_server() -> Iterator[str]:
    with upstream() as url:
        yield url


@pytest.fixture(scope="session")
def gate(model_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    config = CONFIG.format(upstream=model_server, engine="true")
    with serving(tmp_path_factory.mktemp("load"), config) as live:
        yield live
