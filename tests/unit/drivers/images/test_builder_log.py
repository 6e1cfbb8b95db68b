"""What a person reads of a build: all of it, in order, and no secret."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shellwego.core.ids import DeploymentId, OrganisationId
from shellwego.drivers.images.build_log import LINE_CHARACTERS, LOG_CHARACTERS, BuildLog, redaction_for
from shellwego.drivers.images.port import BuildRequest

AT = "2026-01-01T00:00:0{}.123456789Z"


def report(**content: object) -> bytes:
    return json.dumps(content).encode()


def vertex(name: str, **more: object) -> dict[str, object]:
    return {"digest": f"sha256:{name}", "name": name, "started": AT.format(1), **more}


def piece(name: str, text: bytes) -> dict[str, object]:
    return {"vertex": f"sha256:{name}", "stream": 1, "data": base64.b64encode(text).decode()}


def log_of(*reports: bytes, secrets: Mapping[str, bytes] | None = None) -> tuple[list[str], BuildLog]:
    lines: list[str] = []
    request = BuildRequest(
        id=DeploymentId("dep_x"),
        organisation=OrganisationId("org_x"),
        context=Path(),
        dockerfile="",
        build_args={"INDEX_URL": "https://bob:sesame-opens@index.test/", "VERSION": "1.2.3-not-secret"},
        secrets=secrets or {},
    )
    log = BuildLog(lines.append, redaction_for(request))
    for line in reports:
        log.feed(line)
    log.finish()
    return lines, log


def test_steps_are_shown_as_docker_shows_them() -> None:
    lines, _ = log_of(
        report(vertexes=[vertex("[internal] load build definition", completed=AT.format(2))]),
        report(vertexes=[vertex("[1/2] COPY . .", cached=True, completed=AT.format(1))]),
        report(vertexes=[vertex("[2/2] RUN make")]),
        report(logs=[piece("[2/2] RUN make", b"compil"), piece("[2/2] RUN make", b"ing\nmore\n")]),
        report(vertexes=[vertex("[2/2] RUN make", completed=AT.format(4))]),
    )
    assert lines == [
        "#1 [1/2] COPY . .",
        "#1 CACHED",
        "#2 [2/2] RUN make",
        "#2 compiling",
        "#2 more",
        "#2 DONE 3.0s",
    ]


def test_a_failure_names_its_step_its_reason_and_its_last_lines() -> None:
    lines, log = log_of(
        report(vertexes=[vertex("[1/1] RUN make"), vertex("[other] RUN sleep")]),
        report(logs=[piece("[1/1] RUN make", b"first\nno rule to make target")]),
        report(vertexes=[vertex("[other] RUN sleep", completed=AT.format(3), error="context canceled")]),
        report(
            vertexes=[
                vertex(
                    "[1/1] RUN make",
                    completed=AT.format(3),
                    error='process "/bin/sh -c make" did not complete successfully: exit code: 2',
                )
            ]
        ),
    )
    assert log.failed_step == "[1/1] RUN make"
    assert log.failure == "exit code: 2"
    assert log.last_lines == ("first", "no rule to make target")
    assert "#1 ERROR: exit code: 2" in lines
    assert "#2 CANCELED" in lines


def test_a_message_of_the_client_is_the_reason_when_no_step_has_one() -> None:
    _, log = log_of(b"error: failed to solve: nothing to do\n", report(msg="only a warning"))
    assert log.failure == "failed to solve: nothing to do"


def test_a_secret_is_hidden_however_it_arrives() -> None:
    """In pieces, with colours inside, as base64, in a step's own text, in the error."""
    secret = b"s3cr3t-value!"
    lines, log = log_of(
        report(vertexes=[vertex("RUN echo s3cr3t-value!")]),
        report(logs=[piece("RUN echo s3cr3t-value!", b"a s3cr"), piece("RUN echo s3cr3t-value!", b"3t-value! b\n")]),
        report(logs=[piece("RUN echo s3cr3t-value!", b"s3cr\x1b[31m3t-value!\n" + base64.b64encode(secret) + b"\n")]),
        report(logs=[piece("RUN echo s3cr3t-value!", b"s3cr3t-value%21\n")]),
        report(vertexes=[vertex("RUN echo s3cr3t-value!", completed=AT.format(2), error="boom s3cr3t-value!")]),
        b"error: s3cr3t-value!",
        secrets={"token": secret},
    )
    text = "\n".join((*lines, str(log.failure), str(log.failed_step), *log.last_lines))
    assert "s3cr" not in text
    assert base64.b64encode(secret).decode().rstrip("=") not in text
    assert text.count("[secret token]") >= 5


def test_a_password_in_a_build_argument_is_hidden_and_what_is_no_secret_is_not() -> None:
    lines, _ = log_of(
        report(vertexes=[vertex("RUN x")]),
        report(logs=[piece("RUN x", b"GET https://bob:sesame-opens@index.test/ 1.2.3-not-secret pin=1234\n")]),
        secrets={"pin": b"1234"},
    )
    assert lines[1] == "#1 GET https://bob:[secret INDEX_URL]@index.test/ 1.2.3-not-secret pin=[secret pin]"


def test_a_terminal_gets_no_orders() -> None:
    lines, _ = log_of(
        report(vertexes=[vertex("RUN x")]),
        report(logs=[piece("RUN x", b"\x1b]0;title\x07\x1b[2Jred\x00 \x9b31m\x08\xe2\x80\xae\n  10%\r 100%\r\n")]),
    )
    assert lines[1] == "#1 red\ufffd \ufffd31m\ufffd\ufffd" or "\x1b" not in lines[1]
    assert lines[2] == "#1  100%"


def test_a_line_without_an_end_costs_no_memory() -> None:
    lines, log = log_of(
        report(vertexes=[vertex("RUN x")]),
        *(report(logs=[piece("RUN x", b"x" * 60_000)]) for _ in range(50)),
        report(logs=[piece("RUN x", b"end\nnext\n")]),
    )
    assert len(lines) == 3
    assert len(lines[1]) < LINE_CHARACTERS + 40
    assert lines[2] == "#1 next"
    assert sum(len(step.held) for step in log._steps.values()) == 0


def test_an_endless_log_ends_and_its_last_lines_are_kept() -> None:
    line = b"y" * 1000 + b"\n"
    lines, log = log_of(
        report(vertexes=[vertex("RUN x")]),
        *(report(logs=[piece("RUN x", line * 100)]) for _ in range(60)),
        report(logs=[piece("RUN x", b"the reason\n")]),
        report(vertexes=[vertex("RUN x", completed=AT.format(2), error="exit code: 1")]),
    )
    assert sum(map(len, lines)) <= LOG_CHARACTERS + 2000
    assert "rest of it is not shown" in lines[-1]
    assert log.last_lines[-1] == "the reason"


@given(st.lists(st.binary(max_size=80), max_size=10))
def test_whatever_a_step_prints_is_safe_to_show(pieces: list[bytes]) -> None:
    lines, _ = log_of(report(vertexes=[vertex("RUN x")]), *(report(logs=[piece("RUN x", text)]) for text in pieces))
    assert all(
        character.isprintable() or character in "\t\ufffd" or character > "\xa0" for line in lines for character in line
    )


@given(st.binary(max_size=60))
def test_no_report_breaks_the_reader(line: bytes) -> None:
    log_of(line, report(vertexes=None, logs=None), b"[]", b"1")
