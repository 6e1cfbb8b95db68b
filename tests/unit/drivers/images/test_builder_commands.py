"""What BuildKit, the step's runtime and the host are told, word for word."""

from __future__ import annotations

import json
import tomllib
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePosixPath
from typing import ClassVar

import pytest

from shellwego.core.errors import InvalidField
from shellwego.core.ids import OrganisationId
from shellwego.core.networks import parse_allowed_network
from shellwego.drivers.images import buildkit, buildkit_network, buildkit_step
from shellwego.drivers.images.base_layouts import installed_packages
from shellwego.drivers.images.bootstrap import debootstrap_command, default_mappings, source_lines
from shellwego.drivers.images.builder import lane_name
from shellwego.drivers.images.buildkit_cgroup import BuildGroup, Hierarchies, limit_files, read_hierarchies


class TestBuildctl:
    def command(self, **changes: object) -> tuple[str, ...]:
        settings: dict[str, object] = {
            "socket": Path("/run/s"),
            "context": Path("/src"),
            "dockerfile_directory": Path("/d"),
            "output": Path("/o,ut"),
        }
        return buildkit.build_command(Path("/bin/buildctl"), **(settings | changes))  # type: ignore[arg-type]

    def test_a_base_is_known_by_its_short_name(self) -> None:
        """BuildKit looks a name up without the hub's prefix and without `:latest`."""
        base = buildkit.StandIn("docker.io/library/python:latest", Path("/layout"), "sha256:1")
        command = self.command(stand_ins=(base,))
        assert "--oci-layout=base0=/layout" in command
        assert "--opt=context:python=oci-layout://base0@sha256:1" in command

    def test_paths_with_commas_stay_whole(self) -> None:
        assert '--output=type=oci,tar=false,compression=zstd,"dest=/o,ut"' in self.command()

    def test_a_secret_is_a_descriptor_and_never_a_value(self) -> None:
        command = self.command(secrets={"token": 7}, build_args={"A": "b=c,d"}, target="t", no_cache=True)
        assert "--secret=id=token,src=/proc/self/fd/7" in command
        assert "--opt=build-arg:A=b=c,d" in command
        assert command[-2:] == ("--opt=target=t", "--no-cache")

    @pytest.mark.parametrize("key", ["BUILDKIT_SYNTAX", "BUILDKIT_CACHE_MOUNT_NS", "a b", "", "x=y"])
    def test_an_argument_that_steers_is_refused(self, key: str) -> None:
        with pytest.raises(InvalidField):
            buildkit.check_build_args({key: "x"})

    def test_the_daemon_runs_our_step_program_and_no_strange_frontend(self) -> None:
        text = buildkit.daemon_settings(root=Path('/a"b'), step_program=Path("/step"), cache_mib=100)
        settings = tomllib.loads(text)
        assert settings["root"] == '/a"b'
        assert settings["worker"]["oci"]["binary"] == "/step"
        assert settings["worker"]["oci"]["maxUsedSpace"] == "100MB"
        assert settings["frontend"]["gateway.v0"]["enabled"] is False
        assert settings["insecure-entitlements"] == []


