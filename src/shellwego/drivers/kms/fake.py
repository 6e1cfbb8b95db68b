"""A key in memory, for tests; `forget` does what losing the key would."""

from __future__ import annotations

import secrets

from shellwego.core.errors import Unavailable
from shellwego.drivers.kms.envelope import KEY_BYTES, seal, unseal


class FakeKms:
    """Keeps the port's promises with one key that dies with the process."""

    def __init__(self) -> None:
        self._keys = {"fake": secrets.token_bytes(KEY_BYTES)}
        self.down = False

    def forget(self) -> None:
        """Lose the key: what was encrypted before can't be read any more."""
        self._keys = {"other": secrets.token_bytes(KEY_BYTES)}

    async def encrypt(self, plaintext: bytes, *, context: str) -> bytes:
        self._answer()
        (key_id, key), *_ = self._keys.items()
        return seal(plaintext, context=context, key_id=key_id, key=key, random_bytes=secrets.token_bytes)

    async def decrypt(self, ciphertext: bytes, *, context: str) -> bytes:
        self._answer()
        return unseal(ciphertext, context=context, keys=self._keys)

    def _answer(self) -> None:
        if self.down:
            raise Unavailable("The key's keeper", "it was taken down by a test.")
