"""Processes under measurement: on which core they run, what CPU time and memory they have used. Linux only."""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
GATEWAY_CORE = CORES[0]
LOAD_CORE = CORES[1] if len(CORES) > 1 else CORES[0]
STOP_SECONDS = 20.0


def start(
    command: Sequence[str], core: int, log: Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A process bound to one core from its first thread on; what it says goes to `log`."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        with log.open("ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **(environment or {})})
    finally:
        os.sched_setaffinity(0, own)


def stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found, todo = [], [pid]
    while todo:
        pid = todo.pop()
        found.append(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            todo += [int(child) for child in children.read_text().split()]
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of all threads of these processes, from the scheduler's own nanosecond account."""
    total = 0
    for pid in pids:
        for account in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(account.read_text().split()[0])
            except OSError:
                continue  # the thread has ended
    return total / 1e9


def core_busy_seconds(core: int) -> float:
    """What one core has worked, for everybody."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def memory_mb(pids: Sequence[int]) -> float:
    """Resident memory, what is shared counted by its share (PSS)."""
    total = 0
    for pid in pids:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        total += int(found[1]) if found else 0
    return total / 1024


@contextmanager
def realtime(pids: Sequence[int]) -> Iterator[bool]:
    """Runs these processes before all others where that is allowed, so that other work cannot delay them."""
    threads = [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    allowed = _schedule(threads, os.SCHED_RR, 1)
    try:
        yield allowed
    finally:
        if allowed:
            _schedule(threads, os.SCHED_OTHER, 0)


def _schedule(threads: Sequence[int], policy: int, priority: int) -> bool:
    try:
        for thread in threads:
            os.sched_setscheduler(thread, policy, os.sched_param(priority))
    except ProcessLookupError:
        return True  # a helper thread has ended
    except PermissionError:
        return False
    return True
