"""Metering events on their way to brokers."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    return
