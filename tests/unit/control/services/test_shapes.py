"""What the next release looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellwego.control.services.shapes import Found, check_shape, shell_or_words, wanted_replicas, wanted_spec
from shellwego.control.store.records import ReleaseSpec
from shellwego.control.store.release_specs import spec_from_json, spec_to_json
from shellwego.core.apps import Resources
from shellwego.core.errors import InvalidField
from shellwego.core.health import CheckKind, HealthCheck
from shellwego.core.releases import ProcessType

names = st.sampled_from(["web", "worker", "clock", "release"])
health = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["http", "tcp", "command", "none"]),
        "path": st.just("/up"),
        "command": st.just(["true"]),
        "retries": st.integers(1, 9),
    },
)
resources = st.fixed_dictionaries({}, optional={"memory_mib": st.integers(16, 999), "cpu_millis": st.integers(10, 999)})
shapes = st.fixed_dictionaries(
    {}, optional={"command": st.sampled_from(["", "run", ["a", "b"]]), "health": health, "resources": resources}
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "processes": st.dictionaries(names, shapes, min_size=1),
        "health": health,
        "resources": resources,
        "port": st.integers(1, 65535),
        "runtime": st.just("runc"),
        "grace_seconds": st.floats(0, 60),
    },
)
found = st.builds(
    Found,
    commands=st.dictionaries(names, st.sampled_from(["serve", "work"])),
    exposed_ports=st.lists(st.integers(1, 65535), max_size=3),
)


def spec(*processes: ProcessType, **more: object) -> ReleaseSpec:
    return ReleaseSpec(processes=processes or (ProcessType(),), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("base", "request_", "found_", "new_image", "expected"),
    [
        pytest.param(
            None, {}, Found(), True, spec(port_found=True), id="an image that says nothing serves web on 8080"
        ),
        pytest.param(
            None,
            {},
            Found(exposed_ports=(443, 80)),
            True,
            spec(port=80, port_found=True),
            id="nginx says where it listens",
        ),
        pytest.param(
            None, {"port": 3000}, Found(exposed_ports=(80,)), True, spec(port=3000), id="what is asked for wins"
        ),
        pytest.param(
            spec(port=3000),
            {},
            Found(exposed_ports=(80,)),
            True,
            spec(port=3000),
            id="a port that was asked for outlives the image",
        ),
        pytest.param(
            spec(port=5000, port_found=True),
            {},
            Found(exposed_ports=(80,)),
            True,
            spec(port=80, port_found=True),
            id="a port that was found does not",
        ),
        pytest.param(
            spec(ProcessType(command=("/bin/sh", "-c", "gunicorn")), commands_found=True),
            {},
            Found(),
            True,
            spec(),
            id="nor does a command of a Procfile",
        ),
        pytest.param(
            spec(ProcessType(command=("serve",))),
            {},
            Found(),
            True,
            spec(ProcessType(command=("serve",))),
            id="a command that was asked for stays",
        ),
        pytest.param(
            spec(ProcessType(command=("x",)), ProcessType("worker")),
            {"processes": {"web": {}}},
            Found(),
            False,
            spec(ProcessType(command=("x",))),
            id="naming process types leaves the others out",
        ),
        pytest.param(
            spec(),
            {"health": {"path": "/up"}},
            Found(),
            False,
            spec(ProcessType(health=HealthCheck(CheckKind.HTTP, "/up"))),
            id="a path means HTTP",
        ),
    ],
)
def test_table(base, request_, found_, new_image, expected):
    assert wanted_spec(base, request_, found_, new_image=new_image) == expected


@given(requests, found)
def test_asking_for_nothing_changes_nothing(request, facts):
    """A restart, or a change of the configuration, must not move a port or a limit."""
    base = wanted_spec(None, request, facts, new_image=True)
    assert wanted_spec(base, {}, Found(), new_image=False) == base


@given(requests, requests, found)
def test_what_is_asked_for_is_what_one_gets(before, request, facts):
    base = wanted_spec(None, before, facts, new_image=True)
    made = wanted_spec(base, request, Found(), new_image=False)
    if "port" in request:
        assert made.port == request["port"]
    for name, shape in request.get("processes", {}).items():
        process = made.process(name)
        assert process is not None
        if "command" in shape:
            assert process.command == shell_or_words(shape["command"])
        for field, amount in shape.get("resources", {}).items():
            assert getattr(process.resources, field) == amount


@given(requests, found)
def test_every_process_type_is_there_once_and_survives_the_database(request, facts):
    made = wanted_spec(None, request, facts, new_image=True)
    assert len({p.name for p in made.processes}) == len(made.processes) > 0
    assert spec_from_json(spec_to_json(made)) == made


@given(requests, found)
def test_only_web_is_ever_asked_over_the_network(request, facts):
    """A worker listens on nothing: a TCP check would restart it for ever."""
    try:
        check_shape(request)
    except InvalidField:
        return
    for process in wanted_spec(None, request, facts, new_image=True).processes:
        assert process.name == "web" or process.health.kind in {CheckKind.COMMAND, CheckKind.NONE}


def test_new_process_types_start_with_one_instance_but_a_release_command_with_none():
    made = spec(ProcessType("web"), ProcessType("worker"), ProcessType("release"))
    assert wanted_replicas(made, {"web": 3}, {}) == {"worker": 1, "release": 0}
    assert wanted_replicas(made, {"web": 3}, {"replicas": {"web": 5}}) == {"worker": 1, "release": 0, "web": 5}
    with pytest.raises(InvalidField, match="web, worker, release"):
        wanted_replicas(made, {}, {"replicas": {"clock": 1}})


def test_amounts_not_named_stay():
    base = spec(ProcessType(resources=Resources(memory_mib=64, cpu_millis=100)))
    made = wanted_spec(base, {"resources": {"cpu_millis": 200}}, Found(), new_image=False)
    assert made.processes[0].resources == Resources(memory_mib=64, cpu_millis=200)
