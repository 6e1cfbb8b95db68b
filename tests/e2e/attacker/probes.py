"""
What can be seen and done from inside an instance, by a process that is root there?

Run inside: `python probes.py PROBE...`, with what the probes need as JSON on stdin. It prints one JSON object, the
findings of each probe. It runs in whatever the attacked cloud calls a sandbox, so it uses the standard library alone.
Those of the network and those that take all there is are in files beside.
"""

# System calls are meant here, by their names.
# ruff: noqa: PTH102, PTH108, PTH110, PTH115, PTH116, PTH118, PTH123, PTH208

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import hogs
import network
from trying import call, tried, tried_in_a_child

# x86_64 and aarch64.
NUMBERS = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "sethostname": (170, 161),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fanotify_init": (300, 262),
    "kcmp": (312, 272),
    "personality": (135, 92),
}
CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET = 0x10000000, 0x00020000, 0x40000000
ADDR_NO_RANDOMIZE = 0x0040000

# --- the kernel -----------------------------------------------------------------------------------------------------


def status(given: dict[str, Any]) -> dict[str, str]:
    """/proc/self/status: capabilities, seccomp, no-new-privileges."""
    with open("/proc/self/status") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def syscalls(given: dict[str, Any]) -> dict[str, str]:
    """Each in a process of its own, with arguments that would do something: `ok`, or why not."""
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    text, size = ctypes.c_char_p, ctypes.c_size_t
    some = ctypes.create_string_buffer(256)
    handle = ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0" + bytes(128))
    arguments: dict[str, tuple[Any, ...]] = {
        "mount": (text(b"none"), text(b"/mnt"), text(b"tmpfs"), size(0), None),
        "umount2": (text(b"/proc"), 2),
        "pivot_root": (text(b"/"), text(b"/mnt")),
        "chroot": (text(b"/mnt"),),
        "unshare": (CLONE_NEWUSER,),
        "setns": (os.open("/proc/self/ns/net", os.O_RDONLY) if os.path.exists("/proc/self/ns/net") else 0, 0),
        "ptrace": (16, os.getppid(), None, None),  # PTRACE_ATTACH
        "process_vm_readv": (os.getppid(), None, size(0), None, size(0), size(0)),
        "bpf": (0, ctypes.create_string_buffer(b"\x02\0\0\0\x04\0\0\0\x04\0\0\0\x01\0\0\0" + bytes(112)), 128),
        "perf_event_open": (ctypes.create_string_buffer(b"\x01\0\0\0\x70\0\0\0" + bytes(104)), 0, -1, -1, size(0)),
        "keyctl": (0, -3, 1),  # KEYCTL_GET_KEYRING_ID of the session keyring
        "add_key": (text(b"user"), text(b"name"), text(b"secret"), size(6), -3),
        "request_key": (text(b"user"), text(b"name"), None, -3),
        "kexec_load": (size(0), size(0), None, size(0)),
        "kexec_file_load": (-1, -1, size(0), None, size(0)),
        "init_module": (some, size(256), text(b"")),
        "finit_module": (0, text(b""), 0),
        "delete_module": (text(b"nf_tables"), 0),
        "reboot": (0xFEE1DEAD, 672274793, 0x89ABCDEF, None),  # Only switches Ctrl-Alt-Del off.
        "swapon": (text(b"/attacker/app.py"), 0),
        "acct": (text(b"/attacker/app.py"),),
        "settimeofday": (some, None),
        "clock_settime": (0, ctypes.create_string_buffer((1).to_bytes(8, "little") + bytes(8))),
        "sethostname": (text(b"evil"), size(4)),
        "quotactl": (0x800002 << 8, text(b"/dev/root"), 0, some),
        "syslog": (3, some, 256),
        "userfaultfd": (0,),
        "io_uring_setup": (4, ctypes.create_string_buffer(120)),
        "open_by_handle_at": (os.open("/", os.O_RDONLY), handle, 0),
        "open_tree": (-100, text(b"/"), 1),
        "fsopen": (text(b"tmpfs"), 0),
        "fanotify_init": (0, 0),
        "kcmp": (os.getpid(), os.getppid(), 0, size(0), size(1)),
        "personality": (ADDR_NO_RANDOMIZE,),
    }  # fmt: skip
    return {
        name: tried_in_a_child(lambda name=name: call(NUMBERS[name][column], *arguments[name]))
        for name in sorted(NUMBERS)
    }


