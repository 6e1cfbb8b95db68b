"""Every keeper of keys: what its port promises, on the fake and on the real file."""

from __future__ import annotations

import pytest

from shellwego.core.errors import Unavailable
from shellwego.drivers.kms.fake import FakeKms
from shellwego.drivers.kms.local_key import LocalKey
from shellwego.drivers.kms.port import DecryptionFailed, Kms


@pytest.fixture(params=["fake", "local_key"])
def kms(request, tmp_path) -> Kms:
    return FakeKms() if request.param == "fake" else LocalKey.create(tmp_path / "key")


class TestKmsContract:
    async def test_gives_back_what_it_got(self, kms):
        for plaintext in (b"", b"PASSWORD=hunter2", bytes(range(256)) * 1000):
            sealed = await kms.encrypt(plaintext, context="rel_a")
            assert await kms.decrypt(sealed, context="rel_a") == plaintext
            assert plaintext == b"" or plaintext not in sealed

    async def test_equal_secrets_do_not_look_equal(self, kms):
        """Whoever reads the database can't tell that two apps share a password."""
        assert await kms.encrypt(b"x", context="a") != await kms.encrypt(b"x", context="a")

    async def test_a_secret_moved_to_another_owner_stays_closed(self, kms):
        sealed = await kms.encrypt(b"x", context="rel_a")
        with pytest.raises(DecryptionFailed):
            await kms.decrypt(sealed, context="rel_b")

    async def test_every_flipped_byte_is_noticed(self, kms):
        sealed = await kms.encrypt(b"secret", context="a")
        for position in range(len(sealed)):
            damaged = bytearray(sealed)
            damaged[position] ^= 1
            with pytest.raises(DecryptionFailed):
                await kms.decrypt(bytes(damaged), context="a")

    @pytest.mark.parametrize("length", [0, 1, 2, 5, 20])
    async def test_a_truncated_secret_is_an_error_not_a_crash(self, kms, length):
        sealed = await kms.encrypt(b"secret", context="a")
        with pytest.raises(DecryptionFailed):
            await kms.decrypt(sealed[:length], context="a")


class TestLocalKeyFile:
    async def test_a_restarted_server_reads_what_it_wrote(self, tmp_path):
        sealed = await LocalKey.ensure(tmp_path / "key").encrypt(b"x", context="a")
        assert await LocalKey.ensure(tmp_path / "key").decrypt(sealed, context="a") == b"x"

    async def test_an_older_key_still_opens_what_it_closed(self, tmp_path):
        """Rotation puts a new key on the first line and loses no secret."""
        old, new = tmp_path / "old", tmp_path / "new"
        sealed = await LocalKey.create(old).encrypt(b"x", context="a")
        LocalKey.create(new)
        new.write_text(new.read_text() + old.read_text())
        both = LocalKey.load(new)
        assert await both.decrypt(sealed, context="a") == b"x"
        with pytest.raises(DecryptionFailed):
            await LocalKey.load(old).decrypt(await both.encrypt(b"y", context="a"), context="a")

    def test_the_key_is_for_its_owner_alone(self, tmp_path):
        LocalKey.create(tmp_path / "key")
        assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600

    def test_a_key_is_never_replaced(self, tmp_path):
        LocalKey.create(tmp_path / "key")
        with pytest.raises(FileExistsError):
            LocalKey.create(tmp_path / "key")

    @pytest.mark.parametrize("content", ["", "abc", "abc !!!", "abc c2hvcnQ="])
    def test_a_damaged_file_says_what_to_do(self, tmp_path, content):
        (tmp_path / "key").write_text(content)
        (tmp_path / "key").chmod(0o600)
        with pytest.raises(Unavailable, match="Restore it from your backup"):
            LocalKey.load(tmp_path / "key")

    def test_a_key_that_others_can_read_is_refused(self, tmp_path):
        LocalKey.create(tmp_path / "key")
        (tmp_path / "key").chmod(0o644)
        with pytest.raises(Unavailable, match="chmod 600"):
            LocalKey.load(tmp_path / "key")

    def test_a_lost_key_is_told_not_replaced(self, tmp_path):
        with pytest.raises(Unavailable, match="Restore"):
            LocalKey.load(tmp_path / "key")
