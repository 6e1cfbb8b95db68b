"""How do others do what our edge does? Each peer as its own documentation sets it up, on free ports of 127.0.0.1.

All serve the same hosts from the same backend with the same certificate, and every one of them that is a proxy gets
core 0; the load and the backend get core 1.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benches.measure import children
from benches.world import DOMAIN, Bench
from shellwego.kit.ports import free_ports

PROXY_CPU, LOAD_CPU = 0, 1
BODY_BYTES = 1024


class Peer(Protocol):
    """
    A proxy that serves `app0...` of DOMAIN. `add_host` asks for one more and returns when the request is made; what
    there is to do long before that belongs into `prepare`.
    """

    http_port: int
    https_port: int

    def add_host(self, host: str) -> None: ...

    def pids(self) -> list[int]:
        """Whose CPU time it takes."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """What all of them serve."""

    hosts: tuple[str, ...]
    backend_port: int
    certificate: Path
    """Key and certificate, one PEM file."""


def find_program(name: str) -> Path | None:
    """On the PATH, or where `make bench` installed it."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def hosts(count: int) -> tuple[str, ...]:
    return tuple(f"app{number}.{DOMAIN}" for number in range(count))


def start_backend(bench: Bench, haproxy: Path) -> int:
    """A server that answers from memory, faster than any proxy asks; its port."""
    (port,) = free_ports(1)
    config = bench.directory / "backend.cfg"
    config.write_text(
        "global\n    maxconn 4000\ndefaults\n    mode http\n    timeout client 1m\n    timeout http-keep-alive 1m\n"
        "    timeout connect 1s\n    timeout server 1m\n"
        f"frontend all\n    bind 127.0.0.1:{port}\n"
        f'    http-request return status 200 content-type text/plain string "{"x" * BODY_BYTES}"\n'
    )
    bench.spawn((haproxy, "-db", "-f", config), cpu=LOAD_CPU, output="backend")
    return port


class BareHAProxy:
    """One static backend and nothing else: what the engine of our edge can do."""

    def __init__(self, bench: Bench, site: Site, haproxy: Path) -> None:
        self.http_port, self.https_port = free_ports(2)
        config = bench.directory / "bare.cfg"
        config.write_text(
            "global\n    maxconn 4000\ndefaults\n    mode http\n    timeout client 1m\n    timeout connect 1s\n"
            "    timeout server 1m\n    timeout http-keep-alive 1m\n"
            f"frontend all\n    bind 127.0.0.1:{self.http_port}\n"
            f"    bind 127.0.0.1:{self.https_port} ssl crt {site.certificate}\n"
            "    default_backend one\n"
            f"backend one\n    server s 127.0.0.1:{site.backend_port}\n"
        )
        self._process = bench.spawn((haproxy, "-db", "-f", config), cpu=PROXY_CPU, output="bare")

    def pids(self) -> list[int]:
        return [self._process.pid]

    def add_host(self, host: str) -> None:
        raise NotImplementedError


class Traefik:
    """The file provider, which watches a directory."""

    def __init__(self, bench: Bench, site: Site, program: Path) -> None:
        self.http_port, self.https_port = free_ports(2)
        self._site, self._hosts = site, list(site.hosts)
        directory = _fresh(bench.directory / "traefik")
        self._dynamic = _fresh(directory / "dynamic") / "all.yml"
        self._write()
        static = directory / "traefik.yml"
        static.write_text(
            json.dumps(  # JSON is YAML too.
                {
                    "entryPoints": {
                        "http": {"address": f"127.0.0.1:{self.http_port}"},
                        "https": {"address": f"127.0.0.1:{self.https_port}"},
                    },
                    "providers": {
                        # Two seconds by default, which would be all that one measures.
                        "providersThrottleDuration": "1ms",
                        "file": {"directory": str(self._dynamic.parent), "watch": True},
                    },
                    "log": {"level": "ERROR"},
                    "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
                }
            )
        )
        self._process = bench.spawn((program, f"--configFile={static}"), cpu=PROXY_CPU, output="traefik")

    def pids(self) -> list[int]:
        return [self._process.pid]

    def add_host(self, host: str) -> None:
        self._hosts.append(host)
        self._write()

    def _write(self) -> None:
        routers: dict[str, object] = {}
        for number, host in enumerate(self._hosts):
            plain = {"rule": f"Host(`{host}`)", "service": "one"}
            routers[f"http{number}"] = {**plain, "entryPoints": ["http"]}
            routers[f"https{number}"] = {**plain, "entryPoints": ["https"], "tls": {}}
        pem = str(self._site.certificate)
        new = self._dynamic.parent.parent / "new.yml"
        new.write_text(
            json.dumps(
                {
                    "http": {
                        "routers": routers,
                        "services": {
                            "one": {
                                "loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{self._site.backend_port}"}]}
                            }
                        },
                    },
                    "tls": {"certificates": [{"certFile": pem, "keyFile": pem}]},
                }
            )
        )
        new.rename(self._dynamic)


