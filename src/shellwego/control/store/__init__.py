"""The one place that knows the database. `Store` opens units of work; records go in and come out."""

from shellwego.control.store.failures import NotDurable
from shellwego.control.store.migrate import migrate
from shellwego.control.store.unit_of_work import Store, Tenant, UnitOfWork

__all__ = ["NotDurable", "Store", "Tenant", "UnitOfWork", "migrate"]
