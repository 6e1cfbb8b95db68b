"""Which programs does this machine's cloud stand on?

One look at start, so that a missing engine is a sentence with a remedy and not a traceback later.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shellwego.drivers.engines.places import get_program


@dataclass(frozen=True, slots=True)
class Engines:
    runsc: Path
    runc: Path
    conmon: Path
    haproxy: Path
    nft: Path
    slirp4netns: Path
    buildkitd: Path
    buildctl: Path


def find_engines() -> Engines:
    """Raises EngineMissing for the first that isn't there, or is too old."""
    return Engines(**{name: get_program(name) for name in Engines.__dataclass_fields__})
