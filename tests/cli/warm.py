"""A command in a process of its own that need not load the code first: forked from one that has loaded it.

Loading takes most of a short command's time. The process forked from has run nothing but the imports.
"""

import multiprocessing
import os
import sys
import tempfile
from multiprocessing.context import ForkServerContext
from pathlib import Path

from headgate.cli.main import main

ENDS_WITHIN_S = 60.0
_context: ForkServerContext = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def _run(arguments: tuple[str, ...], folder: Path, environment: dict[str, str], into: tuple[str, str]) -> None:
    """In the new process. It ends as the command does: with its status, and a traceback where it fails."""
    for number, path in enumerate(into, 1):
        descriptor = os.open(path, os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["headgate", *arguments]
    sys.exit(main())


def run(arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    """The status, what it wrote, and its errors. Raises `TimeoutError`; then the command is ended."""
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        process = _context.Process(target=_run, args=(arguments, folder, environment, (out.name, err.name)))
        process.start()
        process.join(ENDS_WITHIN_S)
        status = process.exitcode
        if status is None:
            process.kill()
            process.join()
        process.close()
        if status is None:
            raise TimeoutError(f"headgate {' '.join(arguments)} runs for more than {ENDS_WITHIN_S} s")
        return status, out.read().decode(), err.read().decode()
