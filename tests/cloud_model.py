"""What may people ask of a cloud in whatever order, and what must it be when it has come to rest?

A Hypothesis state machine that drives the public API and a small model side by side. It knows no cloud:
`integration/test_model.py` plays it in virtual time on drivers in memory, where everything is killed meanwhile, and
`e2e/test_model.py` plays it on a real one.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

GOOD, DEAF, BROKEN = "good", "deaf", "broken"
"""How an image behaves: it answers, it never listens, it ends at once."""

NAMES = ("red", "green", "blue")
KEYS = ("A", "B")


@dataclass(slots=True)
class Wish:
    """A deployment as the model knows it, or (without an id) a change of configuration before the first."""

    id: str | None
    behaviour: str | None = None
    changes: dict[str, str | None] = field(default_factory=dict)
    back_to: str | None = None
    excused: bool = False
    """It may fail for a reason that the model can't foresee: something was made to crash meanwhile."""
    unproven: bool = False
    """It may succeed whatever it is: no instance was wished for at some time meanwhile."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a release is: how its image behaves, and its configuration."""

    behaviour: str
    config: dict[str, str]


@dataclass(slots=True)
class App:
    wishes: list[Wish] = field(default_factory=list)
    replicas: int = 1
    stopped: bool = False
    floor: int = 0
    """So many instances serve whatever happens; settled anew whenever the cloud has come to rest."""

    @property
    def count(self) -> int:
        return 0 if self.stopped else self.replicas

    def lower(self, count: int) -> None:
        self.floor = max(0, min(self.floor, count))

    def note(self) -> None:
        """Something of the model's changed; what is under way now may end otherwise."""
        if self.count == 0:
            for wish in self.wishes:
                wish.unproven = True


