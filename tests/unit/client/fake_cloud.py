"""A cloud in memory, behind `httpx.MockTransport`: the public API's shapes, and a wire that a test can cut."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx
from pydantic import BaseModel

from shellwego.core.apps import AppStatus
from shellwego.core.deployments import DeploymentKind, DeploymentState
from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.core.nodes import NodeState
from shellwego.core.releases import ReleaseState
from shellwego.protocol import public

URL = "http://cloud.test"
NOW = dt.datetime(2026, 1, 31, 12, 0, tzinfo=dt.UTC)
Answer = httpx.Response


def an_id(kind: str, number: int = 1) -> str:
    return f"{kind}_" + f"{number:x}".translate(str.maketrans("0123456789abcdef", "abcdefghijklmnop")).rjust(20, "a")


def problem(status: int, code: str, detail: str, *, retryable: bool = False, **more: Any) -> Answer:
    body = public.Problem(
        type="about:blank", title=code, status=status, detail=detail, code=code, retryable=retryable, **more
    )
    headers = {"Content-Type": "application/problem+json"}
    return httpx.Response(status, content=body.model_dump_json(), headers=headers)


def not_found(kind: str, reference: str) -> Answer:
    return problem(404, "not_found", f"There is no {kind} {reference!r} here.")


class Cut(httpx.AsyncByteStream):
    """A body that breaks off, as when the server is killed."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        raise httpx.ReadError("Connection reset by peer")


