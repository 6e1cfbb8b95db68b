"""From inside an instance, root as it may be: everybody else is out of reach, and out of danger."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from shellwego.agent.logs import LogLimits
from tests.e2e import inside
from tests.e2e.cloud import RunningCloud, eventually
from tests.e2e.ears import Ears, data_plane, host_addresses, listen_where_no_tenant_may_come
from tests.e2e.inside import (
    DISK_MIB,
    PIDS,
    RUNTIMES,
    Attacker,
    Findings,
    api_stream,
    call_api,
    events,
    group_number,
    json_lines,
    layer_bytes,
    log_bytes,
    tcp_settings,
    unnoticed,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

MIB = 1 << 20


@pytest.fixture(scope="module")
def attackers(cloud: RunningCloud, victim: str) -> dict[str, Attacker]:
    return {runtime: Attacker.deploy(cloud, runtime) for runtime in RUNTIMES}


@pytest.fixture(scope="module", params=RUNTIMES)
def attacker(attackers: dict[str, Attacker], request: pytest.FixtureRequest) -> Attacker:
    return attackers[request.param]


# --- who can be reached ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ports(cloud: RunningCloud, attackers: dict[str, Attacker], ears: Ears) -> dict[str, int]:
    """Servers where a tenant must not come: on the host, in the data plane, beside the builder's daemon."""
    [builder] = Path("/run/netns").glob(f"swg-{cloud.short}-build-*")
    return listen_where_no_tenant_may_come(cloud, ears, builder=builder)


def test_neighbours_host_and_platform_are_out_of_reach(
    cloud: RunningCloud, attackers: dict[str, Attacker], attacker: Attacker, ports: dict[str, int], ears: Ears
) -> None:
    """By IPv4, by IPv6, by IPv4 in IPv6's clothes; by TCP, UDP and ICMP; and nobody out there hears a thing."""
    own = attacker.instance()["address"]
    instances = cloud.json("instances", "list")
    neighbours = [i["address"] for i in instances if i["address"] != own]
    assert len(neighbours) == len(RUNTIMES)
    gateway = own.rsplit(".", 2)[0] + ".0.1"
    # Slirp's own addresses: its gateway, which can mean the host's loopback; its resolver; the data plane's end.
    near = [gateway, "10.0.2.2", "10.0.2.3", "10.0.2.100"]
    platform = [cloud.api_port, cloud.http_port, cloud.https_port, *ports.values()]

    targets = [(address, port) for address in (*near, *host_addresses()) for port in platform]
    targets += [("127.0.0.1", port) for port in platform] + [("::1", port) for port in platform]
    targets += [(address, 8080) for address in neighbours] + [(address, 80) for address in inside.METADATA]
    targets += [(f"::ffff:{address}", port) for address, port in targets if ":" not in address]
    pings = [*near, *neighbours, *host_addresses(), *inside.METADATA]

    ears.heard.clear()
    icmp = [(address, 0) for address in pings if ":" not in address]
    found = attacker.probe("reach", tcp=targets, udp=targets, icmp=icmp, seconds=4)["reach"]
    assert len(found) == len(set(targets)) * 2 + len(set(icmp))
    assert {target: word for target, word in found.items() if word.startswith("reached")} == {}
    assert ears.heard == []


def test_the_gate_is_open_where_it_should_be(attacker: Attacker) -> None:
    """The suite's own control: the probe finds what may be found, so what it doesn't find is the filter's doing."""
    assert attacker.probe("resolve")["resolve"] == {"answer": "4711"}
    found = attacker.probe("reach", tcp=[("127.0.0.1", 8080)], udp=[("10.0.2.3", 53)], seconds=2)["reach"]
    assert found["tcp 127.0.0.1 8080"] == "reached"


