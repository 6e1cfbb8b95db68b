"""What happened to a deployment, and what is happening to it?

Its events from the outbox and its build log from the file, in the order in which they belong together: the log before
the event that ended the build. The bus only wakes; what is told is read from where it is durable, so a reader who
comes back with the last id misses nothing and gets nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from shellwego.control.api import answers
from shellwego.control.api.parts import ApiParts
from shellwego.control.api.sse import Event
from shellwego.control.store.records import DeploymentRecord, EventRecord
from shellwego.core.deployments import DeploymentState
from shellwego.core.errors import InvalidField, Unavailable
from shellwego.core.ids import DeploymentId, OrganisationId
from shellwego.protocol import public

_ROUND_SECONDS = 0.5
"""A build log has no bell: it is looked at so often while it grows."""
_QUIET_SECONDS = 5.0
_READ_BYTES = 64 * 1024
_BEFORE_LOG = frozenset({"deployment.queued", "deployment.building", "deployment.resolving"})


@dataclass(frozen=True, slots=True)
class Position:
    """What a reader has seen: events up to `seq`, the log up to `offset`."""

    seq: int = 0
    offset: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Position:
        """Raises InvalidField."""
        if not text:
            return cls()
        seq, _, offset = text.partition("-")
        if not (seq.isascii() and seq.isdigit() and offset.isascii() and offset.isdigit() and len(text) < 36):
            raise InvalidField("Last-Event-ID", "is not the id of an event of this stream.")
        return cls(int(seq), int(offset))

    def __str__(self) -> str:
        return f"{self.seq}-{self.offset}"


async def frames(
    parts: ApiParts, organisation: OrganisationId, id: DeploymentId, position: Position
) -> AsyncIterator[bytes]:
    """Encoded events to the last one, `finished`."""
    log = parts.settings.builds / f"{id}.log"
    async with parts.bus.subscribe("deployment.", "instance.") as bell:
        while True:
            try:
                deployment, events = await _read(parts, organisation, id, position)
            except Unavailable:
                await asyncio.sleep(_QUIET_SECONDS)
                continue
            for event in events:
                if event.kind not in _BEFORE_LOG:
                    async for frame, seen in _log(log, position, deployment):
                        position = seen
                        yield frame
                position = replace(position, seq=event.seq)
                yield _frame(position, _told(event, id))
            if events:
                continue
            async for frame, seen in _log(log, position, deployment):
                position = seen
                yield frame
            if deployment.state.is_terminal:
                yield await _finished(parts, organisation, deployment, position)
                return
            building = deployment.state is DeploymentState.BUILDING
            await bell.next(timeout_seconds=_ROUND_SECONDS if building else _QUIET_SECONDS)


async def _read(
    parts: ApiParts, organisation: OrganisationId, id: DeploymentId, position: Position
) -> tuple[DeploymentRecord, list[EventRecord]]:
    """The deployment, and events of it and of its instances that the reader hasn't seen: of one snapshot."""
    async with parts.store.reading() as work:
        tenant = work.for_organisation(organisation)
        deployment = await tenant.deployments.get(id)
        subjects = [id, *await tenant.instances.ids_of_deployment(id)]
        return deployment, await tenant.outbox.of_subjects(subjects, after=position.seq)


async def _log(path: Path, position: Position, deployment: DeploymentRecord) -> AsyncIterator[tuple[bytes, Position]]:
    """Whole lines of the build log that the reader hasn't seen; the rest of a line once the build has ended."""
    while True:
        chunk = await asyncio.to_thread(_read_log, path, position.offset)
        whole = chunk[: chunk.rfind(b"\n") + 1]
        if not whole and chunk and (deployment.state is not DeploymentState.BUILDING or len(chunk) == _READ_BYTES):
            whole = chunk
        if not whole:
            return
        # All of them as one event: one for each line of a chatty build took ten times as long as the build.
        position = replace(position, offset=position.offset + len(whole))
        lines = whole.decode(errors="replace").removesuffix("\n").split("\n")
        text = "\n".join(line.rstrip("\r") for line in lines)
        at = deployment.started_at or deployment.created_at
        yield _frame(position, public.DeploymentEvent(kind="build_log", at=at, text=text)), position


def _read_log(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_READ_BYTES)
    except FileNotFoundError:
        return b""


def _told(event: EventRecord, id: DeploymentId) -> public.DeploymentEvent:
    """How an outbox event reads for people."""
    said = event.payload
    if event.subject == id:
        state = str(said.get("state") or event.kind.partition(".")[2])
        words = str(said.get("reason") or said.get("step") or "")
        return public.DeploymentEvent(kind="state", at=event.created_at, text=f"{state}: {words}" if words else state)
    words = f"{said.get('process', 'instance')} {event.subject} is {event.kind.partition('.')[2]}"
    reason = said.get("reason")
    return public.DeploymentEvent(kind="instance", at=event.created_at, text=f"{words}: {reason}" if reason else words)


async def _finished(
    parts: ApiParts, organisation: OrganisationId, deployment: DeploymentRecord, position: Position
) -> bytes:
    async with parts.store.reading() as work:
        answer = await answers.deployment(work.for_organisation(organisation), deployment)
    at = deployment.finished_at or deployment.created_at
    text = answer.reason or answer.state.value
    return _frame(position, public.DeploymentEvent(kind="finished", at=at, text=text, deployment=answer))


def _frame(position: Position, event: public.DeploymentEvent) -> bytes:
    return Event(str(position), event.kind, event.model_dump_json(exclude_none=True)).encode()
