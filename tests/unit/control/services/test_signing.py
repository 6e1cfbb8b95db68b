"""The key that access tokens are signed with."""

from __future__ import annotations

import datetime as dt

import pytest

from shellwego.control.services.signing import Claims, SigningKey
from shellwego.core.errors import Unauthenticated, Unavailable

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_tokens_survive_a_restart_and_not_another_cloud(tmp_path):
    path = tmp_path / "keys" / "signing.pem"
    token = SigningKey.ensure(path, issuer="cld_a").sign(Claims("usr_a", "ses_a"), now=NOW, token_id="1")
    assert path.stat().st_mode & 0o777 == 0o600
    read = SigningKey.ensure(path, issuer="cld_a").verify(token, now=NOW)
    assert read == Claims("usr_a", "ses_a", NOW + dt.timedelta(minutes=15))
    with pytest.raises(Unauthenticated):
        SigningKey.ensure(path, issuer="cld_b").verify(token, now=NOW)
    with pytest.raises(Unauthenticated, match="expired"):
        SigningKey.ensure(path, issuer="cld_a").verify(token, now=NOW + dt.timedelta(minutes=15))
    path.chmod(0o640)
    with pytest.raises(Unavailable, match="chmod 600"):
        SigningKey.ensure(path, issuer="cld_a")
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(Unavailable, match="damaged"):
        SigningKey.ensure(path, issuer="cld_a")