class CloudModel(RuleBasedStateMachine):
    """What people do, and what must hold. A subclass brings the cloud."""

    loop: asyncio.AbstractEventLoop
    http: httpx.AsyncClient
    patience_seconds: float
    """How long a cloud may take to become as asked."""
    rest_seconds: float
    """How long it must stay so."""
    health: dict[str, Any]
    resources: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.apps: dict[str, App] = {}
        self.gone: set[str] = set()

    @abstractmethod
    def image(self, behaviour: str) -> str:
        """The reference of an image that behaves so."""

    @abstractmethod
    async def starts(self) -> object:
        """Another answer after every start of a program."""

    @abstractmethod
    async def check_app(self, name: str, content: Content | None, instances: list[dict[str, Any]]) -> None:
        """Visitors get what the app should be, by its instances (None: nothing was ever deployed)."""

    @abstractmethod
    async def check_rest(self, wanted: set[str]) -> None:
        """Nothing is there that belongs to none of these instances."""

    def before_settling(self) -> None:
        """From here on nobody makes trouble."""

    def settled(self) -> None:
        """The cloud is as asked, and at rest."""

    def do(self, act: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(act)

    async def ask(self, method: str, path: str, body: Any = None, *, refused: tuple[int, ...] = ()) -> Any:
        answer: httpx.Response = await self.http.request(method, path, json=body)
        if answer.status_code in refused:
            return None
        assert answer.is_success, f"{method} {path} {body}: {answer.status_code} {answer.text}"
        return answer.json()

    async def deployments(self, name: str) -> dict[str, dict[str, Any]]:
        """By id, oldest first."""
        items = (await self.ask("GET", f"/v1/apps/{name}/deployments?limit=100"))["items"]
        return {item["id"]: item for item in reversed(items)}

    # --- rules: what people do ----------------------------------------------------------------------------------------

    @initialize(count=st.integers(1, 3))
    def a_first_app(self, count: int) -> None:
        self.do(self._create("red"))
        self.do(self._deploy("red", GOOD, {"A": "0"}))
        self.do(self._scale("red", count))
        self.do(self._settle())

    which = st.integers(0, len(NAMES) - 1)
    some_app = precondition(lambda self: bool(self.apps))

    def name_of(self, which: int) -> str:
        names = sorted(self.apps)
        return names[which % len(names)]

    @precondition(lambda self: len(self.apps) < len(NAMES))
    @rule()
    def create(self) -> None:
        self.do(self._create(next(name for name in NAMES if name not in self.apps)))

    async def _create(self, name: str) -> None:
        # A name is free once its app is really gone, which takes its instances' grace.
        for _ in range(200):
            if await self.ask("POST", "/v1/apps", {"name": name}, refused=(409,) if name in self.gone else ()):
                self.apps[name] = App()
                return
            await asyncio.sleep(1)
        raise AssertionError(f"{name} was deleted and its name is still taken")

    @some_app
    @rule(
        which=which,
        behaviour=st.sampled_from([GOOD, GOOD, GOOD, DEAF, BROKEN]),
        config=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["1", "2"]), max_size=1),
    )
    def deploy(self, which: int, behaviour: str, config: dict[str, str]) -> None:
        self.do(self._deploy(self.name_of(which), behaviour, config))

    async def _deploy(self, name: str, behaviour: str, config: dict[str, str]) -> None:
        body: dict[str, Any] = {
            "image": self.image(behaviour),
            "resources": self.resources,
            "grace_seconds": 2,
            "health": self.health,
        }
        if config:
            body["config"] = config
        made = await self.ask("POST", f"/v1/apps/{name}/deployments", body)
        self._wished(name, Wish(made["id"], behaviour, dict(config)))

    @some_app
    @rule(which=which, key=st.sampled_from(KEYS), value=st.sampled_from(["3", "4", None]))
    def configure(self, which: int, key: str, value: str | None) -> None:
        self.do(self._configure(self.name_of(which), {key: value}))

    async def _configure(self, name: str, changes: dict[str, str | None]) -> None:
        known = {wish.id for wish in self.apps[name].wishes}
        await self.ask("PATCH", f"/v1/apps/{name}/config", {"values": changes})
        new = [id for id in await self.deployments(name) if id not in known]
        assert len(new) <= 1
        self._wished(name, Wish(new[0] if new else None, None, changes))

    @some_app
    @rule(which=which)
    def restart(self, which: int) -> None:
        self.do(self._again(self.name_of(which), {}))

    @some_app
    @rule(which=which, label=st.sampled_from(["previous", "v1", "v2", "v3", "v4"]))
    def roll_back(self, which: int, label: str) -> None:
        self.do(self._again(self.name_of(which), {"release": label}))

    async def _again(self, name: str, body: dict[str, Any]) -> None:
        back_to = None
        made = await self.ask("POST", f"/v1/apps/{name}/deployments", body, refused=(409, 422))
        if made is None:
            return
        if body:
            assert body["release"] in {"previous", made["release"]}
            releases = (await self.ask("GET", f"/v1/apps/{name}/releases?limit=100"))["items"]
            back_to = next(release["deployment"] for release in releases if release["label"] == made["release"])
        self._wished(name, Wish(made["id"], None, {}, back_to))

    def _wished(self, name: str, wish: Wish) -> None:
        self.apps[name].wishes.append(wish)
        self.apps[name].note()

    @some_app
    @rule(which=which)
    def cancel(self, which: int) -> None:
        name = self.name_of(which)
        if id := next((wish.id for wish in reversed(self.apps[name].wishes) if wish.id), None):
            self.do(self.ask("POST", f"/v1/apps/{name}/deployments/{id}/cancel", refused=(409,)))

    @some_app
    @rule(which=which, count=st.integers(0, 4))
    def scale(self, which: int, count: int) -> None:
        self.do(self._scale(self.name_of(which), count))

    async def _scale(self, name: str, count: int) -> None:
        app = self.apps[name]
        app.lower(count)
        app.replicas = count
        app.note()
        await self.ask("PATCH", f"/v1/apps/{name}", {"replicas": {"web": count}})

    @some_app
    @rule(which=which, verb=st.sampled_from(["stop", "start", "start"]))
    def stop_or_start(self, which: int, verb: str) -> None:
        name = self.name_of(which)
        app = self.apps[name]
        app.stopped = verb == "stop"
        app.lower(app.count)
        app.note()
        self.do(self.ask("POST", f"/v1/apps/{name}/{verb}"))

    @some_app
    @rule(which=which)
    def delete(self, which: int) -> None:
        name = self.name_of(which)
        del self.apps[name]
        self.gone.add(name)
        self.do(self.ask("DELETE", f"/v1/apps/{name}"))

    @rule()
    def settle(self) -> None:
        self.do(self._settle())

    # --- what must hold ---------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Wait until the cloud is as asked; then it must stay so."""
        self.before_settling()
        deadline = self.loop.time() + self.patience_seconds
        while True:
            try:
                await self._check()
                break
            except AssertionError:
                if self.loop.time() > deadline:
                    raise
            await asyncio.sleep(self.rest_seconds / 30)
        starts = await self.starts()
        calm = all(content is None or content.behaviour == GOOD for content in (await self._contents()).values())
        await asyncio.sleep(self.rest_seconds)
        await self._check()
        if calm:
            assert await self.starts() == starts, "it doesn't come to rest"
        self.settled()

    async def _contents(self) -> dict[str, Content | None]:
        return {name: (await self._outcome(name, app))[0] for name, app in self.apps.items()}

    async def _outcome(self, name: str, app: App) -> tuple[Content | None, str | None]:
        """What the app's current release must be, from the model and from how each deployment ended."""
        ended = await self.deployments(name)
        pending: dict[str, str] = {}
        contents: dict[str, Content] = {}
        current: str | None = None
        before: str | None = None
        assert [wish.id for wish in app.wishes if wish.id] == list(ended), "not the deployments that were asked for"
        for wish in app.wishes:
            if current is None:
                pending = _changed(pending, wish.changes)
            if wish.id is None:
                continue
            state = ended[wish.id]["state"]
            assert state in {"succeeded", "failed", "cancelled", "superseded"}, f"{name}: {wish.id} is {state}"
            overtaken = before is not None and ended[before]["state"] == "superseded"
            base = contents.get(before if overtaken and before else current or "")
            if wish.back_to is not None:
                contents[wish.id] = contents[wish.back_to]
            else:
                config = _changed(base.config if base is not None else pending, wish.changes)
                behaviour = wish.behaviour or (base.behaviour if base is not None else "")
                contents[wish.id] = Content(behaviour, config)
            good = contents[wish.id].behaviour == GOOD
            if state == "succeeded":
                assert good or wish.unproven, f"{name}: {wish} can't have succeeded"
                current = wish.id
            elif state == "failed":
                assert not good or wish.excused, f"{name}: {wish} failed: {ended[wish.id]['reason']}"
            before = wish.id
        return (contents[current] if current else None), (ended[current]["release"] if current else None)

    async def _check(self) -> None:
        wanted: set[str] = set()
        seen = (await self.ask("GET", "/v1/instances?limit=100"))["items"]
        known = {app["name"] for app in (await self.ask("GET", "/v1/apps"))["items"]}
        assert known == set(self.apps)
        for name, app in self.apps.items():
            content, label = await self._outcome(name, app)
            mine = [instance for instance in seen if instance["app_name"] == name]
            count = app.count if content is not None else 0
            assert len(mine) == count, f"{name} has {len(mine)} instances of {count}"
            wanted |= {instance["id"] for instance in mine}
            assert {i["release"] for i in mine} <= {label}
            if content is not None and content.behaviour == GOOD:
                assert [i["state"] for i in mine] == ["healthy"] * count
                config = await self.ask("GET", f"/v1/apps/{name}/config")
                assert config["values"] == content.config
            await self.check_app(name, content, mine)
        await self.check_rest(wanted)
        [node] = (await self.ask("GET", "/v1/nodes"))["items"]
        assert node["unclaimed"] == []


def _changed(config: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    merged = {**config, **changes}
    return {key: value for key, value in merged.items() if value is not None}
