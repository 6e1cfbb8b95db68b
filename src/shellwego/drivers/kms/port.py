"""Who keeps the key that secrets at rest are encrypted with?

What `encrypt` returns names the key it was made with, so keys can change while old ciphertexts stay readable, and is
bound to a context (the id of the release it belongs to, say): under another context it doesn't decrypt, so nobody
who can write to the database can move one tenant's secret to another. `tests/contract/test_kms.py` holds every
driver, and the fake, to this page.
"""

from __future__ import annotations

from typing import Protocol


class DecryptionFailed(Exception):
    """The bytes are damaged, belong to another context, or were made with a key that isn't here."""


class Kms(Protocol):
    async def encrypt(self, plaintext: bytes, *, context: str) -> bytes:
        """Never the same bytes twice. Raises Unavailable when the key's keeper doesn't answer."""
        ...

    async def decrypt(self, ciphertext: bytes, *, context: str) -> bytes:
        """Raises DecryptionFailed, Unavailable."""
        ...
