"""From wishes to the request: what was said is asked for, what wasn't stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from shellwego.client.appfiles import deployment_of
from shellwego.core.appfile import AppFile, parse_appfile
from shellwego.core.appfile_keys import BUILD, FILE, HEALTH, RESOURCES, Leaf, Table
from shellwego.core.errors import InvalidField
from shellwego.protocol.public import BuildOptions, DeploymentCreate, Health, ResourceAmounts


def asked(text: str, **more: Any) -> dict[str, Any]:
    return deployment_of(parse_appfile(text), **more).model_dump(mode="json", exclude_unset=True)


def test_only_what_was_said_is_asked_for() -> None:
    assert deployment_of(AppFile(), image="a").model_dump(exclude_unset=True) == {"image": "a"}
    assert asked("[resources]\nmemory = '1g'", image="a")["resources"] == {"memory_mib": 1024}


def test_a_whole_file_becomes_a_whole_request() -> None:
    text = """
        port = 3000
        grace_seconds = 5
        runtime = "runc"
        [processes]
        web = "serve"
        worker = { command = ["a", "b"], health = { command = "true" } }
        [scale]
        web = 2
        [health]
        path = "/up"
        [env]
        A = "1"
        [build]
        target = "x"
        secrets = ["T"]
    """
    assert asked(text, source="src_x", note="hi", environment={"T": "s3cret"}) == {
        "source": "src_x",
        "note": "hi",
        "port": 3000,
        "grace_seconds": 5.0,
        "runtime": "runc",
        "processes": {
            "web": {"command": "serve"},
            "worker": {"command": ["a", "b"], "health": {"kind": "command", "command": ["/bin/sh", "-c", "true"]}},
        },
        "replicas": {"web": 2},
        "health": {"kind": "http", "path": "/up"},
        "config": {"A": "1"},
        "build": {"target": "x", "secrets": {"T": "s3cret"}},
    }


def test_a_build_secret_that_is_not_there_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidField, match="export T="):
        asked("[build]\nsecrets = ['T']", source="src_x")


def test_an_image_is_not_built() -> None:
    assert "build" not in asked("[build]\nno_cache = true", image="a")


@pytest.mark.parametrize(
    ("table", "key", "model", "field"),
    [
        (HEALTH, "interval_seconds", Health, "interval_seconds"),
        (HEALTH, "timeout_seconds", Health, "timeout_seconds"),
        (HEALTH, "start_period_seconds", Health, "start_period_seconds"),
        (HEALTH, "retries", Health, "retries"),
        (RESOURCES, "pids", ResourceAmounts, "pids"),
        (FILE, "port", DeploymentCreate, "port"),
        (FILE, "grace_seconds", DeploymentCreate, "grace_seconds"),
    ],
)
def test_ranges_are_those_of_the_api(table: Table, key: str, model: type[BaseModel], field: str) -> None:
    """Otherwise a file that we call right is refused by the cloud after the upload."""
    leaf = table.keys[key].shape
    assert isinstance(leaf, Leaf)
    schema = model.model_json_schema()["properties"][field]
    schema = next((s for s in schema.get("anyOf", [schema]) if s.get("type") != "null"), schema)
    assert {name: leaf.schema[name] for name in ("minimum", "maximum")} == {
        name: schema[name] for name in ("minimum", "maximum")
    }


def test_sizes_and_build_options_are_those_of_the_api() -> None:
    for text, field in (("16m", "memory"), ("1048576m", "memory"), ("16m", "disk"), ("1048576m", "disk")):
        deployment_of(parse_appfile(f"[resources]\n{field} = '{text}'"), image="a")
    for cpu in (0.01, 512):
        deployment_of(parse_appfile(f"[resources]\ncpu = {cpu}"), image="a")
    assert set(BUILD.keys) == set(BuildOptions.model_fields)
