"""Commands in processes of their own that need not load the code first: forked from one that has loaded it.

Loading is most of a short command's time. The process forked from has done nothing but that. It ends with its input.

    python -m tests.cli.warm SOCKET
"""

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from headgate.cli.main import main

ROOT = Path(__file__).parents[2]


@functools.cache
def warm() -> str:
    """Where the one of this session listens."""
    folder = tempfile.TemporaryDirectory(prefix="headgate-warm-")
    path = str(Path(folder.name) / "socket")
    command = [sys.executable, "-m", "tests.cli.warm", path]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def end() -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        process.wait(10)
        folder.cleanup()

    atexit.register(end)
    return path


def serve(path: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the minders
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        print("ready", flush=True)
        while sys.stdin not in (heard := select.select([listener, sys.stdin], [], [])[0]):
            if heard:
                caller, _ = listener.accept()
                with caller:
                    if os.fork() == 0:
                        listener.close()
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        mind(caller)


def mind(caller: socket.socket) -> None:
    """Takes the order, has it done in a process of its own, and says how that ended. Does not return."""
    size, outputs, _, _ = socket.recv_fds(caller, 4, 2)
    words, folder, environment = json.loads(caller.makefile("rb").read(int.from_bytes(size, "big")))
    pid = os.fork()
    if pid == 0:
        caller.close()
        command(words, folder, environment, outputs)
    _, status = os.waitpid(pid, 0)
    caller.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def command(words: list[str], folder: str, environment: dict[str, str], outputs: list[int]) -> None:
    """Ends the process, as the interpreter would: with the status that was exited with."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate([nothing, *outputs]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["headgate", *words]
    status: object = 1
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code
    finally:
        if sys.exception() is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    serve(sys.argv[1])
