"""What did the instances of an app print, and what do they print now?

Each node reads the logs of its own instances, and leaves out the secrets that we name to it; here its lines become one
stream. What was printed is put in order of time; what is printed now comes as it comes. Who follows an app follows its
future instances too. At most MAXIMUM_TAIL lines are held; a slow reader holds up the nodes' streams, not our memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import heapq
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from dataclasses import dataclass, field

import msgspec

from shellwego.control.api.parts import ApiParts, Stream
from shellwego.control.services.sealing import config_of
from shellwego.control.store.records import InstanceRecord, ReleaseRecord
from shellwego.core.errors import NodeUnavailable, Unavailable
from shellwego.core.ids import AppId, InstanceId, NodeId, OrganisationId
from shellwego.core.redaction import secret_variables
from shellwego.protocol.channel import ChannelClosed
from shellwego.protocol.messages import LogLine, LogsRequest, StreamEnd
from shellwego.protocol.public import LogEntry

DEFAULT_TAIL = 100
MAXIMUM_TAIL = 10_000
MAXIMUM_TEXT = 64 * 1024
_RECENT_INSTANCES = 50
_LOOK_SECONDS = 2.0
_QUEUE = 200
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class LogsQuery:
    """
    Which lines of which instances. `tail` counts from the end of all of them together; None is all there is. Who comes
    back has lines already: each instance in `after` goes on behind the line that ended there.
    """

    organisation: OrganisationId
    app: AppId
    tail: int | None = DEFAULT_TAIL
    since: float | None = None
    process: str | None = None
    instance: str | None = None
    after: dict[InstanceId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told:
    """A line, and where in its instance's log it ends."""

    entry: LogEntry
    place: str


@dataclass(frozen=True, slots=True)
class _Source:
    """An instance, and the release that it runs, by which its lines are labelled and its secrets known."""

    instance: InstanceRecord
    release: ReleaseRecord | None

    @property
    def label(self) -> str:
        return self.release.label if self.release is not None else self.instance.release


async def history(parts: ApiParts, query: LogsQuery) -> AsyncGenerator[Told, None]:
    """What was printed, in the order of time. Raises NodeUnavailable when no node that has lines answers."""
    sources = await _sources(parts, query)
    async with contextlib.aclosing(_printed(parts, query, sources)) as lines:
        async for line in lines:
            yield _entry(line, sources)


