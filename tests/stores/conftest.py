"""The paced upstream process that the gateways of these tests stand before."""

from collections.abc import Iterator

import pytest

from tests.stores.house import House, house
from tests.upstream.process import upstream


@pytest.fixture(scope="session")
def model_server() -> Iterator[str]:
    with upstream() as url:
        yield url


@pytest.fixture(scope="session")
def pair(model_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two gateways, for tests that leave the stores as they found them: there and well."""
    with house(2, tmp_path_factory.mktemp("pair"), model_server) as found:
        yield found
