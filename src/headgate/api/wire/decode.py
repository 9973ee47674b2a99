"""From body bytes to a checked struct, or a `BadCall` that names the field and the remedy.

Refused are anything but UTF-8, JSON's extensions (NaN, Infinity), lone surrogates, and nesting beyond the
interpreter's recursion limit. Of duplicate keys the last counts. Unknown fields are passed over here; they live on in
the raw bytes.
"""

import re
from typing import TypeVar

import msgspec

from headgate.core.errors import BadCall

T = TypeVar("T")

_PLACE = re.compile(r"^(?P<what>.*) - at `(?P<key>key in )?`?(?:in `)?\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<field>.+)`$")
_NAMED = re.compile(r"^`(?P<path>\w+)` ")
_SHOWN = 300
"""The most characters of a message or a field's path that are shown."""


def decode(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """Raises `BadCall`."""
    if not raw or raw.isspace():
        raise BadCall("The request has no body; send a JSON object.", code="empty_body")
    try:
        if not raw.isascii():
            raw.decode()  # fields that are passed over are not checked by the decoder
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise BadCall(f"The body is not valid JSON: {reason[:_SHOWN]}.", code="invalid_json") from None
    except UnicodeDecodeError as error:
        raise BadCall(f"The body is not valid UTF-8 (byte {error.start}).", code="invalid_json") from None
    except RecursionError:
        raise BadCall("The body is nested too deeply.", code="invalid_json") from None


def _invalid(text: str) -> BadCall:
    """msgspec says `<what> - at `$.path``; we say which field, what is wrong with it and what is allowed."""
    place = _PLACE.match(text)
    what, path = (place["what"], place["path"]) if place else (text, "")
    missing = _MISSING.match(what)
    if missing:
        field = f"{path}.{missing['field']}" if path else missing["field"]
        return BadCall(
            f"Missing required parameter: '{field[:_SHOWN]}'.",
            code="missing_required_parameter",
            param=field[:_SHOWN],
        )
    if not path and (named := _NAMED.match(what)):  # a struct's own check
        path, what = named["path"], what[named.end() :]
    what = what.replace("`", "'")
    what = what[:1].lower() + what[1:]
    code = "invalid_type" if ", got " in what else "invalid_value"
    if not path:
        return BadCall(f"The body is not what this endpoint takes: {what[:_SHOWN]}.", code=code)
    return BadCall(f"Invalid value for '{path[:_SHOWN]}': {what[:_SHOWN]}.", code=code, param=path[:_SHOWN])
