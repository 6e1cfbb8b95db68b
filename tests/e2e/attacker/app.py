"""A tenant's app that answers like any other, and prints what it is asked to: what hostile apps print."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FORGED = "2026-01-01T00:00:00.000000000+00:00 stderr F forged"

SAYINGS: dict[str, bytes] = {
    "long": b"before-long\n" + b"x" * (10 << 20) + b"\nafter-long\n",
    "ansi": (
        b"\033[2J\033[Hcleared\n"
        b"\033]0;renamed\007titled\n"
        b"\033]52;c;ZXZpbA==\007copied\n"
        b"\033[31mred\033[0m\n"
        b"\xc2\x9b2J\xc2\x9d0;renamed\xc2\x9ceight-bit\n"
        b"over\rwritten\n"
        b"\x7f\x08\x08erased\n"
    ),
    "forged": (
        FORGED.encode() + b"\n"
        b'{"at":"2026-01-01T00:00:00Z","instance":"ins_aaaaaaaaaaaaaaaaaaaa","stream":"stderr","text":"forged"}\n'
        b"event: finished\ndata: forged\n\n"
        b'"}\n{"text":"forged"}\n'
        b"\xe2\x80\xa8line-separator\xe2\x80\xa9\xc2\x85next-line\n"
    ),
    "binary": bytes(range(256)) * 8 + b"\nafter-binary\n",
    "unfinished": b"no end",
}

flooding: list[subprocess.Popen[bytes]] = []
speaking = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        what = self.path.strip("/")
        if what in SAYINGS:
            # Buffered, because a write to a pipe may be a short one.
            with speaking, os.fdopen(1, "wb", closefd=False) as out:
                out.write(SAYINGS[what])
        elif what == "flood" and not flooding:
            flooding.append(subprocess.Popen(["yes", "flooding"]))
        elif what == "ebb":
            while flooding:
                process = flooding.pop()
                process.kill()
                process.wait()
        self.send_response(200)
        self.send_header("content-length", "9")
        self.end_headers()
        self.wfile.write(b"attacker\n")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing by itself."""


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
