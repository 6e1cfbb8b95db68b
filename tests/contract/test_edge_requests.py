"""What becomes of a request on its way through the edge, on the real HAProxy?"""

from __future__ import annotations

import asyncio
import re

import pytest
from tests.contract.edge_world import HOST, World, read_answer, until_true, upgrade

pytestmark = pytest.mark.root

# --- where it goes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["starting", "crashed", "stopped", "empty"])
async def test_an_app_without_servers_says_why(world: World, status: str) -> None:
    await world.start_edge()
    await world.server.serve(world.route("shop", status=status))
    page = await world.get(HOST, accept="text/html,*/*")
    assert (page.status, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert ("http-equiv" in page.body.decode()) is (status != "stopped" or b"60" in page.body)
    problem = await world.get(HOST, accept="application/json")
    assert problem.document["code"] == f"app_{status}"
    assert int(problem.headers["retry-after"]) > 0


async def test_an_unknown_host_is_told_so_and_an_unreachable_app_too(serving: World) -> None:
    world = serving
    assert (await world.get("nobody.localhost")).status == 404
    for name in list(world.apps):
        await world.stop_app(name)
    for accept, kind in (("text/html", "text/html; charset=utf-8"), ("application/json", "application/problem+json")):
        answer = await world.get(HOST, accept=accept)
        assert (answer.status, answer.headers["content-type"]) == (503, kind)


@pytest.mark.parametrize("host", ["SHOP.localhost", "shop.localhost.", "shop.localhost:8080", "Shop.LOCALHOST.:1"])
async def test_hosts_are_names_not_strings(serving: World, host: str) -> None:
    assert (await serving.get(host)).status == 200


@pytest.mark.parametrize("host", ["evil,shop.localhost", "shop.localhost,evil", "shop.localhost/x", "x@shop.localhost"])
async def test_a_host_header_of_two_minds_reaches_nobody(serving: World, host: str) -> None:
    assert (await serving.get(host)).status in (400, 404)


# --- what is passed on --------------------------------------------------------------------------------------------


async def test_forwarded_headers_are_ours(serving: World) -> None:
    answer = await serving.get(
        HOST,
        X_Forwarded_For="6.6.6.6",
        X_Forwarded_Proto="https",
        Forwarded="for=6.6.6.6",
        X_Real_IP="6.6.6.6",
        X_Request_ID="bad id!",
    )
    headers = answer.document["headers"]
    assert isinstance(headers, dict)
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-forwarded-host"] == HOST
    assert headers["x-forwarded-port"] == str(serving.options.http_port)
    assert "forwarded" not in headers
    assert "6.6.6.6" not in str(headers)
    assert re.fullmatch("[0-9A-F-]{12,}", headers["x-request-id"])


async def test_a_trusted_proxy_is_believed_and_nobody_else(world: World) -> None:
    """Behind a load balancer every visitor would have its address, or any visitor could choose one."""
    await world.start_edge(extra=("--trusted-proxy", "127.0.0.2/32", "--trusted-proxy", "2001:db8::/32"))
    await world.server.serve(world.route("shop", await world.start_app("ins_a")))
    said = {"X_Forwarded_For": "192.0.2.9", "X_Forwarded_Proto": "https", "X_Forwarded_Host": "shop.example"}
    seen = {}
    for source in ("127.0.0.2", "127.0.0.3"):
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in said.items())
        text = f"GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{lines}\r\n"
        answer = await world.send(text, source=source)
        headers = answer.document["headers"]
        assert isinstance(headers, dict)
        seen[source] = [headers[name.lower().replace("_", "-")] for name in said]
    assert seen["127.0.0.2"] == ["192.0.2.9,127.0.0.2", "https", "shop.example"]
    assert seen["127.0.0.3"] == ["127.0.0.3", "http", HOST]


