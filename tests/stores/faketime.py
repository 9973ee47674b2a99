"""A server's wall clock under the test's hand, by libfaketime where it is installed (`apt-get install faketime`)."""

import glob
import time
from pathlib import Path

PLACES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1",
          "/usr/local/lib/faketime/libfaketimeMT.so.1", "/opt/homebrew/lib/faketime/libfaketimeMT.so.1")  # fmt: skip


def library() -> str | None:
    return next((found for place in PLACES for found in sorted(glob.glob(place))), None)


class Wall:
    """Seconds between a process's wall clock and the machine's; its monotonic clock is the machine's."""

    def __init__(self, folder: Path, library: str, offset_s: float = 0.0) -> None:
        self._file = folder / "faketime"
        self._draft = folder / "faketime.draft"
        self._library = library
        self.jump(offset_s)

    @property
    def environment(self) -> dict[str, str]:
        """For the process."""
        return {
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            # Waits on the monotonic clock are left alone: Python's threads hand over to each other by them.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def jump(self, offset_s: float) -> None:
        """At once, for every process with this environment."""
        self._draft.write_text(f"{offset_s:+.0f}\n")
        self._draft.replace(self._file)

    def to(self, unix_s: float) -> None:
        self.jump(unix_s - time.time())
