"""What can go wrong between a client and a cloud?

What the cloud refuses arrives as a problem document and is raised as Refused, with the cloud's own code and words.
What never reached it, or came back as something else, is raised as CannotReach or NotACloud, naming the URL.
"""

from __future__ import annotations

from shellwego.core.errors import ShellWeGoError
from shellwego.protocol.public import Problem


class Refused(ShellWeGoError):
    """The cloud said no. `problem` is its whole answer; `code` and `retryable` are those it gave."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.code = problem.code
        self.retryable = problem.retryable
        super().__init__(problem.detail or problem.title)

    @property
    def status(self) -> int:
        return self.problem.status


class CannotReach(ShellWeGoError):
    """No answer: refused, unknown host, untrusted certificate, cut off. `sent` says whether it may have arrived."""

    code = "cannot_reach"
    retryable = True

    def __init__(self, url: str, why: str, *, sent: bool = False) -> None:
        self.url, self.why, self.sent = url, why, sent
        super().__init__(f"{url} can't be reached: {why}")


class NotACloud(ShellWeGoError):
    """Something answered that isn't this API: another server, a proxy's error page, a captive portal."""

    code = "not_a_cloud"

    def __init__(self, url: str, status: int, what: str) -> None:
        self.url, self.status = url, status
        super().__init__(f"{url} answered {status}, but not as a ShellWeGo cloud does{': ' + what if what else ''}.")


class SessionLost(ShellWeGoError):
    """The stored session can't be renewed any more."""

    code = "unauthenticated"

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__("Your session has ended.")
