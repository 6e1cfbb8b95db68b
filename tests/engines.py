"""Where are the engines that the real tests run?

On the PATH, or in the cache that `shellwego engines install` fills; SHELLWEGO_ENGINES_DIR names another cache.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_CACHE = Path(os.environ.get("SHELLWEGO_ENGINES_DIR", "/var/cache/shellwego/engines"))


def engine(name: str) -> Path:
    """
    The program called `name`. Fails the test that needs it when there is none: a real test never skips.

    Our own build comes first: Debian's runsc on the PATH is years older.
    """
    built = sorted(_CACHE.glob(f"*/*/bin/{name}"))
    if built:
        return built[-1]
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
    assert found is not None, f"{name} is not installed: run `shellwego engines install`"
    return Path(found)
