"""PostgreSQL through psycopg 3.

Nothing on a connection lives longer than a transaction, so PgBouncer's transaction pooling may stand between.
"""

import sqlalchemy as sa
from sqlalchemy import Connection, event

from headgate.storage.errors import StorageError
from headgate.storage.sql.port import READ_ONLY, Sql, Threads

CONNECTIONS = 8
CONNECT_S = 5
STATEMENT_MARGIN_S = 1.0
"""By which the server gives up before we do, so that it says what was slow."""
_NETWORK = {
    # A peer that vanished without a word is noticed within seconds, not the two hours of TCP's default.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def connect(url: sa.URL, timeout_s: float) -> Sql:
    """Connects on first use. Raises `StorageError` where the driver is not installed."""
    try:
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={
                "connect_timeout": CONNECT_S,
                "application_name": "headgate",
                "prepare_threshold": None,
                **_NETWORK,
                **url.query,
            },
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=timeout_s,
            pool_pre_ping=True,
            hide_parameters=True,
        )
    except ModuleNotFoundError as error:
        raise StorageError(
            "storage.sql: the PostgreSQL driver is not installed; run: pip install 'headgate[postgres]'"
        ) from error
    statement_ms = int(max(timeout_s - STATEMENT_MARGIN_S, timeout_s / 2) * 1000)

    def begin(db: Connection) -> None:
        read_only = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; "
        first = read_only if db.get_execution_options().get(READ_ONLY) else ""
        db.exec_driver_sql(f"{first}SET LOCAL statement_timeout = {statement_ms}")

    event.listen(engine, "begin", begin)
    return Sql(engine, Threads(CONNECTIONS), timeout_s)
