"""Threads that share the work of one product. NumPy lets go of the interpreter while it multiplies."""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

import numpy as np

_Share = TypeVar("_Share")
_Result = TypeVar("_Result")


class _Worker(Generic[_Share, _Result]):
    def __init__(self, name: str) -> None:
        # at most one task and one answer are ever in these
        self.tasks: SimpleQueue[tuple[Callable[[_Share], _Result], _Share] | None] = SimpleQueue()
        self.answers: SimpleQueue[_Result | BaseException] = SimpleQueue()
        self.thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with np.errstate(over="ignore"):  # settings of NumPy are each thread's own
            while (task := self.tasks.get()) is not None:
                function, share = task
                try:
                    self.answers.put(function(share))
                except (ArithmeticError, MemoryError, ValueError) as error:
                    self.answers.put(error)


class Team(Generic[_Share, _Result]):
    """`workers` threads besides the caller's, until `close`. To be used by one thread at a time."""

    def __init__(self, workers: int) -> None:
        self._workers: list[_Worker[_Share, _Result]] = [_Worker(f"engine-{index}") for index in range(workers)]

    def run(self, function: Callable[[_Share], _Result], shares: Sequence[_Share]) -> list[_Result]:
        """The results in order. The caller's thread does the first share. Raises what a share raised."""
        for worker, share in zip(self._workers, shares[1:], strict=False):
            worker.tasks.put((function, share))
        try:
            results = [function(shares[0])]
        finally:
            answers = [worker.answers.get() for worker, _ in zip(self._workers, shares[1:], strict=False)]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            results.append(answer)
        return results

    def close(self) -> None:
        for worker in self._workers:
            worker.tasks.put(None)
        for worker in self._workers:
            worker.thread.join()
        self._workers = []
