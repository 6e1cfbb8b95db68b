"""Which of several programs of one name is used? The wrong one is years older, or not the one that was tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from shellwego.core.errors import EngineMissing
from shellwego.drivers.engines import places
from shellwego.drivers.engines.catalogue import BUILDKIT, GVISOR
from shellwego.drivers.engines.places import Found, Source, find_program
from shellwego.drivers.engines.probe import observe


def a_program(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def system(tmp_path: Path) -> Path:
    return tmp_path / "usr" / "bin"


def runsc(cache: Path, system: Path) -> Found | None:
    return find_program("runsc", directories=(cache,), path=str(system))


def test_without_any_there_is_none(cache: Path, system: Path) -> None:
    assert runsc(cache, system) is None
    observation = observe(GVISOR, directories=(cache,), path=str(system))
    assert not observation.usable
    assert "runsc can't be found" in observation.problem


def test_our_build_is_taken_before_debians_old_one(cache: Path, system: Path) -> None:
    a_program(system, "runsc", "runsc version 0.0~20221219.0")
    ours = a_program(cache / "runsc" / "20260905" / "bin", "runsc", "runsc version VERSION_MISSING")
    assert runsc(cache, system) == Found(ours, Source.BUILT, (20260905,))


def test_a_newer_official_one_is_taken_before_our_build(cache: Path, system: Path) -> None:
    official = a_program(system, "runsc", "runsc version release-20270301.0")
    a_program(cache / "runsc" / "20260905" / "bin", "runsc", "ours")
    assert runsc(cache, system) == Found(official, Source.SYSTEM, (20270301,))


def test_debians_old_one_serves_when_there_is_no_other_and_says_its_cost(cache: Path, system: Path) -> None:
    old = a_program(system, "runsc", "runsc version 0.0~20221219.0")
    assert runsc(cache, system) == Found(old, Source.FALLBACK, (20221219,))
    observation = observe(GVISOR, directories=(cache,), path=str(system))
    assert observation.usable
    assert observation.wants_install
    assert "systrap" in observation.warning


def test_the_pinned_build_is_taken_before_another(cache: Path, system: Path) -> None:
    a_program(cache / "runsc" / "20270101" / "bin", "runsc", "an experiment")
    pinned = a_program(cache / "runsc" / "20260905" / "bin", "runsc", "ours")
    assert runsc(cache, system) == Found(pinned, Source.BUILT, (20260905,))


def test_half_an_engine_is_none(cache: Path, system: Path) -> None:
    a_program(cache / "buildkit" / "0.34.2" / "bin", "buildctl", "v0.34.2")
    observation = observe(BUILDKIT, directories=(cache,), path=str(system))
    assert "buildkitd" in observation.problem


def test_the_cache_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELLWEGO_ENGINES_DIR", str(tmp_path / "mine"))
    assert places.install_directory() == tmp_path / "mine"
    assert places.search_directories() == (tmp_path / "mine",)


def test_a_missing_program_says_how_to_get_it() -> None:
    with pytest.raises(EngineMissing, match="shellwego engines install"):
        places.get_program("no-such-program-anywhere")
