"""What the tenancy room keeps, one struct per table. Times are Unix seconds."""

from typing import Any, Literal

from msgspec import Struct

from headgate.core.policy import Policy

ORGANIZATION = "default"
"""The id of the one organization of a deployment."""

OrganizationRole = Literal["owner", "reader"]
ProjectRole = Literal["owner", "member"]


class Organization(Struct, frozen=True):
    id: str = ORGANIZATION
    policy: Policy | None = None


class Project(Struct, frozen=True):
    """Its id is the tenant of its keys, and of what they use."""

    id: str
    name: str
    created_at: float
    archived_at: float | None = None
    policy: Policy | None = None


class User(Struct, frozen=True):
    id: str
    name: str
    email: str
    """In lower case; no two users who are there share one."""
    role: OrganizationRole
    added_at: float
    removed_at: float | None = None
    policy: Policy | None = None


class Member(Struct, frozen=True):
    """A user in a project. Without it the user's keys there do not work."""

    project: str
    user_id: str
    role: ProjectRole
    added_at: float


class Account(Struct, frozen=True):
    """A service account: owns keys of a project and is nobody."""

    id: str
    project: str
    name: str
    role: ProjectRole
    created_at: float
    removed_at: float | None = None


class Stop(Struct, frozen=True):
    """A project whose calls are refused until `until`."""

    project: str
    reason: str
    since: float
    until: float


class Alert(Struct, frozen=True):
    """For whom the soft threshold of an owner's monthly budget is; the threshold itself is in the policy."""

    owner: str
    """`organization:default` or `project:ID`."""
    recipients: tuple[str, ...]
    subject_prefix: str | None
    created_at: float


class Actor(Struct, frozen=True):
    """Who makes a change."""

    key: str
    """A key's id; `cli` or `system` where none was used."""
    user: str | None = None
    address: str | None = None


CLI = Actor("cli")
SYSTEM = Actor("system")


class Entry(Struct, frozen=True):
    """One line of the audit log. `before` and `after` never hold a secret."""

    id: str
    type: str
    at: float
    actor: str
    actor_user: str | None
    address: str | None
    project: str | None
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
