"""A version that is read wrongly takes an old engine for a new one, or builds for minutes what is there."""

from __future__ import annotations

import re

import pytest

from shellwego.drivers.engines.catalogue import ENGINES, GO_WHEEL, engine_of, parse_version


@pytest.mark.parametrize(
    ("program", "said", "version"),
    [
        ("runsc", "runsc version release-20260905.0\nspec: 1.2.1\n", (20260905,)),
        ("runsc", "runsc version 0.0~20221219.0\nspec: 1.0.2-dev\n", (20221219,)),
        ("runsc", "runsc version VERSION_MISSING\nspec: 1.2.1\n", None),
        ("buildctl", "buildctl github.com/moby/buildkit v0.34.2 abcdef\n", (0, 34, 2)),
        ("buildctl", "buildctl github.com/moby/buildkit v0.0.0+unknown \n", None),
        ("runc", "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\ngo: go1.19.8\n", (1, 1, 5)),
        ("conmon", "conmon version 2.1.6\ncommit: unknown\n", (2, 1, 6)),
        ("haproxy", "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n", (2, 6, 12)),
        ("nft", "nftables v1.0.6 (Lester Gooch #5)\n", (1, 0, 6)),
        ("slirp4netns", "slirp4netns version 1.2.0\ncommit: 656041d45cfc\nlibslirp: 4.7.0\n", (1, 2, 0)),
        ("ip", "ip utility, iproute2-6.1.0, libbpf 1.1.2\n", (6, 1, 0)),
        ("nsenter", "nsenter from util-linux 2.38.1\n", (2, 38, 1)),
        ("docker-registry", "docker-registry github.com/docker/distribution 2.8.2+ds1\n", (2, 8, 2)),
        ("postgres", "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", (15, 18)),
        ("umoci", "umoci version 0.4.7+ds-3+b7\n", (0, 4, 7)),
        ("wrk", "wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer\n", (4, 1, 0)),
        ("busybox", "BusyBox v1.35.0 (Debian 1:1.35.0-4+b3) multi-call binary.\n", (1, 35, 0)),
    ],
)
def test_each_program_is_understood(program: str, said: str, version: tuple[int, ...] | None) -> None:
    engine = engine_of(program)
    assert engine is not None
    assert parse_version(engine, said) == version


def test_what_is_built_is_pinned_to_a_hash() -> None:
    modules = [engine.module for engine in ENGINES if engine.module is not None]
    assert len(modules) == 2
    assert all(re.fullmatch(r"h1:[A-Za-z0-9+/]{43}=", module.sum) for module in modules)
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", GO_WHEEL)) == 2


def test_every_engine_can_be_had_from_somewhere_and_says_what_for() -> None:
    assert all(engine.purpose and (engine.package or engine.module) for engine in ENGINES)
    programs = [program for engine in ENGINES for program in engine.programs]
    assert len(programs) == len(set(programs))
