"""How is this source built, and what does it run?

Its own Dockerfile says, where there is one; else its language's own files do (requirements.txt or pyproject.toml,
package.json, index.html), and we write the Dockerfile. A Procfile names the process types in every case. Pure: the
caller reads the files (`WANTED`), the builder builds what comes out.

What we write is what a careful person would: dependencies before the source, so that a changed line of code installs
nothing anew; a cache mount for the package manager; no root at run time.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shellwego.core.apps import WEB
from shellwego.core.errors import InvalidField
from shellwego.core.procfile import parse_procfile

PYTHON_BASE = "shellwego/base-python"
NODE_BASE = "shellwego/base-node"
STATIC_BASE = "shellwego/base-static"
DEBIAN_BASE = "shellwego/base-debian"

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

_EXCLUDED = ("**/.git", "**/node_modules", "**/.venv", "**/venv", "**/__pycache__", "**/*.pyc", "shellwego.toml")
"""What a source folder holds beside the source. `shellwego.toml` may name values that are nobody's business."""

_PIP = "pip install --root-user-action=ignore --disable-pip-version-check --progress-bar=off"
_PIP_CACHE = "--mount=type=cache,target=/root/.cache/pip"
_NPM_CACHE = "--mount=type=cache,target=/root/.npm"


class BuildKind(StrEnum):
    DOCKERFILE = "dockerfile"
    PYTHON = "python"
    NODE = "node"
    STATIC = "static"
    PROCFILE = "procfile"


RELEASE = "release"
"""A Procfile's command to run once before a release serves, by the custom it comes from."""


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """
    `dockerfile` is its text. `processes` maps a process type to its command, for `sh -c` in the image; when it is
    empty, the image's own command is the web process. `notes` tell the developer what was decided and why.
    """

    kind: BuildKind
    dockerfile: str
    processes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def plan_build(
    files: Mapping[str, bytes | None], *, dockerfile: str | None = None, processes: Mapping[str, str] | None = None
) -> BuildPlan:
    """
    The plan for a source. `files` has every path of the source, relative, with `/`; the content where `WANTED`.
    `dockerfile` is the path of the one to use, if the developer chose one; `processes` are commands from elsewhere
    (shellwego.toml, the command line), which win over the Procfile's.
    Raises InvalidField, saying what was looked for and what to add.
    """
    procfile = parse_procfile(_text(files, "Procfile")) if "Procfile" in files else {}
    procfile.update(processes or {})
    plan = _plan(files, dockerfile, procfile)
    if RELEASE not in procfile:
        return plan
    # Whoever comes from where it is run would believe that the database had been migrated.
    note = f"NOT RUN: the `{RELEASE}:` line. Once deployed: shellwego exec NAME -- {procfile[RELEASE]}"
    return dataclasses.replace(plan, notes=(*plan.notes, note))


def _plan(files: Mapping[str, bytes | None], dockerfile: str | None, procfile: dict[str, str]) -> BuildPlan:
    if dockerfile is not None and dockerfile not in files:
        raise InvalidField("build.dockerfile", f"There is no {dockerfile!r} in the source.")
    for name in ("Dockerfile", "Containerfile") if dockerfile is None else (dockerfile,):
        if name in files:
            return BuildPlan(BuildKind.DOCKERFILE, _text(files, name), procfile, (f"Built as {name} says.",))
    pyproject = _read_pyproject(files)
    if "requirements.txt" in files or pyproject is not None:
        plan = _plan_python(files, pyproject, procfile)
        if "package.json" in files:
            note = "package.json was not used. To build with both Python and Node, add a Dockerfile."
            plan = BuildPlan(plan.kind, plan.dockerfile, plan.processes, (*plan.notes, note))
        return plan
    if "package.json" in files:
        return _plan_node(files, procfile)
    for root in ("", "public/", "dist/", "build/", "_site/", "www/"):
        if f"{root}index.html" in files:
            return _plan_static(root.rstrip("/"), procfile)
    if procfile:
        lines = (f"FROM {DEBIAN_BASE}", "WORKDIR /app", _copy("root:root"), "USER nobody", _command(procfile))
        note = "Only a Procfile was found: its commands run on plain Debian."
        return BuildPlan(BuildKind.PROCFILE, _joined(lines), procfile, (note,))
    shown = ", ".join(sorted({path.split("/", 1)[0] for path in files})[:8])
    raise InvalidField(
        "source",
        "Nothing in its top folder says how to build it. Looked for Dockerfile, requirements.txt, pyproject.toml, "
        f"package.json, index.html and Procfile; found {shown or 'no file at all'}. Add one of them, or deploy the "
        "folder that has it.",
    )