async def test_a_request_can_be_found_again(serving: World) -> None:
    """By the client's own id if it is sound, else by ours, which an error names."""
    ids = [(await serving.get(HOST)).document["headers"]["x-request-id"] for _ in range(10)]  # type: ignore[index]
    assert len(set(ids)) == 10
    answer = await serving.get(HOST, X_Request_ID="trace-12345678")
    assert answer.document["headers"]["x-request-id"] == "trace-12345678"  # type: ignore[index]
    assert (await serving.get("nobody.localhost", X_Request_ID="trace-12345678")).headers[
        "x-request-id"
    ] == "trace-12345678"
    assert len((await serving.get("nobody.localhost")).headers["x-request-id"]) >= 12


async def test_headers_spelled_with_underscores_do_not_pass(serving: World) -> None:
    """`X_Forwarded_For` and `X-Forwarded-For` are one variable to a WSGI application."""
    answer = await serving.send(f"GET / HTTP/1.1\r\nhost: {HOST}\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n")
    assert b"6.6.6.6" not in answer.body


async def test_upgrades_events_and_large_uploads_pass(serving: World) -> None:
    world = serving
    reader, writer = await upgrade(world, HOST)
    writer.write(b"hello")
    assert (await reader.readexactly(11)).endswith(b":hello")
    writer.close()

    reader, writer = await world.connect()
    writer.write(f"GET /events HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n".encode())
    await reader.readuntil(b"data: 0\n\n")
    assert not reader.at_eof()
    await reader.read()
    writer.close()

    reader, writer = await world.connect()
    piece, count = b"x" * 65536, 320
    writer.write(f"POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(piece) * count}\r\n\r\n".encode())
    for _ in range(count):
        writer.write(piece)
        await writer.drain()
    assert (await read_answer(reader)).document["size"] == len(piece) * count
    writer.close()


@pytest.mark.parametrize(
    "request_text",
    [
        "POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: {host}\r\nbad header: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: {host}\r\nx: a\x00b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: {host}\r\nhost: other\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : {host}\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: {host}\r\nx: " + "y" * 20000 + "\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
)
async def test_unsound_requests_are_refused_before_any_app(serving: World, request_text: str) -> None:
    """Two parsers that disagree on where a request ends let one visitor speak for another (request smuggling)."""
    assert (await serving.send(request_text.format(host=HOST))).status in (400, 422, 502)


async def test_a_folded_header_reaches_the_app_as_one_line(serving: World) -> None:
    """RFC 9112, 5.2: refuse it or unfold it; an app that splits it differently would see another header."""
    answer = await serving.send(f"GET / HTTP/1.1\r\nhost: {HOST}\r\nx: a\r\n x-evil: 1\r\n\r\n")
    headers = answer.document["headers"]
    assert isinstance(headers, dict)
    assert "x-evil" not in headers
    assert headers["x"].split() == ["a", "x-evil:", "1"]


async def test_https_is_served_with_the_clouds_own_authority(serving: World) -> None:
    """Also for hosts that came later: no replacement, no warning from a client that trusts `ca.pem`."""
    world = serving
    proxy = await world.proxy_pid()

    async def name_over_tls() -> bool:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", world.options.https_port, ssl=world.client_tls(), server_hostname=HOST
            )
        except OSError:
            return False
        writer.write(f"GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n".encode())
        answer = await read_answer(reader)
        writer.close()
        headers = answer.document["headers"]
        assert isinstance(headers, dict)
        return bool(headers["x-forwarded-proto"] == "https")

    await until_true(name_over_tls)
    assert await world.proxy_pid() == proxy


async def test_api_requests_go_to_the_servers_socket(world: World) -> None:
    """With HAProxy as a user of its own, and the socket in root's directory."""

    async def api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        writer.close()

    async with await asyncio.start_unix_server(api, world.options.run_dir / "api.sock"):
        await world.start_edge()
        await world.server.serve()
        assert (await world.get("api.localhost")).body == b"ok"


async def test_metrics_count_requests_by_app(serving: World) -> None:
    for _ in range(5):
        await serving.get(HOST)
    path = serving.options.paths.directory / "metrics.sock"

    async def all_are_counted() -> bool:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        return 'shellwego_edge_requests_total{app="app_shop",backend="app",status="2xx"} 5.0' in text

    await until_true(all_are_counted)
