"""Several requests end with one COMMIT on SQLite: nothing is lost by it, nothing untrue told, none spoils another."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.integration.conftest import World
from tests.integration.test_database_faults import sqlite_error
from tests.integration.test_problems import problem

from shellwego.control.store import Store, group_commit
from shellwego.control.store.records import OrganisationRecord
from shellwego.core.errors import DiskFull
from shellwego.core.ids import OrganisationId

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


FULL = 2  # https://sqlite.org/pragma.html#pragma_synchronous


async def write(
    store: Store, name: str, *, then: Callable[[], Awaitable[None]] | None = None, durable: bool = True
) -> str:
    """One change with its event."""
    async with store.writing(durable=durable) as work:
        await work.organisations.add(OrganisationRecord(OrganisationId(work.new_id("organisation")), name, work.now))
        await work.emit("organisation.created", subject=name)
        if then is not None:
            await then()
    return name


async def fail() -> None:
    raise LookupError


async def written(store: Store) -> list[str]:
    """By name; each with its event, or the test fails."""
    async with store.reading() as work:
        names = [organisation.name for organisation in await work.organisations.page(limit=100)]
        assert sorted(event.subject for event in await work.for_the_cloud().outbox.unpublished(limit=100)) == names
    return names


class Commits:
    """
    Counts them, and whether SQLite syncs at each. While `held`, a COMMIT waits; once `broken`, it finds no room.
    """

    def __init__(self) -> None:
        self.syncs: list[bool] = []
        self.broken = False
        self.released = threading.Event()
        self.released.set()

    @property
    def count(self) -> int:
        return len(self.syncs)

    def __call__(self, driver: sqlite3.Connection) -> None:
        self.syncs.append(driver.execute("PRAGMA synchronous").fetchone() == (FULL,))
        assert self.released.wait(30)
        if self.broken:
            driver.rollback()
            raise sqlite_error("database or disk is full", sqlite3.SQLITE_FULL)
        driver.execute("COMMIT")

    @contextlib.contextmanager
    def held(self):
        self.released.clear()
        try:
            yield
        finally:
            self.released.set()


@pytest.fixture
async def commits(store: Store, monkeypatch: pytest.MonkeyPatch) -> Commits:
    await write(store, "a-first")  # Its connection is open from here on, so that nobody waits for that.
    commits = Commits()
    monkeypatch.setattr(group_commit, "commit", commits)
    return commits


def begin(*writes: Awaitable[str]) -> list[asyncio.Future[str]]:
    return [asyncio.ensure_future(write) for write in writes]


async def steps() -> None:
    """So long that whoever can go on has done so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_those_who_wait_for_each_other_share_a_commit(store: Store, commits: Commits):
    names = sorted(await asyncio.gather(*(write(store, f"n{number:02}") for number in range(50))))
    assert await written(store) == ["a-first", *names]
    assert commits.count <= 3


async def test_only_what_will_be_seen_again_does_not_wait_for_the_disk(store: Store, commits: Commits):
    for number, durable in enumerate([True, False, False, True, False, True]):
        await write(store, f"n{number}", durable=durable)
    assert commits.syncs == [True, False, False, True, False, True]
    assert len(await written(store)) == 7


async def test_between_others_it_is_as_durable_as_they_are(store: Store, commits: Commits):
    await asyncio.gather(write(store, "one"), write(store, "seen", durable=False), write(store, "two"))
    assert await written(store) == ["a-first", "one", "seen", "two"]
    assert commits.syncs == [True]


async def test_nobody_joins_what_does_not_wait_for_the_disk(store: Store, commits: Commits):
    with commits.held():
        tasks = begin(write(store, "seen", durable=False), write(store, "one"), write(store, "more", durable=False))
        await steps()
        assert not any(task.done() for task in tasks)
    await asyncio.gather(*tasks)
    assert commits.syncs == [False, True]
    assert await written(store) == ["a-first", "more", "one", "seen"]


async def test_what_was_seen_and_finds_no_room_is_taken_back_and_spoils_no_other(store: Store, commits: Commits):
    commits.broken = True
    with pytest.raises(DiskFull):
        await write(store, "seen", durable=False)
    commits.broken = False
    await asyncio.gather(write(store, "seen", durable=False), write(store, "one"))
    assert await written(store) == ["a-first", "one", "seen"]


async def test_what_was_seen_may_be_given_up_while_it_is_committed(store: Store, commits: Commits):
    with commits.held():
        [task] = begin(write(store, "seen", durable=False))
        await steps()
        task.cancel()
        await steps()
        assert not task.done(), "its end is waited for"
    assert isinstance(*await asyncio.gather(task, return_exceptions=True), asyncio.CancelledError)
    await write(store, "one")
    assert await written(store) == ["a-first", "one", "seen"]


async def test_one_that_fails_takes_back_its_own_work_only(store: Store, commits: Commits):
    ends = await asyncio.gather(
        *(write(store, f"n{number}", then=fail if number % 3 == 1 else None) for number in range(9)),
        return_exceptions=True,
    )
    assert [isinstance(end, LookupError) for end in ends] == [number % 3 == 1 for number in range(9)]
    assert await written(store) == ["a-first", "n0", "n2", "n3", "n5", "n6", "n8"]
    assert commits.count <= 3


