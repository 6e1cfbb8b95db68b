"""A real PostgreSQL 15 for tests, without root rights of its own, that a test may stop, freeze and start again."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from shellwego.kit.ports import free_ports

BIN = Path("/usr/lib/postgresql/15/bin")
START_SECONDS = 60


class Postgres:
    """One server in a directory of its own. Listens on loopback; connections trust, as only tests run here."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="swg-pg-"))
        [self.port] = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        user = "postgres" if _exists("postgres") else "nobody"
        self._account = pwd.getpwnam(user)
        os.chown(self.directory, self._account.pw_uid, self._account.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", "swg", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://swg@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._as_user(str(BIN / "postgres")),
                    *("-D", str(self.data), "-p", str(self.port), "-k", str(self.directory)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=32MB"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(self._client("pg_isready"), capture_output=True).returncode != 0:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.directory / "log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as a crash would: SIGQUIT is PostgreSQL's immediate shutdown."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
            self._process = None

    def freeze(self) -> None:
        """Every process of it stands still: connections hang instead of failing."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def sql(self, statement: str, database: str = "postgres") -> None:
        command = [*self._client("psql"), "-d", database, "-v", "ON_ERROR_STOP=1", "-qc", statement]
        subprocess.run(command, check=True, capture_output=True)

    def answers(self, statement: str) -> bool:
        """Whether the statement succeeds."""
        try:
            self.sql(statement)
        except subprocess.CalledProcessError:
            return False
        return True

    def copy(self, source: str, into: str) -> None:
        """All that is in one database, into an empty one; while others work with the first."""
        dump = subprocess.run([*self._client("pg_dump"), source], check=True, capture_output=True).stdout
        restore = [*self._client("psql"), "-d", into, "-v", "ON_ERROR_STOP=1", "-q"]
        subprocess.run(restore, input=dump, check=True, capture_output=True)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _client(self, program: str) -> list[str]:
        return [str(BIN / program), "-h", "127.0.0.1", "-p", str(self.port), "-U", "swg"]

    def _run(self, program: str, *args: str) -> None:
        subprocess.run([*self._as_user(str(BIN / program)), *args], check=True, capture_output=True)

    def _as_user(self, program: str) -> list[str]:
        if os.geteuid() != 0:
            return [program]
        ids = (f"--reuid={self._account.pw_uid}", f"--regid={self._account.pw_gid}")
        return ["setpriv", *ids, "--clear-groups", program]


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        yield server
    finally:
        server.close()


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
