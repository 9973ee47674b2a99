"""Where a model server is, and which addresses may never be one.

Base URLs come from the operator's configuration only. Even so a name can resolve to a cloud's metadata service, so the
addresses are checked after resolving, and the checked address is the one connected to (no second look-up).
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from msgspec import Struct

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

_NEVER = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "169.254.0.0/16",  # link-local: metadata of most clouds
        "100.100.100.200/32",  # metadata, Alibaba
        "168.63.129.16/32",  # platform channel, Azure
        "192.0.0.192/32",  # metadata, Oracle
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "::/128",
        "fe80::/10",
        "fd00:ec2::254/128",  # metadata, AWS
        "ff00::/8",
    )
)
_NAT64 = ip_network("64:ff9b::/96")


class Origin(Struct, frozen=True):
    """Scheme, host and port of a server, and the path below which its API lives (no trailing slash)."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_base_url(url: str) -> Origin:
    """Raises `ValueError` with the remedy for anything but `http(s)://host[:port][/path]`."""
    if any(character < "!" for character in url):
        raise ValueError("base_url must not hold blanks or control characters")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"base_url must look like https://host/v1, not {url!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url must not carry a user or password; use api_key_env or headers")
    if parts.query or parts.fragment:
        raise ValueError("base_url must not carry a query or fragment; use query")
    if "%" in parts.hostname:
        raise ValueError("base_url must not carry an IPv6 zone")
    if not all("!" <= character <= "~" for character in parts.path):
        raise ValueError("base_url's path must be plain ASCII without blanks")
    host = parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    secure = parts.scheme == "https"
    return Origin(secure, host, parts.port or (443 if secure else 80), parts.path.rstrip("/"))


def is_refused(address: str) -> bool:
    """True for link-local, metadata, multicast and unspecified addresses, in whatever form they are written."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return any(ip in network for network in _NEVER)


async def resolve(host: str, port: int) -> Sequence[str]:
    """The system's resolver. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
