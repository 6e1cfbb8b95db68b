"""How is a source built? A wrong guess costs a developer an hour; a refusal must say what to add."""

from __future__ import annotations

import json

import pytest

from shellwego.core.buildplan import BuildKind, plan_build
from shellwego.core.dockerfiles import base_names
from shellwego.core.errors import InvalidField

FLASK = b"from flask import Flask\napp = Flask(__name__)\n"
FASTAPI = b"import fastapi\napi: fastapi.FastAPI = fastapi.FastAPI(title='x')\n"


def package(**content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("files", "kind", "web"),
    [
        pytest.param({"Dockerfile": b"FROM a\n", "requirements.txt": b""}, BuildKind.DOCKERFILE, None, id="dockerfile"),
        pytest.param(
            {"Dockerfile": b"FROM a\n", "Procfile": b"web: run\n"}, BuildKind.DOCKERFILE, "run", id="with a procfile"
        ),
        pytest.param(
            {"requirements.txt": b"flask\ngunicorn\n", "app.py": FLASK},
            BuildKind.PYTHON,
            "gunicorn --preload --bind 0.0.0.0:$PORT --workers 2 --threads 4 app:app",
            id="flask",
        ),
        pytest.param(
            {"requirements.txt": b"fastapi\n", "main.py": FASTAPI},
            BuildKind.PYTHON,
            "uvicorn --host 0.0.0.0 --port $PORT main:api",
            id="fastapi",
        ),
        pytest.param(
            {"requirements.txt": b"Django>=5\n", "manage.py": b"", "site/wsgi.py": None},
            BuildKind.PYTHON,
            "gunicorn --preload --bind 0.0.0.0:$PORT --workers 2 --threads 4 site.wsgi:application",
            id="django",
        ),
        pytest.param(
            {"requirements.txt": b"flask", "app.py": b"def create_app():\n  return 1\n"},
            BuildKind.PYTHON,
            "gunicorn --preload --bind 0.0.0.0:$PORT --workers 2 --threads 4 'app:create_app()'",
            id="flask factory",
        ),
        pytest.param({"requirements.txt": b"", "main.py": b"print()"}, BuildKind.PYTHON, "python main.py", id="script"),
        pytest.param(
            {"requirements.txt": b"", "app.py": FLASK, "Procfile": b"web: mine\n"}, BuildKind.PYTHON, "mine", id="own"
        ),
        pytest.param({"package.json": package(scripts={"start": "x"})}, BuildKind.NODE, "npm start", id="npm start"),
        pytest.param(
            {"package.json": package(main="./lib/a.js"), "lib/a.js": None}, BuildKind.NODE, "node ./lib/a.js", id="main"
        ),
        pytest.param({"package.json": package(), "index.js": None}, BuildKind.NODE, "node index.js", id="index.js"),
        pytest.param({"index.html": None}, BuildKind.STATIC, None, id="static"),
        pytest.param({"public/index.html": None}, BuildKind.STATIC, None, id="static, in public"),
        pytest.param({"Procfile": b"web: ./run\n", "run": None}, BuildKind.PROCFILE, "./run", id="procfile alone"),
        pytest.param(
            {"pyproject.toml": b"[tool.ruff]\n", "package.json": package(scripts={"start": "x"})},
            BuildKind.NODE,
            "npm start",
            id="a linter's pyproject.toml is no Python project",
        ),
    ],
)
def test_what_a_source_is_and_runs(files: dict[str, bytes | None], kind: BuildKind, web: str | None) -> None:
    plan = plan_build(files)
    assert plan.kind is kind
    assert plan.processes.get("web") == web
    assert base_names(plan.dockerfile)
    assert plan.notes


def test_a_changed_line_of_code_installs_nothing_anew() -> None:
    """Dependencies come before the source, or every deploy takes minutes."""
    plan = plan_build({"requirements.txt": b"flask\n-r more.txt\n", "more.txt": None, "app.py": FLASK})
    lines = plan.dockerfile.splitlines()
    install = next(n for n, line in enumerate(lines) if "pip install" in line)
    source = next(n for n, line in enumerate(lines) if line.endswith(" . ."))
    assert install < source
    assert any('"more.txt"' in line for line in lines[:install])
    assert "USER app" in lines[source:]


def test_what_installs_from_the_source_gets_the_source_first() -> None:
    for line in (b"-e .\n", b"./lib\n", b"x @ file:///app/x\n", b"-r sub/more.txt\n"):
        lines = plan_build({"requirements.txt": line, "app.py": FLASK, "sub/more.txt": None}).dockerfile.splitlines()
        copies = [n for n, text in enumerate(lines) if text.endswith(" . .")]
        assert copies < [n for n, text in enumerate(lines) if "pip install" in text]


