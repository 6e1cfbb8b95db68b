"""What an agent knows survives power cuts, full disks, flipped bits and a second agent."""

from __future__ import annotations

import stat
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.factories import NOW, goal, ins, record

from shellwego.agent import state as state_module
from shellwego.agent.addresses import COOL_DOWN_SECONDS, NoAddress, choose_address
from shellwego.agent.plan import Goal
from shellwego.agent.state import AgentState
from shellwego.core.errors import Conflict
from shellwego.drivers.kms.fake import FakeKms

B, C = ins("b"), ins("c")


async def test_everything_is_there_again(tmp_path: Path) -> None:
    kms = FakeKms()
    state = await AgentState.open(tmp_path, kms)
    await state.put_goal(goal("b", absent=("c",)))
    await state.put_cloud("cld_x")
    state.remember(record("b", failures=3))
    await state.keep(B)
    state.remember(record("c", address="100.96.0.3"))
    await state.keep(C)
    await state.forget_record(C, NOW)
    state.close()
    again = await AgentState.open(tmp_path, kms)
    assert (again.node, again.cloud, again.goal) == (state.node, "cld_x", goal("b", absent=("c",)))
    assert again.records == {B: record("b", failures=3)}
    assert again.released == {IPv4Address("100.96.0.3"): NOW}
    again.close()


async def test_secrets_are_not_on_the_disk_in_clear(tmp_path: Path) -> None:
    state = await AgentState.open(tmp_path, FakeKms())
    await state.put_goal(goal("b"))
    state.close()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"blue" not in path.read_bytes()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_one_directory_has_one_agent(tmp_path: Path) -> None:
    state = await AgentState.open(tmp_path, FakeKms())
    with pytest.raises(Conflict):
        await AgentState.open(tmp_path, FakeKms())
    state.close()
    (await AgentState.open(tmp_path, FakeKms())).close()


async def test_a_failed_write_changes_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kms = FakeKms()
    state = await AgentState.open(tmp_path, kms)
    await state.put_goal(goal("b"))

    def cut(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "replace_file", cut)
        with pytest.raises(OSError):
            await state.put_goal(goal("c"))
        assert "No space left" in state.problem
    assert state.goal == goal("b")
    state.close()
    again = await AgentState.open(tmp_path, kms)
    assert again.goal == goal("b")
    await again.put_goal(goal("c"))
    assert again.problem == ""
    again.close()


@pytest.mark.parametrize("name", ["goal", "node.json", "resting.json", f"records/{B}.json"])
async def test_a_flipped_bit_is_found(name: str, tmp_path: Path) -> None:
    kms = FakeKms()
    state = await AgentState.open(tmp_path, kms)
    await state.put_goal(goal("b"))
    for each in (record("b"), record("c", address="100.96.0.3")):
        state.remember(each)
        await state.keep(each.id)
    await state.forget_record(C, NOW)
    state.close()
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / name).write_bytes(content)
    again = await AgentState.open(tmp_path, kms)
    assert any(name.rpartition("/")[2] in words for words in again.damaged)
    assert (tmp_path / f"{name}.damaged").exists()
    assert again.node == state.node, "the server would not know it any more"
    assert name == "goal" or again.goal == goal("b")
    again.close()


async def test_a_lost_key_loses_the_goal_and_nothing_else(tmp_path: Path) -> None:
    kms = FakeKms()
    state = await AgentState.open(tmp_path, kms)
    await state.put_goal(goal("b"))
    state.remember(record("b"))
    await state.keep(B)
    state.close()
    kms.forget()
    again = await AgentState.open(tmp_path, kms)
    assert again.goal == Goal()
    assert again.records == {B: record("b")}
    again.close()


async def test_half_written_files_and_foreign_ones_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir(parents=True)
    (tmp_path / "records" / f".{B}.json.123.new").write_text("half")
    (tmp_path / "records" / "README").write_text("hello")
    state = await AgentState.open(tmp_path, FakeKms())
    assert state.records == {}
    assert state.damaged == []
    assert not (tmp_path / "records" / f".{B}.json.123.new").exists()
    state.close()


async def test_two_records_never_share_an_address(tmp_path: Path) -> None:
    """A copied folder could make it so, and then two apps would answer for one."""
    kms = FakeKms()
    state = await AgentState.open(tmp_path, kms)
    for each in (record("b"), record("c")):
        state.remember(each)
        await state.keep(each.id)
    state.close()
    again = await AgentState.open(tmp_path, kms)
    assert len(again.taken_addresses) == 1
    assert [r.address for r in again.records.values()].count(None) == 1
    again.close()


# Addresses

POOL = [IPv4Address(f"100.96.0.{n}") for n in range(2, 8)]


@given(st.sets(st.sampled_from(POOL)), st.dictionaries(st.sampled_from(POOL), st.floats(-500, 500)))
def test_an_address_is_free_and_rested_if_any_is(taken: set[IPv4Address], ages: dict[IPv4Address, float]) -> None:
    released = {address: NOW - age for address, age in ages.items()}
    if taken == set(POOL):
        with pytest.raises(NoAddress):
            choose_address(POOL, taken, released, NOW)
        return
    chosen = choose_address(POOL, taken, released, NOW)
    assert chosen not in taken
    rested = [a for a in POOL if a not in taken and ages.get(a, 9999) >= COOL_DOWN_SECONDS]
    assert not rested or ages.get(chosen, 9999) >= COOL_DOWN_SECONDS - 1e-6


async def test_what_could_not_be_written_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would write it again, and the operator would be told of a full disk for ever."""
    kms = FakeKms()
    state = await AgentState.open(tmp_path, kms)

    def cut(*_: object) -> None:
        raise OSError(28, "No space left on device")

    state.remember(record("b", failures=3))
    with monkeypatch.context() as patch:
        patch.setattr(state_module, "replace_file", cut)
        with pytest.raises(OSError):
            await state.keep(B)
        await state.catch_up()
        assert "No space left" in state.problem
    await state.catch_up()
    assert state.problem == ""
    state.close()
    again = await AgentState.open(tmp_path, kms)
    assert again.records == {B: record("b", failures=3)}
    again.close()
