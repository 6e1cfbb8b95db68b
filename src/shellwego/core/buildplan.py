"""How is this source built, and what does it run?

Its own Dockerfile says, where there is one; else its language's own files do (requirements.txt or pyproject.toml,
package.json, index.html), and we write the Dockerfile. A Procfile names the process types in every case. Pure: the
caller reads the files (`WANTED`), the builder builds what comes out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from shellwego.core.buildplan_node import plan_node_source
from shellwego.core.buildplan_parts import DEBIAN_BASE, STATIC_BASE, copy_source, image_command, joined, text_of
from shellwego.core.buildplan_parts import BuildKind as BuildKind
from shellwego.core.buildplan_parts import BuildPlan as BuildPlan
from shellwego.core.buildplan_python import plan_python_source, read_pyproject
from shellwego.core.errors import InvalidField
from shellwego.core.procfile import RELEASE_PROCESS, parse_procfile

WANTED = (
    "Dockerfile",
    "Containerfile",
    "Procfile",
    "requirements.txt",
    "pyproject.toml",
    "manage.py",
    "app.py",
    "main.py",
    "wsgi.py",
    "asgi.py",
    "server.py",
    "application.py",
    "package.json",
)
"""Files of the source's top folder whose content decides; of all others only the names do."""

_STATIC_ROOTS = ("", "public/", "dist/", "build/", "_site/", "www/")
KNOWN_BY = (
    *("Dockerfile", "Containerfile", "requirements.txt", "pyproject.toml", "package.json", "Procfile"),
    *(f"{root}index.html" for root in _STATIC_ROOTS),
)
"""A folder with one of these is an app's source, as a rule."""


def plan_build(
    files: Mapping[str, bytes | None], *, dockerfile: str | None = None, processes: Mapping[str, str] | None = None
) -> BuildPlan:
    """
    The plan for a source. `files` has every path of the source, relative, with `/`; the content where `WANTED`.
    `dockerfile` is the path of the one to use, if the developer chose one; `processes` are commands from elsewhere
    (shellwego.toml, the command line), which win over the Procfile's.
    Raises InvalidField, saying what was looked for and what to add.
    """
    procfile = parse_procfile(text_of(files, "Procfile")) if "Procfile" in files else {}
    procfile.update(processes or {})
    plan = _plan(files, dockerfile, procfile)
    if RELEASE_PROCESS not in procfile:
        return plan
    # Whoever comes from where it is run would believe that the database had been migrated.
    note = f"NOT RUN: the `{RELEASE_PROCESS}:` line. Once deployed: shellwego exec NAME -- {procfile[RELEASE_PROCESS]}"
    return dataclasses.replace(plan, notes=(*plan.notes, note))


def _plan(files: Mapping[str, bytes | None], dockerfile: str | None, procfile: dict[str, str]) -> BuildPlan:
    if dockerfile is not None and dockerfile not in files:
        raise InvalidField("build.dockerfile", f"There is no {dockerfile!r} in the source.")
    for name in ("Dockerfile", "Containerfile") if dockerfile is None else (dockerfile,):
        if name in files:
            return BuildPlan(BuildKind.DOCKERFILE, text_of(files, name), procfile, (f"Built as {name} says.",))
    pyproject = read_pyproject(files)
    if "requirements.txt" in files or pyproject is not None:
        plan = plan_python_source(files, pyproject, procfile)
        if "package.json" in files:
            note = "package.json was not used. To build with both Python and Node, add a Dockerfile."
            plan = BuildPlan(plan.kind, plan.dockerfile, plan.processes, (*plan.notes, note))
        return plan
    if "package.json" in files:
        return plan_node_source(files, procfile)
    for root in _STATIC_ROOTS:
        if f"{root}index.html" in files:
            return _plan_static(root.rstrip("/"), procfile)
    if procfile:
        lines = (
            f"FROM {DEBIAN_BASE}",
            "WORKDIR /app",
            copy_source("root:root"),
            "USER nobody",
            image_command(procfile),
        )
        note = "Only a Procfile was found: its commands run on plain Debian."
        return BuildPlan(BuildKind.PROCFILE, joined(lines), procfile, (note,))
    shown = ", ".join(sorted({path.split("/", 1)[0] for path in files})[:8])
    raise InvalidField(
        "source",
        "Nothing in its top folder says how to build it. Looked for Dockerfile, requirements.txt, pyproject.toml, "
        f"package.json, index.html and Procfile; found {shown or 'no file at all'}. Add one of them, or deploy the "
        "folder that has it.",
    )


def _plan_static(root: str, procfile: Mapping[str, str]) -> BuildPlan:
    copy = copy_source("app:app", source=f"{root}/" if root else ".", target="/srv/www/", also=("Procfile",))
    lines = [f"FROM {STATIC_BASE}", copy]
    if procfile:
        lines.append(image_command(procfile))
    note = f"A static site: the files of {root or 'the folder'} are served."
    return BuildPlan(BuildKind.STATIC, joined(lines), procfile, (note,))
