"""How do secrets pass through the store?

As JSON, encrypted and bound to the id of what they belong to: the configuration of a release to that release, the
options of a deployment to that deployment, what was set before the first release to its app.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shellwego.control.store.records import AppRecord, DeploymentRecord, ReleaseRecord
from shellwego.drivers.kms.port import Kms


async def seal(kms: Kms, value: Any, *, context: str) -> bytes:
    """JSON, encrypted and bound to `context`."""
    return await kms.encrypt(json.dumps(value).encode(), context=context)


async def unseal(kms: Kms, ciphertext: bytes | None, *, context: str) -> Any:
    """What was sealed; an empty object for nothing. Raises DecryptionFailed."""
    return {} if ciphertext is None else json.loads(await kms.decrypt(ciphertext, context=context))


async def config_of(kms: Kms, release: ReleaseRecord) -> dict[str, str]:
    """The configuration of a release: the environment of its instances. Raises DecryptionFailed."""
    values: dict[str, str] = await unseal(kms, release.config_ciphertext, context=release.id)
    return values


async def pending_config(kms: Kms, app: AppRecord) -> dict[str, str]:
    """What was set before the first release."""
    values: dict[str, str] = await unseal(kms, app.pending_config_ciphertext, context=app.id)
    return values


async def options_of(kms: Kms, deployment: DeploymentRecord) -> dict[str, Any]:
    """
    What of a request may not lie about in the clear: `config` (changes), `build_args`, `build_secrets`,
    `registry_login`; each only if it was given. Gone once the deployment has ended.
    """
    values: dict[str, Any] = await unseal(kms, deployment.options_ciphertext, context=deployment.id)
    return values


def changed(values: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """The values after changes: a value sets, None unsets."""
    kept = {key: value for key, value in values.items() if key not in changes}
    return dict(sorted((kept | {key: value for key, value in changes.items() if value is not None}).items()))
