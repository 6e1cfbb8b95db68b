"""How is a Node source built, and what does it run?

With the packages of its lock file; by its start script or main file, or as the static site that its build writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from shellwego.core.apps import WEB
from shellwego.core.buildplan_parts import (
    NODE_BASE,
    STATIC_BASE,
    BuildKind,
    BuildPlan,
    copy_manifest,
    copy_source,
    image_command,
    joined,
    text_of,
)
from shellwego.core.errors import InvalidField

_NPM_CACHE = "--mount=type=cache,target=/root/.npm"

_STATIC_BUILDERS = (
    # (package that builds a site, the folder that it writes)
    ("vite", "dist"),
    ("react-scripts", "build"),
    ("@vue/cli-service", "dist"),
    ("astro", "dist"),
    ("parcel", "dist"),
    ("@11ty/eleventy", "_site"),
    ("gatsby", "public"),
)


def plan_node_source(files: Mapping[str, bytes | None], procfile: Mapping[str, str]) -> BuildPlan:
    """By package.json. Raises InvalidField when nothing says how to start it."""
    package = _read_package(files)
    scripts = package.get("scripts") if isinstance(package.get("scripts"), dict) else {}
    assert isinstance(scripts, dict)
    notes: list[str] = []
    install, prune, manifests = _node_install(files, notes)
    builds = "build" in scripts
    lines = [f"FROM {NODE_BASE}" + (" AS built" if builds else ""), "WORKDIR /app"]
    lines.append(copy_manifest(*manifests))
    lines.append(f"RUN {_NPM_CACHE} {install[builds]} && chown node:node /app")
    lines.append(copy_source("node:node"))
    if builds:
        lines.append("RUN npm run build")
        notes.append("`npm run build` runs after the dependencies are installed.")
    processes = dict(procfile)
    if WEB not in processes:
        site = _static_output(package) if builds and "start" not in scripts else None
        if site is not None and not processes:
            lines.extend((f"FROM {STATIC_BASE}", f"COPY --from=built --chown=app:app /app/{site} /srv/www"))
            notes.append(f"No start script: what the build writes to {site}/ is served as a static site.")
            return BuildPlan(BuildKind.NODE, joined(lines), {}, tuple(notes))
        command = _node_start(files, package, scripts)
        if command is None and not processes:
            raise InvalidField(
                "source",
                "is Node, but nothing says how to start it: package.json has no start script and no main file, and "
                "there is no server.js, index.js or app.js. Add `"
                '"scripts": {"start": "node server.js"}` to package.json, or a Procfile.',
            )
        if command is not None:
            processes[WEB] = command
            notes.append(f"No Procfile names a web process, so it is `{command}`.")
    if builds:
        lines.append(f"RUN {prune}")
    lines.extend(("ENV NODE_ENV=production PORT=8080", "USER node", image_command(processes)))
    return BuildPlan(BuildKind.NODE, joined(lines), processes, tuple(notes))


def _node_install(files: Mapping[str, bytes | None], notes: list[str]) -> tuple[tuple[str, str], str, tuple[str, ...]]:
    """((install for running, install for building), what removes the latter's extras, files to copy first)."""
    for lock in ("npm-shrinkwrap.json", "package-lock.json"):
        if lock in files:
            notes.append(f"Node, with exactly the packages of {lock}.")
            extra = (".npmrc",) if ".npmrc" in files else ()
            return ("npm ci --omit=dev", "npm ci"), "npm prune --omit=dev", ("package.json", lock, *extra)
    for lock, tool in (("pnpm-lock.yaml", "pnpm@10"), ("yarn.lock", "yarn@1.22.22")):
        if lock in files:
            notes.append(f"Node, with exactly the packages of {lock}.")
            run = f"npx --yes {tool} install --frozen-lockfile"
            # Neither tool takes development packages away again without asking the network; they stay.
            return (f"{run} --prod", run), "true", ("package.json", lock)
    notes.append("Node, without a lock file: each build may get other packages. Commit package-lock.json.")
    return ("npm install --omit=dev", "npm install"), "npm prune --omit=dev", ("package.json",)


def _node_start(files: Mapping[str, bytes | None], package: dict[str, Any], scripts: dict[str, Any]) -> str | None:
    if "start" in scripts:
        return "npm start"
    main = package.get("main")
    if isinstance(main, str) and main.removeprefix("./") in files and _is_plain_path(main):
        return f"node {main}"
    return next((f"node {path}" for path in ("server.js", "index.js", "app.js") if path in files), None)


def _static_output(package: dict[str, Any]) -> str | None:
    named = {
        name
        for key in ("dependencies", "devDependencies")
        if isinstance(package.get(key), dict)
        for name in package[key]
    }
    return next((folder for name, folder in _STATIC_BUILDERS if name in named), None)


def _read_package(files: Mapping[str, bytes | None]) -> dict[str, Any]:
    try:
        found = json.loads(text_of(files, "package.json"))
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise InvalidField("package.json", f"is not JSON: {error}", line=line) from error
    if not isinstance(found, dict):
        raise InvalidField("package.json", "is not a JSON object.")
    return found


def _is_plain_path(path: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_./-]+", path) is not None and not path.startswith("-")
