"""Which certificates does the proxy need, and when are they made anew?

Each cloud has a certificate authority of its own (EC P-256), made at the first start; its certificate is published as
`ca.pem` for `curl --cacert`. What to issue is a pure question (`plan_renewals`), who signs is an Issuer, and how a
running HAProxy learns of it is its runtime socket: no replacement, no connection lost. Keys are readable by root
alone. Each certificate lasts through a power cut in the data directory; HAProxy reads copies beside its configuration.

A wildcard serves a domain such as `apps.example.com`. For a domain of one label, as `localhost`, no client accepts
one (RFC 6125 leaves it to them, OpenSSL wants two dots), so each host gets a certificate of its own there.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shellwego.edge.socket import ProxyUnavailable, RuntimeSocket
from shellwego.kit.clock import Clock, utc_now
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.files import replace_file

log = structlog.get_logger()

STORE = fault_point("edge.certificate.store")
PUSH = fault_point("edge.certificate.push")

LIFETIME = dt.timedelta(days=90)
AUTHORITY_LIFETIME = dt.timedelta(days=3650)
_BACKDATED = dt.timedelta(hours=1)  # A client's clock may be slow.


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the planner needs to know of one that exists."""

    names: frozenset[str]
    not_before: dt.datetime
    not_after: dt.datetime
    issuer: str


class Issuer(Protocol):
    """Whoever signs: our own authority, or (later) an ACME service."""

    @property
    def identity(self) -> str:
        """Tells one issuer's certificates from another's."""
        ...

    async def issue(self, names: Collection[str], now: dt.datetime) -> bytes:
        """Key, certificate and chain as PEM."""
        ...


def plan_certificates(domain: str, hosts: Collection[str]) -> dict[str, frozenset[str]]:
    """Which certificates there should be: by name, the host names in each."""
    wanted = {domain: frozenset({domain, f"*.{domain}"})}
    for host in hosts:
        label, _, parent = host.partition(".")
        if host != domain and (parent != domain or "." not in domain or not label):
            wanted[host] = frozenset({host})
    return wanted


def plan_renewals(
    wanted: Mapping[str, frozenset[str]], there: Mapping[str, Certificate], now: dt.datetime, *, issuer: str
) -> tuple[str, ...]:
    """Which to issue now: missing, of another issuer, for other names, or with less than a third of its life left."""

    def is_good(name: str) -> bool:
        has = there.get(name)
        if has is None or has.issuer != issuer or has.names != wanted[name] or now < has.not_before:
            return False
        return now < has.not_after - (has.not_after - has.not_before) / 3

    return tuple(name for name in sorted(wanted) if not is_good(name))


