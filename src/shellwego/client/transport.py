"""How does one request reach the cloud, and what comes back?

A typed answer, or an error of `client.errors`. What can be repeated without harm (reads, and writes that carry an
Idempotency-Key) is repeated when the connection breaks or the cloud says that trying again can help; once a cloud has
answered in this run, it may be restarting, so it is given `patience_seconds` to come back. A first connection that is
refused fails at once: the URL is probably wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from shellwego.client.credentials import Credential, TokenCredential
from shellwego.client.errors import CannotReach, NotACloud, Refused
from shellwego.core.errors import InvalidField, Unauthenticated
from shellwego.kit.backoff import backoff_seconds
from shellwego.protocol import public

PATIENCE_SECONDS = 30.0
READ_SECONDS = 30.0
UPLOAD_SECONDS = 600.0
STREAM_SILENCE_SECONDS = 60.0
"""A stream without even a keep-alive for so long is taken for dead."""

Query = Mapping[str, str | int | float | bool | list[str] | None]
Body = Callable[[], AsyncIterator[bytes]]
"""Makes the body anew for each try."""
A = TypeVar("A", bound=BaseModel)


class Transport:
    """One connection pool to one cloud."""

    def __init__(
        self,
        url: str,
        credential: Credential | None = None,
        *,
        ca: Path | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        on_wait: Callable[[str], None] | None = None,
        http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`on_wait` is told, once per trouble, why we wait: a silent client looks hung."""
        self.url = checked_url(url)
        self.credential = credential or TokenCredential()
        self.tls = tls_context(ca) if self.url.startswith("https:") else None
        self.patience_seconds = patience_seconds
        self._on_wait = on_wait
        self._answered = False
        self._address, self._host = address_of(self.url)
        headers = {"User-Agent": f"shellwego/{importlib.metadata.version('shellwego')}", "Accept": "application/json"}
        self._http = httpx.AsyncClient(
            base_url=self._address,
            headers=headers if self._host is None else {**headers, "Host": self._host},
            timeout=httpx.Timeout(READ_SECONDS, connect=10.0, pool=None),
            verify=self.tls or True,
            transport=http,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, path: str, answer: type[A], *, query: Query | None = None) -> A:
        return _decoded(await self._try("GET", path, query=query, repeatable=True), answer, self.url)

    async def send(
        self,
        method: str,
        path: str,
        answer: type[A],
        body: BaseModel | None = None,
        *,
        query: Query | None = None,
        idempotency_key: str | None = None,
        repeatable: bool = False,
    ) -> A:
        """A write. PUT and DELETE are repeatable by nature, others with a key or by the caller's word."""
        response = await self._try(
            method,
            path,
            query=query,
            json=None if body is None else body.model_dump(mode="json", exclude_unset=True),
            idempotency_key=idempotency_key,
            repeatable=repeatable or idempotency_key is not None or method in {"PUT", "DELETE"},
        )
        return _decoded(response, answer, self.url)

    async def act(self, method: str, path: str, body: BaseModel | None = None, *, query: Query | None = None) -> None:
        """A write whose answer says nothing beyond its success."""
        json = None if body is None else body.model_dump(mode="json", exclude_unset=True)
        await self._try(method, path, query=query, json=json, repeatable=method in {"PUT", "DELETE"})

    async def upload(self, path: str, body: Body, answer: type[A], *, content_type: str, idempotency_key: str) -> A:
        response = await self._try(
            "POST", path, stream=body, content_type=content_type, idempotency_key=idempotency_key, repeatable=True
        )
        return _decoded(response, answer, self.url)

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, *, accept: str, query: Query | None = None, last_event_id: str = ""
    ) -> AsyncIterator[httpx.Response]:
        """An answer that is read as it comes. One try: its reader knows from where to go on."""
        headers = {"Accept": accept, "Cache-Control": "no-store"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        request = self._http.build_request("GET", path, params=_params(query), headers=headers)
        request.extensions["timeout"] = httpx.Timeout(STREAM_SILENCE_SECONDS, connect=10.0, pool=None).as_dict()
        response = await self._authenticated(request, stream=True)
        try:
            if response.is_error:
                await response.aread()
                raise _problem_of(response, self.url)
            with self._translated():
                yield response
        finally:
            await response.aclose()

    async def authorization(self) -> dict[str, str]:
        """Headers for a connection that isn't ours to make: a WebSocket."""
        token = await self.credential.token(self._renew)
        return {} if token is None else {"Authorization": f"Bearer {token}"}

    def trouble(self) -> Trouble:
        return Trouble(self.patience_seconds, self._on_wait)

    # --- one request, its tries -----------------------------------------------------------------------------------

    async def _try(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        json: Any = None,
        stream: Body | None = None,
        content_type: str | None = None,
        idempotency_key: str | None = None,
        repeatable: bool,
    ) -> httpx.Response:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        if content_type:
            headers["Content-Type"] = content_type
        trouble = self.trouble()
        while True:
            request = self._http.build_request(
                method,
                path,
                params=_params(query),
                json=json,
                content=None if stream is None else stream(),
                headers=headers,
            )
            if stream is not None:
                request.extensions["timeout"] = httpx.Timeout(UPLOAD_SECONDS, connect=10.0, pool=None).as_dict()
            try:
                response = await self._authenticated(request)
                if not response.is_error:
                    return response
                raise _problem_of(response, self.url)
            except (CannotReach, Refused) as error:
                may_repeat = repeatable and error.retryable and (self._answered or _was_sent(error))
                if not may_repeat or not await trouble.wait(error):
                    raise

    async def _authenticated(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        token = await self.credential.token(self._renew)
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        response = await self._once(request, stream=stream)
        if response.status_code != 401 or token is None or not _can_resend(request):
            return response
        other = await self.credential.after_rejection(token, self._renew)
        if other is None:
            return response
        await response.aclose()
        request.headers["Authorization"] = f"Bearer {other}"
        return await self._once(request, stream=stream)

    async def _once(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        if self._host is not None and self.tls is not None:
            request.extensions["sni_hostname"] = self._host.partition(":")[0]
        with self._translated():
            response = await self._http.send(request, stream=stream)
        self._answered = True
        return response

    @contextlib.contextmanager
    def _translated(self) -> Any:
        """httpx's errors, as ours."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise CannotReach(self.url, _why(error)) from error
        except httpx.TransportError as error:
            raise CannotReach(self.url, _why(error), sent=True) from error
        except httpx.InvalidURL as error:
            raise InvalidField("url", str(error)) from error

    async def _renew(self, refresh_token: str) -> public.Session:
        """Trade a refresh token, which works once: never repeated unless it surely never left."""
        body = public.Refresh(refresh_token=refresh_token).model_dump(mode="json")
        response = await self._once(self._http.build_request("POST", "/v1/auth/refresh", json=body))
        if response.status_code in {400, 401, 403, 404, 422}:
            raise Unauthenticated
        if response.is_error:
            raise _problem_of(response, self.url)
        return _decoded(response, public.Session, self.url)


class Trouble:
    """The failures in a row of one thing we try to do, and how long we go on."""

    def __init__(self, patience_seconds: float, on_wait: Callable[[str], None] | None = None) -> None:
        self._patience_seconds = patience_seconds
        self._on_wait = on_wait
        self._failures = 0
        self._since = 0.0

    def is_over(self) -> None:
        self._failures = 0

    async def wait(self, error: Exception) -> bool:
        """Sleep before another try; False when patience, counted from the first failure in a row, is over."""
        now = time.monotonic()
        self._since = now if self._failures == 0 else self._since
        self._failures += 1
        wait = backoff_seconds(self._failures, first=0.2, limit=3.0, jitter=random.random)
        if now + wait - self._since > self._patience_seconds:
            return False
        if self._failures == 2 and self._on_wait is not None:  # One failure is too short to speak of.
            self._on_wait(str(error))
        await asyncio.sleep(wait)
        return True


def checked_url(url: str) -> str:
    """`https://api.example.org`, without the slash at its end. Raises InvalidField."""
    text = url.strip().rstrip("/")
    if "://" not in text:
        raise InvalidField("url", f"{url!r} has no scheme. Write http://{text} or https://{text}.")
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidField("url", f"{url!r} is not a URL: {error}.") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.query or parsed.userinfo:
        raise InvalidField("url", f"{url!r} is not the URL of a cloud. Write it like http://127.0.0.1:7080.")
    return text


def address_of(url: str) -> tuple[str, str | None]:
    """
    Where to connect, and the Host header if that is another name.

    `api.localhost` means this machine (RFC 6761, section 6.3), but glibc asks DNS for it, which knows nothing.
    """
    parsed = httpx.URL(url)
    if not parsed.host.endswith(".localhost"):
        return url, None
    return str(parsed.copy_with(host="127.0.0.1")).rstrip("/"), parsed.netloc.decode()


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Trust the system's authorities and, beside them, the operator's own."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except OSError as error:  # ssl.SSLError is one
            raise InvalidField("ca", f"{ca} can't be used as certificates: {error.strerror or error}.") from error
    return context


def _params(query: Query | None) -> dict[str, Any] | None:
    return None if query is None else {name: value for name, value in query.items() if value is not None}


def _can_resend(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)


def _was_sent(error: CannotReach | Refused) -> bool:
    return error.sent if isinstance(error, CannotReach) else True


def _why(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "it didn't answer in time"
    kernels = _kernels_error(error)
    if kernels is not None:
        return os.strerror(kernels).lower()
    text = str(error)
    # The words of asyncio and OpenSSL, made shorter.
    for sign, meaning in (
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted here (--ca FILE names another authority)"),
        ("WRONG_VERSION_NUMBER", "it doesn't speak TLS (is the URL http:// and not https://?)"),
        ("Name or service not known", "its host name is not known"),
        ("name resolution", "its host name can't be looked up"),
        ("disconnected without sending", "the connection was closed without an answer"),
    ):
        if sign.lower() in text.lower():
            return meaning
    return text or type(error).__name__


def _kernels_error(error: BaseException | None) -> int | None:
    """The errno below the words of the libraries; of several addresses that were tried, the last one's."""
    while error is not None:
        # OpenSSL's and the resolver's have numbers of their own.
        if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError | socket.gaierror):
            return error.errno
        group = error.exceptions[-1] if isinstance(error, BaseExceptionGroup) else None
        error = group or error.__cause__ or error.__context__
    return None


def _problem_of(response: httpx.Response, url: str) -> Refused | NotACloud:
    try:
        return Refused(public.Problem.model_validate_json(response.content))
    except ValidationError:
        pass
    if response.status_code in {502, 503, 504}:  # A proxy of somebody's says so while the API restarts.
        title = response.reason_phrase or "Unavailable"
        detail = f"{url} answers {response.status_code} {title}. Its API may be starting or down."
        return Refused(
            public.Problem(
                type="about:blank",
                title=title,
                status=response.status_code,
                detail=detail,
                code="unavailable",
                retryable=True,
            )
        )
    return NotACloud(str(response.request.url), response.status_code, response.reason_phrase)


def _decoded(response: httpx.Response, answer: type[A], url: str) -> A:
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else "no JSON"
        raise NotACloud(str(response.request.url), response.status_code, what) from error
