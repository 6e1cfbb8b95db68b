"""Names are all that ties a namespace on the host to its owner: a wrong one would remove somebody else's."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellwego.core.ids import InstanceId
from shellwego.drivers.network import names

ID = InstanceId("ins_abcdefghijklmnopqrst")


def test_an_interface_name_fits_the_kernel() -> None:
    assert names.port_name(ID) == "vabcdefghijklmn"
    assert len(names.port_name(ID)) == 15


def test_a_namespace_tells_whose_it_is() -> None:
    namespace = names.instance_namespace("swg-aaaaaaaa", ID)
    assert str(namespace) == "/run/netns/swg-aaaaaaaa-abcdefghijklmnopqrst"
    assert names.instance_of("swg-aaaaaaaa", namespace.name) == ID


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("swg-aaaaaaaa", id="the data plane itself"),
        pytest.param("swg-bbbbbbbb-abcdefghijklmnopqrst", id="another cloud's instance"),
        pytest.param("swg-aaaaaaaa-build", id="the builder's"),
        pytest.param("swg-aaaaaaaa-abcdefghijklmnopqrst0", id="too long"),
        pytest.param("docker", id="another program's"),
    ],
)
def test_what_is_not_an_instance_of_ours_is_nobodys(name: str) -> None:
    assert names.instance_of("swg-aaaaaaaa", name) is None


@pytest.mark.parametrize("id", ["ins_", "../../etc/passwd", "ins_../../../../../../..", "app_abcdefghijklmnopqrst", ""])
def test_only_an_id_becomes_a_path(id: str) -> None:
    with pytest.raises(ValueError, match="not an instance's id"):
        names.instance_namespace("swg-aaaaaaaa", InstanceId(id))


@given(st.ip_addresses(v=4))
def test_a_port_remembers_its_owner_and_address(address: IPv4Address) -> None:
    assert names.parse_alias(names.alias_of(ID, address)) == (ID, address)


@pytest.mark.parametrize("alias", ["", "uplink", f"{ID}", f"{ID} nowhere", "someone 100.96.0.2"])
def test_an_alias_of_somebody_else_is_not_ours(alias: str) -> None:
    assert names.parse_alias(alias) is None


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_two_addresses_never_share_a_mac_address(one: IPv4Address, two: IPv4Address) -> None:
    assert (names.mac_of(one) == names.mac_of(two)) == (one == two)
    assert int(names.mac_of(one)[:2], 16) & 0b11 == 0b10  # unicast, locally administered
