"""What can go wrong, as facts that a program can tell apart and a person can act on?

One base, one class per reason. `code` is stable and documented (docs/reference/errors.md); `retryable` says
whether the same request may succeed later without anybody changing it. How an error is shown (an HTTP status,
an exit code) is decided elsewhere.
"""

from __future__ import annotations


class ShellWeGoError(Exception):
    """Base of every expected refusal. The message is for people: what is wrong, then what to do."""

    code: str = "internal"
    retryable: bool = False


class InvalidField(ShellWeGoError):
    """A value that can't be accepted. `field` is a path such as `resources.memory`; `line` counts from 1."""

    code = "invalid_field"

    def __init__(self, field: str, problem: str, *, line: int | None = None) -> None:
        self.field, self.problem, self.line = field, problem, line
        where = field if line is None else f"line {line}: {field}"
        super().__init__(f"{where}: {problem}")


class NotFound(ShellWeGoError):
    """No such object that the caller may see. Another organisation's object is just as absent."""

    code = "not_found"

    def __init__(self, kind: str, reference: str) -> None:
        self.kind, self.reference = kind, reference
        super().__init__(f"There is no {kind} {reference!r} here.")


class AlreadyExists(ShellWeGoError):
    """A name that is taken. Host names are shared by the whole cloud, so another tenant may hold it."""

    code = "already_exists"

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        super().__init__(f"The {kind} name {name!r} is taken. Choose another.")


class Conflict(ShellWeGoError):
    """The object is in a state that doesn't allow this now."""

    code = "conflict"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)


class ImageNotKept(ShellWeGoError):
    """A rollback to an image that was built here and has made room since."""

    code = "image_not_kept"

    def __init__(self, release: str) -> None:
        self.release = release
        super().__init__(f"The image of {release} was built here and is no longer kept. Deploy its source again.")


class Unauthenticated(ShellWeGoError):
    """No credential, or one that isn't valid (any more)."""

    code = "unauthenticated"

    def __init__(self, problem: str = "Sign in first: `shellwego auth login`.") -> None:
        super().__init__(problem)


class Forbidden(ShellWeGoError):
    """The caller is known and may not do this. Never used for another organisation's objects: those are 404."""

    code = "forbidden"

    def __init__(self, needs: str) -> None:
        self.needs = needs
        super().__init__(f"This needs {needs}.")


class TooLarge(ShellWeGoError):
    """More bytes, entries or characters than the limit."""

    code = "too_large"

    def __init__(self, what: str, *, limit: int, unit: str = "bytes") -> None:
        self.what, self.limit, self.unit = what, limit, unit
        super().__init__(f"{what} is over the limit of {limit} {unit}.")


class TooManyRequests(ShellWeGoError):
    """The caller asks more often than allowed."""

    code = "too_many_requests"
    retryable = True

    def __init__(self, *, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"Too many requests. Try again in {retry_after_seconds} s.")


class NoCapacity(ShellWeGoError):
    """
    No node has room for the instance. `never` says that none is large enough, so that waiting can't help; `none_ready`
    that room isn't what is missing.
    """

    code = "no_capacity"
    retryable = True

    def __init__(
        self,
        *,
        needed_mib: int,
        largest_free_mib: int,
        needed_millis: int = 0,
        largest_free_millis: int = 0,
        never: bool = False,
        none_ready: bool = False,
    ) -> None:
        self.never = never
        self.needed_mib, self.largest_free_mib = needed_mib, largest_free_mib
        self.needed_millis, self.largest_free_millis = needed_millis, largest_free_millis
        if largest_free_mib >= needed_mib and largest_free_millis < needed_millis:
            needed, free, option = f"{needed_millis / 1000:g} cores", f"{largest_free_millis / 1000:g}", "--cpu"
        else:
            needed, free, option = f"{needed_mib} MiB", f"{largest_free_mib} MiB", "--memory"
        if never:
            super().__init__(f"Needs {needed} on one node; the largest has {free}. Ask for less with {option}.")
            return
        if none_ready:
            super().__init__("No node can take an instance now; the operator reads why in `shellwego status`.")
            return
        super().__init__(
            f"Needs {needed} on one node; the emptiest has {free} free. "
            f"Ask for less with {option}, or scale another app down."
        )


class NodeUnavailable(ShellWeGoError):
    """The node that holds the instance is not connected now."""

    code = "node_unavailable"
    retryable = True

    def __init__(self, node: str) -> None:
        self.node = node
        super().__init__(f"Node {node} is not connected. Its apps go on running; try again when it is back.")


class Unavailable(ShellWeGoError):
    """A part that the request needs doesn't answer (the database, say)."""

    code = "unavailable"
    retryable = True

    def __init__(self, part: str, problem: str) -> None:
        self.part, self.problem = part, problem
        super().__init__(f"{part} doesn't answer: {problem}")


class IdempotencyMismatch(ShellWeGoError):
    """An Idempotency-Key was used before with another request (draft-ietf-httpapi-idempotency-key-header)."""

    code = "idempotency_mismatch"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used with another request. Use a new key.")


class ImageNotFound(ShellWeGoError):
    """The registry has no such image, or doesn't show it to us."""

    code = "image_not_found"

    def __init__(self, reference: str, why: str = "") -> None:
        self.reference = reference
        super().__init__(
            f"Image {reference!r} was not found{': ' + why if why else ''}. Check its name, tag and access."
        )


class ImageRefused(ShellWeGoError):
    """An image that breaks a rule (digest, size, type, unsafe archive). Nothing of it was kept."""

    code = "image_refused"

    def __init__(self, reference: str, why: str) -> None:
        self.reference, self.why = reference, why
        super().__init__(f"Image {reference!r} was refused: {why}")


class RegistryUnavailable(ShellWeGoError):
    """The registry doesn't answer, is too slow, or says that it is overloaded."""

    code = "registry_unavailable"
    retryable = True

    def __init__(self, registry: str, why: str) -> None:
        self.registry, self.why = registry, why
        super().__init__(f"Registry {registry} can't serve the image now: {why}")


class BuildFailed(ShellWeGoError):
    """The build of a source ended without an image. `last_lines` are the end of its log."""

    code = "build_failed"

    def __init__(self, why: str, last_lines: tuple[str, ...] = ()) -> None:
        self.why, self.last_lines = why, last_lines
        super().__init__(f"The build failed: {why}")


class StartFailed(ShellWeGoError):
    """A sandbox could not be started. Retrying helps only if the host changes."""

    code = "start_failed"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class EngineMissing(ShellWeGoError):
    """A program that ShellWeGo stands on isn't installed or is too old."""

    code = "engine_missing"

    def __init__(self, engine: str, problem: str) -> None:
        self.engine, self.problem = engine, problem
        super().__init__(f"{engine}: {problem} Run `shellwego engines install`; `shellwego doctor` tells more.")


class DiskFull(ShellWeGoError):
    """The node's disk has no room. Nothing that existed was harmed."""

    code = "disk_full"
    retryable = True

    def __init__(self, doing: str) -> None:
        self.doing = doing
        super().__init__(f"No space left on the node's disk while {doing}. Free some space; it is tried again.")
