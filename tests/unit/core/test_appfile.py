"""The app's own file: a slip in it is refused with its line, and what it says is what is deployed."""

from __future__ import annotations

import tomllib
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellwego.core.appfile import (
    AppFile,
    AppFileRefused,
    BuildWish,
    HealthWish,
    ProcessWish,
    ResourcesWish,
    overlaid,
    parse_appfile,
)
from shellwego.core.appfile_keys import FILE, Table, file_schema
from shellwego.core.health import CheckKind
from shellwego.core.toml_lines import KeyPath, find_lines

WHOLE = """\
name = "shop"
port = 3000
runtime = "gvisor"
grace_seconds = 20

[processes]
web = "gunicorn app:app"
worker = { command = ["python", "worker.py"], resources = { memory = "1g" } }

[processes.clock]
command = "python clock.py"
health.command = "test -f /tmp/alive"
health.retries = 5

[scale]
web = 2

[health]
path = "/health"
interval_seconds = 2.5

[resources]
memory = "256m"
cpu = 0.5

[env]
MODE = "production"

[build]
dockerfile = "deploy/Dockerfile"
target = "final"
args = { VERSION = "3" }
secrets = ["NPM_TOKEN"]
"""


def test_every_key_is_understood() -> None:
    assert parse_appfile(WHOLE) == AppFile(
        name="shop",
        port=3000,
        runtime="gvisor",
        grace_seconds=20.0,
        processes={
            "web": ProcessWish("gunicorn app:app"),
            "worker": ProcessWish(("python", "worker.py"), None, ResourcesWish(memory_mib=1024)),
            "clock": ProcessWish(
                "python clock.py", HealthWish(CheckKind.COMMAND, command="test -f /tmp/alive", retries=5)
            ),
        },
        scale={"web": 2},
        health=HealthWish(CheckKind.HTTP, path="/health", interval_seconds=2.5),
        resources=ResourcesWish(memory_mib=256, cpu_millis=500),
        env={"MODE": "production"},
        build=BuildWish("deploy/Dockerfile", "final", {"VERSION": "3"}, ("NPM_TOKEN",)),
    )


def test_an_empty_file_says_nothing() -> None:
    assert parse_appfile("") == AppFile()


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ('nam = "x"', 1, "nam", "Did you mean 'name'"),
        ('name = "Shop!"', 1, "name", "not an app name"),
        ("\n\n[helth]\npath = '/'", 3, "helth", "Did you mean 'health'"),
        ("[health]\npath = '/'\n# hm\ninterval = 3", 4, "health.interval", "Did you mean 'interval_seconds'"),
        ("[health]\npath = 'health'", 2, "health.path", "must start with '/'"),
        ("[health]\npath = '/'\ntcp = true", 3, "health.tcp", "can't stand beside 'path'"),
        ("[health]\ntcp = false", 2, "health.tcp", "can only be true"),
        ("[health]\nretries = 0", 2, "health.retries", "out of range: 1 to 100"),
        ("[health]\nretries = true", 2, "health.retries", "whole number"),
        ("[health]\ntimeout_seconds = '3'", 2, "health.timeout_seconds", "without quotes"),
        ("[health]\ntimeout_seconds = nan", 2, "health.timeout_seconds", "out of range"),
        ("[resources]\nmemory = 'lots'", 2, "resources.memory", "not a size"),
        ("[resources]\nmemory = '1k'", 2, "resources.memory", "out of range: 16m"),
        ("[resources]\ncpu = true", 2, "resources.cpu", "number of cores"),
        ("[resources]\nram = '1g'", 2, "resources.ram", "Did you mean 'memory'"),
        ("memory = '1g'", 1, "memory", "belongs in [resources]"),
        ("[env]\nA = 'x'\n[resources]\nport = 80", 4, "resources.port", "belongs at the top of the file"),
        ("[env]\nA = 'x'\nPORT = '80'", 3, "env.PORT", "set by ShellWeGo itself"),
        ("[env]\nA = 1", 2, "env.A", 'Write "1" in quotes'),
        ("[env]\n'A B' = 'x'", 2, "env.A B", "not a variable name"),
        ("[processes]\nWeb = 'x'", 2, "processes.Web", "not a process type"),
        ("[processes]\nweb = 3", 2, "processes.web", "must be a command"),
        ("[processes.web]\ncommand = 'x'\nhealth = { pth = '/' }", 3, "processes.web.health.pth", "mean 'path'"),
        ("[processes]\nweb = {\n command = 'x', healthcheck = 1 }", None, "syntax", ""),
        ("[[processes]]\nname = 'web'", 1, "processes", "must be a table"),
        ("processes = 'web'", 1, "processes", "must be a table"),
        ("[scale]\nweb = 101", 2, "scale.web", "out of range: 0 to 100"),
        ("[build]\nsecrets = 'X'", 2, "build.secrets", "list of strings"),
        ("[build]\nno_cache = 'yes'", 2, "build.no_cache", "true or false"),
        ("runtime = 'docker'", 1, "runtime", "must be one of gvisor"),
        ("port = 0", 1, "port", "out of range"),
        ("port = 99999999999999999999", 1, "port", "out of range"),
        ("a = 1\nb = = 2", 2, "syntax", "not TOML"),
        ("name = 'a'\nname = 'b'", 2, "syntax", "Cannot overwrite"),
        ("name = ", 1, "syntax", "Invalid value"),
        ("replicas = 2", 1, "replicas", "Did you mean 'scale'"),
        ("volumes = 2", 1, "volumes", "Its keys are: name,"),
    ],
)
def test_a_slip_is_refused_with_its_line(text: str, line: int | None, field: str, says: str) -> None:
    with pytest.raises(AppFileRefused) as caught:
        parse_appfile(text)
    assert caught.value.field == field
    assert says in caught.value.problem
    if line is not None:
        assert caught.value.line == line
        assert f"line {line}: {field}" in str(caught.value)