class TestStep:
    RUN = ("--log", "/l", "--log-format", "json", "run", "--bundle", "/b", "--keep", "id1")
    RUNSC: ClassVar[dict[str, object]] = {
        "runtime": "runsc",
        "binary": "/runsc",
        "state": "/s",
        "cgroup": "/c",
        "certificates": "/ca.pem",
    }

    def spec(self) -> dict[str, object]:
        return {
            "process": {
                "env": ["PATH=/bin", "PIP_CERT=/own", "OTEL_X=1", "TRACEPARENT=2"],
                "capabilities": {"effective": ["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_ADMIN"]},
            },
            "mounts": [{"destination": "/dev/otel-grpc.sock"}, {"destination": "/proc"}],
            "linux": {"cgroupsPath": "/buildkit/id1"},
        }

    def test_a_stranger_gets_gvisor(self) -> None:
        options, verb, arguments = buildkit_step.split_command([*self.RUN])
        command = buildkit_step.command_for(self.RUNSC, options, verb, arguments)
        assert command[0] == "/runsc"
        assert "--platform=systrap" in command
        assert "--keep" not in command
        assert command[-4:] == ["run", "--bundle", "/b", "id1"]

    def test_the_operator_s_own_code_may_have_runc(self) -> None:
        settings = self.RUNSC | {"runtime": "runc", "binary": "/runc"}
        command = buildkit_step.command_for(settings, *buildkit_step.split_command([*self.RUN]))
        assert command == ["/runc", "--root", "/s", *self.RUN]
        spec = buildkit_step.with_rules(self.spec(), settings, "id1")
        assert spec["linux"]["cgroupsPath"] == "/c/id1", "below the daemon's group, where its limits hold"

    def test_a_step_has_no_raw_sockets_no_trace_socket_and_the_certificates(self) -> None:
        spec = buildkit_step.with_rules(self.spec(), self.RUNSC, "id1")
        assert spec["process"]["capabilities"]["effective"] == ["CAP_CHOWN"]
        assert [mount["destination"] for mount in spec["mounts"]] == ["/proc", buildkit_step.CERTIFICATES]
        assert "ro" in spec["mounts"][1]["options"]
        environment = dict(entry.split("=", 1) for entry in spec["process"]["env"])
        assert environment["PIP_CERT"] == "/own", "what the Dockerfile sets stays"
        assert environment["NODE_EXTRA_CA_CERTS"] == buildkit_step.CERTIFICATES
        assert not [name for name in environment if name.startswith(("OTEL", "TRACE"))]

    def test_nothing_is_added_without_certificates(self) -> None:
        spec = buildkit_step.with_rules(self.spec(), self.RUNSC | {"certificates": None}, "id1")
        assert [mount["destination"] for mount in spec["mounts"]] == ["/proc"]

    def test_only_our_own_stub_is_taken_away(self, tmp_path: Path) -> None:
        """The root file system is a stranger's: its /dev may point at the host's."""
        name = Path(buildkit_step.CERTIFICATES).name
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / name).touch()
        (tmp_path / "linked").mkdir()
        (tmp_path / "linked" / "dev").symlink_to(outside)
        buildkit_step.remove_stub(str(tmp_path / "linked"))
        assert (outside / name).exists()
        device = tmp_path / "plain" / "dev"
        device.mkdir(parents=True)
        (device / name).touch()
        buildkit_step.remove_stub(str(tmp_path / "plain"))
        assert not (device / name).exists()
        (device / name).write_text("the image's own")
        buildkit_step.remove_stub(str(tmp_path / "plain"))
        assert (device / name).exists()
        buildkit_step.remove_stub(str(tmp_path / "none"))


class TestNetwork:
    def denied(self, rules: str) -> list[str]:
        return rules.split("elements = { ")[1].split(" }")[0].split(", ")

    @pytest.mark.parametrize(
        "address",
        [
            "192.0.2.2",
            "127.0.0.1",
            "10.0.2.2",
            "169.254.169.254",
            "168.63.129.16",
            "192.0.0.192",
            "172.31.0.1",
            "192.168.1.1",
            "100.100.1.1",
        ],
    )
    def test_the_host_and_private_networks_are_out_of_reach(self, address: str) -> None:
        rules = buildkit_network.filter_rules(["192.0.2.2", "fd00::2"])
        assert any(ip_address(address) in ip_network(network) for network in self.denied(rules))

    def test_the_rest_of_the_world_is_not(self) -> None:
        networks = [ip_network(network) for network in self.denied(buildkit_network.filter_rules([]))]
        for address in ("1.1.1.1", "151.101.0.1", "203.0.113.80"):
            assert not any(ip_address(address) in network for network in networks)

    def test_an_operator_s_own_mirror_comes_before_the_refusal(self) -> None:
        opened = [parse_allowed_network(text, field="x") for text in ("10.1.0.0/16", "192.0.2.9:443,80")]
        rules = buildkit_network.filter_rules(["10.1.0.2"], opened)
        order = (
            "169.254.0.0/16, 192.0.0.192 } reject",
            "192.0.2.9/32 meta l4proto { tcp, udp } th dport { 443, 80 } accept",
            "10.1.0.2/32 } reject",  # The host, which is in the network but wasn't named.
            "10.1.0.0/16 accept",
            "ip daddr @denied",
        )
        places = [rules.index(rule) for rule in order]
        assert places == sorted(places)

    def test_the_way_out_does_not_lead_to_the_host_s_loopback(self) -> None:
        command = buildkit_network.slirp("slirp4netns", Path("/run/netns/x"), 5)
        assert "--disable-host-loopback" in command
        assert "--ready-fd=5" in command


