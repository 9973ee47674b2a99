from collections.abc import Iterator

import pytest

from tests.upstream.process import upstream


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The base URL of a fake upstream in its own process."""
    with upstream() as base_url:
        yield base_url
