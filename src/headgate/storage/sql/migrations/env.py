"""Alembic runs this; `migrate.py` calls Alembic and hands over the connection, inside its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
