"""What should each node run?

For every connected node: its instances as one whole `Assignment`, sent when it changed or when the node has come back.
Generations only grow, above whatever the node has seen; what should go is named in `absent`, and nothing else goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

import structlog

from shellwego.control.controllers.concerns import concerning
from shellwego.control.links.agents import AgentLinks
from shellwego.control.store.records import AppRecord, EventRecord, InstanceRecord, ReleaseRecord
from shellwego.control.store.unit_of_work import Store, UnitOfWork
from shellwego.core.apps import WEB
from shellwego.core.errors import NodeUnavailable
from shellwego.core.health import CheckKind, HealthCheck
from shellwego.core.ids import AppId, NodeId, ReleaseId
from shellwego.core.instances import InstanceGoal
from shellwego.core.releases import KEPT_RELEASES
from shellwego.drivers.kms.port import DecryptionFailed
from shellwego.kit.faults import fault_point, reach
from shellwego.protocol.messages import Assignment, HealthSpec, InstanceSpec, Removal

log = structlog.get_logger()

_NUMBERED = fault_point("server.assign.numbered")
_SENT = fault_point("server.assign.sent")

_CONCERN = ("instance.created", "instance.stopping", "instance.stopped", "node.unclaimed")
"""Events after which a node should run something else."""

OpenConfig = Callable[[ReleaseRecord], Awaitable[Mapping[str, str]]]
"""Decrypts a release's configuration."""


@dataclass(frozen=True, slots=True)
class _Sent:
    content: tuple[list[InstanceSpec], list[Removal], list[str]]
    generation: int


class AssignmentsController:
    """Keeps every connected node's assignment up to date."""

    def __init__(
        self,
        store: Store,
        agents: AgentLinks,
        wake: asyncio.Event,
        *,
        open_config: OpenConfig,
        routes_in_force: Callable[[AppId], bool] = lambda _: True,
        extra_ca: str = "",
    ) -> None:
        self._store, self._agents, self._wake = store, agents, wake
        self._open_config, self._extra_ca = open_config, extra_ca
        self._routes_in_force = routes_in_force
        self._sent: dict[NodeId, _Sent] = {}
        self._configs: dict[ReleaseId, Mapping[str, str]] = {}

    def notice(self, events: Collection[EventRecord]) -> None:
        """
        Look at once after events that change what a node should run. A look reads all that a node runs, so apps that
        crash again and again, and say so each time, must not earn one.
        """
        if concerning(events, _CONCERN):
            self._wake.set()

    def forget(self, node: NodeId) -> None:
        """The node has connected anew: whatever was sent before may be lost."""
        self._sent.pop(node, None)
        self._wake.set()

    async def once(self) -> None:
        """Every node is tried, whatever happens with another's. Raises what went wrong first."""
        failed: Exception | None = None
        for node in self._agents.connected:
            try:
                await self._assign(node)
            except Exception as error:  # Raised below, once every node had its turn.
                failed = failed or error
        if failed is not None:
            raise failed

    async def _assign(self, node: NodeId) -> None:
        async with self._store.reading() as work:
            content = await self._content(work, node)
        sent = self._sent.get(node)
        if sent is not None and sent.content == content:
            return
        async with self._store.writing() as work:
            generation = await work.nodes.ensure_generation_above(node, self._agents.generation_seen(node))
            if sent is not None and generation <= sent.generation:
                generation = await work.nodes.next_generation(node)
        await reach(_NUMBERED)
        run, absent, keep = content
        try:
            await self._agents.send(
                node,
                Assignment(generation=generation, run=run, absent=absent, extra_ca=self._extra_ca, keep_images=keep),
            )
        except NodeUnavailable:
            return  # It gets a whole assignment when it is back.
        self._sent[node] = _Sent(content, generation)
        await reach(_SENT)

    async def _content(self, work: UnitOfWork, node: NodeId) -> tuple[list[InstanceSpec], list[Removal], list[str]]:
        cloud = work.for_the_cloud()
        instances = await cloud.instances.on_node(node)
        releases = await cloud.releases.some({i.release for i in instances})
        apps = {app.id: app for app in await cloud.apps.some({i.app for i in instances})}
        images = sorted(await cloud.releases.images_to_keep(newest=KEPT_RELEASES))
        run, absent = [], []
        for instance in instances:
            release = releases[instance.release]
            if instance.goal is InstanceGoal.STOP:
                absent.append(Removal(id=instance.id, grace_seconds=release.spec.grace_seconds))
                continue
            try:
                config = await self._config(release)
            except DecryptionFailed:
                # Left out, it runs on unclaimed; one release that can't be read must not hold up a whole node.
                log.exception("assign.config_unreadable", release=release.id, instance=instance.id)
                continue
            run.append(_spec(instance, release, apps[instance.app], config))
        absent += await self._known_ended(work, node)
        self._configs = {id: self._configs[id] for id in releases if id in self._configs}
        return run, absent, images

    async def _known_ended(self, work: UnitOfWork, node: NodeId) -> list[Removal]:
        """
        What the node runs unclaimed although we know that it ended: that is named, and not merely left out. Another
        database, which was there meanwhile, may have given it the app's traffic: it goes when no proxy knows it.
        """
        cloud = work.for_the_cloud()
        found = [await cloud.instances.find(id) for id in (await work.nodes.get(node)).unclaimed]
        ended = [i for i in found if i is not None and i.removed_at is not None and self._routes_in_force(i.app)]
        releases = await cloud.releases.some({i.release for i in ended})
        return [Removal(id=i.id, grace_seconds=releases[i.release].spec.grace_seconds) for i in ended]

    async def _config(self, release: ReleaseRecord) -> Mapping[str, str]:
        """Decrypted once: a release never changes, and a key server need not be asked at every round."""
        if release.id not in self._configs:
            self._configs[release.id] = await self._open_config(release)
        return self._configs[release.id]


def _spec(instance: InstanceRecord, release: ReleaseRecord, app: AppRecord, config: Mapping[str, str]) -> InstanceSpec:
    shape = release.spec.process(instance.process)
    assert shape is not None, f"release {release.id} has no process {instance.process}"
    port = release.spec.port if instance.process == WEB else None
    return InstanceSpec(
        id=instance.id,
        organisation=app.organisation,
        app=app.id,
        app_name=app.name,
        release=release.id,
        release_label=release.label,
        process=instance.process,
        image=release.image,
        command=list(shape.command),
        env=dict(config),
        port=port,
        health=_health(shape.health, has_port=port is not None),
        memory_mib=shape.resources.memory_mib,
        cpu_millis=shape.resources.cpu_millis,
        pids=shape.resources.pids,
        disk_mib=shape.resources.disk_mib,
        runtime=release.spec.runtime,
        grace_seconds=release.spec.grace_seconds,
    )


def _health(check: HealthCheck, *, has_port: bool) -> HealthSpec:
    """A process type without a port can't be asked over the network: for it, running is healthy."""
    kind = check.kind if has_port or check.kind is CheckKind.COMMAND else CheckKind.NONE
    return HealthSpec(
        kind=kind.value,
        path=check.path,
        command=list(check.command),
        interval_seconds=check.interval_seconds,
        timeout_seconds=check.timeout_seconds,
        start_period_seconds=check.start_period_seconds,
        retries=check.retries,
    )
