"""Notices an engine process that has work and says nothing: alive, but stopped or stuck."""

LOOKS = 4
"""Looks in a row that must find silence."""


class Watch:
    """Counts looks rather than seconds: a pause of this process, in which nothing could be heard, counts as one look.

    Whoever owns it looks every `hang_s / LOOKS` seconds, so silence is found after `hang_s` to 1.25 x `hang_s` seconds.
    """

    def __init__(self) -> None:
        self._owed = False
        self._silent = 0

    @property
    def owed(self) -> bool:
        """The process has not answered all it was sent."""
        return self._owed

    def asked(self) -> None:
        """The process was sent something, so it owes an answer. It answers a cancellation too."""
        if not self._owed:
            self._owed, self._silent = True, 0

    def heard(self, *, more: bool) -> None:
        """It said something; `more` if it still has work."""
        self._owed, self._silent = more, 0

    def look(self) -> bool:
        """Whether it must be taken for stuck."""
        if self._owed:
            self._silent += 1
        return self._silent > LOOKS
