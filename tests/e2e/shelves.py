"""Databases of one cloud that are not in use, and how another one takes the place of the one that is."""

from __future__ import annotations

import abc
import contextlib
import shutil
import sqlite3
from pathlib import Path

from tests.e2e.cloud import RunningCloud, eventually
from tests.integration.postgres import Postgres


class Shelf(abc.ABC):
    """Databases that are not in use, by name."""

    def __init__(self, cloud: RunningCloud) -> None:
        self.cloud = cloud

    def swap(self, away: str, back: str | None) -> None:
        """Everything that decides is ended, and finds another database, or an empty one, when it starts."""
        self.cloud.kill("up", "server", "agent", "edge")
        assert self.cloud.process is not None
        self.cloud.process.wait(timeout=30)
        self.put_away(away)
        self.bring(back)
        self.cloud.start()

    @abc.abstractmethod
    def copy_now(self, name: str) -> None:
        """As docs/how-to/back-up-and-restore.md says, while everything runs."""

    @abc.abstractmethod
    def put_away(self, name: str) -> None: ...

    @abc.abstractmethod
    def bring(self, name: str | None) -> None: ...


class SQLiteShelf(Shelf):
    def __init__(self, cloud: RunningCloud, directory: Path) -> None:
        super().__init__(cloud)
        self._directory = directory

    def copy_now(self, name: str) -> None:
        (self._directory / name).mkdir()
        with contextlib.closing(sqlite3.connect(self.cloud.data / "server" / "store.db")) as database:
            database.execute("VACUUM INTO ?", (str(self._directory / name / "store.db"),))

    def put_away(self, name: str) -> None:
        (self._directory / name).mkdir()
        for path in (self.cloud.data / "server").glob("store.db*"):
            path.rename(self._directory / name / path.name)

    def bring(self, name: str | None) -> None:
        for path in (self._directory / name).iterdir() if name else ():
            shutil.copy2(path, self.cloud.data / "server" / path.name)


class PostgresShelf(Shelf):
    def __init__(self, cloud: RunningCloud, postgres: Postgres, database: str) -> None:
        super().__init__(cloud)
        self._postgres, self._database = postgres, database

    def copy_now(self, name: str) -> None:
        self._postgres.sql(f'CREATE DATABASE "{name}"')
        self._postgres.copy(self._database, name)

    def put_away(self, name: str) -> None:
        def put_away() -> bool:  # Once the connections of the killed server have been noticed to be dead.
            return self._postgres.answers(f'ALTER DATABASE "{self._database}" RENAME TO "{name}"')

        eventually("nobody uses it", put_away)

    def bring(self, name: str | None) -> None:
        change = f'ALTER DATABASE "{name}" RENAME TO' if name else "CREATE DATABASE"
        self._postgres.sql(f'{change} "{self._database}"')
