"""Every answer leaves exactly one line in the log: of the call it was, or of the request that never became one."""

from tests.api.house import Wire
from tests.live import Live

HI = [{"role": "user", "content": "hi"}]


def test_every_refusal_leaves_one_line_and_is_counted(direct: Live) -> None:
    chat = "/v1/chat/completions"
    asked: list[tuple[str, str, object, str | None, str]] = [
        ("POST", chat, b"{oops, a private prompt", direct.key, "request.refused"),
        ("POST", chat, b"x" * 100_000, "hg-of-somebody", "request.refused"),
        ("GET", "/v1/private/path", None, None, "request.refused"),
        ("GET", "/v1/models", None, "hg-of-somebody", "request.refused"),
        ("POST", chat, {"model": "scripted", "messages": HI}, "hg-of-somebody", "call.done"),
        ("POST", chat, {"model": "nobody", "messages": HI}, direct.key, "call.done"),
        ("POST", chat, {"model": "scripted", "messages": HI}, direct.key, "call.done"),
    ]
    for method, path, body, key, event in asked:
        with Wire(direct.port) as wire:
            wire.request(method, path, body, key, x_client_request_id="mine")
            answer = wire.answer()
        lines = [line for line in direct.events() if line.get("request_id") == answer.headers["x-request-id"]]
        assert [(line["event"], line["status"], line["client_request_id"]) for line in lines] == [
            (event, answer.status, "mine")
        ]
    assert 'headgate_requests_refused_total{code="invalid_json",status="400"}' in direct.get("/metrics")[1].decode()
    assert not [word for word in ("private", "somebody") if word in direct.log_path.read_text()]
