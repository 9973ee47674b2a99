"""What `headgate serve` prints: where it is, the key, the models, and a line to try."""

import json
from collections.abc import Callable, Sequence

SHOWN_MAX = 8


class Progress:
    """A line that moves while something loads; nothing where nobody watches a terminal."""

    _FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

    def __init__(self, write: Callable[[str], object], terminal: bool) -> None:
        self._write = write
        self._terminal = terminal
        self._count = 0

    def step(self, what: str) -> None:
        if self._terminal:
            self._write(f"\r\x1b[K  {self._FRAMES[self._count % len(self._FRAMES)]} {what} …")
            self._count += 1

    def done(self) -> None:
        if self._count:
            self._write("\r\x1b[K")


def welcome(
    host: str, port: int, key: str | None, models: Sequence[str], trouble: str | None, example: str | None
) -> str:
    """The text. `key` is None where only the administrator knows it; `example` is a model that writes text, or None."""
    base = f"http://{_reachable(host)}:{port}/v1"
    shown = ", ".join(models[:SHOWN_MAX]) + (f" and {len(models) - SHOWN_MAX} more" if len(models) > SHOWN_MAX else "")
    lines = [
        "",
        "  Headgate is serving.",
        "",
        f"  address   {base}",
        f"  API key   {key or 'yours (HEADGATE_BOOTSTRAP_KEY, or: headgate keys create)'}",
        f"  models    {shown or 'none yet: set a provider key, start a model server, or see docs/howto/backends.md'}",
    ]
    if trouble:
        lines.append(f"  not ready {trouble}")
    if example is not None:
        body = json.dumps({"model": example, "messages": [{"role": "user", "content": "Who are you?"}]})
        lines += [
            "",
            "  Try it:",
            "",
            f"    curl {base}/chat/completions \\",
            f'      -H "Authorization: Bearer {key or "$HEADGATE_BOOTSTRAP_KEY"}" \\',
            "      -H 'Content-Type: application/json' \\",
            f"      -d '{body}'",
        ]
    return "\n".join([*lines, "", ""])


def _reachable(host: str) -> str:
    """An address to type: a wildcard is none."""
    if host in {"", "0.0.0.0", "::"}:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