class TestControlGroup:
    V1 = (
        "30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "31 20 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    V2 = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"

    def test_both_versions_are_found(self) -> None:
        old = read_hierarchies(self.V1)
        assert old.unified is None
        assert old.by_controller["cpu"] == Path("/sys/fs/cgroup/cpu,cpuacct")
        assert Path("/sys/fs/cgroup/unified") in old.every, "runc makes groups there too; they are cleared up"
        assert read_hierarchies(self.V2).unified == Path("/sys/fs/cgroup")

    def test_limits_in_both_languages(self) -> None:
        def files(unified: bool) -> dict[str, str]:
            limits = limit_files(unified=unified, memory_mib=256, cpu_millis=1500, pids=100)
            return {name: value for _, name, value, needed in limits if needed}

        assert files(True) == {"memory.max": str(256 << 20), "cpu.max": "150000 100000", "pids.max": "100"}
        assert files(False) == {
            "memory.limit_in_bytes": str(256 << 20),
            "cpu.cfs_period_us": "100000",
            "cpu.cfs_quota_us": "150000",
            "pids.max": "100",
        }

    def test_a_version_2_group_keeps_processes_in_a_leaf(self, tmp_path: Path) -> None:
        """Version 2 refuses processes beside child groups that have controllers."""
        group = BuildGroup(PurePosixPath("a/b"), Hierarchies(tmp_path, {}, (tmp_path,)))
        (tmp_path / "a/b").mkdir(parents=True)
        group.create(memory_mib=64, cpu_millis=500)
        assert (tmp_path / "a/b/memory.max").read_text() == str(64 << 20)
        assert (tmp_path / "a/cgroup.subtree_control").exists()
        assert group.member_files() == (tmp_path / "a/b/daemon/cgroup.procs",)
        (tmp_path / "a/b/memory.events").write_text("low 0\noom 3\noom_kill 2\n")
        assert group.kills_by_memory() == 2
        assert group.children() == {"daemon"}


class TestBaseImages:
    def test_the_mirror_is_the_host_s_and_only_debian_s_main(self) -> None:
        shown = (
            "Debian|http://mirror.example/debian/|bookworm|main\n"
            "Debian|http://mirror.example/debian/|bookworm-updates|main\n"
            "Debian|http://mirror.example/debian/|bookworm|contrib\n"
            "Debian|http://mirror.example/debian/|sid|main\n"
            "Somebody|http://other.example/|bookworm|main\n\n"
        )
        assert list(source_lines(shown)) == [
            "deb http://mirror.example/debian bookworm main\n",
            "deb http://mirror.example/debian bookworm-updates main\n",
        ]

    def test_no_device_and_no_mount_is_left_by_making_one(self) -> None:
        command = debootstrap_command(Path("/x.tar"))
        assert "--skip=output/dev" in command
        assert command[:2] == ("unshare", "--mount")

    def test_the_packages_of_an_image_are_listed_in_order(self) -> None:
        status = (
            "Package: zlib\nStatus: install ok installed\nVersion: 1:2\nDescription: x\n y: z\n\n"
            "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
            "Package: apt\nStatus: install ok installed\nVersion: 3\n"
        )
        assert installed_packages(status) == "apt=3 zlib=1:2"

    @pytest.mark.parametrize(
        ("name", "image"),
        [
            ("python", "base/python"),
            ("python:3", "base/python"),
            ("python:3.11-slim", "base/python"),
            ("python:3.12.1-slim-bookworm", "base/python"),
            ("docker.io/library/python:3.9", "base/python"),
            ("node:20-slim", "base/node"),
            ("node:22.1.0", "base/node"),
            ("node:lts", "base/node"),
            ("debian:bookworm-slim", "base/debian"),
            ("python:3.11-alpine", None),
            ("python:2.7", None),
            ("node:20-alpine", None),
            ("node:18", None),
            ("debian:trixie", None),
            ("nginx", None),
            ("evil/python:3", None),
        ],
    )
    def test_a_stand_in_is_of_the_same_kind(self, name: str, image: str | None) -> None:
        found = {own for pattern, own in default_mappings() if fnmatchcase(name, pattern)}
        assert found == (set() if image is None else {image})


def test_two_organisations_share_no_lane() -> None:
    first, other = OrganisationId("org_a"), OrganisationId("org_b")
    names = {lane_name(o, trusted=trusted) for o in (first, other) for trusted in (False, True)}
    assert len(names) == 4
    assert all(len(name) == 12 and name.isalnum() for name in names)
    assert json.dumps(sorted(names))
