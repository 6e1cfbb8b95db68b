"""A cloud that listens where outgoing connections begin may not come back, which nobody would understand."""

from __future__ import annotations

from shellwego.processes.cloud import Identity
from shellwego.processes.ports import ports_at_risk


def test_a_port_that_outgoing_connections_take_is_warned_of() -> None:
    """While the server is away such a connection may take its port, and nobody is told why it doesn't come back."""
    given = Identity(cloud="cld_abcdefghijklmnopqrst", api_port=44683)
    [warning] = ports_at_risk(given, range(32768, 61000))
    assert "port 44683" in warning
    assert "32768 to 60999" in warning
    assert "--api-port" in warning
