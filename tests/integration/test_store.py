"""The store's promises on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import sqlite3

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from shellwego.control.store import Store, Tenant, UnitOfWork, group_commit, migrate
from shellwego.control.store.engine import sqlite_url
from shellwego.control.store.migrate import NEWEST_REVISION, current_revision
from shellwego.control.store.records import (
    AppRecord,
    DeploymentRecord,
    InstanceRecord,
    OrganisationRecord,
    ReleaseRecord,
    ReleaseSpec,
    TokenRecord,
    UserRecord,
)
from shellwego.control.store.tables import metadata
from shellwego.core.apps import Resources
from shellwego.core.deployments import DeploymentKind, DeploymentState
from shellwego.core.errors import AlreadyExists, Conflict, NotFound
from shellwego.core.health import CheckKind, HealthCheck
from shellwego.core.ids import AppId, DeploymentId, InstanceId, OrganisationId, ReleaseId, TokenId, UserId
from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.core.releases import ProcessType


async def organisation(work: UnitOfWork, name: str) -> OrganisationId:
    id = OrganisationId(work.new_id("organisation"))
    await work.organisations.add(OrganisationRecord(id, name, work.now))
    return id


async def app(work: UnitOfWork, owner: OrganisationId, name: str) -> AppRecord:
    record = AppRecord(AppId(work.new_id("app")), owner, name, work.now, work.now)
    return await work.for_organisation(owner).apps.add(record)


async def release(work: UnitOfWork, owner: AppRecord, number: int = 1) -> ReleaseRecord:
    spec = ReleaseSpec(
        processes=(
            ProcessType("web", ("/bin/sh", "-c", "x"), HealthCheck(CheckKind.HTTP, "/up"), Resources(memory_mib=64)),
            ProcessType("worker", (), HealthCheck(CheckKind.COMMAND, command=("true",))),
        ),
        port=3000,
        grace_seconds=2.5,
    )
    record = ReleaseRecord(
        ReleaseId(work.new_id("release")),
        owner.organisation,
        owner.id,
        number,
        "sha256:x",
        spec,
        b"\0sealed",
        work.now,
        config_keys=("A", "B"),
    )
    return await work.for_the_cloud().releases.add(record)


async def deployment(work: UnitOfWork, owner: AppRecord, **more) -> DeploymentRecord:
    record = DeploymentRecord(
        DeploymentId(work.new_id("deployment")),
        owner.organisation,
        owner.id,
        DeploymentKind.DEPLOY,
        DeploymentState.QUEUED,
        work.now,
        **more,
    )
    return await work.for_the_cloud().deployments.add(record)


async def test_the_migrations_make_exactly_the_tables_of_the_code(database_url):
    """A column that only one of them knows would break the first upgrade."""
    store = Store(database_url)

    def difference(connection: sa.Connection) -> list[object]:
        options = {"compare_type": False}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    async with store.database.transaction(write=False) as connection:
        assert await connection.run_sync(difference) == []
    await store.close()
    assert await current_revision(database_url) == NEWEST_REVISION
    await migrate(database_url)


async def test_what_goes_in_comes_out(store):
    async with store.writing() as work:
        blog = await app(work, await organisation(work, "one"), "blog")
        made = await release(work, blog)
        asked = await deployment(work, blog, last_lines=("a", "ü\n"), request={"port": 1, "x": ["é"]}, release=made.id)
    async with store.reading() as work:
        cloud = work.for_the_cloud()
        assert await cloud.apps.get(blog.id) == blog
        assert await cloud.releases.get(made.id) == made
        assert await cloud.deployments.get(asked.id) == asked
        found = await cloud.apps.get(blog.id)
        assert found.created_at.utcoffset() == dt.timedelta(0)


async def test_times_keep_their_instant_whatever_their_zone(store):
    zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
    at = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, zone)
    async with store.writing() as work:
        blog = await app(work, await organisation(work, "one"), "blog")
        assert (await work.for_the_cloud().apps.update(blog.id, deleting_at=at)).deleting_at == at
        with pytest.raises(sa.exc.StatementError):
            await work.for_the_cloud().apps.update(blog.id, deleting_at=at.replace(tzinfo=None))


async def test_a_tenant_sees_and_changes_its_own_rows_only(store):
    async with store.writing() as work:
        one, two = await organisation(work, "one"), await organisation(work, "two")
        theirs = await app(work, one, "theirs")
        made = await release(work, theirs)
        mine = work.for_organisation(two)
        assert await mine.apps.page(limit=1) == []
        assert await mine.apps.find(theirs.id) is None
        assert await mine.releases.some((made.id,)) == {}
        assert await mine.releases.images() == frozenset()
        assert await mine.apps.replicas_of((theirs.id,)) == {theirs.id: {}}
        for attempt in (mine.apps.get(theirs.id), mine.apps.update(theirs.id, stopped=True), mine.apps.lock(theirs.id)):
            with pytest.raises(NotFound):
                await attempt
        with pytest.raises(NotFound):
            await mine.apps.add(AppRecord(AppId(work.new_id("app")), one, "smuggled", work.now, work.now))
        assert not (await work.for_the_cloud().apps.get(theirs.id)).stopped


async def test_every_table_of_tenants_is_behind_the_filter():
    """A new table with an organisation must have a repository in Tenant, or be named here with its reason."""
    elsewhere = {"app_processes": "in AppRepository", "idempotency_keys": "keyed by organisation and user"}
    behind = {made.kind.table.name for made in vars(Tenant).values() if hasattr(made, "kind")}
    tenants = {table.name for table in metadata.sorted_tables if "organisation" in table.c}
    assert tenants - behind - set(elsewhere) == set()


async def test_a_name_is_taken_in_the_whole_cloud_until_its_app_is_gone(store):
    async with store.writing() as work:
        one, two = await organisation(work, "one"), await organisation(work, "two")
        first = await app(work, one, "blog")
    with pytest.raises(AlreadyExists):
        async with store.writing() as work:
            await app(work, two, "blog")
    async with store.writing() as work:
        await work.for_the_cloud().apps.update(first.id, deleted_at=work.now)
        await app(work, two, "blog")


async def test_states_move_only_as_the_tables_allow(store):
    async with store.writing() as work:
        blog = await app(work, await organisation(work, "one"), "blog")
        made = await release(work, blog)
        cloud = work.for_the_cloud()
        asked = await deployment(work, blog)
        with pytest.raises(Conflict):
            await cloud.deployments.move(asked.id, DeploymentState.SUCCEEDED)
        await cloud.deployments.move(asked.id, DeploymentState.FAILED, finished_at=work.now)
        with pytest.raises(Conflict):
            await cloud.deployments.move(asked.id, DeploymentState.ROLLING)
        one = InstanceRecord(InstanceId(work.new_id("instance")), blog.organisation, blog.id, made.id, "web", work.now)
        await cloud.instances.add(one)
        well = await cloud.instances.observe(one, InstanceState.HEALTHY, reason="", last_lines=("on", "2 lines"))
        assert well == dataclasses.replace(one, state=InstanceState.HEALTHY, last_lines=("on", "2 lines"))
        assert await cloud.instances.observe(one, InstanceState.BACKOFF) is None, "somebody has moved it meanwhile"
        await cloud.instances.set_goal(one.id, InstanceGoal.STOP)
        with pytest.raises(Conflict):
            await cloud.instances.set_goal(one.id, InstanceGoal.RUN)
        gone = await cloud.instances.observe(well, InstanceState.STOPPED, removed_at=work.now)
        assert await cloud.instances.observe(gone, InstanceState.HEALTHY) is None
        assert await cloud.instances.living() == []
        with pytest.raises(TypeError, match="immutable"):
            await cloud.releases.update(made.id, image="other")


async def test_what_fails_leaves_nothing(store):
    with contextlib.suppress(RuntimeError):
        async with store.writing() as work:
            await app(work, await organisation(work, "one"), "blog")
            await work.emit("app.created", subject="x")
            raise RuntimeError
    async with store.reading() as work:
        assert await work.for_the_cloud().apps.page(limit=1) == []
        assert await work.for_the_cloud().outbox.unpublished() == []


async def test_listeners_hear_of_committed_events_only(store):
    heard = []
    store.on_commit(lambda events: heard.extend(event.kind for event in events))
    async with store.writing() as work:
        await work.emit("one", subject="x")
        assert heard == []
    with contextlib.suppress(RuntimeError):
        async with store.writing() as work:
            await work.emit("two", subject="x")
            raise RuntimeError
    assert heard == ["one"]


async def test_fifty_writers_at_once_wait_for_each_other(store):
    """No lost update, no 'database is locked'."""
    async with store.writing() as work:
        blog = await app(work, await organisation(work, "one"), "blog")

    async def add_one() -> None:
        async with store.writing() as work:
            apps = work.for_the_cloud().apps
            found = await apps.lock(blog.id)
            await apps.update(blog.id, next_release_number=found.next_release_number + 1)
            await work.emit("counted", subject=blog.id)

    await asyncio.gather(*(add_one() for _ in range(50)))
    async with store.reading() as work:
        assert (await work.for_the_cloud().apps.get(blog.id)).next_release_number == 51
        assert len(await work.for_the_cloud().outbox.unpublished(limit=100)) == 50


async def test_readers_do_not_wait_for_a_writer(store):
    async with store.writing() as writing:
        await organisation(writing, "one")
        async with asyncio.timeout(2), store.reading() as reading:
            assert await reading.organisations.page(limit=10) == []


async def test_whoever_is_cancelled_leaves_all_or_nothing(store):
    """At any step of a transaction, the COMMIT in its thread too; and whoever comes next finds a sound connection."""

    async def write(name: str) -> None:
        async with store.writing() as work:
            id = OrganisationId(work.new_id("organisation"))
            await work.organisations.add(OrganisationRecord(id, name, work.now))
            await work.emit("organisation.created", subject=name)

    for steps in range(60):
        task = asyncio.ensure_future(write(f"o{steps}"))
        for _ in range(steps % 30):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        async with store.reading() as work:
            names = {organisation.name for organisation in await work.organisations.page(limit=100)}
            assert names == {event.subject for event in await work.for_the_cloud().outbox.unpublished(limit=100)}
    await write("last")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_file_that_another_process_writes_to_is_waited_for(store, database_url, monkeypatch):
    """Without holding up anybody else; and a wait that is given up leaves nothing begun."""
    waits, begin_writing = asyncio.Event(), group_commit.begin_writing

    async def noticed(*arguments):
        waits.set()
        await begin_writing(*arguments)

    monkeypatch.setattr(group_commit, "begin_writing", noticed)
    other = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def write() -> None:
        async with store.writing() as work:
            await work.emit("x", subject="y")

    for _ in range(2):
        waits.clear()
        waiting = asyncio.ensure_future(write())
        await waits.wait()
        async with store.reading() as work:
            assert await work.organisations.page(limit=1) == []
        assert not waiting.done()
        waiting.cancel()
        other.execute("COMMIT")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        other.execute("BEGIN IMMEDIATE")
    waits.clear()
    waiting = asyncio.ensure_future(write())
    await waits.wait()
    other.execute("COMMIT")
    await waiting
    other.close()
    async with store.reading() as work:
        assert len(await work.for_the_cloud().outbox.unpublished()) == 1


async def test_outbox_numbers_are_never_given_twice(store):
    async with store.writing() as work:
        first = await work.emit("one", subject="x")
        await work.for_the_cloud().outbox.mark_published([first.seq], work.now)
    async with store.writing() as work:
        assert await work.for_the_cloud().outbox.forget_published(before=work.now + dt.timedelta(days=1)) == 1
        assert (await work.emit("two", subject="x")).seq > first.seq


async def test_the_newest_deployment_of_each_app(store):
    async with store.writing() as work:
        owner = await organisation(work, "one")
        apps = [await app(work, owner, f"a{n}") for n in range(3)]
        newest = {}
        for minutes in range(3):
            for each in apps[:2]:
                record = await deployment(work, each)
                at = work.now + dt.timedelta(minutes=minutes)
                changed = {"created_at": at, "finished_at": at}
                newest[each.id] = await work.for_the_cloud().deployments.update(record.id, **changed)
        found = await work.for_organisation(owner).deployments.newest_of([a.id for a in apps])
        assert found == newest
        assert await work.for_organisation(owner).deployments.newest_of([]) == {}


async def test_tokens_that_share_a_name_get_two_by_the_upgrade(tmp_path, postgres_server):
    """Made at the same moment before the database refused it: both go on opening what they open."""
    postgres_server.sql("CREATE DATABASE before_names")
    for url in (sqlite_url(tmp_path / "store.db"), postgres_server.url("before_names")):
        await migrate(url, "v0002")
        store = Store(url)
        async with store.writing() as work:
            owner = await organisation(work, "one")
            user = UserRecord(UserId(work.new_id("user")), owner, "a@b.test", "x", work.now)
            await work.for_the_cloud().users.add(user)
            for number in range(3):
                id = TokenId(work.new_id("token"))
                revoked = work.now if number == 2 else None
                token = TokenRecord(id, owner, user.id, "ci", str(number), work.now, revoked_at=revoked)
                await work.for_the_cloud().tokens.add(token)
        await migrate(url)
        async with store.reading() as work:
            tokens = await work.for_the_cloud().tokens.page(user=user.id, limit=10)
            assert sorted(token.name for token in tokens) == sorted(["ci", f"ci {max(token.id for token in tokens)}"])
        await store.close()
