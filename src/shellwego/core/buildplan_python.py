"""How is a Python source built, and what does it run?

With the packages of requirements.txt or pyproject.toml; its web process is looked for in the files that people put it
in.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from shellwego.core.apps import WEB
from shellwego.core.buildplan_parts import (
    PYTHON_BASE,
    BuildKind,
    BuildPlan,
    copy_manifest,
    copy_source,
    image_command,
    joined,
    text_of,
)
from shellwego.core.errors import InvalidField

_PIP = "pip install --root-user-action=ignore --disable-pip-version-check --progress-bar=off"
_PIP_CACHE = "--mount=type=cache,target=/root/.cache/pip"


def read_pyproject(files: Mapping[str, bytes | None]) -> dict[str, Any] | None:
    """pyproject.toml, if it describes a project: many sources keep only a linter's settings there."""
    if "pyproject.toml" not in files:
        return None
    try:
        found = tomllib.loads(text_of(files, "pyproject.toml"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidField("pyproject.toml", str(error)) from error
    tool = found.get("tool")
    describes = "project" in found or "build-system" in found or (isinstance(tool, dict) and "poetry" in tool)
    project = found.get("project", {})
    if not isinstance(project, dict):
        raise InvalidField("pyproject.toml", "`project` is not a table.")
    return found if describes else None


def plan_python_source(
    files: Mapping[str, bytes | None], pyproject: dict[str, Any] | None, procfile: Mapping[str, str]
) -> BuildPlan:
    """By requirements.txt, else by `pyproject`. Raises InvalidField when nothing says how to start it."""
    notes: list[str] = []
    lines = [f"FROM {PYTHON_BASE}", "ENV PYTHONUNBUFFERED=1", "WORKDIR /app"]
    copied = False
    if "requirements.txt" in files:
        text = text_of(files, "requirements.txt")
        needed = _requirement_names(text.splitlines())
        manifests = _other_requirements(text, files)
        if manifests is None:  # It installs from the source itself.
            lines.append(copy_source("app:app"))
            copied = True
        else:
            lines.extend(copy_manifest(path) for path in ("requirements.txt", *manifests))
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
            lines.append(copy_source("app:app"))
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
        lines.append(copy_source("app:app"))
        if pyproject is not None and "requirements.txt" not in files and "build-system" in pyproject:
            lines.append(f"RUN {_PIP_CACHE} {_PIP} --no-deps .")
    lines.extend(("USER app", "ENV PORT=8080", image_command(processes)))
    return BuildPlan(BuildKind.PYTHON, joined(lines), processes, tuple(notes))


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
        text = text_of(files, path) if path in files else ""
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
