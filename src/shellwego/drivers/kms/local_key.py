"""The key of a cloud that keeps it itself: a file that only its owner can read.

One line per key, `id base64`; the first is used for new ciphertexts, the others only to read old ones. A missing
file is never replaced in silence: with it went every secret, and an operator who restores a backup must hear of it.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from shellwego.core.errors import Unavailable
from shellwego.drivers.kms.envelope import KEY_BYTES, seal, unseal
from shellwego.kit.files import replace_file

_PART = "The key file"


class LocalKey:
    """Keys from a file, read once."""

    def __init__(
        self, keys: Mapping[str, bytes], *, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        if not keys:
            raise ValueError("at least one key is needed")
        self._keys = dict(keys)
        self._current = next(iter(self._keys))
        self._random_bytes = random_bytes

    @classmethod
    def load(cls, path: Path) -> LocalKey:
        """Raises Unavailable when the file is missing, damaged, or readable by others."""
        try:
            if path.stat().st_mode & 0o077:
                raise Unavailable(_PART, f"{path} can be read by other users. Run `chmod 600 {path}`.")
            text = path.read_text()
        except OSError as error:
            raise Unavailable(
                _PART, f"{path}: {error.strerror}. Restore it from your backup: without it no secret can be read."
            ) from error
        try:
            keys = dict(_parse(line) for line in text.splitlines() if line.strip())
            return cls(keys)
        except (ValueError, binascii.Error) as error:
            raise Unavailable(_PART, f"{path} is damaged. Restore it from your backup.") from error

    @classmethod
    def create(cls, path: Path) -> LocalKey:
        """Make a first key for a new cloud. Raises FileExistsError rather than replace one."""
        if path.exists():
            raise FileExistsError(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        key_id, key = secrets.token_hex(4), secrets.token_bytes(KEY_BYTES)
        replace_file(path, f"{key_id} {base64.b64encode(key).decode()}\n".encode())
        return cls({key_id: key})

    @classmethod
    def ensure(cls, path: Path) -> LocalKey:
        """Load it, or make it when there is none yet: for stores that are as new as their key."""
        return cls.load(path) if path.exists() else cls.create(path)

    async def encrypt(self, plaintext: bytes, *, context: str) -> bytes:
        key = self._keys[self._current]
        return seal(plaintext, context=context, key_id=self._current, key=key, random_bytes=self._random_bytes)

    async def decrypt(self, ciphertext: bytes, *, context: str) -> bytes:
        return unseal(ciphertext, context=context, keys=self._keys)


def _parse(line: str) -> tuple[str, bytes]:
    key_id, _, text = line.partition(" ")
    key = base64.b64decode(text, validate=True)
    if len(key) != KEY_BYTES or not key_id:
        raise ValueError("not a key")
    return key_id, key
