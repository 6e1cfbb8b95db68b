"""What does a request for a deployment ask for, and may it?

A wish is what the request says, what is secret apart, with what it takes over from the deployment that it supersedes.
`deployments.py` records it; `shapes.py` makes the next release's shape of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shellwego.control.services.callers import Caller
from shellwego.control.services.sealing import options_of
from shellwego.control.services.shapes import check_shape
from shellwego.control.store import Tenant
from shellwego.control.store.records import AppRecord, DeploymentRecord
from shellwego.core.apps import check_config
from shellwego.core.deployments import DeploymentKind
from shellwego.core.errors import Forbidden, InvalidField
from shellwego.core.ids import ReleaseId, SourceId, is_id
from shellwego.core.releases import RuntimeClass
from shellwego.drivers.images.addresses import host_of, is_loopback_name
from shellwego.drivers.kms.port import Kms
from shellwego.protocol import public

TENANT_RUNTIMES = frozenset({RuntimeClass.GVISOR, RuntimeClass.GVISOR_HOST_NETWORK})
OPERATOR_RUNTIMES = TENANT_RUNTIMES | {RuntimeClass.RUNC}

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,511}")
_SHAPE = ("processes", "health", "resources", "port", "runtime", "grace_seconds", "replicas")


@dataclass(frozen=True, slots=True)
class Wish:
    """What one deployment wants, with what it took over from the one it supersedes."""

    kind: DeploymentKind
    image: str | None
    source: SourceId | None
    base: ReleaseId | None
    request: dict[str, Any]
    options: dict[str, Any]


def split_request(body: public.DeploymentCreate) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request as it was sent, without what was left out; what is secret goes apart."""
    said = body.model_dump(mode="json", exclude_unset=True)
    request = {key: said[key] for key in _SHAPE if said.get(key) is not None}
    build = said.get("build") or {}
    if body.build is not None:
        request["build"] = {key: build[key] for key in build if key not in {"args", "secrets"}}
    options = {
        "config": said.get("config"),
        "build_args": build.get("args"),
        "build_secrets": build.get("secrets"),
        "registry_login": said.get("registry_login"),
    }
    return request, {key: value for key, value in options.items() if value}


def check_request(
    caller: Caller, body: public.DeploymentCreate, request: Mapping[str, Any], options: dict[str, Any]
) -> None:
    """What can be told from the request alone. Raises InvalidField, Forbidden."""
    given = [name for name in ("image", "source", "release") if getattr(body, name) is not None]
    if len(given) > 1:
        raise InvalidField(given[1], f"can't be given together with {given[0]!r}: a deployment has one origin.")
    if body.release is not None:
        more = next((name for name in (*_SHAPE, "config", "build") if getattr(body, name) is not None), None)
        if more is not None:
            raise InvalidField(more, "can't be changed in a rollback, which brings a release back as it was.")
    if body.registry_login is not None and body.image is None:
        raise InvalidField("registry_login", "belongs to an image; give `image` too.")
    if body.build is not None and body.source is None:
        raise InvalidField("build", "belongs to a source; give `source` too.")
    if body.build is not None and body.build.trusted and not caller.operator:
        raise Forbidden("an operator of this cloud: only they may trust a build")
    if body.runtime is not None and body.runtime not in OPERATOR_RUNTIMES:
        raise InvalidField("runtime", f"there is no such runtime. Use one of: {', '.join(sorted(OPERATOR_RUNTIMES))}.")
    if body.runtime is not None and body.runtime not in TENANT_RUNTIMES and not caller.operator:
        raise Forbidden(f"an operator of this cloud: {body.runtime!r} shares the node's kernel")
    check_shape(request)
    changes: Mapping[str, str | None] = options.get("config", {})
    check_config({key: value or "" for key, value in changes.items()})


async def check_origin(tenant: Tenant, caller: Caller, app: AppRecord, body: public.DeploymentCreate) -> None:
    """Whether the caller may deploy this source or image. Raises InvalidField, Forbidden."""
    if body.source is not None:
        source = await tenant.sources.find(body.source) if is_id(body.source, "source") else None
        if source is None or source.app != app.id:
            raise InvalidField("source", f"there is no such source of {app.name!r}. Upload it first.")
    if body.image is None:
        return
    if _IMAGE.fullmatch(body.image) is None or ".." in body.image:
        raise InvalidField("image", f"{body.image[:80]!r} is not an image reference. Write it like nginx:1.27.")
    if body.image.startswith("sha256:") and body.image not in await tenant.releases.images():
        # Built images of every organisation lie in one store: a digest alone may not open another's.
        raise InvalidField("image", "there is no release with this image. Name an image of a registry.")
    registry = body.image.split("/", 1)[0]
    if "/" in body.image and is_loopback_name(host_of(registry)) and not caller.operator:
        # A request to the server's own loopback reaches whatever the operator runs there.
        raise Forbidden("an operator of this cloud: the registry is on the server's own loopback address")


def wish_of(body: public.DeploymentCreate, request: dict[str, Any], options: dict[str, Any]) -> Wish:
    """The wish of a request that goes back to no release, on its own."""
    kind = DeploymentKind.RESTART
    if body.image is not None or body.source is not None:
        kind = DeploymentKind.DEPLOY
    elif request or options:
        kind = DeploymentKind.CONFIG
    source = SourceId(body.source) if body.source is not None else None
    return Wish(kind, body.image, source, None, request, options)


async def take_over(kms: Kms, app: AppRecord, before: DeploymentRecord | None, wish: Wish) -> Wish:
    """
    Stand on what the superseded deployment wanted: on its release, once it has one; before that on its wishes, under
    ours, and on its image or source unless we bring our own.
    """
    if before is None:
        return dataclasses.replace(wish, base=app.current_release)
    if before.release is not None:
        return dataclasses.replace(wish, base=before.release)
    request = {**before.request, **wish.request}
    options = await options_of(kms, before)
    config = {**options.pop("config", {}), **wish.options.get("config", {})}
    if wish.kind is DeploymentKind.DEPLOY:
        # Its own origin: nothing of the other's build or login applies.
        options = dict(wish.options)
        if "build" not in wish.request:
            request.pop("build", None)
        image, source = wish.image, wish.source
    else:
        options |= {key: value for key, value in wish.options.items() if key != "config"}
        image, source = before.image_reference, before.source
    if config:
        options["config"] = config
    kind = DeploymentKind.DEPLOY if image is not None or source is not None else wish.kind
    return Wish(kind, image, source, before.base_release, request, options)