def _plan_python(
    files: Mapping[str, bytes | None], pyproject: dict[str, Any] | None, procfile: Mapping[str, str]
) -> BuildPlan:
    notes: list[str] = []
    lines = [f"FROM {PYTHON_BASE}", "ENV PYTHONUNBUFFERED=1", "WORKDIR /app"]
    copied = False
    if "requirements.txt" in files:
        text = _text(files, "requirements.txt")
        needed = _requirement_names(text.splitlines())
        manifests = _other_requirements(text, files)
        if manifests is None:  # It installs from the source itself.
            lines.append(_copy("app:app"))
            copied = True
        else:
            lines.extend(_copy_manifest(path) for path in ("requirements.txt", *manifests))
        install = f"{_PIP} -r requirements.txt"
        notes.append("Python, with the packages of requirements.txt.")
    else:
        assert pyproject is not None
        listed = pyproject.get("project", {}).get("dependencies")
        dependencies = [item for item in listed if isinstance(item, str)] if isinstance(listed, list) else None
        needed = _requirement_names(
            dependencies or [*pyproject.get("tool", {}).get("poetry", {}).get("dependencies", {})]
        )
        notes.append("Python, with the dependencies of pyproject.toml.")
        if dependencies is not None and all(_is_plain(item) for item in dependencies):
            lines.append("COPY <<'REQUIREMENTS' /tmp/requirements.txt")
            lines.extend((*dependencies, "REQUIREMENTS"))
            install = f"{_PIP} -r /tmp/requirements.txt"
        else:
            lines.append(_copy("app:app"))
            copied = True
            install = f"{_PIP} ."
    processes = dict(procfile)
    server = None
    if WEB not in processes:
        found = _python_web(files, needed)
        if found is None and not processes:
            raise InvalidField(
                "source",
                "is Python, but nothing says how to start it: no Flask, FastAPI, Starlette or Django app was found in "
                "app.py, main.py, wsgi.py, asgi.py, server.py, application.py or manage.py. Add a Procfile with a line "
                "such as `web: gunicorn --bind 0.0.0.0:$PORT package.module:app`.",
            )
        if found is not None:
            processes[WEB], server = found
            notes.append(f"No Procfile names a web process, so it is `{processes[WEB]}`.")
    if server is not None and server not in needed:
        install += f" {server}"
        notes.append(f"{server} is not among the dependencies; the newest is installed. Add it to choose its version.")
    lines.append(f"RUN {_PIP_CACHE} {install} && chown app:app /app")
    if not copied:
        lines.append(_copy("app:app"))
        if pyproject is not None and "requirements.txt" not in files and "build-system" in pyproject:
            lines.append(f"RUN {_PIP_CACHE} {_PIP} --no-deps .")
    lines.extend(("USER app", "ENV PORT=8080", _command(processes)))
    return BuildPlan(BuildKind.PYTHON, _joined(lines), processes, tuple(notes))


