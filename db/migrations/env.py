"""Alembic's entry: runs the revisions on the address that db/migrate.py hands over, one transaction each."""

from alembic import context
from sqlalchemy import create_engine, pool

_url = context.config.attributes["url"]
_driver_url = "postgresql+psycopg://" + _url.split("://", 1)[1]

with create_engine(_driver_url, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
