"""Transactions for asynchronous code: functions of a connection, run on a few threads of their own."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, exc

from headgate.core.errors import Overloaded
from headgate.storage.sql.errors import is_unavailable, unavailable

QUEUE_MAX = 1_000
"""Transactions that may wait or run at once; more are refused."""
READ_ONLY = "headgate_read_only"
"""The execution option that the drivers read when a transaction begins."""
CLOSING_S = 5.0

T = TypeVar("T")
Interrupt = Callable[[Any], None]
"""Stops what a driver's connection does at this moment, from another thread."""


class Threads:
    """Where transactions run. SQLite gets one writer; on PostgreSQL, readers and writers are the same threads."""

    def __init__(self, readers: int, writers: int | None = None) -> None:
        self.readers = ThreadPoolExecutor(readers, "sql")
        self.writers = self.readers if writers is None else ThreadPoolExecutor(writers, "sql-writer")

    def close(self) -> None:
        self.readers.shutdown(cancel_futures=True)
        self.writers.shutdown(cancel_futures=True)


class Sql:
    """A database. Made by `storage.sql.open.open_sql`; belongs to one event loop.

    A transaction commits when its function returns and rolls back when it raises. Errors of the database itself
    (unreachable, locked, full) are `core.errors.Overloaded`; those of the statement, such as
    `sqlalchemy.exc.IntegrityError`, come out as they are.
    """

    def __init__(self, engine: Engine, threads: Threads, timeout_s: float, interrupt: Interrupt | None = None) -> None:
        self._writing = engine
        self._reading = engine.execution_options(**{READ_ONLY: True})
        self._threads = threads
        self._timeout_s = timeout_s
        self._interrupt = interrupt
        self._jobs: set[_Job[Any]] = set()
        self._closed = False

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._writing.dialect.name

    async def run(self, work: Callable[[Connection], T], *, timeout_s: float | None = None) -> T:
        """Runs `work` in a transaction that may write, within `timeout_s` seconds from now, waiting included.

        After a timeout or a cancellation the transaction is rolled back, unless its commit had begun.
        """
        return await self._submit(self._threads.writers, self._writing, work, timeout_s)

    async def read(self, work: Callable[[Connection], T], *, timeout_s: float | None = None) -> T:
        """Runs `work` in a transaction that cannot write, on one snapshot; it waits for no writer."""
        return await self._submit(self._threads.readers, self._reading, work, timeout_s)

    async def _submit(
        self, threads: ThreadPoolExecutor, engine: Engine, work: Callable[[Connection], T], timeout_s: float | None
    ) -> T:
        if self._closed:
            raise Overloaded("The database is closed: this server is shutting down.", retry_after=1.0)
        if len(self._jobs) >= QUEUE_MAX:
            raise Overloaded("Too much work waits for the database; try again shortly.", retry_after=1.0)
        job = _Job(engine, work, self._interrupt)
        self._jobs.add(job)
        future: Future[T] = threads.submit(job)
        future.add_done_callback(lambda _: self._jobs.discard(job))
        seconds = self._timeout_s if timeout_s is None else timeout_s
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                return await asyncio.wrap_future(future)
        except BaseException as error:
            job.abandon()
            if isinstance(error, TimeoutError) and scope.expired():
                raise Overloaded(
                    f"The database did not answer within {seconds:g} s; try again shortly.",
                    code="storage_timeout",
                    retry_after=1.0,
                ) from error
            raise

    async def aclose(self) -> None:
        """Lets what runs end for `CLOSING_S` seconds, then stops it, and closes every connection. Idempotent."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        patience = threading.Timer(CLOSING_S, self._abandon_all)
        patience.daemon = True
        patience.start()
        self._threads.close()
        patience.cancel()
        self._writing.dispose()

    def _abandon_all(self) -> None:
        for job in list(self._jobs):
            job.abandon()


class _Abandoned(Exception):
    """Nobody waits for this transaction any more."""


class _Job(Generic[T]):
    """One transaction, seen from its thread and from the loop. The lock guards what both change."""

    def __init__(self, engine: Engine, work: Callable[[Connection], T], interrupt: Interrupt | None) -> None:
        self._engine = engine
        self._work = work
        self._interrupt = interrupt
        self._lock = threading.Lock()
        self._driver: Any = None
        """The driver's connection while it may be interrupted: not before the start, nor once the commit begins."""
        self._abandoned = False

    def __call__(self) -> T:
        try:
            with self._engine.connect() as db:
                self._enter(db.connection.dbapi_connection)
                try:
                    with db.begin():
                        result = self._work(db)
                        self._enter(None)
                    return result
                finally:
                    with self._lock:
                        self._driver = None
        except exc.SQLAlchemyError as error:
            if is_unavailable(error):
                raise unavailable(error) from error
            raise

    def _enter(self, driver: Any) -> None:
        with self._lock:
            if self._abandoned:
                raise _Abandoned
            self._driver = driver

    def abandon(self) -> None:
        """Stops the transaction, unless it is committing or done."""
        with self._lock:
            self._abandoned = True
            if self._driver is not None and self._interrupt is not None:
                self._interrupt(self._driver)
