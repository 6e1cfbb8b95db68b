"""Nodes and edges: who is there, and what they said last. Both belong to the cloud, not to a tenant."""

from __future__ import annotations

import sqlalchemy as sa

from shellwego.control.store import tables
from shellwego.control.store.records import EdgeRecord, NodeRecord
from shellwego.control.store.repository import Repository
from shellwego.core.errors import NotFound
from shellwego.core.ids import NodeId, is_id

_nodes = tables.nodes
_edges = tables.edges


class NodeRepository(Repository[NodeRecord]):
    table = _nodes
    record = NodeRecord
    noun = "node"

    async def ensure(self, record: NodeRecord) -> NodeRecord:
        """Register the node, or take over what it says of itself now; its generation stays."""
        if await self.find(record.id) is None:
            return await self.add(record)
        said = self._values(record)
        for kept in ("id", "created_at", "assignment_generation", "unclaimed", "warnings", "unfit"):
            del said[kept]
        return await self.update(record.id, **said)

    async def named(self, reference: str) -> NodeRecord:
        """By id or name. Raises NotFound."""
        column = _nodes.c.id if is_id(reference, "node") else _nodes.c.name
        found = await self._one(self._select().where(column == reference).order_by(_nodes.c.created_at).limit(1))
        if found is None:
            raise NotFound("node", reference)
        return found

    async def all(self) -> list[NodeRecord]:
        return await self._all(self._select().order_by(_nodes.c.name, _nodes.c.id))

    async def next_generation(self, id: NodeId) -> int:
        """The generation of a new assignment. They only grow. Raises NotFound."""
        return (await self.update(id, assignment_generation=_nodes.c.assignment_generation + 1)).assignment_generation

    async def ensure_generation_above(self, id: NodeId, generation: int) -> int:
        """
        Never hand out a generation that the node has seen: its own may be higher after an older database came back.
        Raises NotFound.
        """
        node = await self.get(id)
        if node.assignment_generation > generation:
            return node.assignment_generation
        return (await self.update(id, assignment_generation=generation + 1)).assignment_generation


class EdgeRepository(Repository[EdgeRecord]):
    table = _edges
    record = EdgeRecord
    noun = "edge"

    async def ensure(self, record: EdgeRecord) -> EdgeRecord:
        """Write what the edge said last."""
        if await self.find(record.id) is None:
            return await self.add(record)
        said = self._values(record)
        del said["id"]
        return await self.update(record.id, **said)

    async def all(self) -> list[EdgeRecord]:
        return await self._all(self._select().order_by(_edges.c.id))

    async def remove(self, id: str) -> None:
        await self._execute(sa.delete(_edges).where(_edges.c.id == id))