def test_all_slips_are_told_at_once_in_the_order_of_their_lines() -> None:
    with pytest.raises(AppFileRefused) as caught:
        parse_appfile("prt = 1\n[health]\nretries = 0\n[env]\nA = 1\n[build]\nx = 1")
    assert [problem.line for problem in caught.value.problems] == [1, 3, 5, 7]
    assert str(caught.value).count("\n") == 3


def test_a_hostile_file_is_refused_and_not_crashed_on() -> None:
    for text in ("x = " + "[" * 20_000, "[" + ".".join("a" * 50_000) + "]", "\x00", "a" * 300_000):
        with pytest.raises(AppFileRefused):
            parse_appfile(text)


def test_a_byte_order_mark_of_a_windows_editor_is_no_error() -> None:
    assert parse_appfile('\ufeffname = "a"\r\nport = 80\r\n') == AppFile(name="a", port=80)


class TestOverlaid:
    def test_a_flag_wins_and_the_rest_of_the_file_stays(self) -> None:
        file = parse_appfile(WHOLE)
        flags = AppFile(
            name="other",
            processes={"web": ProcessWish("flask run")},
            health=HealthWish(retries=9),
            resources=ResourcesWish(memory_mib=512),
            env={"DEBUG": "1"},
            build=BuildWish(args={"VERSION": "4"}, secrets=("PIP_TOKEN",)),
        )
        both = overlaid(file, flags)
        assert (both.name, both.port) == ("other", 3000)
        assert both.processes["web"].command == "flask run"
        assert both.processes["worker"] == file.processes["worker"]
        assert both.health == HealthWish(CheckKind.HTTP, path="/health", interval_seconds=2.5, retries=9)
        assert both.resources == ResourcesWish(memory_mib=512, cpu_millis=500)
        assert both.env == {"MODE": "production", "DEBUG": "1"}
        assert both.build == BuildWish("deploy/Dockerfile", "final", {"VERSION": "4"}, ("NPM_TOKEN", "PIP_TOKEN"))

    def test_another_kind_of_check_forgets_the_path_of_the_old(self) -> None:
        both = overlaid(parse_appfile(WHOLE), AppFile(health=HealthWish(CheckKind.TCP)))
        assert both.health == HealthWish(CheckKind.TCP, interval_seconds=2.5)

    def test_no_flags_change_nothing(self) -> None:
        assert overlaid(parse_appfile(WHOLE), AppFile()) == parse_appfile(WHOLE)
        assert overlaid(AppFile(), parse_appfile(WHOLE)) == parse_appfile(WHOLE)


