"""What the faults that refuse, say something wrong, or say too much look like on the wire."""

import json
import zlib
from typing import Any

from headgate.bench.chaos.refusals import RETRY_AFTER
from tests.bench.chaos_ask import CHECKS, TEXT, Asker, Check, check, data, spoken, values
from tests.upstream.chaos import Heard


@check("status")
def _status(ask: Asker) -> None:
    for name, value in RETRY_AFTER.items():
        heard = ask(f"status=429,retry_after={name}")
        assert heard.status == 429
        assert f"retry-after: {value}\r\n".encode() in heard.head + b"\r\n"
    assert b"retry-after" not in ask("status=429").head
    assert b"retry-after: 17" in ask("status=503,retry_after=17").head
    assert ask("status=500,body=empty").body == b""
    assert ask("status=502,body=html").body.startswith(b"<html>")
    assert json.loads(ask("status=529,body=anthropic").body)["type"] == "error"
    assert json.loads(ask("status=529", dialect="anthropic").body)["error"]["type"] == "overloaded_error"
    assert json.loads(ask("status=500,code=boom").body)["error"]["code"] == "boom"


def _refusal(code: int) -> Check:
    def look(ask: Asker) -> None:
        heard = ask(f"{code},retry_after=short")
        assert heard.status == code
        assert b"retry-after: 1" in heard.head
        assert json.loads(heard.body)["error"]["message"]

    return look


CHECKS |= {str(code): _refusal(code) for code in (401, 403, 404, 429, 500, 502, 503, 529)}


@check("context_length")
def _context_length(ask: Asker) -> None:
    assert json.loads(ask("context_length").body)["error"]["code"] == "context_length_exceeded"
    assert json.loads(ask("context_length=vllm").body)["message"].startswith("This model's maximum context length")
    assert json.loads(ask("context_length=llamacpp").body)["error"]["type"] == "exceed_context_size_error"
    assert b"prompt is too long" in ask("context_length", dialect="anthropic").body


@check("content_filter")
def _content_filter(ask: Asker) -> None:
    assert json.loads(ask("content_filter").body)["error"]["code"] == "content_policy_violation"
    azure = json.loads(ask("content_filter=azure").body)["error"]
    assert azure["innererror"]["content_filter_result"]["hate"]["filtered"] is True
    assert ask("content_filter", dialect="anthropic").status == 400