def test_pyproject_dependencies_are_a_layer_of_their_own() -> None:
    text = (
        b'[build-system]\nrequires = ["hatchling"]\n'
        b'[project]\nname = "x"\ndependencies = ["flask>=3; python_version>\'3\'"]\n'
    )
    plan = plan_build({"pyproject.toml": text, "app.py": FLASK})
    assert "flask>=3; python_version>'3'\nREQUIREMENTS\n" in plan.dockerfile
    assert "pip install" in plan.dockerfile
    assert "--no-deps ." in plan.dockerfile


def test_a_dependency_cannot_break_out_of_the_dockerfile() -> None:
    text = b'[project]\nname = "x"\ndependencies = ["a\\nREQUIREMENTS\\nRUN evil"]\n'
    assert "evil" not in plan_build({"pyproject.toml": text, "app.py": FLASK}).dockerfile


def test_a_missing_server_is_installed_and_said() -> None:
    plan = plan_build({"requirements.txt": b"flask\n", "app.py": FLASK})
    assert "-r requirements.txt gunicorn" in plan.dockerfile
    assert any("gunicorn" in note for note in plan.notes)
    assert (
        "requirements.txt gunicorn"
        not in plan_build({"requirements.txt": b"Flask\ngunicorn[x]\n", "app.py": FLASK}).dockerfile
    )


@pytest.mark.parametrize(
    ("lock", "command"),
    [
        ("package-lock.json", "npm ci --omit=dev"),
        ("pnpm-lock.yaml", "pnpm@10 install --frozen-lockfile --prod"),
        ("yarn.lock", "yarn@1.22.22 install --frozen-lockfile --prod"),
        ("none", "npm install --omit=dev"),
    ],
)
def test_a_lock_file_is_kept_to(lock: str, command: str) -> None:
    plan = plan_build({"package.json": package(scripts={"start": "x"}), lock: None})
    assert command in plan.dockerfile


def test_a_site_that_is_built_is_served_from_a_small_image() -> None:
    plan = plan_build({"package.json": package(scripts={"build": "vite build"}, devDependencies={"vite": "5"})})
    assert plan.processes == {}
    assert "COPY --from=built --chown=app:app /app/dist /srv/www" in plan.dockerfile
    assert base_names(plan.dockerfile) == ("shellwego/base-node", "shellwego/base-static")


def test_a_build_script_has_its_tools_and_the_image_has_not() -> None:
    plan = plan_build({"package.json": package(scripts={"build": "b", "start": "s"}), "package-lock.json": None})
    text = plan.dockerfile
    assert text.index("npm ci &&") < text.index("npm run build") < text.index("npm prune --omit=dev")


@pytest.mark.parametrize(
    ("files", "field", "told"),
    [
        pytest.param({}, "source", "no file at all", id="nothing"),
        pytest.param({"main.go": None, "src/x": None}, "source", "found main.go, src", id="unknown"),
        pytest.param({"requirements.txt": b"", "lib.py": None}, "source", "Add a Procfile", id="no web process"),
        pytest.param({"package.json": b"{}"}, "source", "start script", id="no start"),
        pytest.param({"package.json": b"{\n x"}, "package.json", "line 2", id="bad JSON"),
        pytest.param({"package.json": b"[]"}, "package.json", "object", id="no object"),
        pytest.param({"pyproject.toml": b"[x"}, "pyproject.toml", "", id="bad TOML"),
        pytest.param({"Dockerfile": b"\xff"}, "Dockerfile", "UTF-8", id="not text"),
        pytest.param({"Dockerfile": None}, "Dockerfile", "regular file", id="a link"),
        pytest.param({"index.html": None, "Procfile": b"x"}, "Procfile", "line 1", id="bad Procfile"),
    ],
)
def test_a_refusal_says_what_to_do(files: dict[str, bytes | None], field: str, told: str) -> None:
    with pytest.raises(InvalidField) as error:
        plan_build(files)
    assert error.value.field == field
    assert told in str(error.value)


def test_commands_from_elsewhere_win() -> None:
    files = {"requirements.txt": b"", "lib.py": None, "Procfile": b"web: old\nworker: w\n"}
    plan = plan_build(files, processes={"web": "new"})
    assert plan.processes == {"web": "new", "worker": "w"}


@pytest.mark.parametrize("more", [{"requirements.txt": b""}, {"Dockerfile": b"FROM a\n"}])
def test_a_release_line_that_is_not_run_is_said_loudly(more: dict[str, bytes | None]) -> None:
    """On the platforms that Procfiles come from it migrates the database; nobody may believe that it did here."""
    plan = plan_build({**more, "Procfile": b"web: w\nrelease: ./migrate --all\n"})
    assert plan.notes[-1] == "NOT RUN: the `release:` line. Once deployed: shellwego exec NAME -- ./migrate --all"
    assert not any("NOT RUN" in note for note in plan_build({**more, "Procfile": b"web: w\n"}).notes)


def test_another_dockerfile_can_be_chosen() -> None:
    files = {"Dockerfile": b"FROM a\n", "docker/prod": b"FROM b\n"}
    assert plan_build(files, dockerfile="docker/prod").dockerfile == "FROM b\n"
    with pytest.raises(InvalidField):
        plan_build(files, dockerfile="docker/test")
