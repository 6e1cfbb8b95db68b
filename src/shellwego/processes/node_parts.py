"""Which drivers do the processes of a node use, and with which of the cloud's places? See parts.py."""

from __future__ import annotations

from shellwego.core.networks import parse_trusted_proxy
from shellwego.core.releases import RuntimeClass
from shellwego.drivers.network.bridge import BridgeNetwork
from shellwego.drivers.network.port import NetworkDriver
from shellwego.drivers.runtime.gvisor import GVisorRuntime
from shellwego.drivers.runtime.port import RuntimeDriver
from shellwego.drivers.runtime.runc import RuncRuntime
from shellwego.processes.cloud import Cloud
from shellwego.processes.edge import EdgeOptions
from shellwego.processes.engines_found import Engines
from shellwego.processes.parts import allowed_networks


def make_network(cloud: Cloud, engines: Engines) -> NetworkDriver:
    return BridgeNetwork(
        prefix=cloud.prefix,
        runtime_directory=cloud.run,
        slirp4netns=engines.slirp4netns,
        nft=engines.nft,
        allowed=allowed_networks(cloud),
    )


def make_runtimes(cloud: Cloud, engines: Engines) -> dict[str, RuntimeDriver]:
    """By the names that a release may ask for."""
    gvisor = GVisorRuntime(
        runtime=engines.runsc,
        conmon=engines.conmon,
        root=cloud.run / "gvisor",
        state=cloud.agent / "gvisor",
        prefix=f"shellwego/{cloud.short}",
    )
    runc = RuncRuntime(
        runtime=engines.runc,
        conmon=engines.conmon,
        root=cloud.run / "runc",
        state=cloud.agent / "runc",
        prefix=f"shellwego/{cloud.short}",
    )
    return {RuntimeClass.GVISOR: gvisor, RuntimeClass.GVISOR_HOST_NETWORK: gvisor, RuntimeClass.RUNC: runc}


def edge_options(cloud: Cloud, engines: Engines) -> EdgeOptions:
    return EdgeOptions(
        data_dir=cloud.data,
        run_dir=cloud.run,
        domain=cloud.identity.domain,
        address=cloud.identity.bind,
        http_port=cloud.identity.http_port,
        https_port=cloud.identity.https_port,
        namespace=cloud.namespace,
        haproxy=engines.haproxy,
        trusted_proxies=tuple(parse_trusted_proxy(p, field="--trusted-proxy") for p in cloud.identity.trusted_proxies),
    )