class LocalAuthority:
    """A certificate authority in two files."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key, self._certificate = key, certificate

    @classmethod
    def ensure(cls, directory: Path, label: str, now: dt.datetime) -> LocalAuthority:
        """The authority that the directory holds, made if there is none. `ca.pem` is for everybody to read."""
        key_file, certificate_file = directory / "ca-key.pem", directory / "ca.pem"
        try:
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            if isinstance(key, ec.EllipticCurvePrivateKey) and certificate.public_key() == key.public_key():
                return cls(key, certificate)
        except FileNotFoundError:
            pass
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ShellWeGo {label}"[:64])])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The key first: a certificate without its key would be published and useless.
        replace_file(key_file, _key_pem(key))
        replace_file(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
        return cls(key, certificate)

    @property
    def identity(self) -> str:
        return self._certificate.fingerprint(hashes.SHA256()).hex()[:16] + self._certificate.subject.rfc4514_string()

    async def issue(self, names: Collection[str], now: dt.datetime) -> bytes:
        return await asyncio.to_thread(self._issue, names, now)

    def _issue(self, names: Collection[str], now: dt.datetime) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        ordered = sorted(names, key=lambda name: (name.startswith("*"), name))
        authority_key = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ordered[0][:64])]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(min(now + LIFETIME, self._certificate.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in ordered]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_key), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        chain = self._certificate.public_bytes(serialization.Encoding.PEM)
        return _key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM) + chain


class CertificateKeeper:
    """
    Keeps `store` (durable) and `live` (what HAProxy reads) holding what is wanted, and a running HAProxy as well. It is
    the only writer of both, so it reads them once. Keys and files are made in threads: traffic doesn't wait for them.
    """

    def __init__(self, store: Path, live: Path, issuer: Issuer, runtime: RuntimeSocket, clock: Clock = utc_now) -> None:
        self._store, self._live, self._issuer, self._runtime, self._clock = store, live, issuer, runtime, clock
        self._there: dict[str, Certificate] | None = None
        self._pushed: frozenset[str] = frozenset()

    async def keep(self, domain: str, hosts: Collection[str], *, check_all: bool = True) -> tuple[str, ...]:
        """
        One round. Which certificates were issued. Works whether or not HAProxy runs. Without `check_all`, HAProxy is
        only told of what is new, and not asked for what it should have already.
        """
        if self._there is None:
            check_all = True
            self._there = await asyncio.to_thread(read_certificates, self._store)
        wanted = plan_certificates(domain, hosts)
        due = plan_renewals(wanted, self._there, self._clock(), issuer=self._issuer.identity)
        for name in due:
            pem = await self._issuer.issue(wanted[name], self._clock())
            await reach(STORE)
            await asyncio.to_thread(replace_file, self._store / f"{name}.pem", pem)
            self._there[name] = read_certificate(pem)
        stale = set(self._there).difference(wanted)
        await asyncio.to_thread(self._lay_out, sorted(wanted), stale, {*due} if not check_all else {*wanted})
        for name in stale:
            del self._there[name]
        try:
            names = sorted(wanted if check_all else {*wanted} - self._pushed | {*due})
            await self._push(names)
            self._pushed = frozenset(wanted)
        except ProxyUnavailable:
            self._pushed = frozenset()
            log.info("edge.certificates_wait", reason="HAProxy doesn't run; it reads them when it starts")
        return due

    def _lay_out(self, wanted: list[str], stale: Collection[str], fresh: Collection[str]) -> None:
        """Copies for HAProxy's start. Stale ones stay in a running HAProxy, harmless; the next start forgets them."""
        self._live.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in wanted:
            copy = self._live / f"{name}.pem"
            if name in fresh or not copy.exists():
                pem = (self._store / copy.name).read_bytes()
                if not copy.exists() or copy.read_bytes() != pem:
                    replace_file(copy, pem)
        for name in stale:
            (self._store / f"{name}.pem").unlink(missing_ok=True)
            (self._live / f"{name}.pem").unlink(missing_ok=True)

    async def _push(self, names: list[str]) -> None:
        """Bring a running HAProxy to the files. Raises ProxyUnavailable."""
        files = {name: self._live / f"{name}.pem" for name in names}
        shown = await self._runtime.ask([f"show ssl cert {path}" for path in files.values()])
        for (name, path), answer in zip(files.items(), shown, strict=True):
            pem = await asyncio.to_thread(path.read_bytes)
            serial = f"{x509.load_pem_x509_certificate(pem).serial_number:X}"
            held = next((line for line in answer.splitlines() if line.startswith("Serial:")), "")
            if held.removeprefix("Serial:").strip().lstrip("0").upper() == serial.lstrip("0"):
                continue
            await reach(PUSH)
            is_new = not held
            if is_new:
                await self._runtime.ask([f"new ssl cert {path}"])
            answers = [await self._runtime.send_payload(f"set ssl cert {path}", pem.decode())]
            answers += await self._runtime.ask(
                [f"commit ssl cert {path}", *([f"add ssl crt-list {self._live}/ {path}"] if is_new else [])]
            )
            log.info("edge.certificate_pushed", name=name, new=is_new, answers=answers)


def read_certificates(store: Path) -> dict[str, Certificate]:
    """What the directory holds, by name; one that can't be read counts as missing."""
    found = {}
    for path in store.glob("*.pem"):
        try:
            found[path.stem] = read_certificate(path.read_bytes())
        except (ValueError, OSError, x509.ExtensionNotFound) as error:
            log.warning("edge.certificate_unreadable", path=str(path), error=repr(error))
    return found


def read_certificate(pem: bytes) -> Certificate:
    """Raises ValueError or ExtensionNotFound for what isn't one of ours."""
    certificate, *_, authority = x509.load_pem_x509_certificates(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return Certificate(
        names=frozenset(names.get_values_for_type(x509.DNSName)),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        issuer=authority.fingerprint(hashes.SHA256()).hex()[:16] + authority.subject.rfc4514_string(),
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _key_usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )
