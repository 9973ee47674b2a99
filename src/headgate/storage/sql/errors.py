"""Drivers' errors, translated once, at the seam. The cause is kept."""

from sqlalchemy import exc

from headgate.core.errors import Overloaded

_REMEDIES = (
    ("database is locked", "another process holds the database; try again shortly"),
    ("disk is full", "the disk is full; free some space"),
    ("No space left", "the database server's disk is full; free some space"),
    ("readonly database", "the database file cannot be written; check its owner and permissions"),
    ("read-only transaction", "the database server only reads now; point Headgate at the primary"),
    ("malformed", "the database file is damaged; restore a backup"),
    ("not a database", "the database file is damaged; restore a backup"),
    ("statement timeout", "the database took too long; try again shortly"),
    ("interrupted", "the database took too long; try again shortly"),
)

UNAVAILABLE = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError)


def is_unavailable(error: exc.SQLAlchemyError) -> bool:
    """Whether the database is to blame, rather than the statement."""
    # A damaged SQLite file is a plain DatabaseError; subclasses such as IntegrityError are the statement's.
    return isinstance(error, UNAVAILABLE) or type(error) is exc.DatabaseError


def unavailable(error: exc.SQLAlchemyError) -> Overloaded:
    """What the caller is told."""
    text = str(getattr(error, "orig", None) or error).strip().partition("\n")[0][:200]
    remedy = next((remedy for sign, remedy in _REMEDIES if sign in text), "try again shortly")
    return Overloaded(f"The database cannot be used ({text}): {remedy}.", code="storage_unavailable", retry_after=1.0)