class Caddy:
    """The admin API."""

    def __init__(self, bench: Bench, site: Site, program: Path) -> None:
        self.http_port, self.https_port, self._admin = free_ports(3)
        self._site = site
        pem = str(site.certificate)
        routes = [self._route(host) for host in site.hosts]
        quiet = {"automatic_https": {"disable": True}}
        config = {
            "admin": {"listen": f"127.0.0.1:{self._admin}", "config": {"persist": False}},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "apps": {
                "http": {
                    "servers": {
                        "http": {"listen": [f"127.0.0.1:{self.http_port}"], "routes": routes, **quiet},
                        "https": {
                            "listen": [f"127.0.0.1:{self.https_port}"],
                            "routes": routes,
                            # wrk greets with an address for a name; Caddy then looks for this very name.
                            "tls_connection_policies": [{"default_sni": DOMAIN, "fallback_sni": DOMAIN}],
                            "protocols": ["h1"],
                            **quiet,
                        },
                    }
                },
                "tls": {"certificates": {"load_files": [{"certificate": pem, "key": pem}]}},
            },
        }
        file = _fresh(bench.directory / "caddy") / "caddy.json"
        file.write_text(json.dumps(config))
        home = {**os.environ, "HOME": str(file.parent), "XDG_DATA_HOME": str(file.parent)}
        self._process = bench.spawn((program, "run", "--config", file), cpu=PROXY_CPU, output="caddy", env=home)

    def pids(self) -> list[int]:
        return [self._process.pid]

    def add_host(self, host: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._admin, timeout=60)
        try:
            body = json.dumps(self._route(host))
            connection.request(
                "POST", "/config/apps/http/servers/http/routes", body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"caddy: {answer.status} {answer.read().decode()[:300]}")
        finally:
            connection.close()

    def _route(self, host: str) -> dict[str, object]:
        proxy = {"handler": "reverse_proxy", "upstreams": [{"dial": f"127.0.0.1:{self._site.backend_port}"}]}
        return {"match": [{"host": [host]}], "handle": [proxy], "terminal": True}


class Nginx:
    """A server block for each host, and SIGHUP."""

    def __init__(self, bench: Bench, site: Site, program: Path) -> None:
        self.http_port, self.https_port = free_ports(2)
        self._site, self._hosts = site, list(site.hosts)
        self._directory = _fresh(bench.directory / "nginx")
        self._config = self._directory / "nginx.conf"
        self._write()
        command = (program, "-p", self._directory, "-c", self._config, "-e", self._directory / "error.log")
        self._process = bench.spawn(command, cpu=PROXY_CPU, output="nginx")

    def pids(self) -> list[int]:
        return [self._process.pid, *children(self._process.pid)]

    def add_host(self, host: str) -> None:
        self._hosts.append(host)
        self._write()
        self._process.send_signal(signal.SIGHUP)

    def _write(self) -> None:
        there = self._directory
        servers = "".join(
            f"server {{ listen 127.0.0.1:{self.http_port}; listen 127.0.0.1:{self.https_port} ssl; server_name {host};"
            f" location / {{ proxy_pass http://one; proxy_http_version 1.1; proxy_set_header Connection '';"
            f" proxy_set_header Host $host; }} }}\n"
            for host in self._hosts
        )
        temporary = "".join(
            f"{kind}_temp_path {there}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self._config.write_text(
            f"daemon off; worker_processes 1; pid {there}/pid; error_log {there}/error.log crit;\n"
            "events { worker_connections 4000; }\n"
            f"http {{ access_log off; {temporary} server_names_hash_max_size 65536; server_names_hash_bucket_size 128;"
            f" keepalive_requests 1000000; ssl_certificate {self._site.certificate};"
            f" ssl_certificate_key {self._site.certificate};\n"
            f"upstream one {{ server 127.0.0.1:{self._site.backend_port}; keepalive 128;"
            " keepalive_requests 1000000; }\n"
            f"server {{ listen 127.0.0.1:{self.http_port} default_server; return 404; }}\n{servers}}}\n"
        )


def make_peers(bench: Bench, site: Site) -> dict[str, Peer]:
    """Those that are installed; the table says which were not."""
    made: dict[str, Peer] = {}
    for name, kind, remedy in (
        ("traefik", Traefik, "`make bench` installs it"),
        ("caddy", Caddy, "`make bench` installs it"),
        ("nginx", Nginx, "`apt-get install nginx-light`"),
    ):
        program = find_program(name)
        if program is None:
            bench.note(f"{name} is not installed ({remedy}), so it has no line.")
        else:
            made[name] = kind(bench, site, program)
    return made


def _fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o755)
    return directory
