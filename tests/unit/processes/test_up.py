"""What an operator is told when the cloud is up is what they need next, and what they must not overlook."""

from __future__ import annotations

from pathlib import Path

import pytest

from shellwego.core.errors import InvalidField
from shellwego.processes.cloud import Cloud, Identity
from shellwego.processes.parts import allowed_networks
from shellwego.processes.up import welcome


def cloud(tmp_path: Path, **facts: object) -> Cloud:
    return Cloud(Identity(cloud="cld_abcdefghijklmnopqrst", **facts), tmp_path)  # type: ignore[arg-type]


def test_a_cloud_of_this_machine_alone_speaks_of_no_outside(tmp_path: Path) -> None:
    said = welcome(cloud(tmp_path))
    assert "http://127.0.0.1:7080" in said
    assert "outside" not in said
    assert "WARNING" not in said


def test_who_serves_the_world_keeps_the_plain_port_at_home(tmp_path: Path) -> None:
    """Tokens would cross the network in clear if the API's port were opened along with the proxy's."""
    served = cloud(tmp_path, bind="0.0.0.0", domain="apps.example.org", https_port=8443)
    assert served.identity.api_bind == "127.0.0.1"
    said = welcome(served)
    assert "https://api.apps.example.org:8443" in said
    assert "ca.pem" in said
    assert "WARNING" not in said


def test_an_open_plain_port_is_warned_of(tmp_path: Path) -> None:
    assert "WARNING: port 7080 on 0.0.0.0 speaks plain HTTP" in welcome(cloud(tmp_path, api_bind="0.0.0.0"))


def test_networks_are_those_that_were_kept(tmp_path: Path) -> None:
    [entry] = allowed_networks(cloud(tmp_path, allowed_networks=["10.0.5.7:5432"]))
    assert (str(entry.network), entry.ports) == ("10.0.5.7/32", (5432,))
    with pytest.raises(InvalidField):  # Written into cloud.json by hand.
        allowed_networks(cloud(tmp_path, allowed_networks=["127.0.0.1"]))
