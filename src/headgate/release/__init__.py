"""What people decide about traffic while it runs: kill switches, on every replica before the command returns.

In come the wishes of administrators, checked here, kept in SQL, and each a line of the audit log.
Out go snapshots in memory that the request path reads, and what every replica has in force.
"""
