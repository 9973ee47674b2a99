import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from headgate.core.errors import Upstream
from tests.backends.calls import backend, call, collect, target, until_idle
from tests.upstream.process import upstream
from tests.upstream.server import TLS

CERTIFICATE = str(TLS / "cert.pem")


@pytest.fixture(scope="module")
def secure() -> Iterator[str]:
    with upstream(tls=True) as base_url:
        yield base_url


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_server_whose_certificate_is_trusted_is_spoken_to(secure: str, run: object) -> None:
    async def main() -> None:
        up = backend(secure, ca_file=CERTIFICATE)
        for _ in range(3):
            assert (await up.open(call("ok"), target("ok"))).usage is not None
        _, _, error = await collect(await up.open(call("ok:tokens=500", stream=True), target("ok:tokens=500")))
        assert error is None
        await until_idle(up)
        assert up.counts.idle == 1
        await up.aclose()
        await asyncio.sleep(0.01)

    assert callable(run)
    run(main())


@pytest.mark.parametrize("by_name", [True, False])
def test_an_unknown_certificate_or_a_wrong_name_is_refused(secure: str, by_name: bool) -> None:
    async def main() -> None:
        wrong_name = secure.replace("localhost", "ip6-localhost.invalid")

        async def resolver(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        up = backend(secure) if not by_name else backend(wrong_name, ca_file=CERTIFICATE, resolver=resolver)
        with pytest.raises(Upstream) as refused:
            await up.open(call("ok"), target("ok"))
        assert refused.value.code == "upstream_tls"
        await up.aclose()

    asyncio.run(main())
