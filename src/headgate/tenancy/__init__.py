"""Who may do what: the organization, its projects, users and keys, their policies, and the log of every change.

In come the wishes of administrators, checked here and kept in SQL.
Out go snapshots in memory that the request path reads, in every process within a second.
"""
