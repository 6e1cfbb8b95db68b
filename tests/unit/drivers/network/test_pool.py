"""An instance that got the gateway's address would cut off everybody."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from shellwego.drivers.network.pool import DEFAULT_SUBNET, InstanceAddresses, gateway_of


def test_instances_get_all_but_network_gateway_and_broadcast() -> None:
    small = IPv4Network("10.9.0.0/29")
    assert [str(address) for address in InstanceAddresses(small)] == [f"10.9.0.{number}" for number in range(2, 7)]
    assert gateway_of(small) == IPv4Address("10.9.0.1")


def test_a_pool_is_counted_not_listed() -> None:
    pool = InstanceAddresses(DEFAULT_SUBNET)
    assert len(pool) == 65_533
    assert pool[0] == IPv4Address("100.96.0.2")
    assert pool[-1] == IPv4Address("100.96.255.254")
    assert pool[:2] == (IPv4Address("100.96.0.2"), IPv4Address("100.96.0.3"))


@pytest.mark.parametrize("address", ["100.96.0.0", "100.96.0.1", "100.96.255.255", "100.97.0.2"])
def test_an_address_of_the_node_is_not_in_the_pool(address: str) -> None:
    assert IPv4Address(address) not in InstanceAddresses(DEFAULT_SUBNET)


def test_a_subnet_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        InstanceAddresses(IPv4Network("10.9.0.0/30"))
