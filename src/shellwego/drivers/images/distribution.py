"""How do manifests and blobs come out of a registry that may be slow, broken or hostile?

Speaks the OCI distribution specification's pull half. A `Session` is one pull: it owns its connections and its
token, and judges every address it connects to by the registry that was named (addresses.py). Whatever a registry
does ends in content that hashes to its digest, or in ImageNotFound, ImageRefused or RegistryUnavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpcore
import httpx

from shellwego.core.errors import ImageNotFound, ImageRefused, RegistryUnavailable
from shellwego.core.networks import AllowedNetwork
from shellwego.drivers.images.addresses import (
    AddressRefused,
    JudgingBackend,
    Reach,
    UnknownHost,
    host_of,
    is_loopback_name,
)
from shellwego.drivers.images.auth import basic, parse_challenges, parse_token
from shellwego.drivers.images.blobs import PartialBlob
from shellwego.drivers.images.limits import ImageLimits, Patience
from shellwego.drivers.images.manifest import ACCEPTED, Descriptor, digest_of
from shellwego.drivers.images.port import Credentials
from shellwego.drivers.images.reference import DOCKER_HUB, Reference
from shellwego.kit.backoff import backoff_seconds

_HUB_HOST: Final = "registry-1.docker.io"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_RETRIED: Final = frozenset({408, 425, 500, 502, 503, 504})
_TOKEN_ANSWER_BYTES: Final = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class _Transient(Exception):
    """
    Trying again may help. `cost` in attempts: waiting out a silent peer is dear, so it is done less often.
    `perhaps_tls`: it looks like what happens when plain HTTP arrives at a TLS port.
    """

    def __init__(self, why: str, *, retry_after: float | None = None, cost: int = 1, perhaps_tls: bool = False) -> None:
        self.why, self.retry_after, self.cost, self.perhaps_tls = why, retry_after, cost, perhaps_tls
        super().__init__(why)


class RegistryClient:
    """Makes sessions; holds what they share: trust, limits and the operator's list of plain HTTP registries."""

    def __init__(
        self,
        *,
        insecure_registries: frozenset[str],
        extra_ca: Path | None,
        limits: ImageLimits,
        patience: Patience,
        opened: Collection[AllowedNetwork] | None = None,
    ) -> None:
        self.insecure_registries = insecure_registries
        self.opened = opened
        self.limits = limits
        self.patience = patience
        self._extra_ca = extra_ca
        self._trust: ssl.SSLContext | None = None

    @property
    def trust(self) -> ssl.SSLContext:
        """The host's certificate authorities and the operator's own. Loaded at first use: it takes 20 ms."""
        if self._trust is None:
            self._trust = ssl.create_default_context()
            if self._extra_ca is not None:
                self._trust.load_verify_locations(self._extra_ca)
        return self._trust

    def session(self, reference: Reference, credentials: Credentials | None) -> Session:
        return Session(self, reference, credentials)


