"""Which addresses may a registry have?

A reference is a tenant's word, and the node stands inside the operator's network: a registry name must not become a
way to the cloud provider's metadata service or to a port on loopback. So names are resolved here, the answer is
judged, and the connection goes to the very address that was judged; a name that answers differently the second time
(DNS rebinding) gains nothing. Redirects and token services are judged again, each.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Collection, Iterable
from enum import IntEnum
from typing import Any

import httpcore

from shellwego.core.networks import AllowedNetwork

_METADATA = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
"""Metadata services outside link-local: Alibaba, Azure's wire server, Oracle, AWS and Google over IPv6."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class Reach(IntEnum):
    """How close to us an address is. A smaller one is farther away and safer."""

    GLOBAL = 0
    PRIVATE = 1
    LOOPBACK = 2
    FORBIDDEN = 3


class AddressRefused(OSError):
    """The host resolves to an address that the request may not go to."""


def reach_of(address: str) -> Reach:
    """Classify an address as written by getaddrinfo. IPv4 inside IPv6 is judged as IPv4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(ip.packed[-4:])
        if embedded is not None:
            ip = embedded
    if ip in _METADATA or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return Reach.FORBIDDEN
    if ip.is_loopback:
        return Reach.LOOPBACK
    if ip.is_global:
        return Reach.GLOBAL
    # 240/4 is "reserved" and routed nowhere; the rest (RFC 1918, 6598, 4193) is where companies keep registries.
    return Reach.FORBIDDEN if ip.is_reserved else Reach.PRIVATE


def host_of(registry: str) -> str:
    """The host of `host`, `host:port`, `[v6]` or `[v6]:port`."""
    if registry.startswith("["):
        return registry[1:].partition("]")[0]
    return registry.rpartition(":")[0] if ":" in registry else registry


def is_loopback_name(host: str) -> bool:
    """Loopback by its spelling alone, which nobody else's DNS can answer for (RFC 6761)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class UnknownHost(OSError):
    """Nobody has heard of the host; asking again in a second won't help."""


async def resolve(host: str, port: int) -> list[str]:
    """Every address of the host, in the order to try. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class JudgingBackend(httpcore.AsyncNetworkBackend):
    """Connects to a host only by an address that `permitted` allows; keeps the rest of httpcore as it is."""

    def __init__(
        self,
        closest: Callable[[str], Reach],
        learn: Callable[[str, Reach], None],
        opened: Collection[AllowedNetwork] | None = None,
    ) -> None:
        """
        `closest` says how close to us a host's addresses may be; `learn` hears how close they are. Private addresses
        must be in one of the `opened` networks, unless that is None.
        """
        self._closest = closest
        self._learn = learn
        self._opened = opened
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        host = host.strip("[]")
        try:
            async with asyncio.timeout(timeout):
                addresses = await resolve(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"the name {host} can't be resolved in time") from error
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise httpcore.ConnectError(f"the name {host} can't be resolved now") from error
            raise UnknownHost(f"the name {host} is not known") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {host} can't be resolved: {error}") from error
        allowed = self._closest(host)
        refused = [address for address in addresses if reach_of(address) > allowed]
        # All or nothing: a name with one good and one bad address is what an attacker would serve.
        if refused or not addresses:
            which = "" if refused == [host] else f": {', '.join(refused)}"
            raise AddressRefused(
                f"{host} {'is' if refused == [host] else 'has'} an address that images may not come from{which}"
            )
        closed = [address for address in addresses if allowed < Reach.FORBIDDEN and self._is_closed(address, port)]
        if closed:
            which = "" if closed == [host] else f" ({closed[0]})"
            raise AddressRefused(
                f"{host} is in a private network{which} that the operator has not opened. "
                f"`shellwego up --allow-network {closed[0]}:{port}` opens it"
            )
        self._learn(host, max(map(reach_of, addresses)))
        problem: Exception | None = None
        for address in addresses:
            try:
                stream = await self._backend.connect_tcp(
                    address, port, timeout=timeout, local_address=local_address, socket_options=socket_options
                )
                return _ClosingStream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem or httpcore.ConnectError(f"{host} has no address")

    def _is_closed(self, address: str, port: int) -> bool:
        if self._opened is None or reach_of(address) is not Reach.PRIVATE:
            return False
        ip = ipaddress.ip_address(address.partition("%")[0])
        return not (isinstance(ip, ipaddress.IPv4Address) and any(entry.holds(ip, port) for entry in self._opened))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _ClosingStream(httpcore.AsyncNetworkStream):
    """Closes its socket when a TLS handshake times out or is cancelled; httpcore 1.0 leaves it to the collector."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
