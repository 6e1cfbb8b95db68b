"""How does the API know its own access tokens again?

RS256 with one key pair per cloud, made at the first start into a file that only its owner reads. One algorithm, fixed
here and never taken from a token; issuer, audience and every time are required (CVE-2022-29217, CVE-2026-48523).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shellwego.core.errors import Unauthenticated, Unavailable
from shellwego.kit.files import replace_file

ACCESS_SECONDS = 15 * 60
_ALGORITHM = "RS256"
_AUDIENCE = "shellwego-api"
_BITS = 2048
_REQUIRED = ["iss", "aud", "exp", "iat", "nbf", "jti", "sid", "sub"]
_PART = "The signing key"


@dataclass(frozen=True, slots=True)
class Claims:
    """`expires_at` is when the token ends that these were read from."""

    user: str
    session: str
    expires_at: dt.datetime | None = None


class SigningKey:
    """Signs and checks access tokens of one cloud."""

    def __init__(self, private: rsa.RSAPrivateKey, *, issuer: str) -> None:
        self._private, self._public, self._issuer = private, private.public_key(), issuer

    @classmethod
    def ensure(cls, path: Path, *, issuer: str) -> SigningKey:
        """The key in that file, made if there is none. Raises Unavailable for a damaged or readable one."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
            pem = made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            replace_file(path, pem)
        if path.stat().st_mode & 0o077:
            raise Unavailable(_PART, f"{path} can be read by other users. Run `chmod 600 {path}`.")
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise Unavailable(_PART, f"{path} is damaged. Remove it to get a new one; people sign in again.") from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise Unavailable(_PART, f"{path} is not an RSA key.")
        return cls(key, issuer=issuer)

    def sign(self, claims: Claims, *, now: dt.datetime, token_id: str) -> str:
        """An access token for ACCESS_SECONDS."""
        expires = now + dt.timedelta(seconds=ACCESS_SECONDS)
        return jwt.encode(
            {
                "iss": self._issuer,
                "aud": _AUDIENCE,
                "sub": claims.user,
                "sid": claims.session,
                "jti": token_id,
                "iat": now,
                "nbf": now,
                "exp": expires,
            },
            self._private,
            algorithm=_ALGORITHM,
        )

    def verify(self, token: str, *, now: dt.datetime) -> Claims:
        """Raises Unauthenticated for all but an unexpired token that this key signed for this API."""
        try:
            claims = jwt.decode(
                token,
                self._public,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=self._issuer,
                # The times are compared below, with the clock that we were given.
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
            expires, begins = int(claims["exp"]), int(claims["nbf"])
            user, session = str(claims["sub"]), str(claims["sid"])
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            raise Unauthenticated("The access token isn't valid. Sign in again.") from error
        if now.timestamp() >= expires:
            raise Unauthenticated("The access token has expired. Refresh it, or sign in again.")
        if now.timestamp() < begins - 60:
            raise Unauthenticated("The access token isn't valid yet. Check the clock.")
        return Claims(user, session, dt.datetime.fromtimestamp(expires, dt.UTC))
