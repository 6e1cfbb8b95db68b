"""A fault point that acts twice, or in the wrong process, makes every test that stands on it lie."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio
from shellwego.kit.faults import InjectedFault, fault_point, reach

POINT = fault_point("a.step")

async def main():
    for _ in range(2):
        try:
            await reach(POINT)
            print("passed")
        except InjectedFault as fault:
            print("failed at", fault)

asyncio.run(main())
"""


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "SHELLWEGO_FAULTS": "", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_unarmed_point_is_nothing(tmp_path: Path) -> None:
    assert run().stdout == "passed\npassed\n"
    assert run(SHELLWEGO_FAULTS_DIR=str(tmp_path)).stdout == "passed\npassed\n"


@pytest.mark.parametrize("by", ["variable", "file"])
def test_an_armed_point_acts_once(tmp_path: Path, by: str) -> None:
    if by == "variable":
        said = run(SHELLWEGO_FAULTS=f"a.step=fail@{tmp_path / 'once'}")
    else:
        (tmp_path / "a.step").write_text("fail\n")
        (tmp_path / "another.step").write_text("exit\n")
        said = run(SHELLWEGO_FAULTS_DIR=str(tmp_path))
        assert (tmp_path / "a.step.taken").exists()
        assert (tmp_path / "another.step").exists()
    assert said.stdout == "failed at a.step\npassed\n", said.stderr


def test_several_processes_can_die_together(tmp_path: Path) -> None:
    """As when the kernel, or an operator, ends a whole group: all that one supervisor started, and nobody else."""
    (tmp_path / "a.step").write_text("exit-all")
    supervisor = f"""
import subprocess, sys
other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(subprocess.run([sys.executable, "-c", {PROGRAM!r}]).returncode, other.wait())
"""
    environment = {**os.environ, "SHELLWEGO_FAULTS_DIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as nephew:
        said = subprocess.run([sys.executable, "-c", supervisor], env=environment, capture_output=True, text=True)
        assert said.stdout == "137 -9\n", said.stderr
        assert nephew.poll() is None


def test_others_can_be_ended_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (tmp_path / "a.step").write_text(f"kill:{other.pid}")
        assert run(SHELLWEGO_FAULTS_DIR=str(tmp_path)).stdout == "passed\npassed\n"
        assert other.wait(timeout=30) == -9


def test_a_delay_only_delays(tmp_path: Path) -> None:
    (tmp_path / "a.step").write_text("delay:0.01")
    assert run(SHELLWEGO_FAULTS_DIR=str(tmp_path)).stdout == "passed\npassed\n"


def test_of_two_processes_one_takes_the_fault(tmp_path: Path) -> None:
    (tmp_path / "a.step").write_text("fail")

    async def both() -> list[bytes]:
        environment = {**os.environ, "SHELLWEGO_FAULTS_DIR": str(tmp_path)}
        command = (sys.executable, "-c", PROGRAM)
        processes = [
            await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.PIPE) for _ in range(2)
        ]
        return [(await process.communicate())[0] for process in processes]

    assert sum(said.count(b"failed") for said in asyncio.run(both())) == 1
