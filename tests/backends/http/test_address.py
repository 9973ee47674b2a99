import asyncio

import pytest

from headgate.backends.http.address import Origin, is_refused, parse_base_url
from headgate.backends.http.client import HttpClient, check_header, request_head
from headgate.backends.http.pool import PoolSettings
from headgate.core.deadline import Timeouts
from headgate.core.errors import Upstream
from tests.backends.calls import CLOCK


@pytest.mark.parametrize(
    ("url", "origin", "host"),
    [
        ("https://api.example.com/v1/", Origin(True, "api.example.com", 443, "/v1"), "api.example.com"),
        ("http://127.0.0.1:8000/v1", Origin(False, "127.0.0.1", 8000, "/v1"), "127.0.0.1:8000"),
        ("http://[::1]:8000", Origin(False, "::1", 8000, ""), "[::1]:8000"),
        ("http://Bücher.example/v1", Origin(False, "xn--bcher-kva.example", 80, "/v1"), "xn--bcher-kva.example"),
    ],
)
def test_a_base_url_names_its_origin(url: str, origin: Origin, host: str) -> None:
    assert parse_base_url(url) == origin
    assert origin.authority == host


@pytest.mark.parametrize(
    "url",
    ["", "api.example.com/v1", "file:///etc/passwd", "http://", "http://me:pw@host/v1", "http://host/v1?x=1",
     "http://host/#x", "http://[fe80::1%25eth0]/", "http://host/a\r\nb", "http://host/a b", "http://host:99999/"],
)  # fmt: skip
def test_a_base_url_that_is_none_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_base_url(url)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200", "168.63.129.16",
     "0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
     "2002:a9fe:a9fe::1"],
)  # fmt: skip
def test_metadata_and_link_local_addresses_are_refused_in_every_spelling(address: str) -> None:
    assert is_refused(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "8.8.8.8", "2001:4860:4860::8888"])
def test_ordinary_and_local_addresses_are_allowed(address: str) -> None:
    assert not is_refused(address)


def test_a_name_that_resolves_to_the_metadata_service_is_not_connected_to() -> None:
    async def main() -> None:
        asked = []

        async def resolver(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["169.254.169.254", "::ffff:169.254.169.254"]

        client = HttpClient(Origin(False, "models.example", 80, ""), CLOCK, resolver=resolver)
        with pytest.raises(Upstream) as refused:
            await client.send(b"GET / HTTP/1.1\r\n", timeouts=Timeouts())
        assert refused.value.code == "upstream_address_refused"
        assert "169" not in refused.value.message
        assert asked == ["models.example"]
        assert client.counts.active == 0

    asyncio.run(main())


def test_the_checked_address_is_the_one_connected_to(server: str) -> None:
    """A resolver that changes its mind is asked once for each connection, and the name is never resolved again."""

    async def main() -> None:
        port = parse_base_url(server).port
        answers = [["127.0.0.1"], ["169.254.169.254"]]

        async def resolver(host: str, port: int) -> list[str]:
            return answers.pop(0)

        origin = Origin(False, "models.invalid", port, "")
        client = HttpClient(origin, CLOCK, resolver=resolver, settings=PoolSettings())
        exchange = await client.send(request_head(origin, "GET", "/health", {}), timeouts=Timeouts())
        assert exchange.status == 200
        assert await exchange.read_all(100) == b"{}"
        client.close()

    asyncio.run(main())


@pytest.mark.parametrize(("name", "value"), [("a b", "x"), ("a:", "x"), ("", "x"), ("a", "x\r\ny: z"), ("a", "ü")])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="header") as refused:
        check_header(name, value)
    assert value not in str(refused.value) or len(value) == 1
