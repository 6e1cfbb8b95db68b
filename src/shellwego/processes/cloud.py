"""Where does one cloud keep everything, and what is it called on this machine?

DIR (`--data-dir`) persists: `cloud.json` says who this cloud is and is written once. RUN is `/run/shellwego/<short>`:
sockets and what must not survive a reboot. All that the cloud makes on the host carries its short name, so that two
clouds live side by side and `uninstall` knows what is ours.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from shellwego.core.errors import Conflict, InvalidField
from shellwego.core.ids import CloudId, new_id
from shellwego.kit.files import replace_file

RUNTIME_ROOT = Path("/run/shellwego")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """
    What `cloud.json` holds. Ports are of the host; the edge listens on `bind`, the API's own port on `api_bind`: it
    speaks plain HTTP, so from elsewhere one comes by the edge. The limits are those of one build, the cache is an
    organisation's.
    """

    cloud: str
    domain: str = "localhost"
    bind: str = "127.0.0.1"
    api_bind: str = "127.0.0.1"
    api_port: int = 7080
    http_port: int = 80
    https_port: int = 443
    database_url: str | None = None
    extra_ca: str | None = None
    insecure_registries: list[str] = []
    allowed_networks: list[str] = []
    trusted_proxies: list[str] = []
    build_seconds: int = 1800
    build_memory_mib: int = 2048
    build_disk_mib: int = 10 * 1024
    build_cache_mib: int = 5 * 1024


@dataclass(frozen=True, slots=True)
class Cloud:
    """One cloud's identity and its places on this machine."""

    identity: Identity
    data: Path

    @property
    def short(self) -> str:
        """Eight characters that tell this cloud's things from another's."""
        return self.identity.cloud.split("_", 1)[1][:8]

    @property
    def prefix(self) -> str:
        return f"swg-{self.short}"

    @property
    def run(self) -> Path:
        return RUNTIME_ROOT / self.short

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"

    @property
    def api_socket(self) -> Path:
        return self.run / "api.sock"

    @property
    def server_waits(self) -> Path:
        """Why the server can't begin yet, in words, while that is so."""
        return self.run / "server.waits"

    @property
    def admin_token(self) -> Path:
        return self.data / "admin-token"

    @property
    def admin_password(self) -> Path:
        return self.data / "admin-password"

    @property
    def first_mappings(self) -> Path:
        """Image mappings that a new database begins with: `up` writes them where no hub is reached."""
        return self.data / "first-mappings.json"

    @property
    def extra_ca(self) -> Path:
        """Authorities that builds and instances trust besides the public ones; may be empty."""
        return self.data / "extra-ca.pem"

    @property
    def secret_key(self) -> Path:
        return self.data / "secret.key"

    @property
    def server(self) -> Path:
        return self.data / "server"

    @property
    def agent(self) -> Path:
        return self.data / "agent"

    @property
    def edge(self) -> Path:
        return self.data / "edge"

    @property
    def images(self) -> Path:
        return self.data / "images"

    @property
    def builder(self) -> Path:
        return self.data / "builder"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def database_url(self) -> str:
        return self.identity.database_url or f"sqlite:///{self.server / 'store.db'}"

    @property
    def namespace(self) -> Path:
        """The data plane's network namespace."""
        return Path("/run/netns") / self.prefix

    @property
    def api_url(self) -> str:
        """As somebody on this machine reaches it: every address is also loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.identity.api_bind, self.identity.api_bind)  # noqa: S104
        return f"http://{host}:{self.identity.api_port}"

    @property
    def outside_api_url(self) -> str:
        """As others reach it, by the edge and encrypted."""
        port = self.identity.https_port
        return f"https://api.{self.identity.domain}{'' if port == 443 else f':{port}'}"

    def app_url(self, name: str) -> str:
        port = self.identity.http_port
        return f"http://{name}.{self.identity.domain}{'' if port == 80 else f':{port}'}"

    def make_directories(self) -> None:
        """Make every place, readable by us alone."""
        for path in (self.server, self.agent, self.edge, self.images, self.builder, self.logs, self.run):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        RUNTIME_ROOT.chmod(0o711)


def load_cloud(data: Path) -> Cloud:
    """The cloud in that directory. Raises InvalidField if there is none, or its identity can't be read."""
    path = data / "cloud.json"
    try:
        return Cloud(msgspec.json.decode(path.read_bytes(), type=Identity), data)
    except FileNotFoundError:
        raise InvalidField("data-dir", f"there is no cloud in {data}. `shellwego up` makes one.") from None
    except msgspec.MsgspecError as error:
        raise InvalidField("data-dir", f"{path} can't be read: {error}") from error


def ensure_cloud(data: Path, **changes: object) -> Cloud:
    """
    The cloud in that directory, made if there is none. `changes` are fields of Identity that the operator gave now;
    they are kept for the next start. Raises Conflict for a new domain: apps' addresses and certificates hang on it.
    """
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = data.resolve()
    given = {name: value for name, value in changes.items() if value is not None}
    if (data / "cloud.json").exists():
        cloud = load_cloud(data)
        if given.get("domain", cloud.identity.domain) != cloud.identity.domain:
            raise Conflict(
                f"This cloud was made for the domain {cloud.identity.domain!r}; its apps' addresses hang on it. "
                f"Use another --data-dir for another domain."
            )
        cloud = replace(cloud, identity=msgspec.structs.replace(cloud.identity, **given))
    else:
        cloud = Cloud(Identity(cloud=CloudId(new_id("cloud", secrets.token_bytes)), **given), data)  # type: ignore[arg-type]
    cloud.make_directories()
    replace_file(data / "cloud.json", msgspec.json.format(msgspec.json.encode(cloud.identity), indent=2))
    return cloud
