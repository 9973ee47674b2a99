"""Grammars that wait to be compiled, by tenant: the threads that compile take one of each in turn."""

from collections import OrderedDict, deque
from threading import Lock
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """Whoever asks for many makes nobody wait but himself. Put and taken from different threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lines: OrderedDict[str, deque[_T]] = OrderedDict()

    def waiting(self, tenant: str) -> int:
        with self._lock:
            return len(self._lines.get(tenant, ()))

    def put(self, tenant: str, item: _T) -> None:
        with self._lock:
            self._lines.setdefault(tenant, deque()).append(item)

    def take(self) -> _T:
        """The first of the tenant whose turn it is, which is the last to have one again. Raises `KeyError` if none is
        there.
        """
        with self._lock:
            tenant, line = self._lines.popitem(last=False)
            item = line.popleft()
            if line:
                self._lines[tenant] = line
            return item