@check("content_filter_finish")
def _content_filter_finish(ask: Asker) -> None:
    heard = ask("content_filter_finish")
    assert values(heard)[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert TEXT.startswith(spoken(heard))
    assert json.loads(ask("content_filter_finish", stream=False, dialect="anthropic").body)["stop_reason"] == "refusal"


@check("refusal")
def _refusal_delta(ask: Asker) -> None:
    heard = ask("refusal")
    assert spoken(heard) == ""
    assert "".join(value["choices"][0]["delta"].get("refusal") or "" for value in values(heard)) == TEXT
    assert json.loads(ask("refusal", stream=False).body)["choices"][0]["message"]["refusal"] == TEXT
    assert values(ask("refusal", dialect="anthropic"))[-2]["delta"]["stop_reason"] == "refusal"


@check("redirect")
def _redirect(ask: Asker) -> None:
    assert b"location: http://169.254.169.254/latest/meta-data/" in ask("redirect").head
    heard = ask("redirect=http://127.0.0.1:1/x,status=302")
    assert heard.status == 302
    assert b"location: http://127.0.0.1:1/x" in heard.head


@check("error_event")
def _error_event(ask: Asker) -> None:
    heard = ask("error_event,after=3,kind=odd,code=500")
    assert len(heard.events) == 4
    assert json.loads(data(heard.events[-1]))["error"] | {"message": ""} == {
        "message": "", "type": "odd", "param": None, "code": "500",
    }  # fmt: skip
    assert data(ask("error_event,done=1").events[-1]) == b"[DONE]"
    assert ask("error_event", dialect="anthropic").events[-1].startswith(b"event: error\n")
    whole = ask("error_event", stream=False)
    assert whole.status == 200
    assert "error" in json.loads(whole.body)


@check("bad_json")
def _bad_json(ask: Asker) -> None:
    events = ask("bad_json,after=3").events
    assert [place for place, event in enumerate(events[:-1]) if not _is_json(data(event))] == [3]
    assert len(events) == len(ask("").events)
    assert not _is_json(ask("bad_json", stream=False).body)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@check("wrong_type")
def _wrong_type(ask: Asker) -> None:
    heard = ask("wrong_type")
    assert b"content-type: text/plain\r\n" in heard.head
    assert heard.body == ask("").body
    assert b"content-type: image/png" in ask("wrong_type=image/png", stream=False).head


@check("html")
def _html(ask: Asker) -> None:
    for stream in (True, False):
        heard = ask("html", stream=stream)
        assert (heard.status, heard.body[:15]) == (200, b"<!doctype html>")
        assert b"content-type: text/html" in heard.head


@check("null")
def _null(ask: Asker) -> None:
    assert data(ask("null,after=2").events[2]) == b"null"
    assert ask("null", stream=False).body == b"null"


@check("duplicate_events")
def _duplicate_events(ask: Asker) -> None:
    honest, twice = ask("").events, ask("duplicate_events,after=3").events
    assert twice[:3] == honest[:3]
    assert twice[3:-1:2] == twice[4::2] == honest[3:-1]
    assert twice[-1] == honest[-1]
    assert len(json.loads(ask("duplicate_events", stream=False).body)["choices"]) == 2


@check("empty_choices")
def _empty_choices(ask: Asker) -> None:
    heard = ask("empty_choices")
    assert sum(value["choices"] == [] for value in values(heard)) == len(ask("").events) - 1
    assert spoken(heard) == TEXT
    assert json.loads(ask("empty_choices", stream=False).body)["choices"] == []
    assert any(value.get("delta") == {} for value in values(ask("empty_choices", dialect="anthropic")))


_USAGE = {"include_usage": True}


@check("usage_missing")
def _usage_missing(ask: Asker) -> None:
    assert b'"usage":{' in ask("", stream_options=_USAGE).body
    for dialect in ("chat", "text", "anthropic"):
        for stream in (True, False):
            more: dict[str, Any] = {"stream_options": _USAGE} if stream and dialect != "anthropic" else {}
            heard = ask("usage_missing", stream=stream, dialect=dialect, **more)
            assert b'"usage":{' not in heard.body
            assert spoken(heard) == TEXT


@check("usage_absurd")
def _usage_absurd(ask: Asker) -> None:
    for kind, number in {"negative": -7, "huge": 10**18, "float": 3.5, "text": "many", "null": None}.items():
        streamed = values(ask(f"usage_absurd={kind}", stream_options=_USAGE))[-1]["usage"]
        assert set(streamed.values()) == {number}
        assert set(json.loads(ask(f"usage_absurd={kind}", stream=False).body)["usage"].values()) == {number}
    heard = values(ask("usage_absurd", dialect="anthropic"))
    assert heard[0]["message"]["usage"] == {"input_tokens": -7, "output_tokens": -7}
    assert heard[-2]["usage"] == {"output_tokens": -7}


@check("crlf")
def _crlf(ask: Asker) -> None:
    honest = ask("").body
    assert ask("crlf").body == honest.replace(b"\n", b"\r\n")
    assert ask("crlf,line=cr").body == honest.replace(b"\n", b"\r")


@check("interleaved_tools")
def _interleaved_tools(ask: Asker) -> None:
    whole = json.loads(ask("interleaved_tools", stream=False).body)["choices"][0]["message"]["tool_calls"]
    made = ["", ""]
    order = []
    for value in values(ask("interleaved_tools")):
        for call in value["choices"][0]["delta"].get("tool_calls", []):
            made[call["index"]] += call["function"]["arguments"]
            order.append(call["index"])
    assert made == [call["function"]["arguments"] for call in whole]
    assert order == [0, 1] * (len(order) // 2)
    blocks = [value["index"] for value in values(ask("interleaved_tools", dialect="anthropic")) if "index" in value]
    assert blocks[:6] == [0, 1] * 3


@check("gzip_bomb")
def _gzip_bomb(ask: Asker) -> None:
    for stream in (True, False):
        heard = ask("gzip_bomb,mb=8", stream=stream)
        assert b"content-encoding: gzip" in heard.head
        assert len(heard.body) < 100_000
        assert zlib.decompress(heard.body, 31) == b"0" * (8 << 20)


@check("huge_headers")
def _huge_headers(ask: Asker) -> None:
    assert len(ask("huge_headers").head) > 1_000_000
    assert ask("huge_headers=count", stream=False).head.count(b"\r\n") > 20_000
    assert spoken(ask("huge_headers,size=10")) == TEXT


@check("endless")
def _endless(ask: Asker) -> None:
    for stream in (True, False):
        heard: Heard = ask("endless", stream=stream, most=3 << 20)
        assert len(heard.data) >= 3 << 20
        assert heard.end == "open"
    assert b"[DONE]" not in heard.data


@check("huge_event")
def _huge_event(ask: Asker) -> None:
    heard = ask("huge_event,mb=2")
    assert len(heard.events[0]) > 2 << 20
    assert spoken(heard) == TEXT
    assert len(json.loads(ask("huge_event,mb=2", stream=False).body)["padding"]) == 2 << 20