def own_kernel(given: dict[str, Any]) -> dict[str, str]:
    """
    What follows for one who may make a user namespace: with every capability in it, what can be mounted, opened and
    written? gVisor's kernel is the sandbox's own, so it may allow some; none may lead to the host.
    """
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    mount, unshare = NUMBERS["mount"][column], NUMBERS["unshare"][column]

    def inside(act: Callable[[], object]) -> Callable[[], None]:
        def both() -> None:
            call(unshare, CLONE_NEWUSER | CLONE_NEWNS)
            act()

        return both

    def mounted(kind: bytes, source: bytes, path: str) -> Callable[[], None]:
        def do() -> None:
            target = ctypes.c_char_p(b"/mnt")
            call(mount, ctypes.c_char_p(source), target, ctypes.c_char_p(kind), ctypes.c_size_t(0), None)
            with open(path, "w") as file:
                file.write("1")

        return do

    def mknod() -> None:
        os.mknod("/mnt/disk", 0o600 | stat.S_IFBLK, os.makedev(254, 0))
        with open("/mnt/disk", "rb") as disk:
            disk.read(512)

    def packets() -> None:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300).close()

    return {
        "sysrq": tried_in_a_child(inside(mounted(b"proc", b"proc", "/mnt/sysrq-trigger"))),
        "core_pattern": tried_in_a_child(inside(mounted(b"proc", b"proc", "/mnt/sys/kernel/core_pattern"))),
        "uevent_helper": tried_in_a_child(inside(mounted(b"sysfs", b"sysfs", "/mnt/kernel/uevent_helper"))),
        "release_agent": tried_in_a_child(inside(mounted(b"cgroup", b"cgroup", "/mnt/release_agent"))),
        "disk": tried_in_a_child(inside(mounted(b"ext4", b"/dev/vda", "/mnt/x"))),
        "mknod": tried_in_a_child(inside(mknod)),
        "packets": tried_in_a_child(inside(packets)),
    }


def writable(given: dict[str, Any]) -> dict[str, str]:
    """Whatever below /proc (without processes), /sys and the control groups takes a write (of what it holds)."""
    found = {}
    for path in (*_files_of_kernel("/proc"), *_files_of_kernel("/sys")):
        try:
            content = b"0"
            with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
                os.set_blocking(file.fileno(), False)
                content = file.read(4096) or b"0"
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):  # What is masked is /dev/null.
                    os.write(descriptor, content)
                    found[path] = "written"
            finally:
                os.close(descriptor)
        except OSError:
            continue
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/proc/sys/kernel", "/sys/kernel"):
        if tried(lambda folder=folder: os.mkdir(folder + "/made")) == "ok":
            found[folder + "/made"] = "made"
    return found


def _files_of_kernel(top: str) -> Iterator[str]:
    for folder, folders, files in os.walk(top):
        if folder == "/proc":
            folders[:] = [name for name in folders if not name.isdecimal() and name not in ("self", "thread-self")]
        yield from (f"{folder}/{name}" for name in files)


def readable(given: dict[str, Any]) -> dict[str, str]:
    """Files that would tell secrets of the kernel or the host."""
    found = {}
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kpageflags", "/proc/kallsyms",
                 "/proc/vmallocinfo", "/proc/slabinfo", "/proc/sched_debug", "/proc/kmsg", "/dev/kmsg",
                 "/dev/mem", "/dev/kmem", "/dev/port", "/sys/firmware/dmi/tables/DMI", "/proc/1/root/proc/kcore",
                 "/sys/kernel/debug/tracing/trace", "/sys/fs/cgroup/memory/cgroup.procs"):  # fmt: skip
        try:
            with open(path, "rb", buffering=0) as file:
                os.set_blocking(file.fileno(), False)
                if file.read(1):
                    found[path] = "read"
        except OSError:
            continue
    return found


# --- what is there --------------------------------------------------------------------------------------------------