async def test_nobody_is_answered_before_the_commit(store: Store, commits: Commits):
    """Nor refused: what a refusal rests on may be a neighbour's, and be lost yet."""
    with commits.held():
        tasks = begin(write(store, "one"), write(store, "two"), write(store, "two", then=fail), write(store, "three"))
        await steps()
        assert not any(task.done() for task in tasks)
        assert await written(store) == ["a-first"]
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end).__name__ for end in ends] == ["str", "str", "AlreadyExists", "str"]


async def test_a_commit_that_fails_fails_for_all(store: Store, commits: Commits):
    commits.broken = True
    ends = await asyncio.gather(*(write(store, f"n{number}") for number in range(9)), return_exceptions=True)
    assert {type(end) for end in ends} == {DiskFull}
    assert await written(store) == ["a-first"]
    commits.broken = False
    await asyncio.gather(*(write(store, f"n{number}") for number in range(9)))
    assert len(await written(store)) == 10


async def test_a_transaction_that_sqlite_takes_back_by_itself_is_lost_for_all(store: Store, commits: Commits):
    """A full disk ends it in the middle: what came before must not count as written, and what comes after is sound."""
    async with store.writing() as work:
        connection = work._connection
        pages = await connection.run_sync(lambda sync: sync.exec_driver_sql("PRAGMA page_count").scalar_one())
        await connection.run_sync(lambda sync: sync.exec_driver_sql(f"PRAGMA max_page_count={pages}"))
    names = ["one", "two", "x" * 100_000, "three"]
    ends = await asyncio.gather(*(write(store, name) for name in names), return_exceptions=True)
    assert [type(end) for end in ends] == [DiskFull, DiskFull, DiskFull, str]
    assert await written(store) == ["a-first", "three"]


@pytest.mark.parametrize("cancelled", range(4))
async def test_one_that_is_cancelled_takes_nobody_along(store: Store, commits: Commits, cancelled: int):
    """The first of them too, who was to commit for all: what has been worked off by then is written."""
    names = ["n0", "n1", "n2", "n3"]
    with commits.held():
        tasks = begin(write(store, "before"), *(write(store, name) for name in names))
        await steps()
        tasks[1 + cancelled].cancel()
        await steps()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(end, asyncio.CancelledError) for end in ends[1:]] == [n == cancelled for n in range(4)]
    there = await written(store)
    assert set(there) >= {"a-first", "before", *names} - {names[cancelled]}


@pytest.mark.parametrize("cancelled", range(4))
async def test_one_that_is_cancelled_in_its_work_or_after_it_takes_nobody_along(
    store: Store, commits: Commits, cancelled: int
):
    names = ["n0", "n1", "n2", "n3"]
    for pause in range(12):
        mine = [f"{name}-{pause:02}" for name in names]
        tasks = begin(*(write(store, name, then=lambda: asyncio.sleep(0)) for name in mine))
        for _ in range(pause):
            await asyncio.sleep(0)
        tasks[cancelled].cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        there = set(await written(store))
        assert {name for name in mine if name in ends} <= there
        assert all(isinstance(end, asyncio.CancelledError) or end in there for end in ends)
        assert sum(isinstance(end, asyncio.CancelledError) for end in ends) <= 1


async def test_a_failed_commit_keeps_no_answer_under_a_key(
    world: World, member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twins in one group: the answer of one, found by the other before the commit, is as lost as its effect."""
    commits = Commits()
    monkeypatch.setattr(group_commit, "commit", commits)

    async def post(number: int):
        return await member.post("/v1/apps", json={"name": f"a{number}"}, headers={"Idempotency-Key": f"k{number}"})

    commits.broken = True
    for answer in await asyncio.gather(*(post(number % 4) for number in range(12))):
        problem(answer, 507, "disk_full")
    assert (await member.get("/v1/apps")).json()["items"] == []
    commits.broken = False
    answers = await asyncio.gather(*(post(number % 4) for number in range(12)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 4
    assert sum(answer.headers.get("idempotency-replayed") == "true" for answer in answers) == 8


KILLED = """
import asyncio, os, sys
from shellwego.control.store import Store, group_commit
from tests.integration.test_group_commit import write

url, last, moment = sys.argv[1], int(sys.argv[2]), sys.argv[3]
commit, count = group_commit.commit, 0

def commit_and_die(driver):
    global count
    count += 1
    if count == last and moment == "before":
        os._exit(137)
    commit(driver)
    if count == last:
        os._exit(137)

async def client(store, number):
    for turn in range(100):
        name = await write(store, f"{number}-{turn}", durable=turn % 3 != 1)
        os.write(1, f"{name}\\n".encode())

async def main():
    group_commit.commit = commit_and_die
    store = Store(url)
    await asyncio.gather(*(client(store, number) for number in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("last", [1, 4])
async def test_what_was_answered_is_there_after_a_kill(store: Store, database_url: str, last: int, moment: str):
    """Killed just before a COMMIT, all that was answered is there and nothing else; just after it, more may be."""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", KILLED, database_url, str(last), moment],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )
    assert ended.returncode == 137, ended.stderr
    answered, there = set(ended.stdout.split()), set(await written(store))
    assert answered == there if moment == "before" else answered < there
