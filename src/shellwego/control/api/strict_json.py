"""What JSON do we take?

Less than `json` does: no key twice (whose value counts depends on who reads), no number beyond 64 bits, no NaN, no NUL
and no half of a surrogate pair in a string (databases and environments can't hold them), and nothing nested deeper
than any of our bodies. Each is refused by the name of its field.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from shellwego.control.api.calls import ENDING
from shellwego.control.api.problems import UnsupportedMediaType
from shellwego.core.errors import InvalidField

MAXIMUM_DEPTH = 16
_DIGITS = 18
BODY = "body"


class _Odd:
    """Stands in the parsed value where something can't be accepted, so that the walk can say where."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


def parse(body: bytes) -> Any:
    """Raises InvalidField."""
    try:
        text = body.decode()
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise InvalidField(BODY, f"is not UTF-8 (byte {error.start}).") from error
    except json.JSONDecodeError as error:
        raise InvalidField(BODY, f"is not JSON: {error.msg}, column {error.colno}.", line=error.lineno) from error
    except RecursionError as error:
        raise InvalidField(BODY, f"is nested deeper than {MAXIMUM_DEPTH} levels.") from error
    _walk(value, "", 0)
    return value


class StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_strict"):
            self._strict = parse(await self.body())
        return self._strict


class StrictRoute(APIRoute):
    """Routes whose JSON bodies are read by `parse`, and whose transaction has ended before they answer (`calls.py`)."""

    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()
        takes_json = self.body_field is not None

        async def strict(request: Request) -> Response:
            if takes_json:
                content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                has_body = request.headers.get("content-length") != "0"
                if content_type != "application/json" and (content_type or has_body):
                    raise UnsupportedMediaType(content_type, "application/json")
            async with AsyncExitStack() as ending:
                request.scope[ENDING] = ending
                return await handler(StrictRequest(request.scope, request.receive))

        return strict


def _object(pairs: list[tuple[str, Any]]) -> Any:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                value[key] = _Odd("stands there twice.")
            seen.add(key)
    return value


def _integer(text: str) -> Any:
    return int(text) if len(text) <= _DIGITS else _Odd("is too large a number.")


def _float(text: str) -> Any:
    value = float(text) if len(text) <= 40 else None
    return value if value is not None and abs(value) < 1e18 else _Odd("is too large or too long a number.")


def _not(name: str) -> Any:
    return _Odd(f"{name} is not a number in JSON.")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_not)


def _walk(value: Any, path: str, depth: int) -> None:
    if isinstance(value, _Odd):
        raise InvalidField(path or BODY, value.problem)
    if isinstance(value, str):
        _check_text(value, path or BODY)
    elif isinstance(value, dict | list):
        if depth >= MAXIMUM_DEPTH:
            raise InvalidField(path or BODY, f"is nested deeper than {MAXIMUM_DEPTH} levels.")
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str):
                _check_text(key, f"{path or BODY} (a key)")
            # Only as much of a name as a person can read: keys are the client's, and may be megabytes.
            _walk(child, f"{path}.{str(key)[:60]}" if path else str(key)[:60], depth + 1)


def _check_text(text: str, field: str) -> None:
    if "\0" in text:
        raise InvalidField(field, "holds a NUL character.")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise InvalidField(field, "holds half of a surrogate pair, which is no character.")
