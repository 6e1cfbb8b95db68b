"""With which status does a command end? Few, documented in docs/reference/cli.md, and stable for scripts."""

from __future__ import annotations

from enum import IntEnum

from shellwego.core.errors import ShellWeGoError


class Exit(IntEnum):
    OK = 0
    FAILED = 1  # what was asked for didn't come about: a failed deployment, a conflict, a bug
    USAGE = 2  # the command line or a value in it is wrong
    NOT_FOUND = 3
    NOT_ALLOWED = 4  # not signed in, or not permitted
    UNREACHABLE = 5  # no cloud there, or it can't serve now: the same command may succeed later
    INTERRUPTED = 130  # Ctrl-C


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "it failed: the deployment did not succeed, say",
    Exit.USAGE: "the command line, a value or a file is wrong",
    Exit.NOT_FOUND: "there is no such app, release, instance, ...",
    Exit.NOT_ALLOWED: "not signed in, or not permitted",
    Exit.UNREACHABLE: "the cloud can't be reached or can't serve now; the same command may succeed later",
    Exit.INTERRUPTED: "Ctrl-C; what runs in the cloud goes on",
}

_BY_CODE = {
    "invalid_field": Exit.USAGE,
    "invalid_request": Exit.USAGE,
    "bad_request": Exit.USAGE,
    "too_large": Exit.USAGE,
    "not_found": Exit.NOT_FOUND,
    "unauthenticated": Exit.NOT_ALLOWED,
    "forbidden": Exit.NOT_ALLOWED,
    "cannot_reach": Exit.UNREACHABLE,
    "not_a_cloud": Exit.UNREACHABLE,
}


def exit_of(error: ShellWeGoError) -> Exit:
    return _BY_CODE.get(error.code, Exit.UNREACHABLE if error.retryable else Exit.FAILED)