def test_sockets_of_the_host_are_not_there(
    cloud: RunningCloud, attacker: Attacker, ears: Ears, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither the platform's own, nor one of the host's without a name in the file system."""
    run = Path("/run/shellwego", cloud.short)
    abstract = f"@shellwego-test-{secrets.token_hex(4)}"
    ears.listen_unix("an abstract name", "\0" + abstract[1:])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + abstract[1:])
    eventually("the control is heard", lambda: "an abstract name unix" in ears.heard)
    ears.heard.clear()
    paths = [str(path) for path in run.rglob("*") if path.is_socket()]
    assert {"api.sock", "control.sock"} <= {Path(path).name for path in paths}
    found = attacker.probe("unix", unix=[*paths, abstract])["unix"]
    assert set(found.values()) <= {"ENOENT", "ECONNREFUSED", "ENAMETOOLONG"}
    assert ears.heard == []


# --- what can be done ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def findings(attacker: Attacker) -> Findings:
    return attacker.look_around()


def test_no_packet_can_be_forged_or_overheard(findings: Findings) -> None:
    allowed = {name: word for name, word in findings["sockets"].items() if word == "ok"}
    assert allowed == {}
    assert set(findings["routes"].values()) == {"EPERM"}


def test_root_has_seven_capabilities_and_gains_none(findings: Findings) -> None:
    status = findings["status"]
    assert (status["CapEff"], status["CapPrm"], status["CapBnd"]) == (inside.CAPABILITIES,) * 3
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_setuid_gains_nothing(findings: Findings) -> None:
    """The image has a setuid-root program, and an ordinary user runs it."""
    assert int(findings["setuid"]["mode"], 8) & 0o6000 == 0o6000, "the test's own ground"
    assert (findings["setuid"]["uid"], findings["setuid"]["gid"]) == ("1000", "1000")
    assert int(findings["setuid"]["capabilities"], 16) == 0


def test_system_calls_that_reach_the_machine_are_refused(attacker: Attacker, findings: Findings) -> None:
    passed = {name for name, word in findings["syscalls"].items() if word == "ok"}
    assert passed <= (inside.OWN_KERNEL if attacker.runtime == "gvisor" else set())
    assert "ok" not in findings["own_kernel"].values()
    assert set(findings["mknod"].values()) == {"EPERM"}


def test_the_kernel_can_not_be_steered_or_read(attacker: Attacker, findings: Findings) -> None:
    """Of /proc, /sys and the control groups nothing can be written but gVisor's own, for the sandbox alone."""
    written = {
        path for path in findings["writable"] if not inside.OWN_SETTINGS.match(path) or attacker.runtime != "gvisor"
    }
    assert written == set()
    assert findings["readable"] == {}


def test_settings_inside_change_nothing_outside(cloud: RunningCloud, attacker: Attacker) -> None:
    """gVisor lets a tenant have another TCP in its own sandbox; nobody else's changes."""
    namespaces = [
        None,
        data_plane(cloud),
        *Path("/run/netns").glob(f"swg-{cloud.short}-{attacker.instance()['id'][4:]}"),
    ]
    assert len(namespaces) == 3

    before = tcp_settings(namespaces)
    words = "cd /proc/sys/net/ipv4; for n in 0 1; do echo $n > ip_forward; echo $n > tcp_sack; done; "
    words += "echo 20000 20100 > ip_local_port_range; true"
    cloud.do("exec", attacker.name, "--", "sh", "-c", words)
    assert tcp_settings(namespaces) == before


# --- what is there --------------------------------------------------------------------------------------------------


def test_only_the_standard_devices(attacker: Attacker, findings: Findings) -> None:
    allowed = inside.DEVICES | inside.OWN_DEVICES if attacker.runtime == "gvisor" else inside.DEVICES
    assert set(findings["special_files"]) <= allowed
    assert set(findings["special_files"].values()) == {"character"}


def test_no_other_process_is_visible(findings: Findings) -> None:
    programs = sorted(re.findall(r"\w+\.py", "\n".join(findings["processes"].values())))
    assert programs == ["app.py", "probes.py"]
    assert len(findings["processes"]) == 2


def test_nothing_of_the_host_shows(cloud: RunningCloud, attacker: Attacker, findings: Findings) -> None:
    """No path of its, no open directory (CVE-2024-21626), no variable; a mount may name the instance itself."""
    assert findings["paths"] == {}
    mounts = "\n".join(findings["mounts"].values())
    for place in (str(cloud.data), "/run/shellwego", "/var/cache", "shellwego/"):
        assert place not in mounts
    assert [name for name in findings["environment"] if not inside.EXPECTED_ENVIRONMENT.fullmatch(name)] == []
    opened = {name: target for name, target in findings["descriptors"].items() if target.startswith("/")}
    assert {name: target for name, target in opened.items() if name != "self cwd"}.items() <= {
        *((f"{process} {number}", "/dev/null") for process in ("self", "1") for number in range(3)),
        *((name, target) for name, target in opened.items() if target.startswith("/proc/")),
    }
    assert opened["self cwd"] == "/attacker"


def test_a_write_stays_in_its_own_instance(
    cloud: RunningCloud, attackers: dict[str, Attacker], attacker: Attacker
) -> None:
    """Both run the same image: what one scribbles on it, the other, the store and the next instance don't see."""
    [other] = [one for one in attackers.values() if one is not attacker]
    rootfs = [path.parents[1] for path in cloud.data.glob("images/rootfs/*/attacker/app.py")]
    assert rootfs, "the image is in the store"

    def stored() -> list[object]:
        return [
            ((root / "usr/local/bin/id-of-root").read_bytes(), (root / "etc/scribbled").exists(),
             (root / "etc/debian_version").exists())
            for root in rootfs
        ]  # fmt: skip

    before, clean = stored(), other.probe("scribbles")
    assert set(attacker.probe("write")["write"].values()) == {"ok"}
    assert attacker.probe("scribbles") != clean
    assert other.probe("scribbles") == clean
    assert stored() == before
    attacker.restore()
    assert attacker.probe("scribbles") == clean


# --- hogs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(attacker: Attacker) -> Iterator[Attacker]:
    """An attacker that is well, and is made well again after what it did to itself."""
    attacker.until_healthy()
    yield attacker
    attacker.restore()


def test_a_fork_bomb_stays_within_its_limit(cloud: RunningCloud, victim: str, fresh: Attacker) -> None:
    """The sandbox's own threads and those of commands run in it are counted too; the group's limit is the last word."""
    instance = fresh.instance()["id"]
    least, limit = (PIDS // 3, PIDS) if fresh.runtime == "runc" else (PIDS, 4 * PIDS + 256)
    assert group_number(cloud, instance, "pids.max") == limit
    said = []
    with unnoticed(cloud, victim):
        bombing = Thread(target=lambda: said.append(fresh.try_probe("forks", seconds=4)))
        bombing.start()
        most = 0
        while bombing.is_alive():
            with contextlib.suppress(OSError, StopIteration):
                most = max(most, group_number(cloud, instance, "pids.current"))
            bombing.join(0.05)
        assert call_api(cloud, "/v1/nodes")["items"][0]["state"] == "ready"
    assert least < most <= limit
    if said[0].code == 0:
        assert int(said[0].json["forks"]["refused"]) > 0


def test_a_memory_hog_is_ended_told_so_and_started_again_later(
    cloud: RunningCloud, victim: str, fresh: Attacker
) -> None:
    """The truth for whoever asks why: out of memory, how often, and when it is tried again."""
    told: list[str] = []

    def started_again(times: int) -> bool:
        found = fresh.instance()
        told.append(f"{found['state']}: {found['reason']}")
        return found["state"] == "healthy" and int(found["restarts"]) == times

    with unnoticed(cloud, victim):
        for times in (1, 2):
            assert fresh.try_probe("memory").code != 0
            eventually("it runs again", lambda times=times: started_again(times))
            [listed] = cloud.json("instances", "list", fresh.name)
            assert (listed["exit_reason"], listed["restarts"]) == ("out_of_memory", times)
            assert listed["reason"] == "last end: out of memory"
    assert not Path("oom").exists(), "conmon's note of it is in the sandbox's folder, not where the cloud was started"
    assert any(re.match(r"backoff: out of memory; next start after a pause of 2 s", word) for word in told), told


def test_a_disk_filler_meets_the_end_of_its_own_disk(cloud: RunningCloud, victim: str, fresh: Attacker) -> None:
    instance = fresh.instance()["id"]
    with unnoticed(cloud, victim):
        found = fresh.probe("disk", bytes=4 << 30)["disk"]
        assert found["end"] == "ENOSPC"
        assert DISK_MIB // 2 < int(found["written"]) // MIB <= DISK_MIB
        assert layer_bytes(cloud, instance) <= (DISK_MIB + 4) * MIB
        assert fresh.probe("clear")["clear"] == {"write": "ok"}, "what is deleted is room again"
        # Names cost too. gVisor keeps them in the sandbox's memory: then that is what ends.
        names = fresh.try_probe("empty_files", files=400_000)
        if names.code == 0:
            assert names.json["empty_files"]["end"] == "ENOSPC"
        else:
            eventually("its end is told", lambda: fresh.instance()["exit_reason"] == "out_of_memory")
        assert layer_bytes(cloud, instance) <= (DISK_MIB + 4) * MIB


def test_what_fills_a_folder_in_memory_is_the_tenants_own(cloud: RunningCloud, victim: str, fresh: Attacker) -> None:
    """/tmp and /dev/shm are memory: they end before the tenant's does, or with it."""
    with unnoticed(cloud, victim):
        said = cloud.run(
            "exec", fresh.name, "--", "sh", "-c", "for d in /tmp /dev/shm /run /dev; do cat /dev/zero > $d/fill; done"
        )
        assert "No space left" in said.err or said.code != 0
    assert fresh.until_healthy()["exit_reason"] in (None, "out_of_memory")


def test_a_descriptor_hog_hurts_only_itself(cloud: RunningCloud, victim: str, fresh: Attacker) -> None:
    """Eight processes with all the descriptors they get; the host has plenty left, and its programs open theirs."""
    allocated, _, most = map(int, Path("/proc/sys/fs/file-nr").read_text().split())
    said = []
    with unnoticed(cloud, victim):
        hoarding = Thread(target=lambda: said.append(fresh.try_probe("files", seconds=3)))
        hoarding.start()
        while hoarding.is_alive():
            allocated = max(allocated, int(Path("/proc/sys/fs/file-nr").read_text().split()[0]))
            assert call_api(cloud, f"/v1/apps/{victim}")["status"] == "running"
            hoarding.join(0.2)
        assert cloud.do("exec", victim, "--", "cat", "/srv/index.html").out == "unharmed\n"
    assert allocated < most // 2
    if said[0].code == 0:
        found = said[0].json["files"]
        assert int(found["most"]) <= int(found["limit"]) <= 65536


# --- what it says ---------------------------------------------------------------------------------------------------


def test_hostile_words_stay_words(cloud: RunningCloud, victim: str, fresh: Attacker) -> None:
    """Ten megabytes without a line's end, escape sequences, forged entries, bytes that are no text: each is shown as
    this instance's own output, harmless to a terminal, and whoever reads JSON gets JSON."""
    instance = fresh.instance()["id"]
    for what in ("long", "ansi", "forged", "binary", "unfinished"):
        fresh.say(what)

    def said() -> str:
        return cloud.do("logs", fresh.name, "--instance", instance, "--tail", "500", "-o", "json").out

    text = str(eventually("the last words are there", lambda: "after-binary" in (now := said()) and now))
    assert not inside.CONTROLS.search(text)
    entries = json_lines(text)
    assert {(one["instance"], one["process"], one["stream"]) for one in entries} == {(instance, "web", "stdout")}
    words = [one["text"] for one in entries]
    assert "before-long" in words
    assert "after-long" in words
    long = words[words.index("before-long") + 1 : words.index("after-long")]
    assert sum(map(len, long)) < MIB, "a line of ten megabytes is cut"
    assert "bytes of this line were cut" in long[-1]
    assert "2026-01-01T00:00:00.000000000+00:00 stderr F forged" in words
    assert all(one["at"] > "2026-01-01T00:01" for one in entries), "nobody but the platform says when"

    shown = cloud.do("logs", fresh.name, "--instance", instance, "--tail", "500").out
    assert not inside.CONTROLS.search(shown)
    source = re.compile(rf"\S+ web\.{instance[4:9]} ")
    assert [line for line in shown.removesuffix("\n").split("\n") if not source.match(line)] == []
    for word in ("cleared", "titled", "copied", "red", "eight-bit", "overwritten", "erased"):
        assert word in shown

    path = f"/v1/apps/{fresh.name}/logs?tail=500&instance={instance}"
    with api_stream(cloud, path) as lines:
        assert [json.loads(line)["text"] for line in lines][: len(words)] == words
    with unnoticed(cloud, victim):
        assert events(cloud, path, len(words)) == words


def test_a_flood_of_words_is_bounded_and_drowns_nobody(cloud: RunningCloud, victim: str, fresh: Attacker) -> None:
    """`yes` as fast as it can: what is kept of it has a limit, also while it goes on, and logs can still be read."""
    instance = fresh.instance()["id"]
    limits = LogLimits()
    most = 0

    def rotated() -> int:
        nonlocal most
        most = max(most, log_bytes(cloud, instance))
        return max((int(path.stem) for path in cloud.data.glob(f"agent/logs/*/{instance}/*.log")), default=0)

    with unnoticed(cloud, victim):
        fresh.say("flood")
        try:
            eventually("its log was rotated again and again", lambda: rotated() > limits.files_per_instance)
            said = cloud.do("logs", fresh.name, "--instance", instance, "--tail", "1000", "-o", "json")
            entries = json_lines(said.out)
            assert len(entries) == 1000
            assert {(one["instance"], one["text"]) for one in entries} == {(instance, "flooding")}
            with api_stream(cloud, f"/v1/apps/{fresh.name}/logs?follow=true&tail=10&instance={instance}") as lines:
                for _ in range(5_000):
                    assert json.loads(next(lines))["text"] == "flooding"
            fresh.until_healthy()
            assert cloud.do("exec", victim, "--", "cat", "/srv/index.html").out == "unharmed\n"
        finally:
            fresh.say("ebb")
        eventually("what is too much is gone", lambda: rotated() and log_bytes(cloud, instance) <= limits.app_bytes)
    # Between two looks a file can grow to its monitor's own limit, and another begin.
    assert most <= limits.app_bytes + 2 * 64 * MIB