class TestLines:
    def test_quotes_comments_and_multi_line_strings_do_not_shift_lines(self) -> None:
        text = (
            '# [no]\na = """\nx = 1\n\\"""\n""" # c\n"b.c" . d = \'\'\'\n[z]\'\'\'\n'
            'list = [ # c\n  1,\n  {k = "]"},\n]\n[[t]]\nx=1\n[[t]]\nx=2\n[t.u]\nv=1979-05-27 07:32:00\n'
            'q = """two quotes: """"" # end\nr = ""\n'
        )
        tomllib.loads(text)
        lines = find_lines(text)
        expected: dict[KeyPath, int] = {
            ("a",): 2,
            ("b.c",): 6,
            ("b.c", "d"): 6,
            ("list",): 8,
            ("list", 0): 9,
            ("list", 1): 10,
            ("list", 1, "k"): 10,
            ("t",): 12,
            ("t", 0): 12,
            ("t", 0, "x"): 13,
            ("t", 1): 14,
            ("t", 1, "x"): 15,
            ("t", 1, "u"): 16,
            ("t", 1, "u", "v"): 17,
            ("t", 1, "u", "q"): 18,
            ("t", 1, "u", "r"): 19,
        }
        assert lines == expected

    @given(st.data())
    def test_the_walk_sees_the_same_keys_as_the_parser(self, data: st.DataObject) -> None:
        """If it didn't, somebody would be told a wrong line, or be given a crash."""
        text = data.draw(_documents())
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            return  # A table named twice, say: never walked.
        assert set(find_lines(text)) == set(_paths(document))


def _paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: set[KeyPath] = {path} if path else set()
    for key, inner in items:
        found |= _paths(inner, (*path, key))
    return found


@st.composite
def _documents(draw: st.DrawFn) -> str:
    key = st.sampled_from(["a", "b", '"a b"', "'c.d'", '"\\u00e9"', "a . b", "1"])
    scalar = st.sampled_from(
        [
            "1",
            "-1.5e3",
            "true",
            '""',
            "''",
            '"#\\""',
            "'[x]'",
            '"""\n\'\'\'\\\n  """',
            "'''\n\"\"\"'''",
            '""""q"""""',
            "inf",
            "1979-05-27 07:32:00",
        ]
    )
    value = st.recursive(
        scalar,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda items: "[ " + ",\n # ,]\n".join(items) + " ]"),
            st.lists(inner, max_size=3).map(
                lambda items: "{" + ", ".join(f"k{n}.x = {item}" for n, item in enumerate(items)) + "}"
            ),
        ),
        max_leaves=6,
    )
    header = st.one_of(key.map("[{}]".format), key.map("[[ {} ]]".format))
    pair = st.builds("{} = {}".format, key, value)
    lines = draw(st.lists(st.one_of(header, pair, st.just("# [x]"), st.just("")), max_size=12))
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines)


class TestSchema:
    def test_the_schema_is_a_schema_and_accepts_what_we_accept(self) -> None:
        schema = file_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(tomllib.loads(WHOLE), schema)

    @pytest.mark.parametrize(
        "text", ["nam = 'x'", "[health]\nretries = 0", "[scale]\nweb = -1", "[health]\npath = 'x'", "port = 0"]
    )
    def test_the_schema_refuses_what_we_refuse(self, text: str) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tomllib.loads(text), file_schema())

    def test_every_key_says_what_it_is_for(self) -> None:
        def check(table: Table) -> None:
            for name, key in table.keys.items():
                assert key.about, name
                if isinstance(key.shape, Table):
                    check(key.shape)

        check(FILE)