def special_files(given: dict[str, Any]) -> dict[str, str]:
    """Every device and socket in the whole tree."""
    found = {}
    for folder, folders, files in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys")]
        for name in (*files, *folders):
            path = os.path.join(folder, name)
            try:
                mode = os.lstat(path).st_mode
            except OSError:
                continue
            if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode):
                found[path] = "block" if stat.S_ISBLK(mode) else "character" if stat.S_ISCHR(mode) else "socket"
    return found


def mknod(given: dict[str, Any]) -> dict[str, str]:
    """Devices of one's own: the host's disk, its memory."""
    return {
        name: tried(lambda kind=kind, number=number: os.mknod("/attacker/device", 0o666 | kind, os.makedev(*number)))
        for name, kind, number in (
            ("disk", stat.S_IFBLK, (254, 0)),
            ("memory", stat.S_IFCHR, (1, 1)),
            ("tun", stat.S_IFCHR, (10, 200)),
        )
    }


def processes(given: dict[str, Any]) -> dict[str, str]:
    """Every process that is visible, by its command line."""
    found = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                found[name] = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
    return found


def environment(given: dict[str, Any]) -> dict[str, str]:
    """That of the first process."""
    with open("/proc/1/environ", "rb") as file:
        return dict(pair.partition("=")[::2] for pair in file.read().decode(errors="replace").split("\0") if pair)


def mounts(given: dict[str, Any]) -> dict[str, str]:
    """What is mounted where."""
    with open("/proc/self/mountinfo") as file:
        return {line.split()[4]: line.strip() for line in file}


def descriptors(given: dict[str, Any]) -> dict[str, str]:
    """What this process, and the first, hold open: a directory of the host's would be a way out (CVE-2024-21626)."""
    found = {}
    for process in ("self", "1"):
        for name in os.listdir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError):
                found[f"{process} {name}"] = os.readlink(f"/proc/{process}/fd/{name}")
    found["self cwd"] = os.readlink("/proc/self/cwd")
    return found


def paths(given: dict[str, Any]) -> dict[str, str]:
    """Which of these paths of the host exist."""
    return {path: "exists" for path in given.get("paths", []) if os.path.lexists(path)}


def setuid(given: dict[str, Any]) -> dict[str, str]:
    """As an ordinary user: a setuid-root program, and what capabilities are left."""
    run = {"user": 1000, "group": 1000, "extra_groups": [], "capture_output": True, "text": True, "check": False}
    caps = subprocess.run(["grep", "CapEff", "/proc/self/status"], **run)  # type: ignore[call-overload]
    return {
        "mode": oct(os.stat("/usr/local/bin/id-of-root").st_mode),
        "uid": subprocess.run(["/usr/local/bin/id-of-root", "-u"], **run).stdout.strip(),  # type: ignore[call-overload]
        "gid": subprocess.run(["/usr/local/bin/id-of-root", "-g"], **run).stdout.strip(),  # type: ignore[call-overload]
        "capabilities": caps.stdout.split()[-1],
    }


def write(given: dict[str, Any]) -> dict[str, str]:
    """Scribble on the image: a program replaced, a file added, one deleted."""

    def replace() -> None:
        with open("/usr/local/bin/id-of-root", "wb") as file:
            file.write(b"#!/bin/sh\necho owned\n")

    def add() -> None:
        with open("/etc/scribbled", "w") as file:
            file.write("scribbled\n")

    return {
        "replace": tried(replace),
        "add": tried(add),
        "delete": tried(lambda: os.unlink("/etc/debian_version")),
    }


def scribbles(given: dict[str, Any]) -> dict[str, str]:
    """Whether another's scribbles are here."""
    return {
        "size": str(os.stat("/usr/local/bin/id-of-root").st_size),
        "added": str(os.path.exists("/etc/scribbled")),
        "deleted": str(not os.path.exists("/etc/debian_version")),
    }


def main() -> None:
    given = {} if sys.stdin is None or sys.stdin.isatty() else json.loads(sys.stdin.read() or "{}")
    probes = vars(network) | vars(hogs) | globals()
    found = {name: probes[name](given) for name in sys.argv[1:]}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
