"""What does the reference page on configuration say? Fields, defaults and limits are read off the code.

What each field, variable and directory is for stands here in words. A field or variable without words fails the run,
and so the test that checks the pages.
"""

from __future__ import annotations

import json

import msgspec
from reference_pages import WRITTEN

from shellwego.control.services.wishes import OPERATOR_RUNTIMES, TENANT_RUNTIMES
from shellwego.core import apps
from shellwego.processes.cloud import Identity

_FIELDS = {
    "cloud": "Who this cloud is. Made at the first start and never changed.",
    "domain": "`--domain`. Apps answer at `NAME.DOMAIN`. Fixed at the first start.",
    "bind": "`--bind`. The address that the proxy listens on.",
    "api_port": "`--api-port`. Plain HTTP, for the API alone.",
    "http_port": "`--http-port`. The proxy.",
    "https_port": "`--https-port`. The proxy, with TLS.",
    "database_url": "`--database-url`. Null is the SQLite file in the data directory.",
    "extra_ca": "`--extra-ca`. A PEM file that is read at each start.",
    "api_bind": "`--api-bind`. The address of the API's own port, which speaks plain HTTP.",
    "allowed_networks": "`--allow-network`. Private networks that apps and builds may reach; the machine only "
    "by its own address.",
    "insecure_registries": "`--insecure-registry`. Registries that are spoken to over plain HTTP.",
    "trusted_proxies": "`--trusted-proxy`. Networks of load balancers whose `X-Forwarded-...` headers are believed.",
    "build_seconds": "`--build-timeout`. The longest that a build may take.",
    "build_memory_mib": "`--build-memory`. Memory of one build.",
    "build_disk_mib": "`--build-disk`. Disk of one organisation's builds.",
    "build_cache_mib": "`--build-cache`. What is kept between builds of one organisation.",
}

_VARIABLES = (
    ("SHELLWEGO_URL", "command line", "The cloud's API. Goes before the last login."),
    ("SHELLWEGO_TOKEN", "command line", "An API token. Goes before the last login."),
    ("SHELLWEGO_CA", "command line", "A PEM file of authorities to trust as well."),
    ("SHELLWEGO_OUTPUT", "command line", "`table`, `json` or `yaml`, as `-o`."),
    ("SHELLWEGO_REGISTRY_PASSWORD", "command line", "The password that belongs to `deploy --registry-user`."),
    ("NO_COLOR", "command line", "Set to anything: no colours."),
    ("SHELLWEGO_DATA_DIR", "the cloud's machine", "As `--data-dir`."),
    ("SHELLWEGO_DATABASE_URL", "the cloud's machine", "As `up --database-url`."),
    ("SHELLWEGO_ENGINES_DIR", "the cloud's machine", "Where engines are built and looked for."),
    ("PORT", "instances of `web`", "The port to listen on, on every address."),
    *((name, "every instance", about) for name, about in (
        ("SHELLWEGO_APP", "The app's name."),
        ("SHELLWEGO_INSTANCE", "The instance's id."),
        ("SHELLWEGO_RELEASE", "The release, as `v3`."),
        ("SHELLWEGO_PROCESS", "The process type, as `web`."),
    )),
)  # fmt: skip

_PLACES = (
    ("DIR", "The data directory: `/var/lib/shellwego`, or `--data-dir`. Mode 0700."),
    ("DIR/cloud.json", "The settings above."),
    ("DIR/admin-token, DIR/admin-password", "The first operator's secrets, made at the first start. Mode 0600."),
    ("DIR/secret.key", "The key that encrypts configuration values and build secrets. Without it they are lost."),
    ("DIR/server/", "The SQLite database, the key that signs sessions, uploaded sources, build logs."),
    ("DIR/images/", "Every image that is in use: what was built here exists nowhere else."),
    ("DIR/agent/", "The node's id, what it should run, instances' logs and their writable layers."),
    ("DIR/edge/", "The last routes, the cloud's own authority (`ca.pem`) and its certificates."),
    ("DIR/builder/", "The build cache. May be deleted while the cloud is stopped."),
    ("DIR/logs/", "`server.log`, `agent.log`, `edge.log`, `up.log` (JSON lines) and `*.out` (what a crash printed)."),
    ("DIR/extra-ca.pem", "Authorities that builds and instances trust as well. Written at each start."),
    ("/run/shellwego/SHORT/", "Sockets, and on tmpfs what is secret of running instances."),
    ("/run/netns/swg-SHORT*", "The data plane's network namespace, and one per instance."),
    ("cgroup shellwego/SHORT/", "Limits of every instance and build."),
    ("/var/cache/shellwego/", "Built engines and base images, shared by every cloud of the machine."),
    ("~/.config/shellwego/", "On your own machine: the logins of the command line. Mode 0600."),
)


def configuration_page() -> str:
    fields = msgspec.structs.fields(Identity)
    if missing := {field.name for field in fields} ^ set(_FIELDS):
        raise SystemExit(
            f"scripts/reference_configuration.py doesn't know, or knows too much of, cloud.json: {missing}"
        )
    rows = "\n".join(f"| `{field.name}` | {_default(field)} | {_FIELDS[field.name]} |" for field in fields)
    variables = "\n".join(f"| `{name}` | {where} | {about} |" for name, where, about in _VARIABLES)
    unknown = apps.RESERVED_CONFIG - {name for name, _, _ in _VARIABLES}
    if unknown:
        raise SystemExit(f"scripts/reference_configuration.py doesn't know these variables: {unknown}")
    places = "\n".join(f"| `{place}` | {about} |" for place, about in _PLACES)
    limits = apps.Resources()
    reserved = ", ".join(f"`{name}`" for name in sorted(apps.RESERVED_NAMES))
    tenants = ", ".join(f"`{name}`" for name in sorted(TENANT_RUNTIMES))
    operators = ", ".join(f"`{name}`" for name in sorted(OPERATOR_RUNTIMES - TENANT_RUNTIMES))
    return f"""# Configuration

{WRITTEN} What an app may say of itself is on [its own page](shellwego-toml.md).

## A cloud: `DIR/cloud.json`

Written by `shellwego up`: an option that was given once holds for the next start too. While the cloud is stopped, the
file may be edited, except for `cloud` and `domain`.

| field | default | what it is |
| --- | --- | --- |
{rows}

## Environment variables

| variable | read by | what it is |
| --- | --- | --- |
{variables}

## Directories and names on the host

DIR is the data directory. SHORT is the cloud's short name: the eight characters after `cld_` in `cloud.json`.

| place | what is there |
| --- | --- |
{places}

## Limits

| what | limit |
| --- | --- |
| memory of an instance, unless asked otherwise | {limits.memory_mib} MiB |
| CPU, likewise | {limits.cpu_millis / 1000:g} cores |
| processes and threads, likewise | {limits.pids} |
| its own writable files, likewise | {limits.disk_mib} MiB |
| instances of one process type | {apps.MAXIMUM_INSTANCES} |
| configuration of an app | {apps.MAXIMUM_CONFIG_BYTES // 1024} KiB altogether |
| app name | 1 to 40 of `a-z`, `0-9`, `-`; a letter first. Reserved: {reserved} |
| runtimes | everybody: {tenants}; operators as well: {operators} |
"""


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        return f"`{json.dumps(field.default)}`"
    return "none" if field.default_factory is msgspec.NODEFAULT else f"`{json.dumps(field.default_factory())}`"
