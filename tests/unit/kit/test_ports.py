"""A port that a connection can take away from a server keeps a cloud down for a minute after a restart."""

from __future__ import annotations

import socket

from shellwego.kit.ports import free_ports, outgoing_ports


def test_a_server_that_was_away_gets_its_port_again() -> None:
    """Whatever the machine sent meanwhile: no connection is ever given one of these."""
    ports = free_ports(3)
    assert len(set(ports)) == 3
    assert not set(ports) & set(outgoing_ports())
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_what_the_kernel_gives_away_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getsockname()[1] in outgoing_ports()