_FRAMEWORKS = (
    # (package, constructor, server, command). The first one whose constructor stands in a file is it.
    ("fastapi", "FastAPI", "uvicorn", "uvicorn --host 0.0.0.0 --port $PORT {target}"),
    ("starlette", "Starlette", "uvicorn", "uvicorn --host 0.0.0.0 --port $PORT {target}"),
    ("quart", "Quart", "uvicorn", "uvicorn --host 0.0.0.0 --port $PORT {target}"),
    (
        "flask",
        "Flask",
        "gunicorn",
        "gunicorn --preload --bind 0.0.0.0:$PORT --workers 2 --threads 4 {target}",
    ),
)
_GUNICORN = _FRAMEWORKS[-1][3]
_SCRIPTS = ("app.py", "main.py", "server.py", "application.py")


def _python_web(files: Mapping[str, bytes | None], needed: frozenset[str]) -> tuple[str, str | None] | None:
    """(command, the server it needs or None) of the web process, by looking into the files people put it in."""
    if "manage.py" in files and "django" in needed:
        for path in sorted(files):
            if path.count("/") == 1 and path.endswith("/wsgi.py"):
                return _GUNICORN.format(target=f"{path.split('/')[0]}.wsgi:application"), "gunicorn"
    for path in ("app.py", "main.py", "wsgi.py", "asgi.py", "server.py", "application.py"):
        text = _text(files, path) if path in files else ""
        module = path.removesuffix(".py")
        for _, constructor, server, command in _FRAMEWORKS:
            match = re.search(rf"^(\w+)\s*(?::[^=\n]+)?=\s*(?:\w+\.)?{constructor}\(", text, re.MULTILINE)
            if match is not None:
                return command.format(target=f"{module}:{match[1]}"), server
        if "flask" in needed and re.search(r"^def create_app\(\s*\)", text, re.MULTILINE):
            return _GUNICORN.format(target=f"'{module}:create_app()'"), "gunicorn"
        match = re.search(r"^(app|application)\s*(?::[^=\n]+)?=", text, re.MULTILINE)
        if match is not None and "gunicorn" in needed:
            return _GUNICORN.format(target=f"{module}:{match[1]}"), "gunicorn"
    for path in _SCRIPTS:
        if path in files:
            return f"python {path}", None
    return None


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


def _plan_node(files: Mapping[str, bytes | None], procfile: Mapping[str, str]) -> BuildPlan:
    package = _read_package(files)
    scripts = package.get("scripts") if isinstance(package.get("scripts"), dict) else {}
    assert isinstance(scripts, dict)
    notes: list[str] = []
    install, prune, manifests = _node_install(files, notes)
    builds = "build" in scripts
    lines = [f"FROM {NODE_BASE}" + (" AS built" if builds else ""), "WORKDIR /app"]
    lines.append(_copy_manifest(*manifests))
    lines.append(f"RUN {_NPM_CACHE} {install[builds]} && chown node:node /app")
    lines.append(_copy("node:node"))
    if builds:
        lines.append("RUN npm run build")
        notes.append("`npm run build` runs after the dependencies are installed.")
    processes = dict(procfile)
    if WEB not in processes:
        site = _static_output(package) if builds and "start" not in scripts else None
        if site is not None and not processes:
            lines.extend((f"FROM {STATIC_BASE}", f"COPY --from=built --chown=app:app /app/{site} /srv/www"))
            notes.append(f"No start script: what the build writes to {site}/ is served as a static site.")
            return BuildPlan(BuildKind.NODE, _joined(lines), {}, tuple(notes))
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
    lines.extend(("ENV NODE_ENV=production PORT=8080", "USER node", _command(processes)))
    return BuildPlan(BuildKind.NODE, _joined(lines), processes, tuple(notes))


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


def _plan_static(root: str, procfile: Mapping[str, str]) -> BuildPlan:
    copy = _copy("app:app", source=f"{root}/" if root else ".", target="/srv/www/", also=("Procfile",))
    lines = [f"FROM {STATIC_BASE}", copy]
    if procfile:
        lines.append(_command(procfile))
    note = f"A static site: the files of {root or 'the folder'} are served."
    return BuildPlan(BuildKind.STATIC, _joined(lines), procfile, (note,))


