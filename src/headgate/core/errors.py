"""Everything that can go wrong, and what the caller is told.

HeadgateError
├── Refused            the caller's to mend
│   ├── BadCall        400   malformed or unsupported request
│   ├── TooLarge       413   body over the limit
│   ├── Unauthorized   401   no key, or not a valid one
│   ├── Forbidden      403   the key may not do this
│   ├── NotFound       404   no such model, route or object
│   ├── Conflict       409   the object is not in a state that allows this
│   ├── OverLimit      429   rate or concurrency; try again after retry_after
│   ├── OverBudget     429   money is spent; trying again does not help
│   └── Blocked        400   a guard refused the content
└── Failed             ours or the upstream's
    ├── Upstream       502   the model server answered with an error, or not in its protocol
    ├── UpstreamTimeout 504  a phase took longer than allowed
    ├── Truncated      502   the answer was cut before its end
    ├── Overloaded     503   no capacity now; try again after retry_after
    └── Bug            500   our own fault
"""

from typing import ClassVar, Literal

Fault = Literal["caller", "ours", "upstream"]


class HeadgateError(Exception):
    """Base of all. The message is shown to the caller: it names the problem and the remedy, never a secret."""

    fault: ClassVar[Fault] = "ours"
    status: int = 500
    type: str = "server_error"
    code: str | None = None
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        """Seconds after which trying again can help."""
        self.headers: list[tuple[bytes, bytes]] = []
        """For the response, such as the limits that refused the call."""
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class Refused(HeadgateError):
    """The caller must change something before the same call can succeed."""

    fault = "caller"
    status = 400
    type = "invalid_request_error"


class BadCall(Refused):
    """The request is malformed, or asks for something unsupported."""


class TooLarge(Refused):
    """The request's body is larger than its route allows."""

    status = 413
    code = "request_too_large"


class Unauthorized(Refused):
    """No API key, or not a valid one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(Refused):
    """The key is valid and may not do this."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class NotFound(Refused):
    """There is no such thing, or the caller may not know of it."""

    status = 404
    type = "not_found_error"
    code = "not_found"


class Conflict(Refused):
    """The object's state does not allow this."""

    status = 409
    code = "conflict"


class OverLimit(Refused):
    """A rate or concurrency limit is reached; it frees by itself."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retryable = True


class OverBudget(Refused):
    """A budget is spent; waiting a moment does not help."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class Blocked(Refused):
    """A guard refused the content."""

    code = "content_filter"


class Failed(HeadgateError):
    """Ours or the upstream's fault: the same call may succeed later or elsewhere."""

    retryable = True


class Upstream(Failed):
    """The model server refused, failed, or did not speak its protocol."""

    fault = "upstream"
    status = 502
    code = "upstream_error"


class UpstreamTimeout(Failed):
    """A phase of the upstream call took longer than it may."""

    fault = "upstream"
    status = 504
    code = "upstream_timeout"


class Truncated(Failed):
    """The upstream's answer ended before it was complete."""

    fault = "upstream"
    status = 502
    code = "upstream_truncated"


class Overloaded(Failed):
    """No capacity at present."""

    status = 503
    code = "overloaded"


class Bug(Failed):
    """A fault of ours; the request id leads to the log."""

    status = 500
    code = "internal_error"
    retryable = False
