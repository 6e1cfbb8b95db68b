"""Whom shall builds and instances trust besides the public authorities?

Whom this host trusts: an operator behind a TLS-inspecting gateway, or with a private registry, has installed its
authority on the machine and expects it to hold for what runs there. Only what Debian's own `ca-certificates` doesn't
bring counts, so an ordinary host adds nothing. What `--extra-ca` names is added.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from shellwego.kit.files import replace_file
from shellwego.processes.cloud import Cloud

_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_PUBLIC = Path("/usr/share/ca-certificates")
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def local_authorities(bundle: str, public: Iterable[str]) -> list[str]:
    """The certificates of `bundle` that stand in none of the `public` texts. Pure."""
    known = {_bare(block) for text in public for block in _BLOCK.findall(text)}
    found = {_bare(block): block for block in _BLOCK.findall(bundle)}
    return [block for bare, block in found.items() if bare not in known]


def ensure_authorities(cloud: Cloud) -> None:
    """Write the cloud's `extra-ca.pem`: empty on an ordinary host."""
    bundle = _BUNDLE.read_text(errors="replace") if _BUNDLE.exists() else ""
    public = [path.read_text(errors="replace") for path in _PUBLIC.rglob("*.crt")]
    blocks = local_authorities(bundle, public)
    if cloud.identity.extra_ca:
        blocks += _BLOCK.findall(Path(cloud.identity.extra_ca).read_text())
    replace_file(cloud.extra_ca, "".join(f"{block}\n" for block in dict.fromkeys(blocks)).encode())


def _bare(block: str) -> str:
    return "".join(block.split())
