"""What an operator opens is what they wrote, and never where a machine keeps its credentials."""

from __future__ import annotations

import pytest

from shellwego.core.errors import InvalidField
from shellwego.core.networks import parse_allowed_network, parse_trusted_proxy


@pytest.mark.parametrize(
    ("text", "network", "ports"),
    [
        ("10.0.5.0/24", "10.0.5.0/24", ()),
        ("10.0.5.7", "10.0.5.7/32", ()),
        (" 10.0.5.7:5432 ", "10.0.5.7/32", (5432,)),
        ("192.168.0.0/16:443,80", "192.168.0.0/16", (443, 80)),
    ],
)
def test_networks_are_read_and_written_alike(text: str, network: str, ports: tuple[int, ...]) -> None:
    entry = parse_allowed_network(text, field="--allow-network")
    assert (str(entry.network), entry.ports) == (network, ports)
    assert parse_allowed_network(str(entry), field="x") == entry


@pytest.mark.parametrize(
    "text",
    [
        "", "db.internal", "10.0.5.7/24", "10.0.5.7:", "10.0.5.7:0", "10.0.5.7:70000", "10.0.5.7:a",
        "10.0.5.7:1 } accept", "10.0.0.0/8 } accept; #", "fd00::/8", "0.0.0.0/0", "127.0.0.1", "224.0.0.1",
        "169.254.169.254", "168.0.0.0/3",
    ],
)  # fmt: skip
def test_what_would_open_something_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_allowed_network(text, field="--allow-network")
    assert refused.value.field == "--allow-network"


@pytest.mark.parametrize(
    ("text", "kept"), [("192.0.2.0/24", "192.0.2.0/24"), (" 192.0.2.7", "192.0.2.7/32"), ("2001:db8::/32",) * 2]
)
def test_a_trusted_proxy_is_a_network_of_either_family(text: str, kept: str) -> None:
    assert parse_trusted_proxy(text, field="--trusted-proxy") == kept


@pytest.mark.parametrize("text", ["", "cdn.example", "192.0.2.1/24", "0.0.0.0/0", "::/0", "192.0.2.1 ssl crt x"])
def test_a_slip_in_a_trusted_proxy_is_told_and_everybody_is_not_trusted(text: str) -> None:
    """The text goes into the proxy's configuration."""
    with pytest.raises(InvalidField, match="--trusted-proxy"):
        parse_trusted_proxy(text, field="--trusted-proxy")
