"""Which image of this cloud stands in for a public name? Everybody may see it, operators write it."""

from __future__ import annotations

from shellwego.control.services.callers import Caller, ensure_operator
from shellwego.control.store import UnitOfWork
from shellwego.control.store.records import ImageMappingRecord


async def put(work: UnitOfWork, caller: Caller, pattern: str, image: str) -> ImageMappingRecord:
    """Raises Forbidden."""
    ensure_operator(caller)
    mapping = await work.image_mappings.put(ImageMappingRecord(pattern, image, work.now))
    await work.emit("image_mapping.set", subject=caller.user, payload={"pattern": pattern, "image": image})
    return mapping


async def remove(work: UnitOfWork, caller: Caller, pattern: str) -> None:
    """Raises Forbidden, NotFound."""
    ensure_operator(caller)
    await work.image_mappings.remove(pattern)
    await work.emit("image_mapping.removed", subject=caller.user, payload={"pattern": pattern})
