"""How does a person watch a deployment to its end, and what is said when it ends?

The build's log and each step go to stderr as they come; on a terminal a line below says what is going on and for how
long. The end is told by the deployment itself, never guessed: why it failed, with the app's last words, and what
serves now.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from shellwego.cli.errors import Failed
from shellwego.cli.here import Here
from shellwego.cli.output import printable
from shellwego.core.deployments import DeploymentKind, DeploymentState

if TYPE_CHECKING:
    from shellwego.client import Cloud
    from shellwego.protocol.public import Deployment, DeploymentEvent


_ENDS = frozenset(state.value for state in DeploymentState if state.is_terminal)


async def follow(here: Here, cloud: Cloud, deployment: Deployment, app: str) -> Deployment:
    """Show it to its end and return it as it ended. Ctrl-C leaves it going, and says so."""
    here.if_interrupted = (
        f"The deployment goes on in the background.\n"
        f"  → shellwego deployments follow {app} {deployment.id}\n"
        f"  → shellwego deployments cancel {app} {deployment.id}"
    )
    built = False
    with busy(here, "waiting for its turn") as tell:
        told = ""
        async for event in cloud.deployments.follow(app, deployment.id):
            built = built or event.kind == "build_log"
            if event.kind == "finished" and event.deployment is not None:
                deployment = event.deployment
                continue
            told = _show(here, event, tell, told)
    if not deployment.state.is_terminal:  # An old server's last word without the deployment.
        deployment = await cloud.deployments.get(app, deployment.id)
    here.if_interrupted = ""
    if built and here.output.for_people and not deployment.release:
        deployment = deployment.model_copy(update={"last_lines": []})  # Of the build's log, which stands right above.
    return deployment


def check_succeeded(deployment: Deployment, app: str) -> None:
    """Raises Failed with the reason, the last lines of the log, and what serves now."""
    if deployment.state is DeploymentState.SUCCEEDED:
        return
    serving = (
        f"{deployment.previous_release} goes on serving."
        if deployment.previous_release
        else f"{app} has no earlier release, so nothing serves."
    )
    undo = () if deployment.previous_release else (f"shellwego apps delete {app}  (if you don't want it)",)
    match deployment.state:
        case DeploymentState.CANCELLED:
            raise Failed(f"The deployment of {app} was cancelled. {serving}", next_steps=undo)
        case DeploymentState.SUPERSEDED:
            raise Failed(
                f"The deployment of {app} was taken over by a newer one.",
                next_steps=(f"shellwego deployments list {app}",),
            )
        case _:
            if not deployment.previous_release:
                serving += " Mend it and deploy again."
            lines = tuple(deployment.last_lines)
            # Without a release, or a place to run, there was nothing that could have logged anything.
            look = f"logs {app}" if deployment.release else f"deployments get {app}"
            if deployment.code == "no_capacity":
                look = "nodes list"
            raise Failed(
                f"The deployment of {app} failed: {deployment.reason or 'no reason was given.'}",
                details=(*(("Last lines of its log:", *(f"  {line}" for line in lines)) if lines else ()), serving),
                next_steps=(f"shellwego {look}", *undo),
            )


def outcome(deployment: Deployment, app: str, *, took: str = "") -> str:
    """What there is to say of one that succeeded. `took` is ` in 25 s`, where that is worth a word."""
    if deployment.release == deployment.previous_release and deployment.kind is not DeploymentKind.RESTART:
        return f"{app} {deployment.release} runs exactly this already. Nothing was restarted."
    return f"{app} {deployment.release} is live{took}."


@contextlib.contextmanager
def busy(here: Here, doing: str) -> Iterator[Callable[[str], None]]:
    """A moving line on a terminal while we wait; nothing in a pipe. Gives what changes its words."""
    console = here.output.talk
    if not console.is_terminal or not here.output.for_people:
        yield lambda words: None
        return
    # Only here, since who sees no moving line shall not wait for its import.
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
        console=console, transient=True, refresh_per_second=8,
    )  # fmt: skip
    with progress:
        task = progress.add_task(doing)
        yield lambda words: progress.update(task, description=printable(words)[: max(10, console.width - 14)])


def _show(here: Here, event: DeploymentEvent, tell: Callable[[str], None], told: str) -> str:
    """Print what is new; `told` is the last step printed, so that none is printed twice."""
    if event.kind == "build_log":
        # At once: each `say` draws the moving line anew, and a chatty build has a hundred thousand lines.
        here.output.say("\n".join(f"  {line}" for line in event.text.rstrip("\n").split("\n")), style="dim")
        return told
    words = event.text
    if not words and event.deployment is not None:
        words = event.deployment.step or event.deployment.state.value
    if words.partition(":")[0] in _ENDS:
        return told  # The deployment itself says it at the end, with more.
    if words and words != told:
        here.output.say(f"• {words}", prose=True)
        tell(words)
        return words
    return told
