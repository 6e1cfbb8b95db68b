"""What exactly do we tell an OCI runtime?

The configuration of a bundle and the command lines, as values: nothing here touches the machine. Both runtimes get the
same configuration; what differs is in gvisor.py and runc.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shellwego.core.quantities import MIB
from shellwego.drivers.runtime.inside import DEFAULT_PATH
from shellwego.drivers.runtime.port import Workload
from shellwego.drivers.runtime.users import User
from shellwego.kit.commands import Command

CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
)
"""
What a process that is root inside may do: what nginx's master and the entrypoints with gosu or su-exec need (own a data
folder, become another user, signal workers that did, listen on port 80), and nothing else. Against Docker's default:
no MKNOD, NET_RAW, SYS_CHROOT, AUDIT_WRITE, SETFCAP, SETPCAP, FSETID. A process that isn't root has none at all.
"""

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/pagetypeinfo",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/cgroup",
)
"""Beyond Docker's: what tells root inside where the kernel has its memory, and whose is in which of its pages."""

READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

OPEN_FILES_SOFT, OPEN_FILES_HARD = 1024, 65536
"""Programs that need more than the first raise it themselves, up to the second (or what this node may give)."""

OUT_OF_MEMORY_SCORE = 500
"""When the node itself runs out of memory, apps go before the platform does."""

_PERIOD_MICROSECONDS = 100_000
_SHARED_MEMORY_MIB, _RUN_MIB, _DEV_MIB = 64, 16, 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the driver found out and made ready for a workload before its configuration could be written."""

    rootfs: Path
    user: User
    files: Mapping[str, Path]
    """Path inside to its source on the host."""
    cgroup: str
    open_files_limit: int
    pids_limit: int
    """Of the control group, which for gVisor counts more than the app's own processes."""
    process_rlimit: int | None = None
    """RLIMIT_NPROC inside: only where the sandbox's users are its own, since the host counts per user number."""
    memory_folders: tuple[str, ...] = ()
    """Which of /tmp and /run shall be tmpfs: those where the image has nothing that a tmpfs would hide."""
    namespaces: tuple[str, ...] = ()
    """Kinds beyond those that every sandbox gets."""
    seccomp: Mapping[str, Any] | None = None
    sysctl: Mapping[str, str] | None = None


def environment(workload: Workload, user: User) -> dict[str, str]:
    """The workload's own, and what every program expects to find (as Docker sets it)."""
    return {"PATH": DEFAULT_PATH, "HOME": user.home, "HOSTNAME": workload.hostname, **workload.env}


def configuration(workload: Workload, prepared: Prepared) -> dict[str, Any]:
    """The config.json of a bundle (OCI runtime-spec 1.0)."""
    resources = workload.resources
    memory = resources.memory_mib * MIB
    hard = min(OPEN_FILES_HARD, prepared.open_files_limit)
    capabilities = list(CAPABILITIES)
    linux: dict[str, Any] = {
        "cgroupsPath": prepared.cgroup,
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}],
            "memory": {"limit": memory, "swap": memory},
            "cpu": {
                "quota": max(1000, resources.cpu_millis * _PERIOD_MICROSECONDS // 1000),
                "period": _PERIOD_MICROSECONDS,
                # Beside the ceiling a fair share, so that neighbours at full load meet in proportion.
                "shares": max(2, resources.cpu_millis * 1024 // 1000),
            },
            "pids": {"limit": prepared.pids_limit},
        },
        "namespaces": [
            {"type": "pid"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "mount"},
            {"type": "network", "path": str(workload.network_namespace)},
            *({"type": kind} for kind in prepared.namespaces),
        ],
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READ_ONLY_PATHS),
    }
    if prepared.seccomp is not None:
        linux["seccomp"] = dict(prepared.seccomp)
    if prepared.sysctl:
        linux["sysctl"] = dict(prepared.sysctl)
    return {
        "ociVersion": "1.0.2",
        "hostname": workload.hostname,
        "root": {"path": str(prepared.rootfs), "readonly": False},
        "process": {
            "terminal": False,
            "user": {
                "uid": prepared.user.uid,
                "gid": prepared.user.gid,
                "additionalGids": list(prepared.user.groups),
            },
            "args": list(workload.args),
            "env": _pairs(environment(workload, prepared.user)),
            "cwd": workload.cwd,
            "noNewPrivileges": True,
            "oomScoreAdj": OUT_OF_MEMORY_SCORE,
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
                # Neither inheritable nor ambient: whoever isn't root inside has none.
                "inheritable": [],
                "ambient": [],
            },
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": min(OPEN_FILES_SOFT, hard), "hard": hard},
                # A core dump would go wherever the host's core_pattern says, with the app's secrets in it.
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                *(
                    {"type": "RLIMIT_NPROC", "soft": limit, "hard": limit}
                    for limit in [prepared.process_rlimit]
                    if limit is not None
                ),
            ],
        },
        "mounts": _mounts(prepared.memory_folders, resources.memory_mib)
        + [_file(path, source) for path, source in prepared.files.items()],
        "linux": linux,
    }


