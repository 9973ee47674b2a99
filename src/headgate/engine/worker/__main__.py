"""The engine's process: `python -m headgate.engine.worker --fd N`, started by `engine/front/process.py`.

It owns no terminal and no address: it talks over the inherited socket only, and ends when the other side closes it,
which is also what happens when the parent dies. Interrupts and terminations are the parent's to decide, so both signals
are ignored: a Ctrl-C or a service manager's stop reaches the whole process group while the parent still drains.
"""

import argparse
import importlib
import os
import signal
import socket

from headgate.core.clock import SystemClock

THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m headgate.engine.worker")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--blas-threads", type=int, default=1, help="a decoder has threads of its own beside these")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for name in THREAD_SETTINGS:
        os.putenv(name, str(arguments.blas_threads))
    clock = SystemClock()
    started = clock.monotonic()
    # NumPy's matrix library reads these once, while it is loaded: everything that imports NumPy comes after.
    loop = importlib.import_module("headgate.engine.worker.loop")
    with socket.socket(fileno=arguments.fd) as channel:
        loop.serve(channel, clock, started)


if __name__ == "__main__":
    main()
