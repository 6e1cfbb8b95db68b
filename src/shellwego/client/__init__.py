"""The typed Python client of the public API: `connect` gives a Cloud."""

from shellwego.client.cloud import Cloud, connect
from shellwego.client.credentials import LoginStore, SessionCredential, TokenCredential
from shellwego.client.errors import CannotReach, NotACloud, Refused, SessionLost

__all__ = [
    "CannotReach",
    "Cloud",
    "LoginStore",
    "NotACloud",
    "Refused",
    "SessionCredential",
    "SessionLost",
    "TokenCredential",
    "connect",
]
