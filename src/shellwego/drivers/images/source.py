"""How is an uploaded source folder unpacked?

By the extractor that unpacks strangers' images, confined in the same way: a source is a stranger's archive too.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from shellwego.core.errors import InvalidField
from shellwego.drivers.images.limits import GIB, MIB, ImageLimits
from shellwego.drivers.images.manifest import Compression
from shellwego.drivers.images.streams import Refused
from shellwego.drivers.images.unpack import Damaged, PackedLayer, unpack

SOURCE_LIMITS = ImageLimits(unpacked_bytes=4 * GIB, entries=200_000, layer_bytes=512 * MIB)
_MAGIC = {b"\x1f\x8b": Compression.GZIP, b"\x28\xb5\x2f\xfd": Compression.ZSTD}


async def unpack_source(path: Path, sha256: str, into: Path) -> None:
    """
    Unpack a tar (plain, gzip or zstd) into the new directory `into`. Raises InvalidField for what isn't one, or isn't
    safe, with nothing left behind; DiskFull.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        compression = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), Compression.NONE)
        layer = PackedLayer(str(path), f"sha256:{sha256}", None, compression)
        await unpack([layer], into, SOURCE_LIMITS, keep_open=())
    except FileNotFoundError as error:
        raise InvalidField("source", "is no longer kept. Upload it again.") from error
    except (Refused, Damaged) as error:
        shutil.rmtree(into, ignore_errors=True)
        why = "arrived damaged. Upload it again." if isinstance(error, Damaged) else f"can't be used: {error}"
        raise InvalidField("source", why) from error
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
