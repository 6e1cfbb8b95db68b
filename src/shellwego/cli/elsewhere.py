"""What did somebody mean who types what another platform calls it? (docs/how-to/coming-from.md)"""

from __future__ import annotations

from collections.abc import Collection

_COMMANDS = {
    "apps create NAME": ("create", "launch", "init"),
    "apps delete NAME": ("delete", "destroy", "remove", "rm"),
    "apps get NAME": ("info", "show", "report"),
    "apps list": ("list", "ls"),
    "apps restart NAME": ("restart", "ps:restart", "reload"),
    "apps start NAME": ("start", "ps:start", "resume"),
    "apps stop NAME": ("stop", "ps:stop", "suspend", "maintenance", "maintenance:on"),
    "auth login": ("login",),
    "auth logout": ("logout",),
    "config list NAME": ("env", "vars", "variables", "secrets"),
    "config set NAME KEY=VALUE": ("set", "setenv", "set-env"),
    "deploy": ("push", "redeploy", "build", "publish"),
    "exec NAME": ("ssh", "shell", "console", "bash", "enter", "run", "attach"),
    "instances list [NAME]": ("ps", "machines", "containers", "processes"),
    "logs NAME -f": ("log", "tail"),
    "releases list NAME": ("history", "versions"),
    "rollback NAME": ("revert",),
    "scale NAME web=2": ("ps:scale",),
}
HERE = {word: command for command, words in _COMMANDS.items() for word in words}
"""What is typed here, by what is typed there."""


def command_here(word: str, commands: Collection[str]) -> str | None:
    """The command for what another platform calls `word`, as one would type it; None if nothing is known."""
    if word in HERE:
        return HERE[word]
    noun, _, verb = word.partition(":")  # `config:set`, as Heroku and Dokku write it.
    if not verb or noun not in commands:
        return None
    meant = HERE.get(verb, "")
    return meant if meant.startswith(f"{noun} ") else f"{noun} {verb}"