class Session:
    """One pull from one repository. Use as an asynchronous context manager."""

    def __init__(self, client: RegistryClient, reference: Reference, credentials: Credentials | None) -> None:
        self._client = client
        self._patience = client.patience
        self._name = str(reference)
        self._registry = reference.registry
        self._repository = reference.repository
        self._credentials = credentials
        self._authority = _HUB_HOST if reference.registry == DOCKER_HUB else reference.registry
        self._host = host_of(self._authority)
        self._reach = Reach.GLOBAL
        self._authorization: str | None = None
        self._authorizing = asyncio.Lock()
        self._scheme = "http" if self._may_be_plain(self._host, self._authority) else "https"
        self._scheme_is_certain = self._scheme == "https"
        self._http = httpx.AsyncClient(
            transport=_transport(client.trust, JudgingBackend(self._closest, self._learn, client.opened)),
            timeout=httpx.Timeout(self._patience.silence_seconds, connect=self._patience.connect_seconds, pool=None),
            headers={"User-Agent": "shellwego", "Accept-Encoding": "identity"},
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def fetch_manifest(self, which: str) -> tuple[bytes, str]:
        """The manifest or index for a tag or digest, and the media type it is served as. A digest is verified."""
        content, headers = await self._fetch_small(
            f"manifests/{which}", {"Accept": ", ".join(ACCEPTED)}, self._client.limits.manifest_bytes
        )
        if which.startswith("sha256:") and digest_of(content) != which:
            raise ImageRefused(self._name, f"the registry sent {digest_of(content)} instead of its manifest {which}.")
        return content, headers.get("Content-Type", "").partition(";")[0].strip().lower()

    async def fetch_config(self, blob: Descriptor) -> bytes:
        """A small blob, verified, in memory."""
        content, _ = await self._fetch_small(f"blobs/{blob.digest}", {}, blob.size)
        if len(content) != blob.size or digest_of(content) != blob.digest:
            raise ImageRefused(self._name, f"the registry sent something else as its config {blob.digest}.")
        return content

    async def fetch_layer(self, blob: Descriptor, into: PartialBlob, on_bytes: Callable[[int], None]) -> None:
        """
        Append what is missing to `into`, over as many connections as it takes; its content is verified by commit.

        A connection that brought a fair amount earns all attempts anew.
        """
        fair_share = int(self._patience.min_bytes_per_second * self._patience.rate_window_seconds)
        failures, earned_at = 0, into.done
        while into.done < blob.size:
            try:
                await self._fetch_piece(blob, into, on_bytes)
            except _Transient as problem:
                await into.flush()
                if into.done >= earned_at + fair_share:
                    failures, earned_at = 0, into.done
                failures += problem.cost
                await self._pause(failures, problem)

    async def _fetch_piece(self, blob: Descriptor, into: PartialBlob, on_bytes: Callable[[int], None]) -> None:
        headers = {"Range": f"bytes={into.done}-"} if into.done else {}
        async with self._get(f"blobs/{blob.digest}", headers) as response:
            if response.status_code == 416:
                await into.restart()
                raise _Transient("it can't go on where the download stopped")
            self._check_status(response)
            if response.status_code == 206:
                told = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
                if told is None or int(told[1]) != into.done:
                    await into.restart()
                    raise _Transient("it sent another part of a layer than asked for")
            elif into.done:
                await into.restart()  # It knows no ranges: from the start, then.
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and int(length) != blob.size - into.done:
                raise ImageRefused(
                    self._name,
                    f"the registry has {int(length) + into.done} bytes for layer {blob.digest}; "
                    f"the manifest says {blob.size}.",
                )
            pace = _Pace(self._patience)
            with self._translated():
                async for chunk in response.aiter_raw():
                    if into.done + len(chunk) > blob.size:
                        raise ImageRefused(
                            self._name, f"layer {blob.digest} has more bytes than the {blob.size} in the manifest."
                        )
                    await into.append(chunk)
                    on_bytes(into.done)
                    pace.check(len(chunk))
            if into.done < blob.size:
                raise _Transient("the connection ended in the middle of a layer")

    async def _fetch_small(self, path: str, headers: Mapping[str, str], limit: int) -> tuple[bytes, httpx.Headers]:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(self._patience.metadata_seconds), self._get(path, headers) as response:
                    self._check_status(response)
                    return await self._read_all(response, limit), response.headers
            except TimeoutError:
                problem = _Transient(f"it doesn't finish within {self._patience.metadata_seconds:g} s", cost=2)
            except _Transient as error:
                problem = error
            failures += problem.cost
            await self._pause(failures, problem)

    async def _read_all(self, response: httpx.Response, limit: int) -> bytes:
        content = bytearray()
        with self._translated():
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > limit:
                    raise ImageRefused(self._name, f"the registry sent more than the {limit} bytes allowed.")
        return bytes(content)

    async def _pause(self, failures: int, problem: _Transient) -> None:
        """Wait before the next try. Raises RegistryUnavailable when there shall be none."""
        if failures >= self._patience.attempts:
            raise RegistryUnavailable(self._registry, f"{problem.why}.")
        wait = backoff_seconds(
            failures,
            first=self._patience.first_wait_seconds,
            limit=self._patience.longest_wait_seconds,
            jitter=random.random,
        )
        if problem.retry_after is not None:
            if problem.retry_after > self._patience.longest_wait_seconds:
                raise RegistryUnavailable(
                    self._registry, f"{problem.why}. It asks to come back in {problem.retry_after:.0f} s."
                )
            wait = max(wait, problem.retry_after)
        await asyncio.sleep(wait)

    def _check_status(self, response: httpx.Response) -> None:
        match response.status_code:
            case 200 | 206:
                return
            case 401 | 403:
                who = f"to {self._credentials.username}" if self._credentials else "without credentials"
                raise ImageNotFound(self._name, f"the registry doesn't show it {who}")
            case 404:
                raise ImageNotFound(self._name, "the registry doesn't know it")
            case 429:
                raise _Transient("it is asked too often", retry_after=_retry_after(response))
            case status if status in _RETRIED:
                raise _Transient(f"it answered {status}", retry_after=_retry_after(response))
            case status:
                raise RegistryUnavailable(self._registry, f"it answered {status}.")

    @contextlib.asynccontextmanager
    async def _get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """One answer, after authorization and redirects. Raises _Transient where trying again may help."""
        used = self._authorization
        response = await self._follow(path, headers, used)
        try:
            if response.status_code == 401:
                challenge = response.headers.get("WWW-Authenticate", "")
                await response.aclose()
                async with self._authorizing:
                    # Layers come three at a time; one of them fetches the token for all.
                    if self._authorization == used:
                        self._authorization = await self._authorize(challenge)
                if self._authorization is not None:
                    response = await self._follow(path, headers, self._authorization)
            yield response
        finally:
            await response.aclose()

    async def _follow(self, path: str, headers: Mapping[str, str], authorization: str | None) -> httpx.Response:
        url = httpx.URL(f"{self._scheme}://{self._authority}/v2/{self._repository}/{path}")
        try:
            return await self._follow_from(url, headers, authorization)
        except _Transient as problem:
            if self._scheme_is_certain or not problem.perhaps_tls:
                raise
            # A registry on loopback or on the operator's list may speak TLS after all.
            try:
                response = await self._follow_from(url.copy_with(scheme="https"), headers, authorization)
            except _Transient:
                raise problem from None
        self._scheme, self._scheme_is_certain = "https", True
        return response

    async def _follow_from(
        self, url: httpx.URL, headers: Mapping[str, str], authorization: str | None
    ) -> httpx.Response:
        origin = (url.scheme, url.host, url.port)
        for _ in range(self._patience.redirects + 1):
            if url.scheme == "http" and not self._may_be_plain(url.host, url.netloc.decode("ascii")):
                raise ImageRefused(self._name, f"the registry sends us to {url.host} over plain HTTP.")
            if url.scheme not in ("http", "https"):
                raise ImageRefused(self._name, f"the registry sends us to a {url.scheme[:20]!r} address.")
            extra = dict(headers)
            # A storage service behind the registry must not learn the registry's token (CVE-2020-15157).
            if (url.scheme, url.host, url.port) != origin:
                authorization = None
            if authorization is not None:
                extra["Authorization"] = authorization
            with self._translated():
                response = await self._http.send(self._http.build_request("GET", url, headers=extra), stream=True)
            if response.status_code == 400 and not self._scheme_is_certain and url.scheme == "http":
                # What Go and nginx answer when plain HTTP arrives at a TLS port.
                await response.aclose()
                raise _Transient("it answered 400", perhaps_tls=True)
            self._scheme_is_certain = True
            if response.status_code not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            await response.aclose()
            with self._translated():
                url = url.join(location)
        raise RegistryUnavailable(self._registry, f"it redirects more than {self._patience.redirects} times.")

    async def _authorize(self, header: str) -> str | None:
        challenges = {challenge.scheme: challenge.parameters for challenge in reversed(parse_challenges(header))}
        if "bearer" in challenges:
            token = await self._fetch_token(challenges["bearer"])
            return None if token is None else f"Bearer {token}"
        if "basic" in challenges and self._credentials is not None:
            return basic(self._credentials)
        return None

    async def _fetch_token(self, parameters: Mapping[str, str]) -> str | None:
        try:
            url = httpx.URL(parameters.get("realm", ""))
        except httpx.InvalidURL as error:
            raise ImageRefused(self._name, "the registry names a token service that is no address.") from error
        query = {"scope": parameters.get("scope") or f"repository:{self._repository}:pull"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        headers = {"Authorization": basic(self._credentials)} if self._credentials else {}
        url = url.copy_merge_params(query)
        response = await self._follow_from(url, headers, headers.pop("Authorization", None))
        try:
            if response.status_code in (400, 401, 403, 404):
                return None  # The registry's own 401 tells the rest.
            self._check_status(response)
            token = parse_token(await self._read_all(response, _TOKEN_ANSWER_BYTES))
        finally:
            await response.aclose()
        if token is None:
            raise RegistryUnavailable(self._registry, "its token service answers without a token.")
        return token

    def _may_be_plain(self, host: str, authority: str) -> bool:
        return is_loopback_name(host) or self._is_listed(host, authority)

    def _is_listed(self, host: str, authority: str) -> bool:
        return not self._client.insecure_registries.isdisjoint((host, authority))

    def _closest(self, host: str) -> Reach:
        if self._is_listed(host, self._authority if host == self._host else host):
            return Reach.FORBIDDEN  # Listed by the operator: nothing is forbidden.
        if host == self._host:
            return Reach.LOOPBACK if is_loopback_name(host) else Reach.PRIVATE
        # Elsewhere, a registry may send us no closer to home than it is itself.
        return self._reach

    def _learn(self, host: str, reach: Reach) -> None:
        if host == self._host:
            self._reach = reach

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Foreign errors become ours, here and nowhere else."""
        try:
            yield
        except AddressRefused as error:
            raise ImageRefused(self._name, f"{error}.") from error
        except UnknownHost as error:
            raise RegistryUnavailable(self._registry, f"{error}.") from error
        except httpx.ConnectTimeout as error:
            raise _Transient(f"no connection within {self._patience.connect_seconds:g} s", cost=2) from error
        except httpx.TimeoutException as error:
            raise _Transient(f"it is silent for {self._patience.silence_seconds:g} s", cost=2) from error
        except httpx.TransportError as error:
            if _is_distrusted(error):
                raise RegistryUnavailable(self._registry, f"its certificate is not trusted: {error}.") from error
            perhaps_tls = isinstance(error, httpx.ReadError | httpx.RemoteProtocolError)
            raise _Transient(str(error) or type(error).__name__, perhaps_tls=perhaps_tls) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError) as error:
            raise RegistryUnavailable(self._registry, f"it answers nonsense: {error}.") from error


class _Pace:
    """Notices a peer that sends, but as good as nothing."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()
        self._bytes = 0

    def check(self, received: int) -> None:
        self._bytes += received
        seconds = self._clock() - self._since
        if seconds < self._patience.rate_window_seconds:
            return
        if self._bytes < self._patience.min_bytes_per_second * seconds:
            raise _Transient(f"it sends only {self._bytes / seconds:.0f} bytes a second", cost=2)
        self._since, self._bytes = self._clock(), 0


def _transport(trust: ssl.SSLContext, backend: JudgingBackend) -> httpx.AsyncHTTPTransport:
    transport = httpx.AsyncHTTPTransport(verify=trust, trust_env=False)
    # httpx has no parameter for httpcore's network backend; a test connects to a forbidden address to keep this so.
    transport._pool = httpcore.AsyncConnectionPool(
        ssl_context=trust, max_connections=8, keepalive_expiry=30.0, network_backend=backend
    )
    return transport


def _is_distrusted(error: BaseException) -> bool:
    """httpx wraps httpcore's error, which wraps the one of ssl."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _retry_after(response: httpx.Response) -> float | None:
    """RFC 9110, 10.2.3: seconds or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    if not text:
        return None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
