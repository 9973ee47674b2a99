"""Projects, users, policies and the log of every change."""

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    return
