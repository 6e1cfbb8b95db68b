"""Which image does a reference mean?

The grammar and the normalisation are Docker's (distribution/reference): `redis` is `docker.io/library/redis:latest`,
and the first part names a registry only when it looks like a host. Besides, `sha256:...` alone names an image of
this store. A name that an image was imported under is normalised the same way, and wins over the registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shellwego.core.errors import ImageRefused

DOCKER_HUB = "docker.io"

_LONGEST = 512
_LONGEST_REPOSITORY = 255
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]{0,61}[A-Za-z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::(?P<port>[0-9]{{1,5}}))?")


@dataclass(frozen=True, slots=True)
class Reference:
    """
    A parsed reference. Without `registry` and `repository` it is a bare digest: an image of this store.

    With a digest, the tag says nothing any more (as in Docker), so it is dropped.
    """

    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""

    @property
    def is_bare_digest(self) -> bool:
        return not self.repository

    @property
    def name(self) -> str:
        """Registry and repository, without tag or digest."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        if self.is_bare_digest:
            return self.digest
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def is_digest(text: str) -> bool:
    """A sha256 digest, written the one way that is allowed."""
    return _DIGEST.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """Parse and normalise. Raises ImageRefused for what can't be a reference."""
    if is_digest(text):
        return Reference(digest=text)
    if not text or len(text) > _LONGEST:
        raise ImageRefused(text[:80], f"an image reference has 1 to {_LONGEST} characters.")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise ImageRefused(text, "after '@' stands a digest: sha256: and 64 hexadecimal digits, in lower case.")
    registry, repository = _split_registry(rest)
    repository, tag = _split_tag(repository)
    if tag is not None and not _TAG.fullmatch(tag):
        raise ImageRefused(text, f"{tag!r} is no tag: at most 128 letters, digits, '_', '.' and '-'.")
    if registry in ("", "index.docker.io"):
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    registry = registry.lower()
    if not _looks_like_host(registry):  # `A/app`, for Docker a host: in lower case it would be an account of the hub.
        raise ImageRefused(
            text, f"{registry!r} is no registry: name its port as well. Repository names are lower case."
        )
    host = _HOST.fullmatch(registry)
    if host is None or int(host["port"] or 1) not in range(1, 65536):
        raise ImageRefused(text, f"{registry!r} is no host name with an optional port.")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _LONGEST_REPOSITORY:
        hint = " Repository names are lower case." if repository != repository.lower() else ""
        raise ImageRefused(text, f"{repository!r} is no repository name.{hint}")
    if digest:
        return Reference(registry, repository, "", digest)
    return Reference(registry, repository, tag or "latest")


def _split_registry(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    return (first, rest) if slash and (_looks_like_host(first) or first != first.lower()) else ("", text)


def _looks_like_host(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost"


def _split_tag(repository: str) -> tuple[str, str | None]:
    path, colon, tag = repository.rpartition(":")
    return (path, tag) if colon and "/" not in tag else (repository, None)
