"""Who does an image mean by `node:staff`?

Names are those of the image's own /etc/passwd and /etc/group, as Docker reads them: a number needs no entry, a user
without one has group 0, and supplementary groups come with a user unless the group was named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shellwego.core.errors import StartFailed
from shellwego.drivers.runtime.inside import read_inside

_LARGEST_ID = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class User:
    """A user in numbers, as an OCI configuration wants it."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


def find_user(rootfs: Path, text: str) -> User:
    """The user that `text` (`name`, `uid`, either with `:group`) means inside. Raises StartFailed."""
    return resolve_user(text, passwd=_read(rootfs, "/etc/passwd"), group=_read(rootfs, "/etc/group"))


def resolve_user(text: str, *, passwd: str, group: str) -> User:
    """The same, from the texts of both files."""
    wanted, colon, wanted_group = (text or "0").partition(":")
    accounts = [fields for line in passwd.splitlines() if len(fields := line.split(":")) >= 4]
    groups = [fields for line in group.splitlines() if len(fields := line.split(":")) >= 3]

    account = next((a for a in accounts if a[0] == wanted), None)
    if account is None and wanted.isdecimal():
        account = next((a for a in accounts if a[2] == str(int(wanted))), None)
    if account is None and not wanted.isdecimal():
        raise StartFailed(f"The image has no user {wanted!r} in its /etc/passwd.")
    uid = _number(account[2] if account else wanted, "user")
    gid = _number(account[3], "group") if account else 0
    home = account[5] if account and len(account) > 5 and account[5].startswith("/") else "/"

    if colon and wanted_group:
        found = next((g for g in groups if g[0] == wanted_group), None)
        if found is None and not wanted_group.isdecimal():
            raise StartFailed(f"The image has no group {wanted_group!r} in its /etc/group.")
        return User(uid, _number(found[2] if found else wanted_group, "group"), (), home)
    name = account[0] if account else None
    further = tuple(
        sorted({_number(g[2], "group") for g in groups if len(g) > 3 and name and name in g[3].split(",")} - {gid})
    )
    return User(uid, gid, further, home)


def _number(text: str, kind: str) -> int:
    if not text.isdecimal() or int(text) > _LARGEST_ID:
        raise StartFailed(f"{text[:40]!r} is not the number of a {kind}.")
    return int(text)


def _read(rootfs: Path, path: str) -> str:
    try:
        return read_inside(rootfs, path).decode(errors="replace")
    except OSError:
        return ""  # An image from scratch has no such file; numbers still work.
