"""How does a ciphertext say which key opens it?

One version byte, one byte of length, the key's id, 12 bytes of nonce, then AES-256-GCM's output. The header and the
context are authenticated with the content, so none of them can be exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shellwego.drivers.kms.port import DecryptionFailed

KEY_BYTES = 32
_VERSION = 1
_NONCE_BYTES = 12


def seal(plaintext: bytes, *, context: str, key_id: str, key: bytes, random_bytes: Callable[[int], bytes]) -> bytes:
    """Encrypt under one key. Random nonces are safe for 2**32 messages of one key; a cloud writes far fewer."""
    name = key_id.encode()
    header = bytes((_VERSION, len(name))) + name
    nonce = random_bytes(_NONCE_BYTES)
    return header + nonce + AESGCM(key).encrypt(nonce, plaintext, header + context.encode())


def unseal(ciphertext: bytes, *, context: str, keys: Mapping[str, bytes]) -> bytes:
    """Raises DecryptionFailed."""
    if len(ciphertext) < 2 or ciphertext[0] != _VERSION:
        raise DecryptionFailed("not a ciphertext of this version")
    end = 2 + ciphertext[1]
    header, nonce = ciphertext[:end], ciphertext[end : end + _NONCE_BYTES]
    key_id = header[2:].decode(errors="replace")
    if key_id not in keys:
        raise DecryptionFailed(f"made with the key {key_id!r}, which isn't here")
    try:
        return AESGCM(keys[key_id]).decrypt(nonce, ciphertext[end + _NONCE_BYTES :], header + context.encode())
    except (InvalidTag, ValueError) as error:
        raise DecryptionFailed("damaged, or it belongs to something else") from error
