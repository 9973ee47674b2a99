"""Imports every module of the package under an audit hook and prints, as JSON, what importing did besides.

Run in a process of its own: `python -B importing.py PACKAGE_FOLDER`. An audit hook can never be taken off again.
"""

import importlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, ModuleType

STANDARD = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib"))
OUTSIDE = tuple(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EFFECTS = (
    "socket.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
)
ALEMBIC_SCRIPT = ("migrations", "env")
"""Run by Alembic within its context, never imported."""


class NoTorch(importlib.abc.MetaPathFinder):
    """Training needs PyTorch, which serving and testing do without: its absence is the same on every machine."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] == "torch":
            raise ModuleNotFoundError("no torch here", name="torch")
        return None


def modules(package: Path) -> Iterator[str]:
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        if parts[-1] != "__main__" and parts[-2:] != ALEMBIC_SCRIPT:
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def reader(frame: FrameType | None) -> str:
    """The file whose code asked for what just happened: the innermost one that is not of the standard library.

    Empty where it was an import statement: finding and reading modules is what importing is.
    """
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            return ""
        if name.startswith(OUTSIDE) or not (name.startswith((*STANDARD, "<")) or name == __file__):
            return name
        frame = frame.f_back
    return ""


def main(package: Path) -> None:
    effects: list[str] = []
    skipped: list[str] = []
    current = ""

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if not current:
            return
        if event.startswith(EFFECTS):
            effects.append(f"{current}: {event} {arguments!r}")
        elif event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & WRITING
            ours = reader(sys._getframe(1)).startswith(str(package))
            inside = str(path).startswith(str(package))
            if writes or (ours and not inside):
                effects.append(f"{current}: open {path!r} mode {mode!r}")

    sys.path.insert(0, str(package.parent))
    sys.meta_path.insert(0, NoTorch())
    before = dict(os.environ)
    sys.addaudithook(watch)
    for name in modules(package):
        current = name
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            skipped.append(name)
        current = ""
    if dict(os.environ) != before:  # compared at the end: NumPy sets and unsets a variable of its own meanwhile
        effects.append(f"the environment changed: {sorted(set(os.environ.items()) ^ set(before.items()))}")
    json.dump({"effects": effects, "skipped": skipped}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
