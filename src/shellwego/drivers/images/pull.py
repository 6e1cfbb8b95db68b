"""What does a registry mean by a reference, and how do its layers get here, several at once?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shellwego.core.errors import ImageRefused, ShellWeGoError
from shellwego.drivers.images.blobs import BlobStore, WrongContent
from shellwego.drivers.images.distribution import Session
from shellwego.drivers.images.limits import ImageLimits, Patience
from shellwego.drivers.images.manifest import (
    Descriptor,
    Index,
    Platform,
    choose_platform,
    digest_of,
    parse_config,
    parse_manifest,
)
from shellwego.drivers.images.port import PullProgress
from shellwego.drivers.images.records import Image
from shellwego.drivers.images.reference import Reference

OnProgress = Callable[[PullProgress], None]

_NESTED_INDEXES = 3


async def fetch_image(
    session: Session, wanted: Reference, platform: Platform, limits: ImageLimits, blobs: BlobStore
) -> Image:
    """Manifest and config of the image for this platform; a config that is here already isn't fetched again."""
    name = str(wanted)
    indexes: list[bytes] = []
    which, known_type = wanted.digest or wanted.tag, ""
    for _ in range(_NESTED_INDEXES):
        content, served_type = await session.fetch_manifest(which)
        found = parse_manifest(name, content, known_type or served_type, limits)
        if not isinstance(found, Index):
            config_bytes = blobs.find_small(found.config.digest, limit=limits.config_bytes)
            if config_bytes is None or len(config_bytes) != found.config.size:
                config_bytes = await session.fetch_config(found.config)
            config = parse_config(name, config_bytes, found, platform, limits)
            return Image(digest_of(content), found, config, content, config_bytes, tuple(indexes))
        indexes.append(content)
        chosen = choose_platform(name, found, platform)
        which, known_type = chosen.digest, chosen.media_type
    raise ImageRefused(name, "its indexes are nested too deep.")


async def fetch_layers(
    session: Session, name: str, image: Image, blobs: BlobStore, patience: Patience, on_progress: OnProgress
) -> None:
    """Bring every layer that is missing; whatever fails first ends the others, which keep what they have."""
    slots = asyncio.Semaphore(patience.concurrent_layers)

    async def fetch(layer: Descriptor) -> None:
        async with slots, blobs.receiving(layer) as partial:
            while partial is not None:
                await session.fetch_layer(
                    layer, partial, lambda done: on_progress(PullProgress(layer.digest, done, layer.size))
                )
                try:
                    await partial.commit(blobs.path(layer.digest))
                    break
                except WrongContent as error:
                    # The first part may be from another day, and have rotted since.
                    if not error.resumed:
                        raise ImageRefused(name, f"layer {layer.digest} has the wrong content.") from error
        on_progress(PullProgress(layer.digest, layer.size, layer.size))

    layers = {layer.digest: layer for layer in image.manifest.layers}
    try:
        async with asyncio.TaskGroup() as tasks:
            for layer in layers.values():
                tasks.create_task(fetch(layer), name=f"fetch {layer.digest}")
    except BaseExceptionGroup as group:
        raise _first_reason(group) from group


def _first_reason(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Callers know our errors, not groups. A refusal beats an outage: it says what trying again won't mend."""
    leaves = [_first_reason(e) if isinstance(e, BaseExceptionGroup) else e for e in group.exceptions]
    ours = [error for error in leaves if isinstance(error, ShellWeGoError)]
    return min(ours, key=lambda error: error.retryable) if ours else leaves[0]
