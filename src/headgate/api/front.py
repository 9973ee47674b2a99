"""What is refused by a request's head alone, before anything reads its body or looks for its endpoint."""

import re
from collections.abc import Sequence

from headgate.api.http import Request
from headgate.api.settings import ServerSettings
from headgate.core.errors import BadCall, TooLarge
from headgate.core.reply import Header

ONCE = frozenset(
    {
        b"host",
        b"authorization",
        b"content-length",
        b"x-api-key",
        b"api-key",
        b"content-type",
        b"content-encoding",
        b"transfer-encoding",
        b"idempotency-key",
    }
)
"""Headers that two parties could read differently if they came twice."""

_BAD_HOST = re.compile(rb"[/?#@\\\x00-\x20\x7f-\xff]")
_JSON_TYPES = (b"application/json", b"text/json")


def check_head(request: Request, settings: ServerSettings) -> None:
    """Raises `BadCall` where a request's head is too large, ambiguous or deceptive."""
    if request.version not in {"1.1", "1.0"}:
        raise BadCall("This server speaks HTTP/1.1.", code="http_version_not_supported", status=505)
    _check_headers(request.headers, settings)
    host = request.header(b"host")
    if host is None:
        if request.version == "1.1":
            raise BadCall("A request needs a Host header.", code="invalid_host")
    elif _BAD_HOST.search(host.strip(b" \t")):
        raise BadCall("The Host header holds characters that no host name has.", code="invalid_host")
    transfer = request.header(b"transfer-encoding")
    if transfer is not None:
        if request.header(b"content-length") is not None or request.version == "1.0":
            raise BadCall("The body's length is given twice, or in a way HTTP/1.0 has not.", code="ambiguous_length")
        if transfer.strip().lower() != b"chunked":
            raise BadCall("The only transfer encoding here is chunked.", code="unsupported_encoding", status=501)


def _check_headers(headers: Sequence[Header], settings: ServerSettings) -> None:
    if len(headers) > settings.max_headers:
        raise BadCall(f"More than {settings.max_headers} headers.", code="head_too_large", status=431)
    size = 0
    seen: set[bytes] = set()
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name in ONCE:
            if name in seen:
                raise BadCall(f"The header {name.decode('latin-1')} came twice.", code="duplicate_header")
            seen.add(name)
    if size > settings.max_header_kb * 1024:
        raise BadCall(f"The headers are larger than {settings.max_header_kb:g} KiB.", code="head_too_large", status=431)


def check_body_head(request: Request, limit: int) -> None:
    """Refuses by its head a body that is too long or in a form not read here. Raises `TooLarge` or `BadCall`."""
    declared = request.header(b"content-length")
    if declared is not None:
        if not declared.isdigit() or len(declared) > 18:
            raise BadCall("The Content-Length is not a number.", code="invalid_http")
        if int(declared) > limit:
            raise TooLarge(f"The request's body of {int(declared)} bytes is larger than the {limit} accepted here.")
    encoding = request.header(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in {b"", b"identity"}:
        raise BadCall(
            "Compressed bodies are not read here; send the body as it is.", code="unsupported_encoding", status=415
        )
    media = (request.header(b"content-type") or b"").split(b";", 1)[0].strip().lower()
    if media and media not in _JSON_TYPES and not media.endswith(b"+json"):
        raise BadCall(
            "The body must be JSON; send it with content-type application/json.",
            code="unsupported_media_type",
            status=415,
        )
