"""Is there a good certificate for every host, before the old one ends?"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509

from shellwego.edge.certificates import (
    LIFETIME,
    Certificate,
    CertificateKeeper,
    LocalAuthority,
    plan_certificates,
    plan_renewals,
    read_certificates,
)
from shellwego.edge.socket import RuntimeSocket

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
NAMES = frozenset({"x.test"})


def test_a_wildcard_serves_a_domain_and_strangers_get_their_own() -> None:
    wanted = plan_certificates("x.test", ["a.x.test", "deep.a.x.test", "shop.example"])
    assert wanted == {
        "x.test": frozenset({"x.test", "*.x.test"}),
        "deep.a.x.test": frozenset({"deep.a.x.test"}),
        "shop.example": frozenset({"shop.example"}),
    }


def test_no_client_accepts_a_wildcard_of_localhost() -> None:
    assert plan_certificates("localhost", ["a.localhost"])["a.localhost"] == {"a.localhost"}


@pytest.mark.parametrize(
    ("there", "due"),
    [
        pytest.param(None, True, id="missing"),
        pytest.param(Certificate(NAMES, NOW - DAY, NOW + 89 * DAY, "us"), False, id="fresh"),
        pytest.param(Certificate(NAMES, NOW - 59 * DAY, NOW + 31 * DAY, "us"), False, id="a third is left"),
        pytest.param(Certificate(NAMES, NOW - 61 * DAY, NOW + 29 * DAY, "us"), True, id="less than a third is left"),
        pytest.param(Certificate(NAMES, NOW - 100 * DAY, NOW - DAY, "us"), True, id="ended"),
        pytest.param(Certificate(NAMES, NOW - DAY, NOW + 89 * DAY, "them"), True, id="of another authority"),
        pytest.param(Certificate(frozenset({"y"}), NOW - DAY, NOW + 89 * DAY, "us"), True, id="for other names"),
        pytest.param(Certificate(NAMES, NOW + DAY, NOW + 89 * DAY, "us"), True, id="not yet valid"),
    ],
)
def test_renewals(there: Certificate | None, due: bool) -> None:
    has = {} if there is None else {"x.test": there}
    assert plan_renewals({"x.test": NAMES}, has, NOW, issuer="us") == (("x.test",) if due else ())


async def test_what_is_issued_is_good_until_it_is_renewed(tmp_path: Path) -> None:
    """Also without a HAProxy to tell, and the second round has nothing to do."""
    now = NOW
    store, live = tmp_path / "store", tmp_path / "live"
    store.mkdir()
    authority = LocalAuthority.ensure(tmp_path, "test", NOW)
    keeper = CertificateKeeper(store, live, authority, RuntimeSocket(tmp_path / "none"), clock=lambda: now)
    assert await keeper.keep("x.test", ["a.b.x.test"]) == ("a.b.x.test", "x.test")
    assert await keeper.keep("x.test", ["a.b.x.test"]) == ()
    first = (live / "x.test.pem").read_bytes()
    assert {path.stat().st_mode & 0o777 for path in [*store.iterdir(), *live.iterdir()]} == {0o600}
    now = NOW + LIFETIME * 0.7
    assert await keeper.keep("x.test", []) == ("x.test",)
    assert (live / "x.test.pem").read_bytes() != first
    assert sorted(path.name for path in live.iterdir()) == ["x.test.pem"]


async def test_the_authority_stays_the_same(tmp_path: Path) -> None:
    """People have told their machines to trust it."""
    first = LocalAuthority.ensure(tmp_path, "test", NOW)
    assert LocalAuthority.ensure(tmp_path, "test", NOW).identity == first.identity
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    (tmp_path / "x.test.pem").write_bytes(await first.issue(["x.test"], NOW))
    leaf, root = x509.load_pem_x509_certificates((tmp_path / "x.test.pem").read_bytes())
    leaf.verify_directly_issued_by(root)
    assert read_certificates(tmp_path)["x.test"].issuer == first.identity
