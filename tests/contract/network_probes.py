"""What can be seen and done from inside a network namespace?

Each probe is a small program run there by nsenter(1), as a tenant's own code would be: with root's rights over its
namespace, so that it may forge whatever it likes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_CONNECT = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family)
s.settimeout(1)
try:
    s.connect(socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), family, socket.SOCK_STREAM)[0][4])
    print("reached", s.recv(64).decode())
except OSError as error:
    print("failed", error)
"""

_LISTEN = """
import socket, sys
if sys.argv[1] == "6":
    s = socket.create_server(("::", int(sys.argv[2])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
else:
    s = socket.create_server(("0.0.0.0", int(sys.argv[2])), backlog=64)
print("listening", flush=True)
held = []
while True:
    connection, _ = s.accept()
    connection.sendall(sys.argv[3].encode())
    held.append(connection)
"""

_SNIFF = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
s.settimeout(20)
print("listening", flush=True)
marker = bytes.fromhex(sys.argv[2])
while True:
    frame = s.recv(65535)
    print(frame.hex(), flush=True)
    if marker in frame:
        break
"""

_SEND = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
for frame in sys.argv[2:]:
    s.send(bytes.fromhex(frame))
"""

_HOLD = """
import socket, sys
held, refused = [], 0
for _ in range(int(sys.argv[3])):
    s = socket.socket()
    s.settimeout(5)
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
        assert s.recv(64)
        held.append(s)
    except OSError:
        refused += 1
print(len(held), refused)
"""

_RESOLVE = """
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
question = b"\\x09localhost\\0" + struct.pack(">2H", 1, 1)
s.sendto(struct.pack(">6H", 4711, 0x100, 1, 0, 0, 0) + question, ("10.0.2.3", 53))
print(struct.unpack(">H", s.recv(512)[:2])[0])
"""


class Inside:
    """A namespace, as a tenant sees it. `close` ends what it started there."""

    def __init__(self, namespace: Path) -> None:
        self._namespace = namespace
        self._started: list[subprocess.Popen[str]] = []

    def connect(self, address: str, port: int) -> str:
        """`reached WORD` when a server answered, or `failed WHY`."""
        return self._run(_CONNECT, address, str(port))

    def hold(self, address: str, port: int, count: int) -> tuple[int, int]:
        """How many of so many connections at a time were made and how many refused."""
        made, refused = self._run(_HOLD, address, str(port), str(count)).split()
        return int(made), int(refused)

    def resolve(self) -> str:
        """`4711` when the resolver answered."""
        return self._run(_RESOLVE)

    def send(self, *frames: bytes, interface: str = "eth0") -> None:
        self._run(_SEND, interface, *(frame.hex() for frame in frames))

    def listen(self, port: int, word: str, *, version: int = 4) -> None:
        """A server that says `word` to whoever connects."""
        self._start(_LISTEN, str(version), str(port), word)

    def sniff(self, marker: bytes, *, interface: str = "eth0") -> subprocess.Popen[str]:
        """Prints each frame until, and with, the one that holds `marker`."""
        return self._start(_SNIFF, interface, marker.hex())

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            ("nsenter", f"--net={self._namespace}", "--", *arguments),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sysctl(self, name: str, value: str) -> None:
        """/proc/sys/net is that of the process that opens it."""
        self._run("import sys; open('/proc/sys/' + sys.argv[1], 'w').write(sys.argv[2])", name, value)

    def close(self) -> None:
        while self._started:
            process = self._started.pop()
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _run(self, program: str, *arguments: str) -> str:
        return self.command(sys.executable, "-I", "-S", "-c", program, *arguments)

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ("nsenter", f"--net={self._namespace}", "--", sys.executable, "-I", "-S", "-c", program, *arguments),
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        return process


def ethernet(destination: str, source: str, kind: int, payload: bytes) -> bytes:
    return _mac(destination) + _mac(source) + kind.to_bytes(2, "big") + payload


def arp_request(source_mac: str, source_ip: bytes, target_ip: bytes) -> bytes:
    body = bytes.fromhex("0001080006040001") + _mac(source_mac) + source_ip + bytes(6) + target_ip
    return ethernet("ff:ff:ff:ff:ff:ff", source_mac, 0x0806, body)


def udp(source: bytes, destination: bytes, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram to port 9, its UDP checksum left out (RFC 768 allows it)."""
    datagram = (4000).to_bytes(2, "big") + (9).to_bytes(2, "big") + (8 + len(payload)).to_bytes(2, "big") + bytes(2)
    length = 20 + len(datagram) + len(payload)
    header = (
        bytes.fromhex("4500") + length.to_bytes(2, "big") + bytes.fromhex("00000000 4011 0000") + source + destination
    )
    total = sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, 20, 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + (0xFFFF - total).to_bytes(2, "big") + header[12:] + datagram + payload


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
