"""Why a request was refused."""

from __future__ import annotations

from shellwego.protocol.public.bodies import Answer


class FieldProblem(Answer):
    field: str
    problem: str
    line: int | None = None


class Problem(Answer):
    """RFC 9457 problem details; `code` is stable (docs/reference/errors.md)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool = False
    request_id: str | None = None
    errors: list[FieldProblem] = []
