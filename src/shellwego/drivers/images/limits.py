"""How much of everything do we take from a stranger's image or registry, and how long do we wait?

Every number that bounds an image or a pull stands here. The defaults let the largest images in common use through
(CUDA and desktop images: 100 layers, 20 GiB, 300,000 files) and stop what is made to hurt.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds on one image; past any of them it is refused."""

    manifest_bytes: int = 4 * MIB
    """What the distribution specification asks registries to accept; Docker reads no more either."""
    config_bytes: int = 8 * MIB
    layers: int = 256
    layer_bytes: int = 10 * GIB
    image_bytes: int = 30 * GIB
    unpacked_bytes: int = 60 * GIB
    """Sum of the file sizes of all layers; holes of sparse files count as if they were full."""
    entries: int = 500_000
    """Tar entries of all layers together: inodes are a resource of the whole node."""
    compression_ratio: int = 200
    """Unpacked to packed, of one layer, once `compression_grace_bytes` are out. Deflate reaches 1032 on zeros."""
    compression_grace_bytes: int = 256 * MIB
    path_bytes: int = 4095
    path_depth: int = 128
    """Directories above an entry. Deeper trees can't be named by an app anyway and only slow us down."""
    zstd_window_bytes: int = 128 * MIB
    """Memory that a zstd layer may ask of us (what `zstd -d` allows by default)."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a registry may take. Each phase has its own limit, so a hanging one is noticed in seconds."""

    connect_seconds: float = 10.0
    silence_seconds: float = 30.0
    """Between two bytes, also before the first of an answer."""
    metadata_seconds: float = 60.0
    """One manifest, config or token, with redirects, from the first byte sent to the last byte read."""
    min_bytes_per_second: int = 4096
    """A layer that comes slower than this over `rate_window_seconds` counts as stalled."""
    rate_window_seconds: float = 30.0
    attempts: int = 5
    """Tries in a row that brought nothing new before we give up. What has arrived is kept for the next pull."""
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 60.0
    """Past this, a Retry-After is passed on to the caller instead of being waited for."""
    redirects: int = 5
    concurrent_layers: int = 3