async def follow(parts: ApiParts, query: LogsQuery) -> AsyncGenerator[Told, None]:
    """The last lines, then every new one, of present and future instances, until the caller stops."""
    sources = await _sources(parts, query)
    seen, newest = dict(query.after), query.since
    if query.tail != 0:
        with contextlib.suppress(NodeUnavailable):  # Whose node is away now is waited for, not refused.
            async with contextlib.aclosing(_printed(parts, query, sources)) as printed:
                async for line in printed:
                    seen[InstanceId(line.instance)] = line.place
                    newest = max(line.at, newest or 0.0)
                    yield _entry(line, sources)
    lines: asyncio.Queue[Told] = asyncio.Queue(_QUEUE)
    watching = asyncio.ensure_future(_Follower(parts, query, lines, set(sources), seen, newest).run())
    try:
        while True:
            getting = asyncio.ensure_future(lines.get())
            await asyncio.wait({getting, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                watching.result()
                return
            yield getting.result()
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await watching


async def _printed(
    parts: ApiParts, query: LogsQuery, sources: dict[InstanceId, _Source]
) -> AsyncGenerator[LogLine, None]:
    by_node = _by_node(sources)
    if by_node and not any(node in parts.agents.connected for node in by_node):
        raise NodeUnavailable(next(iter(by_node)))
    async with contextlib.AsyncExitStack() as stack:
        streams = []
        for node, ids in by_node.items():
            after = {str(id): query.after[id] for id in ids if id in query.after}
            secrets = await _secrets(parts, [sources[id] for id in ids])
            request = LogsRequest(instances=[*ids], tail=query.tail, since=query.since, after=after, secrets=secrets)
            try:
                streams.append(await stack.enter_async_context(_lines(parts, node, request)))
            except NodeUnavailable:
                continue
        merged = _merge(streams)
        if query.tail is None:
            async for line in merged:
                yield line
            return
        last: deque[LogLine] = deque(maxlen=query.tail)
        async for line in merged:
            last.append(line)
    for line in last:
        yield line


class _Follower:
    """
    Keeps one stream open for each present instance of the app. Each goes on where its own last line ended, never after
    a time: lines share one, clocks are set back, and those of nodes differ.
    """

    def __init__(
        self,
        parts: ApiParts,
        query: LogsQuery,
        lines: asyncio.Queue[Told],
        present: set[InstanceId],
        seen: dict[InstanceId, str],
        newest: float | None,
    ) -> None:
        self._parts, self._query, self._lines = parts, query, lines
        self._present, self._seen, self._newest = present, seen, newest
        self._followed: set[InstanceId] = set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks, self._parts.bus.subscribe("instance.") as bell:
            while True:
                with contextlib.suppress(Unavailable):  # While the database is away, what is followed goes on.
                    for source in (await _sources(self._parts, self._query)).values():
                        instance = source.instance
                        present = instance.removed_at is None and instance.node is not None
                        if present and instance.id not in self._followed:
                            self._followed.add(instance.id)
                            tasks.create_task(self._follow(source), name=f"follow {instance.id}")
                await bell.next(timeout_seconds=_LOOK_SECONDS)

    async def _follow(self, source: _Source) -> None:
        """One instance's lines to the end of its stream; it is taken up again by the next look."""
        instance = source.instance
        assert instance.node is not None
        place = self._seen.get(instance.id)
        after = {} if place is None else {str(instance.id): place}
        # A new one begins with its first line. One that was there, and of which nothing was printed, goes on after what
        # was printed of the others, or now, when nothing was asked for.
        silent = place is None and instance.id in self._present
        try:
            secrets = await _secrets(self._parts, [source])
            request = LogsRequest(
                instances=[instance.id],
                follow=True,
                tail=0 if silent and self._query.tail == 0 else None,
                since=self._newest if silent else None,
                after=after,
                secrets=secrets,
            )
            async with _lines(self._parts, instance.node, request) as stream:
                async for line in stream:
                    self._seen[instance.id] = line.place
                    await self._lines.put(_labelled(line, instance.process, source.label))
        except (NodeUnavailable, Unavailable):
            await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._followed.discard(instance.id)


async def _sources(parts: ApiParts, query: LogsQuery) -> dict[InstanceId, _Source]:
    async with parts.store.reading() as work:
        tenant = work.for_organisation(query.organisation)
        instances = await tenant.instances.recent_of_app(query.app, limit=_RECENT_INSTANCES)
        living = {i.id for i in instances}
        instances += [i for i in await tenant.instances.of_app(query.app) if i.id not in living]
        releases = await tenant.releases.some({i.release for i in instances})
    return {
        i.id: _Source(i, releases.get(i.release))
        for i in instances
        if i.node is not None
        and query.process in {None, i.process}
        and (query.instance is None or i.id == query.instance)
    }


async def _secrets(parts: ApiParts, sources: Collection[_Source]) -> dict[str, dict[str, str]]:
    """What the lines of each instance may not show. Raises Unavailable, DecryptionFailed."""
    releases = {source.release.id: source.release for source in sources if source.release is not None}
    known = {id: secret_variables(await config_of(parts.kms, release)) for id, release in releases.items()}
    return {s.instance.id: found for s in sources if (found := known.get(s.instance.release))}


def _by_node(sources: dict[InstanceId, _Source]) -> dict[NodeId, list[InstanceId]]:
    nodes: dict[NodeId, list[InstanceId]] = {}
    for id, source in sources.items():
        assert source.instance.node is not None
        nodes.setdefault(source.instance.node, []).append(id)
    return nodes


@contextlib.asynccontextmanager
async def _lines(parts: ApiParts, node: NodeId, request: LogsRequest) -> AsyncIterator[AsyncIterator[LogLine]]:
    """The lines of one stream, whole ones. Raises NodeUnavailable."""
    stream = await parts.agents.open_stream(node, request)
    try:
        yield _whole_lines(stream)
    finally:
        await stream.close()


async def _whole_lines(stream: Stream) -> AsyncIterator[LogLine]:
    """Parts of a line are put together, up to a limit: nobody's one line may fill our memory."""
    begun: dict[tuple[str, str], list[str]] = {}
    while True:
        try:
            message = await stream.receive()
        except ChannelClosed:
            return
        if isinstance(message, StreamEnd):
            return
        if not isinstance(message, LogLine):
            continue
        key = (message.instance, message.stream)
        pieces = begun.setdefault(key, [])
        pieces.append(message.text)
        if message.partial and sum(map(len, pieces)) < MAXIMUM_TEXT:
            continue
        text = "".join(begun.pop(key))
        yield msgspec.structs.replace(message, text=text, partial=False)


async def _merge(streams: list[AsyncIterator[LogLine]]) -> AsyncIterator[LogLine]:
    """Several streams, each in the order of time, as one."""
    heads: list[tuple[float, int, LogLine]] = []
    for number, stream in enumerate(streams):
        line = await anext(stream, None)
        if line is not None:
            heapq.heappush(heads, (line.at, number, line))
    while heads:
        _, number, line = heapq.heappop(heads)
        yield line
        following = await anext(streams[number], None)
        if following is not None:
            heapq.heappush(heads, (following.at, number, following))


def _entry(line: LogLine, sources: dict[InstanceId, _Source]) -> Told:
    source = sources.get(InstanceId(line.instance))
    return _labelled(line, source.instance.process if source else "", source.label if source else "")


def _labelled(line: LogLine, process: str, release: str) -> Told:
    entry = LogEntry(
        # Down to the microsecond, never up: whoever goes on from this time must not miss the rest of its instant.
        at=_EPOCH + dt.timedelta(microseconds=int(line.at * 1_000_000)),
        instance=line.instance,
        process=process,
        release=release,
        stream=line.stream,
        text=line.text,
    )
    return Told(entry, line.place)
