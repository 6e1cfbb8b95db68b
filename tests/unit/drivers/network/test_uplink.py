"""Does the way out keep tenants from the host?"""

from __future__ import annotations

from pathlib import Path

from shellwego.drivers.network.uplink import slirp_command

COMMAND = slirp_command(Path("/usr/bin/slirp4netns"), Path("/run/netns/swg-aaaaaaaa"), ready_descriptor=7)


def test_the_hosts_loopback_is_closed_and_its_resolver_open() -> None:
    assert "--disable-host-loopback" in COMMAND
    assert "--disable-dns" not in COMMAND


def test_it_gives_up_its_rights() -> None:
    assert {"--enable-sandbox", "--enable-seccomp"} <= set(COMMAND)


def test_it_cannot_unmount_the_hosts_namespaces() -> None:
    """Its sandbox unmounts what it sees; seen with a shared /run/netns: every cloud lost its names."""
    assert COMMAND[:6] == ("setsid", "--fork", "unshare", "--mount", "--propagation", "slave")


def test_its_command_line_says_whose_it_is() -> None:
    assert COMMAND[-3:] == ("--netns-type=path", "/run/netns/swg-aaaaaaaa", "tap0")
