"""Every refusal has a status, and every operation tells which it gives."""

from __future__ import annotations

import re

from fastapi import FastAPI

from shellwego.control.api import problems
from shellwego.control.api.create import _NOUNS
from shellwego.control.api.openapi import document
from shellwego.core import errors
from shellwego.core.errors import ShellWeGoError


def _all(base: type[ShellWeGoError]) -> set[type[ShellWeGoError]]:
    return {base} | {found for sub in base.__subclasses__() for found in _all(sub)}


def test_every_error_of_ours_has_a_status_of_its_own_choice():
    """An error that was forgotten in the table would be a 500 to a user."""
    ours = {e for e in _all(ShellWeGoError) if e.__module__.startswith(("shellwego.core", "shellwego.control"))}
    for error in ours - {ShellWeGoError}:
        assert any(base in problems.HTTP_STATUS for base in error.__mro__), error


def test_codes_are_words_and_belong_to_one_error():
    codes: dict[str, type] = {}
    for name in dir(errors):
        found = getattr(errors, name)
        if isinstance(found, type) and issubclass(found, ShellWeGoError):
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", found.code)
            assert codes.setdefault(found.code, found) is found


def _document() -> dict:
    app = FastAPI()
    for noun in _NOUNS:
        app.include_router(noun.router)
    return document(app, version="0")


def test_every_operation_has_its_own_name_and_words_and_documented_refusals():
    seen = set()
    for path, operations in _document()["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["operationId"] not in seen, where
            seen.add(operation["operationId"])
            assert operation.get("description"), where
            assert "422" in operation["responses"], where
            for status, response in operation["responses"].items():
                if status >= "400" and operation["operationId"] != "getHealth":
                    assert list(response["content"]) == ["application/problem+json"], where
            if path.startswith("/v1/") and "/auth/" not in path:
                assert operation["security"] == [{"bearer": []}], where
                assert {"401", "503"} <= set(operation["responses"]), where


def test_creating_takes_an_idempotency_key():
    for path, operations in _document()["paths"].items():
        operation = operations.get("post")
        if operation is None or "/auth/" in path or path.endswith(("/start", "/stop", "/cancel")):
            continue
        assert "idempotency-key" in {p["name"].lower() for p in operation["parameters"]}, path