@dataclass
class FakeCloud:
    apps: dict[str, public.App] = field(default_factory=dict)
    deployments: dict[str, public.Deployment] = field(default_factory=dict)
    configs: dict[str, dict[str, str]] = field(default_factory=dict)
    instances: list[public.Instance] = field(default_factory=list)
    mappings: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, public.Token] = field(default_factory=dict)
    logs: list[public.LogEntry] = field(default_factory=list)
    sources: dict[str, bytes] = field(default_factory=dict)
    bodies: list[public.DeploymentCreate] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)
    accepted_tokens: set[str] = field(default_factory=lambda: {"good"})
    outcome: DeploymentState = DeploymentState.SUCCEEDED
    fails_before_release: bool = False
    faults: list[Callable[[httpx.Request], Answer | None]] = field(default_factory=list)
    """Each is asked once, before a request; what it returns is the answer, what it raises breaks the wire."""
    lost_answers: int = 0
    """So many writes are done, and their answers lost."""
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    _keys: dict[str, Answer] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def add_app(self, name: str, *, healthy: int = 1, desired: int = 1, **more: Any) -> public.App:
        facts: dict[str, Any] = {
            "id": an_id("app", next(self._numbers)),
            "name": name,
            "status": AppStatus.RUNNING if healthy else AppStatus.EMPTY,
            "url": f"http://{name}.cloud.test",
            "hosts": [f"{name}.cloud.test"],
            "processes": {"web": public.ProcessStatus(desired=desired, healthy=healthy, total=healthy)},
            "created_at": NOW,
            "updated_at": NOW,
        }
        self.apps[name] = public.App(**{**facts, **more})
        return self.apps[name]

    def add_instance(self, app: str, number: int, state: InstanceState, **more: Any) -> public.Instance:
        facts: dict[str, Any] = {
            "id": an_id("ins", number),
            "app": self.apps[app].id,
            "app_name": app,
            "release": "v1",
            "process": "web",
            "goal": InstanceGoal.RUN,
            "state": state,
            "node_name": "node-1",
            "address": "10.1.0.2",
            "port": 8080,
            "created_at": NOW,
        }
        self.instances.append(public.Instance(**{**facts, **more}))
        return self.instances[-1]

    # --- HTTP -----------------------------------------------------------------------------------------------------

    async def _answer(self, request: httpx.Request) -> Answer:
        await request.aread()
        self.requests.append(request)
        if self.faults and (answer := self.faults.pop(0)(request)) is not None:
            return answer
        key = request.headers.get("Idempotency-Key")
        if key in self._keys:
            return self._keys[key]
        answer = self._routed(request)
        if request.method != "GET" and not answer.is_error:
            if key is not None:
                self._keys[key] = answer
            if self.lost_answers:
                self.lost_answers -= 1
                raise httpx.ReadError("Connection reset by peer")
        return answer

    def _routed(self, request: httpx.Request) -> Answer:
        path = [unquote(part) for part in request.url.raw_path.decode().partition("?")[0].strip("/").split("/")]
        body = request.content
        match request.method, *path:
            case "POST", "v1", "auth", "refresh":
                return self._refresh(json.loads(body)["refresh_token"])
            case "POST", "v1", "auth", "login":
                if json.loads(body)["password"] != "correct horse":
                    return problem(401, "unauthenticated", "Email or password is wrong.")
                return _ok(self.new_session())
            case "POST", "v1", "auth", "logout":
                self.refresh_tokens.pop(json.loads(body)["refresh_token"], None)
                return httpx.Response(204)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.accepted_tokens:
            return problem(401, "unauthenticated", "Sign in first: `shellwego auth login`.")
        match request.method, *path:
            case "GET", "v1", "auth", "me":
                me = public.Me(user=an_id("usr"), email="ann@acme.test", organisation=an_id("org"),
                               organisation_name="acme", operator=True)  # fmt: skip
                return _ok(me)
            case "GET", "v1", "status":
                return _ok(self._status())
            case "GET", "v1", "nodes":
                return _page([self._node()], request)
            case "GET", "v1", "apps":
                return _page(list(self.apps.values()), request)
            case "POST", "v1", "apps":
                name = public.AppCreate.model_validate_json(body).name
                if name in self.apps:
                    return problem(409, "already_exists", f"The app name {name!r} is taken. Choose another.")
                return _ok(self.add_app(name, healthy=0, desired=0, processes={}), 201)
            case "GET", "v1", "instances":
                app = request.url.params.get("app")
                return _page([i for i in self.instances if app in {None, i.app, i.app_name}], request)
            case "GET", "v1", "instances", wanted:
                return next((_ok(i) for i in self.instances if i.id == wanted), not_found("instance", wanted))
            case method, "v1", "images", "mappings":
                return self._images(method, request)
            case method, "v1", "tokens", *rest:
                return self._tokens(method, rest, request)
            case method, "v1", "apps", reference, *rest:
                app_found = next((a for a in self.apps.values() if reference in {a.name, a.id}), None)
                if app_found is None:
                    return not_found("app", reference)
                return self._of_app(method, app_found, rest, request)
        return httpx.Response(404, text="no such page")

    def _of_app(self, method: str, app: public.App, rest: list[str], request: httpx.Request) -> Answer:
        match method, *rest:
            case ("GET",):
                return _ok(app)
            case ("DELETE",):
                del self.apps[app.name]
                return httpx.Response(204)
            case ("PATCH",):
                update = public.AppUpdate.model_validate_json(request.content)
                for name, count in (update.replicas or {}).items():
                    app.processes[name] = public.ProcessStatus(desired=count, healthy=count, total=count)
                return _ok(app)
            case "POST", "start" | "stop" | "restart" as verb:
                status = AppStatus.STOPPED if verb == "stop" else AppStatus.RUNNING
                count = 0 if verb == "stop" else 1
                web = public.ProcessStatus(desired=1, healthy=count, total=count)
                self.apps[app.name] = app.model_copy(update={"status": status, "processes": {"web": web}})
                return _ok(self.apps[app.name])
            case "POST", "sources":
                source = an_id("src", next(self._numbers))
                self.sources[source] = request.content
                made = public.Source(id=source, size_bytes=len(request.content), sha256="0" * 64, created_at=NOW)
                return _ok(made, 201)
            case "GET", "config":
                return _ok(public.Config(values=self.configs.get(app.name, {}), release=app.release))
            case "PATCH", "config":
                values = self.configs.setdefault(app.name, {})
                for key, value in public.ConfigChange.model_validate_json(request.content).values.items():
                    values.pop(key, None)
                    if value is not None:
                        values[key] = value
                if app.release is not None:
                    self._deploy(app, DeploymentKind.CONFIG)
                return _ok(public.Config(values=values, release=self.apps[app.name].release))
            case "GET", "releases":
                return _page([self._release(app)] if app.release else [], request)
            case "GET", "deployments":
                return _page([d for d in self.deployments.values() if d.app == app.id][::-1], request)
            case "POST", "deployments":
                self.bodies.append(public.DeploymentCreate.model_validate_json(request.content))
                kind = DeploymentKind.ROLLBACK if self.bodies[-1].release else DeploymentKind.DEPLOY
                return _ok(self._deploy(app, kind), 202)
            case "GET", "logs":
                return self._log(request)
            case method, "deployments", deployment, *more:
                found = self.deployments.get(deployment)
                return (
                    not_found("deployment", deployment) if found is None else self._of_deployment(found, more, request)
                )
        return httpx.Response(404, text="no such page")

    def _of_deployment(self, found: public.Deployment, rest: list[str], request: httpx.Request) -> Answer:
        if rest == ["events"]:
            after = int(request.headers.get("Last-Event-ID") or 0)
            ended = self.finish(found)
            events = [
                public.DeploymentEvent(kind="state", at=NOW, text="building", deployment=found),
                public.DeploymentEvent(kind="build_log", at=NOW, text="step 1\u2028of 1"),
                public.DeploymentEvent(kind="instance", at=NOW, text="1 of 1 instances healthy"),
                public.DeploymentEvent(kind="finished", at=NOW, deployment=ended),
            ]
            text = ": hello\n\n" + "".join(
                f"id: {number}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
                for number, event in enumerate(events, 1)
                if number > after
            )
            return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})
        if rest == ["cancel"]:
            self.deployments[found.id] = found.model_copy(update={"state": DeploymentState.CANCELLED})
            return _ok(self.deployments[found.id])
        return _ok(found)

    def _deploy(self, app: public.App, kind: DeploymentKind) -> public.Deployment:
        number = next(self._numbers)
        made = public.Deployment(
            id=an_id("dep", number), app=app.id, kind=kind, state=DeploymentState.QUEUED, release=f"v{number}",
            previous_release=app.release, created_at=NOW,
        )  # fmt: skip
        self.deployments[made.id] = made
        self.apps[app.name] = app.model_copy(update={"deployment": made.id})
        return made

    def finish(self, found: public.Deployment) -> public.Deployment:
        failed = self.outcome is DeploymentState.FAILED
        ended = found.model_copy(
            update={
                "state": self.outcome,
                "release": None if self.fails_before_release else found.release,
                "finished_at": NOW + dt.timedelta(seconds=4),
                "reason": "exited with status 3" if failed else "",
                "last_lines": ["Traceback", "KeyError: 'X'\x1b]0;owned\x07"] if failed else [],
            }
        )
        self.deployments[found.id] = ended
        name = next(a.name for a in self.apps.values() if a.id == found.app)
        if not failed:
            self.apps[name] = self.apps[name].model_copy(
                update={"release": found.release, "status": AppStatus.RUNNING, "image": "sha256:" + "a" * 64}
            )
        return ended

    def _release(self, app: public.App) -> public.Release:
        return public.Release(
            id=an_id("rel"), label=app.release or "", number=1, app=app.id, image=app.image or "", processes={},
            port=8080, runtime="gvisor", grace_seconds=10, config_keys=["A"], current=True, created_at=NOW,
            state=ReleaseState.LIVE, deployed_as=DeploymentKind.ROLLBACK,
        )  # fmt: skip

    def _log(self, request: httpx.Request) -> Answer:
        entries = [e.model_dump_json() for e in self.logs]
        if request.headers["Accept"] == "text/event-stream":
            after = int(request.headers.get("Last-Event-ID") or 0)
            text = "".join(f"id: {n}\ndata: {e}\n\n" for n, e in enumerate(entries, 1) if n > after)
            return httpx.Response(200, text=text)
        return httpx.Response(200, text="".join(f"{entry}\n" for entry in entries))

    def _images(self, method: str, request: httpx.Request) -> Answer:
        if method == "PUT":
            made = public.ImageMapping.model_validate_json(request.content)
            self.mappings[made.pattern] = made.image
            return _ok(made)
        if method == "DELETE":
            del self.mappings[request.url.params["pattern"]]
            return httpx.Response(204)
        return _page([public.ImageMapping(pattern=p, image=i) for p, i in self.mappings.items()], request)

    def _tokens(self, method: str, rest: list[str], request: httpx.Request) -> Answer:
        if method == "POST":
            wish = public.TokenCreate.model_validate_json(request.content)
            made = public.TokenCreated(id=an_id("tok"), name=wish.name, created_at=NOW, secret="swg_secret")
            self.tokens[made.id] = public.Token(id=made.id, name=made.name, created_at=NOW)
            return _ok(made, 201)
        if method == "DELETE":
            return httpx.Response(204) if self.tokens.pop(rest[0], None) else not_found("token", rest[0])
        return _page(list(self.tokens.values()), request)

    def new_session(self) -> public.Session:
        number = next(self._numbers)
        session = public.Session(
            access_token=f"access-{number}", expires_in_seconds=900, refresh_token=f"once-{number}"
        )
        self.accepted_tokens.add(session.access_token)
        self.refresh_tokens[session.refresh_token] = session.access_token
        return session

    def _refresh(self, refresh_token: str) -> Answer:
        if self.refresh_tokens.pop(refresh_token, None) is None:
            return problem(401, "unauthenticated", "This session has ended.")
        return _ok(self.new_session())

    def _status(self) -> public.CloudStatus:
        return public.CloudStatus(version="0.1.0", domain="cloud.test", apps={"running": len(self.apps)},
                                  instances={"healthy": 1}, nodes=[self._node()], edges=[{"name": "edge-1"}],
                                  problems=["The disk of node-1 is nearly full."])  # fmt: skip

    def _node(self) -> public.Node:
        return public.Node(id=an_id("nod"), name="node-1", state=NodeState.READY, version="0.1.0",
                           runtimes=["gvisor", "runc"], memory_mib=8192, memory_used_mib=256, cpu_millis=2000,
                           cpu_used_millis=500, disk_free_mib=20480, disk_total_mib=40960, instances=1,
                           last_seen_at=NOW)  # fmt: skip


def _ok(body: BaseModel, status: int = 200) -> Answer:
    return httpx.Response(status, text=body.model_dump_json(), headers={"Content-Type": "application/json"})


def _page(items: list[Any], request: httpx.Request, size: int = 2) -> Answer:
    start = int(request.url.params.get("cursor") or 0)
    more = str(start + size) if len(items) > start + size else None
    body = {"items": [item.model_dump(mode="json") for item in items[start : start + size]], "next_cursor": more}
    return httpx.Response(200, json=body)