def _copy(owner: str, *, source: str = ".", target: str = ".", also: tuple[str, ...] = ()) -> str:
    excluded = " ".join(f"--exclude={pattern}" for pattern in (*_EXCLUDED, *also))
    return f"COPY --chown={owner} {excluded} {source} {target}"


def _copy_manifest(*paths: str) -> str:
    folder = paths[0].rpartition("/")[0]
    return "COPY " + json.dumps([*paths, f"./{folder}/" if folder else "./"])


def _command(processes: Mapping[str, str]) -> str:
    """The image's own command, so that it also runs where nobody knows about process types."""
    command = processes.get(WEB) or next(iter(processes.values()))
    return "CMD " + json.dumps(["/bin/sh", "-c", command])


def _joined(lines: list[str] | tuple[str, ...]) -> str:
    return "\n".join(lines) + "\n"


def _text(files: Mapping[str, bytes | None], path: str) -> str:
    content = files.get(path)
    if content is None:
        raise InvalidField(path, "is not a regular file, or larger than a file of its kind may be.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidField(path, "is not UTF-8 text.", line=content[: error.start].count(b"\n") + 1) from error


def _read_pyproject(files: Mapping[str, bytes | None]) -> dict[str, Any] | None:
    """pyproject.toml, if it describes a project: many sources keep only a linter's settings there."""
    if "pyproject.toml" not in files:
        return None
    try:
        found = tomllib.loads(_text(files, "pyproject.toml"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidField("pyproject.toml", str(error)) from error
    tool = found.get("tool")
    describes = "project" in found or "build-system" in found or (isinstance(tool, dict) and "poetry" in tool)
    project = found.get("project", {})
    if not isinstance(project, dict):
        raise InvalidField("pyproject.toml", "`project` is not a table.")
    return found if describes else None


def _read_package(files: Mapping[str, bytes | None]) -> dict[str, Any]:
    try:
        found = json.loads(_text(files, "package.json"))
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise InvalidField("package.json", f"is not JSON: {error}", line=line) from error
    if not isinstance(found, dict):
        raise InvalidField("package.json", "is not a JSON object.")
    return found


_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


def _requirement_names(lines: list[str]) -> frozenset[str]:
    """Normalised names (PEP 503) of plain requirements."""
    matches = (_NAME.match(line) for line in lines)
    return frozenset(re.sub(r"[-_.]+", "-", match[1]).lower() for match in matches if match is not None)


def _other_requirements(text: str, files: Mapping[str, bytes | None]) -> tuple[str, ...] | None:
    """Files that requirements.txt includes and pip needs with it; None when it installs from the source itself."""
    found: list[str] = []
    for line in _logical_lines(text):
        match = re.fullmatch(r"(?:-r|-c|--requirement|--constraint)(?:\s+|=)(\S+)", line)
        if match is not None:
            path = match[1].removeprefix("./")
            if path not in files or "/" in path:
                return None
            found.append(path)
        elif line.startswith(("-e", "--editable", ".", "/", "file:")) or " @ file:" in line:
            return None
    # An included file may include others; copying every one that is named alike covers what people do.
    if found:
        found.extend(p for p in sorted(files) if re.fullmatch(r"(?:requirements|constraints)[\w.-]*\.(?:txt|in)", p))
    return tuple(path for path in dict.fromkeys(found) if path != "requirements.txt")


def _logical_lines(text: str) -> Iterator[str]:
    for raw in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(?:^|\s)#.*$", "", raw).strip()
        if line:
            yield line


def _is_plain(dependency: str) -> bool:
    """Whether a dependency can stand as a line of a requirements file inside a here-document."""
    return (
        dependency.isprintable() and not dependency.startswith(("-", "REQUIREMENTS")) and " @ file:" not in dependency
    )


def _is_plain_path(path: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_./-]+", path) is not None and not path.startswith("-")
