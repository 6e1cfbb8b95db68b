"""Whatever was taken away, by whomever, and whenever the agent was killed: the network comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.network_probes import Inside
from tests.contract.network_world import FIRST, SECOND, a_prefix, an_instance, bridge, read_word, traces_of
from tests.engines import engine

from shellwego.core.errors import Conflict
from shellwego.drivers.network import uplink
from shellwego.drivers.network.bridge import BridgeNetwork
from shellwego.kit.faults import declared_points

pytestmark = pytest.mark.root

POINTS = sorted(point for point in declared_points() if point.startswith("network."))


class TestRepair:
    async def test_the_way_out_comes_back_after_it_was_killed(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside], allowed_server: tuple[str, int]
    ) -> None:
        one = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
        (before,) = uplink.find_processes(data_plane.namespace)
        os.kill(before, signal.SIGKILL)
        await data_plane.ensure_node()
        (after,) = uplink.find_processes(data_plane.namespace)
        assert after != before
        assert one.connect(*allowed_server) == "reached host"

    async def test_the_next_agent_finds_the_way_out_of_the_last(
        self, data_plane: BridgeNetwork, tmp_path: Path
    ) -> None:
        """A second one would fight over the interface and cut every open connection."""
        before = uplink.find_processes(data_plane.namespace)
        await bridge(data_plane.namespace.name, tmp_path).ensure_node()
        assert uplink.find_processes(data_plane.namespace) == before

    async def test_what_a_runtime_took_away_is_given_back(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside], allowed_server: tuple[str, int]
    ) -> None:
        id = an_instance()
        one = inside((await data_plane.ensure_attached(id, FIRST)).namespace)
        one.command("ip", "addr", "flush", "dev", "eth0")
        one.command("ip", "link", "set", "lo", "down")
        one.command("ip", "link", "set", "eth0", "down")
        await data_plane.ensure_attached(id, FIRST)
        assert one.connect(*allowed_server) == "reached host"
        one.listen(8080, "one")
        assert one.connect("127.0.0.1", 8080) == "reached one"

    async def test_flushed_rules_come_back_with_every_port(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside], host_server: tuple[str, int]
    ) -> None:
        one = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
        one.listen(8080, "one")
        inside(data_plane.namespace).command(str(engine("nft")), "flush", "ruleset")
        await data_plane.ensure_node()
        assert await read_word(data_plane, FIRST, 8080) == "one"
        assert one.connect(*host_server).startswith("failed")

    async def test_a_single_missing_rule_is_noticed(self, data_plane: BridgeNetwork) -> None:
        plane = Inside(data_plane.namespace)
        nft = str(engine("nft"))
        whole = plane.command(nft, "-s", "list", "ruleset")
        plane.command(nft, "flush", "chain", "inet", "shellwego", "forward")
        await data_plane.ensure_node()
        assert plane.command(nft, "-s", "list", "ruleset") == whole

    async def test_a_data_plane_that_vanished_is_made_again_under_its_instances(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside]
    ) -> None:
        id = an_instance()
        await data_plane.ensure_attached(id, FIRST)
        subprocess.run(("umount", str(data_plane.namespace)), check=True)
        await data_plane.ensure_node()
        one = inside((await data_plane.ensure_attached(id, FIRST)).namespace)
        one.listen(8080, "one")
        assert await read_word(data_plane, FIRST, 8080) == "one"

    async def test_an_instance_that_moves_to_another_address_leaves_the_old_one(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside]
    ) -> None:
        id = an_instance()
        await data_plane.ensure_attached(id, FIRST)
        one = inside((await data_plane.ensure_attached(id, SECOND)).namespace)
        one.listen(8080, "moved")
        assert await read_word(data_plane, SECOND, 8080) == "moved"
        await data_plane.ensure_attached(an_instance(), FIRST)

    async def test_an_address_in_use_is_not_given_twice(self, data_plane: BridgeNetwork) -> None:
        holder, other = an_instance(), an_instance()
        await data_plane.ensure_attached(holder, FIRST)
        with pytest.raises(Conflict, match=holder):
            await data_plane.ensure_attached(other, FIRST)
        await data_plane.ensure_detached(other)

    @pytest.mark.parametrize("point", POINTS)
    async def test_killed_at_any_step_the_next_call_goes_on(
        self, point: str, tmp_path: Path, inside: Callable[[Path], Inside]
    ) -> None:
        prefix, id = a_prefix(), an_instance()
        once = tmp_path / "killed"
        arguments = (sys.executable, "-c", _WHOLE_LIFE, prefix, id, str(tmp_path))
        programs = {"SLIRP": str(engine("slirp4netns")), "NFT": str(engine("nft"))}
        environment = {**os.environ, **programs, "SHELLWEGO_FAULTS": f"{point}=exit@{once}"}
        killed = subprocess.run(arguments, check=False, env=environment, capture_output=True, text=True, timeout=60)
        assert killed.returncode == 137, killed.stderr
        network = bridge(prefix, tmp_path)
        try:
            await network.ensure_node()
            one = inside((await network.ensure_attached(id, FIRST)).namespace)
            one.listen(8080, "one")
            assert await read_word(network, FIRST, 8080) == "one"
            one.close()
            await network.ensure_detached(id)
            assert set(await network.observe()) == set()
        finally:
            await network.ensure_node_absent()
        assert traces_of(prefix) == []


_WHOLE_LIFE = """
import asyncio, os, sys
from ipaddress import IPv4Address
from pathlib import Path
from shellwego.drivers.network.bridge import BridgeNetwork

async def main():
    network = BridgeNetwork(
        prefix=sys.argv[1],
        runtime_directory=Path(sys.argv[3]),
        slirp4netns=Path(os.environ["SLIRP"]),
        nft=Path(os.environ["NFT"]),
    )
    await network.ensure_node()
    await network.ensure_attached(sys.argv[2], IPv4Address("100.96.0.2"))
    await network.ensure_detached(sys.argv[2])
    await network.ensure_node_absent()

asyncio.run(main())
"""
