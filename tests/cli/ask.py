"""Runs one command at the process of `tests.cli.warm`: `python ask.py SOCKET WORD...`. Loads next to nothing itself."""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence

NO_ANSWER = 70
"""The status where the other process ended without one."""


def ask(path: str, words: Sequence[str], folder: str, environment: Mapping[str, str], out: int, err: int) -> int:
    """The command's status: minus the number where a signal ended it. It writes to the descriptors `out` and `err`.

    Raises `TimeoutError` where it takes longer than a minute.
    """
    order = json.dumps([list(words), folder, dict(environment)]).encode()
    with socket.socket(socket.AF_UNIX) as to:
        to.settimeout(60)
        to.connect(path)
        socket.send_fds(to, [len(order).to_bytes(4, "big")], [out, err])
        to.sendall(order)
        told = to.makefile("rb").read()
    return int(told) if told else NO_ANSWER


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1], sys.argv[2:], os.getcwd(), os.environ, 1, 2))
