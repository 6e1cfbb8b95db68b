"""Are the images here that instances need, and no others for ever?

One pull per image, shared by all that wait for it and ended when nobody does; a registry that hangs holds up nobody
but itself. Clean-up runs daily, or when the disk fills or many images have come; never beside a pull, and only when
the server has said what must stay. Its failure is a warning, because it must never stand in the way of a deployment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import structlog

from shellwego.core.errors import ShellWeGoError
from shellwego.drivers.images.port import ImageStore, PullProgress, StoredImage
from shellwego.kit.faults import fault_point, reach

log = structlog.get_logger()

PULLED = fault_point("agent.image.pulled")
COLLECTING = fault_point("agent.image.collecting")

HIGH_WATER_SHARE = 0.85
DAILY_SECONDS = 86400.0
MANY_PULLS = 50
"""So many images that came since the last clean-up make the next one due: a busy day may not wait for its end."""
_SOONEST_SECONDS = 600.0
_START_SECONDS = 3.0
_PULLS_AT_ONCE = 4
"""Of one registry."""
_SAY_SECONDS = 0.5
_MB = 1_000_000

OnWords = Callable[[str], None]


@dataclass(slots=True)
class _Pull:
    done: asyncio.Future[StoredImage]
    task: asyncio.Task[None] | None = None
    listeners: list[OnWords] = field(default_factory=list)
    layers: dict[str, PullProgress] = field(default_factory=dict)
    said_at: float = 0.0


class Images:
    """The images of one node."""

    def __init__(self, tasks: asyncio.TaskGroup, store: ImageStore) -> None:
        self._tasks, self._store = tasks, store
        self._pulls: dict[str, _Pull] = {}
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._no_clean_up = asyncio.Event()
        self._no_clean_up.set()
        self._digests: dict[str, str] = {}
        self._collected_at: float | None = None
        self._pulled_since = 0
        self.came = asyncio.Event()
        """An image has come since `get_ahead` was called."""
        self.problem = ""

    async def ensure(self, reference: str, on_words: OnWords) -> StoredImage:
        """The image is here. `on_words` is told how far its pull is. Raises what the store raises."""
        pull = self._pulls.get(reference)
        if pull is None:
            pull = self._pulls[reference] = _Pull(asyncio.get_running_loop().create_future())
            pull.task = self._tasks.create_task(self._pull(reference, pull), name=f"pull-{reference}")
        pull.listeners.append(on_words)
        try:
            return await asyncio.shield(pull.done)
        finally:
            pull.listeners.remove(on_words)
            if not pull.listeners and not pull.done.done():
                # Nobody waits any more. What has arrived stays, and a later pull goes on from there.
                self._pulls.pop(reference, None)
                pull.done.cancel()
                if pull.task is not None:
                    pull.task.cancel()

    async def get_ahead(self) -> None:
        """Let the store do what the next release will need, once the app that this one is for has probably started."""
        await asyncio.sleep(_START_SECONDS)
        if self._pulls:
            return  # The next image to come asks again.
        try:
            await self._store.get_ahead()
        except (ShellWeGoError, OSError) as error:
            log.info("images.not_ahead", error=repr(error))

    async def collect_garbage(
        self, needed: Collection[str], keep: Collection[str] | None, *, disk_used_share: float
    ) -> int | None:
        """Clean up if it is due. `needed` are references that run here. Bytes freed, None when it wasn't due."""
        loop = asyncio.get_running_loop()
        if self._collected_at is None:
            self._collected_at = loop.time()  # A start is no reason: an agent that restarts often must not churn.
        since = loop.time() - self._collected_at
        pressing = disk_used_share >= HIGH_WATER_SHARE or self._pulled_since >= MANY_PULLS
        due = since >= DAILY_SECONDS or (pressing and since >= _SOONEST_SECONDS)
        if keep is None or not due or self._pulls:
            return None
        self._no_clean_up.clear()
        try:
            await reach(COLLECTING)
            digests = {digest for reference in (*needed, *keep) for digest in self._digests_of(reference)}
            freed = await self._store.collect_garbage(digests)
        except (ShellWeGoError, OSError) as error:
            self.problem = f"Images that nobody needs could not be removed: {error}"
            log.warning("images.not_collected", error=repr(error))
            return None
        finally:
            self._collected_at, self._pulled_since = loop.time(), 0
            self._no_clean_up.set()
        self.problem = ""
        log.info("images.collected", freed_bytes=freed)
        return freed

    async def _pull(self, reference: str, pull: _Pull) -> None:
        try:
            await self._no_clean_up.wait()
            image = await self._store.find(reference)
            if image is None:
                # A restart of what is here waits for nobody; what has to come waits for its own registry alone.
                async with self._slots.setdefault(reference.partition("/")[0], asyncio.Semaphore(_PULLS_AT_ONCE)):
                    image = await self._store.ensure(reference, on_progress=lambda step: self._say(pull, step))
                self._pulled_since += 1
                self.came.set()
            await reach(PULLED)
        except Exception as error:
            if not pull.done.done():
                pull.done.set_exception(error)
        else:
            self._digests[reference] = image.digest
            if not pull.done.done():
                pull.done.set_result(image)
        finally:
            if self._pulls.get(reference) is pull:
                del self._pulls[reference]

    def _say(self, pull: _Pull, step: PullProgress) -> None:
        pull.layers[step.layer] = step
        now = asyncio.get_running_loop().time()
        if now - pull.said_at < _SAY_SECONDS:
            return
        pull.said_at = now
        words = progress_words(pull.layers.values())
        for listener in pull.listeners:
            listener(words)

    def _digests_of(self, reference: str) -> set[str]:
        """The digest that the reference names, and that of the image for this platform which it led to."""
        _, at, digest = reference.rpartition("@")
        named = digest if at else reference
        return {name for name in (named, self._digests.get(reference)) if name and name.startswith("sha256:")}


def progress_words(steps: Collection[PullProgress]) -> str:
    """`pulling 34 of 120 MB`."""
    done = sum(step.done_bytes for step in steps)
    total = sum(max(step.total_bytes, step.done_bytes) for step in steps)
    return f"pulling {done // _MB} of {max(1, total // _MB)} MB"
