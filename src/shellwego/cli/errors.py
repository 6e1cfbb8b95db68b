"""How is an error told to a person? What is wrong, which field, what to do next; on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shellwego.core.errors import InvalidField, ShellWeGoError

if TYPE_CHECKING:
    from shellwego.cli.output import Output


class NoCloud(ShellWeGoError):
    """Nothing says which cloud is meant."""

    code = "invalid_request"

    def __init__(self, local_hint: str = "") -> None:
        self.local_hint = local_hint
        super().__init__("Which cloud? None was named, and you are signed in to none.")


class Failed(ShellWeGoError):
    """What was asked for did not come about. `details` are lines to print below, `next_steps` commands to type."""

    code = "failed"

    def __init__(self, problem: str, *, details: tuple[str, ...] = (), next_steps: tuple[str, ...] = ()) -> None:
        self.details, self.next_steps = details, next_steps
        super().__init__(problem)


def explain(error: ShellWeGoError, output: Output) -> None:
    output.say(f"Error: {_what(error)}", style="bold red", prose=True)
    for line in _details(error):
        output.say(f"  {line}")
    for step in _next_steps(error):
        output.say(f"  → {step}")


def _what(error: ShellWeGoError) -> str:
    if isinstance(error, InvalidField) and error.line is None:
        return f"{_flag(error.field)}: {error.problem}"
    return str(error)


def _details(error: ShellWeGoError) -> list[str]:
    from shellwego.client.errors import Refused

    if isinstance(error, Failed):
        return list(error.details)
    if not isinstance(error, Refused):
        return []
    problem = error.problem
    lines = []
    for field in problem.errors:
        where = field.field if field.line is None else f"line {field.line}: {field.field}"
        line = f"{_flag(where)}: {field.problem}"
        if field.problem not in problem.detail:
            lines.append(line)
    if problem.status >= 500 and problem.request_id:
        lines.append(f"request {problem.request_id}")
    return lines


def _next_steps(error: ShellWeGoError) -> list[str]:
    from shellwego.client.errors import CannotReach, NotACloud, Refused, SessionLost

    if isinstance(error, NoCloud):
        steps = [
            "shellwego auth login --url URL  (signs in, once)",
            "export SHELLWEGO_URL=... SHELLWEGO_TOKEN=...  (for scripts)",
        ]
        return (
            [*error.local_hint.splitlines(), *steps]
            if error.local_hint
            else [*steps, "shellwego up  (starts one on this machine)"]
        )
    if isinstance(error, Failed):
        return list(error.next_steps)
    if isinstance(error, SessionLost):
        return [f"shellwego auth login --url {error.url}"]
    if isinstance(error, CannotReach):
        if error.sent:
            return ["It may have arrived all the same. The same command can be given again."]
        return [
            "Is that the right address? --url URL or SHELLWEGO_URL names another.",
            "On the cloud's own machine: `shellwego up` starts it, `shellwego doctor` says what is amiss.",
        ]
    if isinstance(error, NotACloud):
        return ["Is that the URL of the API, and not of an app? --url URL or SHELLWEGO_URL names another."]
    if isinstance(error, Refused):
        return _after_refusal(error.code, str(error))
    return []


def _after_refusal(code: str, said: str) -> list[str]:
    match code:
        case "unauthenticated" if "auth login" not in said:
            return ["shellwego auth login  (or set SHELLWEGO_TOKEN to a token that is valid)"]
        case "not_found" if " app " in said:
            return ["shellwego apps list"]
        case "forbidden":
            return ["shellwego auth status  (says who you are)"]
        case _:
            return []


_FLAGS = {
    "resources.memory_mib": "--memory",
    "resources.cpu_millis": "--cpu",
    "resources.pids": "--pids",
    "resources.disk_mib": "--disk",
    "health.path": "--health-path",
    "health.interval_seconds": "--health-interval",
    "health.timeout_seconds": "--health-timeout",
    "health.start_period_seconds": "--health-start-period",
    "health.retries": "--health-retries",
    "grace_seconds": "--grace",
    "image": "--image",
    "build.dockerfile": "--dockerfile",
    "port": "--port",
    "name": "--name",
}


def _flag(field: str) -> str:
    """A field of the API by the flag that sets it."""
    flag = _FLAGS.get(field.removeprefix("body."))
    return f"{field} ({flag})" if flag else field
