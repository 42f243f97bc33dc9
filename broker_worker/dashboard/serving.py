"""The dashboard's process: what its pages work with is made here."""

from sqlalchemy import Engine, create_engine, make_url


def read_only(address: str) -> Engine:
    """The ledger's database, from which this process only reads.

    Args:
        address: as SQLAlchemy writes it. A SQLite file that is missing stays missing, and is an error at each read.
    """
    url = make_url(address)
    if url.get_backend_name() != "sqlite" or not url.database:
        return create_engine(url, pool_pre_ping=True, execution_options={"postgresql_readonly": True})
    return create_engine(url.set(database=f"file:{url.database}", query={"mode": "ro", "uri": "true"}))