def exec_process(
    config: Mapping[str, Any],
    args: tuple[str, ...],
    *,
    tty: bool,
    env: Mapping[str, str],
    columns: int,
    rows: int,
) -> dict[str, Any]:
    """The process of a command in a running sandbox: as its first one, with other arguments."""
    process: dict[str, Any] = dict(config["process"])
    base = dict(pair.split("=", 1) for pair in process["env"])
    terminal = {"TERM": "xterm"} if tty else {}
    process |= {"args": list(args), "env": _pairs({**terminal, **base, **env}), "terminal": tty}
    if tty:
        process["consoleSize"] = {"width": columns, "height": rows}
    return process


def monitor_command(
    *,
    conmon: Path,
    runtime: Path,
    runtime_args: tuple[str, ...],
    id: str,
    bundle: Path,
    pid_file: Path,
    monitor_pid_file: Path,
    log_path: Path,
    log_limit_bytes: int,
) -> Command:
    """
    Create a sandbox under its monitor. When the log reaches its limit, conmon throws the full file away and begins
    it anew: the backstop for a flood while nobody rotates.
    """
    return (
        str(conmon),
        "--api-version=1",
        f"--cid={id}",
        f"--cuuid={id}",
        f"--name={id}",
        f"--runtime={runtime}",
        f"--bundle={bundle}",
        f"--container-pidfile={pid_file}",
        f"--conmon-pidfile={monitor_pid_file}",
        f"--exit-dir={bundle}",
        "--full-attach",
        f"--log-path=k8s-file:{log_path}",
        f"--log-size-max={log_limit_bytes}",
        "--log-level=error",
        "--no-sync-log",  # An fsync per ended app would let a crash loop hold up the disk.
        *(f"--runtime-arg={argument}" for argument in runtime_args),
    )


def start(runtime: Path, runtime_args: tuple[str, ...], id: str) -> Command:
    return (str(runtime), *runtime_args, "start", id)


def delete(runtime: Path, runtime_args: tuple[str, ...], id: str) -> Command:
    return (str(runtime), *runtime_args, "delete", "--force", id)


def _mounts(memory_folders: tuple[str, ...], memory_mib: int) -> list[dict[str, Any]]:
    flags = ["nosuid", "nodev"]
    # A tmpfs is memory, and counted as the app's: its limit is where a runaway cache should get its ENOSPC instead.
    sizes = {"/tmp": max(1, memory_mib // 2), "/run": min(_RUN_MIB, max(1, memory_mib // 4))}  # noqa: S108
    modes = {"/tmp": "1777", "/run": "755"}  # noqa: S108
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": [*flags, "noexec"]},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", f"size={_DEV_MIB}m"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
        {
            "destination": "/dev/shm",  # noqa: S108
            "type": "tmpfs",
            "source": "shm",
            "options": [*flags, "noexec", "mode=1777", f"size={_SHARED_MEMORY_MIB}m"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": [*flags, "noexec"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*flags, "noexec", "ro"]},
        *(
            {
                "destination": path,
                "type": "tmpfs",
                "source": "tmpfs",
                "options": [*flags, f"mode={modes[path]}", f"size={sizes[path]}m"],
            }
            for path in memory_folders
        ),
    ]


def _file(path: str, source: Path) -> dict[str, Any]:
    return {
        "destination": path,
        "type": "bind",
        "source": str(source),
        "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
    }


def _pairs(env: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in env.items()]
