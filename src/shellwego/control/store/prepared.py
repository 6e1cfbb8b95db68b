"""How is a statement run that is asked for all the time?

Built once: building one and finding its compiled form again takes five times what running it does. On SQLite it is also
compiled once, to the text and the conversions of values that SQLAlchemy's dialect gives, and then run without the rest
of SQLAlchemy, which takes three times what SQLite does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.sql.compiler import SQLCompiler

_Convert = Callable[[Any], Any]


class Prepared:
    """A statement whose values that differ are `bindparam`s, given when it is run: the same names each time."""

    def __init__(self, statement: sa.Executable) -> None:
        self.statement = statement
        self._direct: dict[tuple[int, ...], Direct] = {}

    def direct(self, dialect: sa.Dialect, values: Mapping[str, Any]) -> Direct:
        """For SQLite, where `IN` has a placeholder for each value: one for each number of values."""
        counts = tuple([len(value) for value in values.values() if type(value) is list])
        direct = self._direct.get(counts)
        if direct is None:
            direct = self._direct[counts] = Direct(self.statement, dialect, values)
        return direct


class Direct:
    """A statement as SQLite takes it."""

    def __init__(self, statement: Any, dialect: sa.Dialect, values: Mapping[str, Any]) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=list(values))
        assert isinstance(compiled, SQLCompiler)
        assert not compiled.insert_prefetch, "a default of Python's would be left out"
        state = compiled.construct_expanded_state(values)
        self.sql = state.statement
        self._dialect = dialect
        self._binds: list[tuple[str, int | None, Any, _Convert | None]] = []
        among = {name: (key, at) for key, names in state.parameter_expansion.items() for at, name in enumerate(names)}
        for name in state.positiontup or ():
            key, at = among.get(name, (name, None))
            bind = compiled.binds[key]
            self._binds.append((key, at, bind.effective_value, self._to_sqlite(bind.type)))
        reads = [(at, self._from_sqlite(column.type)) for at, column in enumerate(statement.exported_columns)]
        self._reads = [(at, convert) for at, convert in reads if convert is not None]

    def bind(self, values: Mapping[str, Any]) -> list[Any]:
        """Raises exc.StatementError for a value that its column can't hold."""
        bound = []
        try:
            for key, at, fixed, convert in self._binds:
                value = values.get(key, fixed)
                if at is not None:
                    value = value[at]
                bound.append(value if convert is None else convert(value))
        except ValueError as error:
            raise exc.StatementError(str(error), self.sql, None, error) from error
        return bound

    def read(self, rows: list[Any]) -> Sequence[Sequence[Any]]:
        if not self._reads:
            return rows
        read = []
        for row in rows:
            values = list(row)
            for at, convert in self._reads:
                values[at] = convert(values[at])
            read.append(values)
        return read

    def translated(self, error: sqlite3.Error, bound: Sequence[Any]) -> BaseException:
        """The error as SQLAlchemy would raise it."""
        return exc.DBAPIError.instance(self.sql, tuple(bound), error, sqlite3.Error, dialect=self._dialect)

    def _to_sqlite(self, type: sa.types.TypeEngine[Any]) -> _Convert | None:
        return type.dialect_impl(self._dialect).bind_processor(self._dialect)

    def _from_sqlite(self, type: sa.types.TypeEngine[Any]) -> _Convert | None:
        return type.dialect_impl(self._dialect).result_processor(self._dialect, None)
