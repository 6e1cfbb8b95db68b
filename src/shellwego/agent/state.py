"""What does an agent know after it was killed?

DIR holds the node's id, the last goal (encrypted: it carries apps' secrets), one small record per instance, and which
addresses rest. Every file carries a check of its own content, so that a flipped bit is found and not obeyed; every
write is `replace_file`, in one thread, in order. Callers await the write where a step must not be taken, or told of,
before it is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from shellwego.agent.plan import Goal, Record
from shellwego.core.errors import Conflict
from shellwego.core.ids import InstanceId, NodeId, is_id, new_id
from shellwego.drivers.kms.port import DecryptionFailed, Kms
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.files import replace_file, sealed, sync_directory, take_lock, unsealed
from shellwego.protocol.messages import InstanceSpec

log = structlog.get_logger()

_NODE_FILES = ("node.json", "node.copy.json")
"""
Who this node is, twice: under another id it would be a stranger to the server, which could reach nothing that runs
here, and the goal could not be decrypted. Everything else that is lost is told again or found out.
"""

T = TypeVar("T")

GOAL_WRITTEN = fault_point("agent.goal.written")
RECORD_WRITTEN = fault_point("agent.record.written")
ADDRESS_RELEASED = fault_point("agent.address.released")
RECORD_FORGOTTEN = fault_point("agent.record.forgotten")

_RESTING_KEPT = 1024


class _Node(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    cloud: str | None = None


class AgentState:
    """
    The agent's memory, backed by its directory. `open` takes the directory for this process alone.

    `damaged` names what could not be read and was put aside; `problem` is the last write's failure, "" when it worked.
    """

    def __init__(self, directory: Path, kms: Kms, lock: int) -> None:
        self._directory, self._kms, self._lock = directory, kms, lock
        self._records_directory = directory / "records"
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agent-state")
        self.node = NodeId("")
        self.cloud: str | None = None
        self.goal = Goal()
        self.records: dict[InstanceId, Record] = {}
        self.released: dict[IPv4Address, float] = {}
        self.damaged: list[str] = []
        self.problem = ""
        self._unkept: set[InstanceId] = set()
        self._specs: tuple[Goal | None, dict[InstanceId, InstanceSpec]] = (None, {})

    @classmethod
    async def open(
        cls, directory: Path, kms: Kms, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> AgentState:
        """
        Read what is there; make the node's id the first time. Raises Conflict when another agent holds the directory,
        Unavailable when the key's keeper doesn't answer, and OSError when even the id can't be written.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        (directory / "records").mkdir(exist_ok=True, mode=0o700)
        state = cls(directory, kms, _take_lock(directory / "lock"))
        try:
            state._read(random_bytes)
            state.goal = await state._read_goal()
        except BaseException:
            state.close()
            raise
        return state

    async def put_goal(self, goal: Goal) -> None:
        """Keep the goal. Memory changes only once the disk has it: nothing is done for a wish a kill would lose."""
        content = await self._kms.encrypt(msgspec.msgpack.encode(goal), context=self._context)
        await self._write(self._directory / "goal", content)
        await reach(GOAL_WRITTEN)
        self.goal = goal

    async def put_cloud(self, cloud: str | None) -> None:
        self.cloud = cloud
        for name in _NODE_FILES:
            await self._write(self._directory / name, _sealed(_Node(node=self.node, cloud=cloud)))

    def find_spec(self, id: InstanceId) -> InstanceSpec | None:
        """What the goal says of an instance that should run, or is kept though nobody names it."""
        if self._specs[0] is not self.goal:
            self._specs = self.goal, {InstanceId(spec.id): spec for spec in (*self.goal.retained, *self.goal.run)}
        return self._specs[1].get(id)

    def remember(self, record: Record) -> None:
        """Know it from now on; `keep` makes it durable."""
        self.records[record.id] = record

    async def keep(self, id: InstanceId) -> None:
        """Write down what is known of the instance now. Raises OSError; what is known stays known."""
        record = self.records.get(id)
        if record is not None:
            await self.keep_ahead(record)

    async def keep_ahead(self, record: Record) -> None:
        """Write down what shall be known only once it is durable. Raises OSError."""
        try:
            await self._write(self._record_path(record.id), _sealed(record))
        except OSError:
            self._unkept.add(record.id)
            raise
        self._unkept.discard(record.id)
        await reach(RECORD_WRITTEN)

    async def catch_up(self) -> None:
        """Write what could not be written, and find out whether the disk is well again. Quiet while it isn't."""
        if not self.problem:
            return
        with contextlib.suppress(OSError):
            for id in sorted(self._unkept):
                await self.keep(id)
                self._unkept.discard(id)  # Also of one that is gone meanwhile.
            if self.problem:
                await self.put_cloud(self.cloud)

    async def forget_record(self, id: InstanceId, now: float) -> None:
        """The instance is gone for good: its address rests from now on, then its record goes. Safe to repeat."""
        record = self.records.get(id)
        if record is not None and record.address is not None:
            self.released[IPv4Address(record.address)] = now
            await self._write(self._directory / "resting.json", _sealed(self._resting()))
            await reach(ADDRESS_RELEASED)
        self.records.pop(id, None)
        await self._run(self._unlink, self._record_path(id))
        await reach(RECORD_FORGOTTEN)

    @property
    def taken_addresses(self) -> set[IPv4Address]:
        return {IPv4Address(record.address) for record in self.records.values() if record.address is not None}

    def close(self) -> None:
        """Finish writes under way and give the directory free. Safe to repeat."""
        self._writer.shutdown(wait=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Reading

    def _read(self, random_bytes: Callable[[int], bytes]) -> None:
        copies = [self._read_sealed(self._directory / name, _Node) for name in _NODE_FILES]
        known = next((n for n in copies if n is not None and is_id(n.node, "node")), None)
        node = known or _Node(node=new_id("node", random_bytes))
        for name, copy in zip(_NODE_FILES, copies, strict=True):
            if copy is None:
                with contextlib.suppress(*(() if known is None else (OSError,))):  # One is enough for now.
                    replace_file(self._directory / name, _sealed(node))
        self.node, self.cloud = NodeId(node.node), node.cloud
        for path in sorted(self._records_directory.iterdir()):
            id = path.name.removesuffix(".json")
            if path.name.startswith("."):
                path.unlink(missing_ok=True)  # Half a write of a killed agent; the rename never came.
            elif path.suffix == ".json" and is_id(id, "instance"):
                record = self._read_sealed(path, Record)
                if record is not None and record.id == id:
                    self.records[record.id] = record
        self._refuse_shared_addresses()
        resting = self._read_sealed(self._directory / "resting.json", dict[str, float]) or {}
        self.released = {IPv4Address(address): since for address, since in resting.items()}

    async def _read_goal(self) -> Goal:
        path = self._directory / "goal"
        try:
            plain = await self._kms.decrypt(path.read_bytes(), context=self._context)
            return msgspec.msgpack.decode(plain, type=Goal)
        except FileNotFoundError:
            return Goal()
        except (DecryptionFailed, msgspec.MsgspecError) as error:
            self._put_aside(path, error)
            return Goal()

    @property
    def _context(self) -> str:
        return f"agent-goal:{self.node}"

    def _read_sealed(self, path: Path, type: type[T]) -> T | None:
        try:
            return msgspec.json.decode(unsealed(path.read_bytes()), type=type)
        except FileNotFoundError:
            return None
        except (ValueError, msgspec.MsgspecError) as error:
            self._put_aside(path, error)
            return None

    def _put_aside(self, path: Path, error: Exception) -> None:
        log.error("agent.state_damaged", file=path.name, error=repr(error))
        self.damaged.append(f"{path.name} was damaged and put aside as {path.name}.damaged: {error}")
        try:
            path.rename(path.with_name(path.name + ".damaged"))
        except OSError as problem:
            log.warning("agent.state_not_put_aside", file=path.name, error=repr(problem))

    def _refuse_shared_addresses(self) -> None:
        # Two records of one address can't come from this code; if a disk or a copied folder made them, the later
        # one loses its address and is started anew with another.
        holders: dict[str, InstanceId] = {}
        for record in list(self.records.values()):
            if record.address is None:
                continue
            if record.address in holders:
                self.records[record.id] = replace(record, address=None)
                self.damaged.append(f"{record.id} and {holders[record.address]} held one address")
            else:
                holders[record.address] = record.id

    # Writing

    def _record_path(self, id: InstanceId) -> Path:
        return self._records_directory / f"{id}.json"

    def _resting(self) -> dict[str, float]:
        newest = sorted(self.released.items(), key=lambda pair: pair[1])[-_RESTING_KEPT:]
        self.released = dict(newest)
        return {str(address): since for address, since in newest}

    async def _write(self, path: Path, content: bytes) -> None:
        await self._run(replace_file, path, content)

    async def _run(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, call, *arguments)
        except OSError as error:
            if not self.problem:
                log.error("agent.state_not_written", error=repr(error))
            self.problem = f"the agent's state can't be written: {error.strerror or error}"
            raise
        self.problem = ""

    @staticmethod
    def _unlink(path: Path) -> None:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)


def _sealed(value: object) -> bytes:
    return sealed(msgspec.json.encode(value))


def _take_lock(path: Path) -> int:
    try:
        return take_lock(path)
    except BlockingIOError:
        raise Conflict(f"Another agent works on {path.parent}. Stop it first.") from None
