"""The SQL port: transactions on SQLite or PostgreSQL, and the tables with their migrations.

In come functions of a connection, each run inside one transaction of its own.
Out goes what they return; trouble with the database is `core.errors.Overloaded`.
"""
