"""What the runtimes are told: limits, capabilities and command lines, as values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from shellwego.core.apps import Resources
from shellwego.core.ids import InstanceId
from shellwego.drivers.runtime import oci, seccomp
from shellwego.drivers.runtime.port import Workload
from shellwego.drivers.runtime.users import User

ID = InstanceId("ins_" + "a" * 20)
WORKLOAD = Workload(
    ID,
    Path("/images/x"),
    ("serve", "--now"),
    {"TOKEN": "t"},
    Path("/run/netns/n"),
    Path("/logs/x.log"),
    Resources(memory_mib=256, cpu_millis=250, pids=100, disk_mib=512),
    user="app",
    hostname="web-1",
)
PREPARED = oci.Prepared(
    rootfs=Path("/run/b/rootfs"),
    user=User(1000, 1001, (63,), "/home/app"),
    files={"/etc/resolv.conf": Path("/run/b/files/0")},
    cgroup=f"/shellwego/abcdefgh/{ID}",
    open_files_limit=20000,
    pids_limit=264,
    process_rlimit=100,
    memory_folders=("/tmp",),
)


def config(**changes: Any) -> dict[str, Any]:
    return oci.configuration(WORKLOAD, replace(PREPARED, **changes))


def test_limits_are_the_promised_ones() -> None:
    resources = config()["linux"]["resources"]
    assert resources["memory"] == {"limit": 256 << 20, "swap": 256 << 20}, "swap would be memory by another name"
    assert resources["cpu"] == {"quota": 25_000, "period": 100_000, "shares": 256}
    assert resources["pids"] == {"limit": 264}
    assert resources["devices"] == [{"allow": False, "access": "rwm"}]


def test_an_app_may_do_little_and_gain_nothing() -> None:
    process = config()["process"]
    assert process["noNewPrivileges"] is True
    assert process["capabilities"]["ambient"] == []
    assert process["capabilities"]["inheritable"] == []
    forbidden = {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_PTRACE", "CAP_SETPCAP"}
    assert forbidden.isdisjoint(process["capabilities"]["bounding"])
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [63]}


def test_limits_inside_stay_within_what_this_node_may_give() -> None:
    """Without CAP_SYS_RESOURCE a higher limit than our own makes every start fail."""
    limits = {limit["type"]: (limit["soft"], limit["hard"]) for limit in config()["process"]["rlimits"]}
    assert limits == {"RLIMIT_NOFILE": (1024, 20000), "RLIMIT_CORE": (0, 0), "RLIMIT_NPROC": (100, 100)}
    few = config(open_files_limit=512, process_rlimit=None)["process"]["rlimits"]
    assert [limit["soft"] for limit in few] == [512, 0]


def test_the_environment_is_the_apps_over_what_every_program_expects() -> None:
    env = config()["process"]["env"]
    assert "TOKEN=t" in env
    assert "HOME=/home/app" in env
    assert "HOSTNAME=web-1" in env
    own = oci.environment(replace(WORKLOAD, env={"PATH": "/x", "HOME": "/y"}), PREPARED.user)
    assert (own["PATH"], own["HOME"]) == ("/x", "/y")


def test_mounts_bring_no_host_folder_but_the_given_files() -> None:
    mounts = config()["mounts"]
    binds = [mount for mount in mounts if mount["type"] == "bind"]
    assert [(mount["destination"], mount["source"]) for mount in binds] == [("/etc/resolv.conf", "/run/b/files/0")]
    assert "ro" in binds[0]["options"]
    assert [m["destination"] for m in mounts if m["type"] == "tmpfs"] == ["/dev", "/dev/shm", "/tmp"]
    assert next(m for m in mounts if m["destination"] == "/sys")["options"][-1] == "ro"


def test_a_command_inside_is_the_apps_process_with_other_arguments() -> None:
    process = oci.exec_process(config(), ("sh",), tty=True, env={"TOKEN": "mine"}, columns=100, rows=40)
    assert process["args"] == ["sh"]
    assert process["consoleSize"] == {"width": 100, "height": 40}
    assert {"TOKEN=mine", "TERM=xterm", "HOME=/home/app"} <= set(process["env"])
    assert process["user"]["uid"] == 1000
    assert process["noNewPrivileges"] is True


def test_command_lines() -> None:
    command = oci.monitor_command(
        conmon=Path("/usr/bin/conmon"),
        runtime=Path("/opt/runsc"),
        runtime_args=("--root=/run/s", "--platform=systrap"),
        id=ID,
        bundle=Path("/run/b"),
        pid_file=Path("/run/b/pid"),
        monitor_pid_file=Path("/run/b/monitor.pid"),
        log_path=Path("/logs/x.log"),
        log_limit_bytes=1 << 20,
    )
    assert command == (
        "/usr/bin/conmon",
        "--api-version=1",
        f"--cid={ID}",
        f"--cuuid={ID}",
        f"--name={ID}",
        "--runtime=/opt/runsc",
        "--bundle=/run/b",
        "--container-pidfile=/run/b/pid",
        "--conmon-pidfile=/run/b/monitor.pid",
        "--exit-dir=/run/b",
        "--full-attach",
        "--log-path=k8s-file:/logs/x.log",
        "--log-size-max=1048576",
        "--log-level=error",
        "--no-sync-log",
        "--runtime-arg=--root=/run/s",
        "--runtime-arg=--platform=systrap",
    )
    assert oci.start(Path("/opt/runsc"), ("--root=/run/s",), ID) == ("/opt/runsc", "--root=/run/s", "start", ID)
    assert oci.delete(Path("r"), (), ID) == ("r", "delete", "--force", ID)


def test_seccomp_refuses_by_default_what_gives_back_power() -> None:
    profile = seccomp.profile("x86_64")
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    free = {
        name
        for rule in profile["syscalls"]
        if "args" not in rule and rule["action"] == "SCMP_ACT_ALLOW"
        for name in rule["names"]
    }
    dangerous = (
        "mount umount2 setns unshare bpf perf_event_open ptrace keyctl add_key io_uring_setup userfaultfd "
        "kexec_load init_module open_by_handle_at pivot_root chroot reboot swapon clone clone3 socket personality"
    )
    assert free.isdisjoint(dangerous.split())
    assert {"read", "write", "openat", "execve", "futex", "epoll_wait", "sendfile", "getrandom", "statx"} <= free
