"""Which drivers does a one-node cloud use, and with which of its places?

With node_parts.py the one table of constructor arguments, used by every process, so that server, agent, teardown and
tools mean the same store, the same network and the same key. Two modules, because a server that starts shall not wait
for drivers of networks and sandboxes to be imported.
"""

from __future__ import annotations

import os
from pathlib import Path

from shellwego.core.networks import AllowedNetwork, parse_allowed_network
from shellwego.core.quantities import MIB
from shellwego.drivers.images.builder import BuildKitBuilder
from shellwego.drivers.images.port import BuildLimits, ImageStore
from shellwego.drivers.images.store import DirectoryImageStore
from shellwego.drivers.kms.local_key import LocalKey
from shellwego.processes.cloud import Cloud
from shellwego.processes.engines_found import Engines

IMAGE_GRACE_SECONDS = 3600.0
"""An image that was just built or pulled is in no release yet; it stays at least so long."""


def make_kms(cloud: Cloud) -> LocalKey:
    """The key that secrets at rest are encrypted with. Back it up apart from the data it protects."""
    return LocalKey.ensure(cloud.secret_key)


def make_images(cloud: Cloud) -> ImageStore:
    return DirectoryImageStore(
        cloud.images,
        insecure_registries=frozenset(cloud.identity.insecure_registries),
        opened=allowed_networks(cloud),
        extra_ca=_extra_ca(cloud),
        grace_seconds=IMAGE_GRACE_SECONDS,
    )


def make_builder(cloud: Cloud, engines: Engines, images: ImageStore) -> BuildKitBuilder:
    return BuildKitBuilder(
        directory=cloud.builder,
        runtime_directory=cloud.run,
        prefix=cloud.short,
        store=images,
        buildkitd=engines.buildkitd,
        buildctl=engines.buildctl,
        runsc=engines.runsc,
        runc=engines.runc,
        extra_ca=_extra_ca(cloud),
        reachable=allowed_networks(cloud),
        cache_mib=cloud.identity.build_cache_mib,
        concurrent=_builds_at_once(cloud),
    )


def build_limits(cloud: Cloud) -> BuildLimits:
    identity = cloud.identity
    return BuildLimits(
        memory_mib=identity.build_memory_mib, disk_mib=identity.build_disk_mib, seconds=identity.build_seconds
    )


def allowed_networks(cloud: Cloud) -> tuple[AllowedNetwork, ...]:
    """The operator's own networks that apps and builds may reach. Raises InvalidField for what can't be read."""
    return tuple(parse_allowed_network(text, field="--allow-network") for text in cloud.identity.allowed_networks)


def _builds_at_once(cloud: Cloud) -> int:
    """
    As many as there are processors, in no more than half of the memory. With one alone, a tenant whose build never
    ends would hold up everybody's until the limit of its time.
    """
    memory_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    return max(1, min(os.cpu_count() or 1, memory_mib // 2 // cloud.identity.build_memory_mib))


def _extra_ca(cloud: Cloud) -> Path | None:
    return cloud.extra_ca if cloud.extra_ca.exists() and cloud.extra_ca.stat().st_size else None
