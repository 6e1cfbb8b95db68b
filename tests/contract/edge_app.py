"""A tiny app for the edge's tests: `python edge_app.py ADDRESS PORT NAME`. It answers with its name and what it got."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body
    return await reader.readexactly(int(headers.get("content-length", "0")))


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            headers: dict[str, str] = {}
            for key, value in (line.split(": ", 1) for line in lines if ": " in line):
                before = headers.get(key.lower())
                headers[key.lower()] = value if before is None else f"{before},{value}"  # As RFC 9110, 5.3 says.
            method, path, _ = first.split(" ")
            if headers.get("upgrade") == "echo":
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
                while piece := await reader.read(4096):
                    writer.write(sys.argv[3].encode() + b":" + piece)
                    await writer.drain()
                return
            body = await read_body(reader, headers)
            if path.startswith("/slow/"):
                await asyncio.sleep(float(path.split("/")[2]))
            if path.startswith("/cut"):  # Received, then gone without a word.
                sys.stdout.write(f"cut {method}\n")
                sys.stdout.flush()
                writer.transport.abort()
                return
            if path.startswith("/events"):
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for number in range(3):
                    writer.write(b"9\r\ndata: %d\n\n\r\n" % number)
                    await writer.drain()
                    await asyncio.sleep(0.3)
                writer.write(b"0\r\n\r\n")
                continue
            if path.startswith("/big"):
                piece, count = b"x" * 65536, 256
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(piece) * count))
                for _ in range(count):
                    writer.write(piece)
                    await writer.drain()
                continue
            document = {
                "name": sys.argv[3],
                "method": method,
                "path": path,
                "headers": headers,
                "lines": lines,
                "sha256": hashlib.sha256(body).hexdigest(),
                "size": len(body),
            }
            answer = json.dumps(document).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
            )
            writer.write(answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(answer, sys.argv[1], int(sys.argv[2]), limit=1 << 20)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
