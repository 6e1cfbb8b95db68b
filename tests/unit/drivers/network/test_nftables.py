"""Which rules stand between tenants, and how do we see that one is missing?"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from shellwego.core.networks import AllowedNetwork
from shellwego.drivers.network import nftables
from shellwego.drivers.network.nftables import Filter, Port

FILTER = Filter(IPv4Network("100.96.0.0/16"), 1000)
PORT = Port("vabcdefghijklmn", IPv4Address("100.96.0.2"))
HOST = IPv4Network("192.0.2.2/32")


def listing(filter: Filter = FILTER, *, leave_out: int = 0) -> str:
    """What `nft -j list ruleset` would say of these rules."""
    entries: list[dict[str, object]] = [{"metainfo": {"version": "1.0.6"}}]
    entries += [
        {"table": {"family": family, "name": "shellwego", "comment": filter.fingerprint()}}
        for family in ("bridge", "inet")
    ]
    for chain in filter.chains():
        entries.append({"chain": {"family": chain.family, "table": "shellwego", "name": chain.name}})
        rule = {"rule": {"family": chain.family, "table": "shellwego", "chain": chain.name}}
        entries += [rule] * (len(chain.rules) - (leave_out if chain.name == "forward" else 0))
    entries.append({"set": {"family": "inet", "table": "shellwego", "name": "host", "elem": ["192.0.2.2"]}})
    element = {"concat": ["vabcdefghijklmn", "0a:58:64:60:00:02", "100.96.0.2"]}
    entries.append({"set": {"family": "bridge", "table": "shellwego", "name": "ports", "elem": [element]}})
    return json.dumps({"nftables": entries})


def test_what_was_loaded_is_recognised() -> None:
    loaded = nftables.parse_loaded(listing())
    assert loaded.holds(FILTER)
    assert loaded.host == {HOST}
    assert loaded.ports == {PORT}


def test_a_missing_rule_is_noticed() -> None:
    assert not nftables.parse_loaded(listing(leave_out=1)).holds(FILTER)


def test_an_empty_namespace_holds_nothing() -> None:
    assert not nftables.parse_loaded('{"nftables": []}').holds(FILTER)


def test_rules_of_other_settings_are_replaced() -> None:
    """An operator who closes a hole and restarts must not keep the old rules."""
    opened = Filter(FILTER.subnet, 1000, (AllowedNetwork(IPv4Network("10.1.2.3/32"), (443,)),))
    assert not nftables.parse_loaded(listing(opened)).holds(FILTER)


def test_a_foreign_element_among_the_ports_is_noticed() -> None:
    forged = listing().replace("0a:58:64:60:00:02", "0a:58:64:60:00:99")
    assert nftables.parse_loaded(forged).ports != {PORT}


def test_ranges_that_the_kernel_merged_compare_equal() -> None:
    elements = [{"range": ["192.0.2.1", "192.0.2.3"]}, {"prefix": {"addr": "127.0.0.0", "len": 8}}]
    text = listing().replace('["192.0.2.2"]', json.dumps(elements))
    expected = nftables.merged(IPv4Network(f"192.0.2.{last}/32") for last in (1, 2, 3)) | {IPv4Network("127.0.0.0/8")}
    assert nftables.parse_loaded(text).host == expected


def test_every_chain_that_decides_drops_what_it_does_not_know() -> None:
    deciding = [
        chain for chain in FILTER.chains() if chain.name not in {"untracked_in", "untracked_out", "source", "output"}
    ]
    assert all("policy drop;" in chain.hook for chain in deciding)
    assert len(deciding) == 5


def test_what_is_allowed_comes_before_what_is_never_outside() -> None:
    opened = Filter(
        FILTER.subnet,
        1000,
        (AllowedNetwork(IPv4Network("10.1.2.3/32"), (443, 80)), AllowedNetwork(IPv4Network("10.7.0.0/16"))),
    )
    forward = next(chain.rules for chain in opened.chains() if chain.name == "forward")
    metadata = next(index for index, rule in enumerate(forward) if "169.254.0.0/16" in rule)
    named = forward.index("ip daddr 10.1.2.3/32 meta l4proto { tcp, udp } th dport { 443, 80 } accept")
    host = next(index for index, rule in enumerate(forward) if "@host" in rule)
    network = forward.index("ip daddr 10.7.0.0/16 accept")
    outside = next(index for index, rule in enumerate(forward) if "@never_outside" in rule)
    # The node is in the network that its operator opens, and doesn't want to be.
    assert metadata < named < host < network < outside


def test_where_clouds_keep_a_machines_credentials_is_never_outside() -> None:
    """Amazon, Google and most; Alibaba; Oracle; Azure."""
    for address in ("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16"):
        assert any(IPv4Address(address) in network for network in nftables.NEVER_OUTSIDE)


def test_loading_replaces_whatever_is_there_in_one_transaction() -> None:
    text = nftables.whole(FILTER, [HOST], [PORT])
    for family in ("bridge", "inet"):
        assert f"add table {family} shellwego\ndelete table {family} shellwego\ntable {family} shellwego {{" in text
    assert 'add element bridge shellwego ports { "vabcdefghijklmn" . 0a:58:64:60:00:02 . 100.96.0.2 }' in text
    assert "add element inet shellwego host { 192.0.2.2/32 }" in text


def test_taking_out_a_port_twice_is_well() -> None:
    assert nftables.refuse(PORT).splitlines() == [
        'add element bridge shellwego ports { "vabcdefghijklmn" . 0a:58:64:60:00:02 . 100.96.0.2 }',
        'delete element bridge shellwego ports { "vabcdefghijklmn" . 0a:58:64:60:00:02 . 100.96.0.2 }',
    ]


def test_a_program_runs_inside_without_a_shell() -> None:
    assert nftables.run_nft(Path("/usr/sbin/nft"), Path("/run/netns/swg-aaaaaaaa"), "-f", "-") == (
        "nsenter",
        "--net=/run/netns/swg-aaaaaaaa",
        "--",
        "/usr/sbin/nft",
        "-f",
        "-",
    )
