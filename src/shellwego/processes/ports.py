"""Can the cloud have the ports that it is to listen on, and will it have them back after a restart?"""

from __future__ import annotations

import socket

from shellwego.core.errors import Conflict
from shellwego.processes.cloud import Cloud, Identity
from shellwego.processes.edge import proxy_runs
from shellwego.processes.engines_found import Engines
from shellwego.processes.node_parts import edge_options


def check_ports(cloud: Cloud, engines: Engines) -> None:
    """Raises Conflict for a port that something else listens on, before anything is started."""
    # The proxy of a killed `up` serves on: then its ports are ours.
    mine = proxy_runs(edge_options(cloud, engines))
    identity = cloud.identity
    wanted = {"--api-port": (identity.api_bind, identity.api_port)}
    if not mine:
        wanted |= {
            "--http-port": (identity.bind, identity.http_port),
            "--https-port": (identity.bind, identity.https_port),
        }
    if len({identity.api_port, identity.http_port, identity.https_port}) < 3:
        raise Conflict("The API, HTTP and HTTPS ports must differ.")
    for option, (address, port) in wanted.items():
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise Conflict(
                    f"Port {port} on {address} can't be used ({error.strerror}). "
                    f"Stop what listens there, or choose another with {option}."
                ) from error


def ports_at_risk(identity: Identity, outgoing: range) -> list[str]:
    """A word for each port that the cloud could lose while the process that listens on it is away."""
    wanted = {
        "--api-port": identity.api_port,
        "--http-port": identity.http_port,
        "--https-port": identity.https_port,
    }
    return [
        f"WARNING: port {port} is one of those that outgoing connections take ({outgoing[0]} to {outgoing[-1]}). "
        f"After a restart it may be in use for a minute: choose another with {option}."
        for option, port in wanted.items()
        if port in outgoing
    ]
