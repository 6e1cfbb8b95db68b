"""What do the reference pages on errors, the API and states say? Each is read off the code.

Only what no code can say stands here in words: the remedy of each error, and the usual course of an instance. An error
without words fails the run, and so the test that checks the pages.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from fastapi import FastAPI

from shellwego.control.api import problems
from shellwego.control.api.create import _NOUNS
from shellwego.control.api.openapi import document
from shellwego.core import apps, deployments, errors, instances
from shellwego.core.errors import ShellWeGoError
from shellwego.edge.pages import ERROR_PAGES, ROUTE_PAGES

WRITTEN = "Written from the code by `scripts/reference.py`."

# --- errors -------------------------------------------------------------------------------------------------------

_REMEDY = {
    "invalid_field": "Correct the field that is named. `errors` lists all of them; a file's line is given.",
    "not_found": "Check the name and the organisation you are signed in to (`shellwego auth status`).",
    "already_exists": "Choose another name.",
    "conflict": "Read the message; wait for what is under way, or undo it.",
    "image_not_kept": "Deploy the source again, or go back to one of the ten newest releases.",
    "unauthenticated": "Sign in again, or set `SHELLWEGO_TOKEN` to a token that is valid.",
    "forbidden": "Ask an operator of the cloud.",
    "too_large": "Send less: exclude files with `.dockerignore`, or use a smaller image.",
    "too_many_requests": "Wait for the seconds in `Retry-After`.",
    "no_capacity": "Ask for less memory, scale something down, or stop an app.",
    "node_unavailable": "Look at the node's agent (`shellwego nodes list`, its log). Its apps go on running.",
    "unavailable": "Wait and repeat. `/health` says which part doesn't answer.",
    "idempotency_mismatch": "Use a new `Idempotency-Key` for a new request.",
    "image_not_found": "Check name, tag and digest; a private image needs `--registry-user`.",
    "image_refused": "Have the image built anew by a tool that follows the OCI specification.",
    "registry_unavailable": "Wait and repeat; check that the node reaches the registry.",
    "build_failed": "Read the last lines of the build's log and mend the source.",
    "start_failed": "Read the message: mostly the command, its user or the working directory isn't in the image.",
    "engine_missing": "`shellwego engines install`, then `shellwego doctor`.",
    "disk_full": "Free space on the node. The same request works then.",
    "unsupported_media_type": "Send the type that the message names.",
    "request_timeout": "Send the request again.",
}

_PLAIN = {
    "bad_request": (400, "The request is no sound HTTP or no sound JSON.", "Mend the client."),
    "method_not_allowed": (405, "The address doesn't take this method.", "See `Allow`."),
    "internal": (500, "A bug of ShellWeGo. The answer gives a request id and nothing else.", "Report it with the log."),
}


def errors_page() -> str:
    found = {error.code: error for error in _all(ShellWeGoError) if error in problems.HTTP_STATUS}
    if missing := set(found) ^ set(_REMEDY):
        raise SystemExit(f"scripts/reference_pages.py has no remedy for, or too many of: {sorted(missing)}")
    rows = [
        (code, problems.HTTP_STATUS[error], _first(error), error.retryable, _REMEDY[code])
        for code, error in sorted(found.items())
    ]
    rows += [(code, status, about, False, remedy) for code, (status, about, remedy) in _PLAIN.items()]
    table = "\n".join(
        f"| `{code}` | {status} | {'yes' if retry else 'no'} | {about} | {remedy} |"
        for code, status, about, retry, remedy in rows
    )
    pages = "\n".join(
        f"| `{page.code}` | {page.status} | {page.title} | {page.detail} |"
        for page in [*ROUTE_PAGES.values(), *ERROR_PAGES.values()]
    )
    return f"""# Errors

{WRITTEN}

An answer of the API that isn't a success is a problem document (RFC 9457, `application/problem+json`). `code` is
stable; `detail` is for people and may change. *Retry* says whether the same request may succeed later without anybody
changing it: then `retryable` is true, and mostly there is a `Retry-After`.

```json
{{
  "type": "urn:shellwego:problem:invalid_field",
  "title": "Can't be accepted",
  "status": 422,
  "detail": "name: 'Bad Name' is not an app name. Use 1 to 40 of a-z, 0-9 and '-', a letter first, no '-' last.",
  "code": "invalid_field",
  "retryable": false,
  "request_id": "0eea228b4d265829",
  "errors": [{{"field": "name", "problem": "'Bad Name' is not an app name. Use 1 to 40 of a-z, ..."}}]
}}
```

| code | status | retry | meaning | what to do |
| --- | --- | --- | --- | --- |
{table}

A failed deployment carries one of these codes too, or `rollout_failed`: its instances kept ending or never became
healthy. With which status the command line ends is on [its own page](cli.md).

## Pages of the proxy

What a visitor gets when no app answers. As HTML for a browser, as a problem document with this code for a program that
accepts JSON, as one line of text for everybody else.

| code | status | title | text |
| --- | --- | --- | --- |
{pages}
"""


def _all(base: type[ShellWeGoError]) -> Iterator[type[ShellWeGoError]]:
    for sub in base.__subclasses__():
        if sub.__module__ in {errors.__name__, problems.__name__}:
            yield sub
        yield from _all(sub)


def _first(thing: Any) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


# --- the API ------------------------------------------------------------------------------------------------------


def api_page() -> str:
    app = FastAPI()
    for noun in _NOUNS:
        app.include_router(noun.router)
    found = document(app, version="0")
    parts: dict[str, list[str]] = {}
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            parts.setdefault(operation["tags"][0], []).append(_operation(path, method, operation))
    sections = "\n\n".join(
        f"## {tag.capitalize()}\n\n| method | path | what | answers |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
        for tag, rows in parts.items()
    )
    return f"""# API

{WRITTEN} A running cloud serves the whole document, with every field, at
`/openapi.json`, and as pages to read and try at `/docs` and `/redoc`.

- The address is `http://HOST:7080` (the API's port) or `https://api.DOMAIN` (through the proxy).
- Sign in with `Authorization: Bearer TOKEN`: an API token (`swg_...`) or the access token of a login.
- An app is named in a path by name or by id.
- Lists answer `{{"items": [...], "next_cursor": ...}}`; ask for the next page with `?cursor=`.
- A create takes an `Idempotency-Key`: the same key and body give the same answer, for 24 hours.
- `202` means accepted: what was asked for goes on in the background.
- Refusals are problem documents; see [errors](errors.md). Bodies over 10 MB are refused, sources over 512 MB.

{sections}
"""


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    about = " ".join(operation.get("description", "").split("\n\n")[0].split())
    about = f"*{operation['summary'].capitalize()}.* {about}"
    answers = [f"`{status}` {_shape(answer)}".strip() for status, answer in operation["responses"].items()
               if status < "400"]  # fmt: skip
    refusals = ", ".join(status for status in operation["responses"] if status >= "400")
    body = operation.get("requestBody", {}).get("content", {})
    takes = f" Takes `{_name(body['application/json']['schema'])}`." if "application/json" in body else ""
    return f"| {method.upper()} | `{path}` | {about}{takes} | {'; '.join(answers)}; {refusals} |".replace("\n", " ")


def _shape(answer: Mapping[str, Any]) -> str:
    schema = answer.get("content", {}).get("application/json", {}).get("schema")
    return f"`{_name(schema)}`" if schema else ""


def _name(schema: Mapping[str, Any]) -> str:
    name = str(schema.get("$ref", "")).rpartition("/")[2] or str(schema.get("title", ""))
    return re.sub(r"^Page_(\w+)_$", r"Page of \1", name)


# --- states -------------------------------------------------------------------------------------------------------


_S = instances.InstanceState
_USUAL = (
    (_S.PENDING, _S.PULLING, ""),
    (_S.PULLING, _S.STARTING, ""),
    (_S.STARTING, _S.HEALTHY, "first good check"),
    (_S.HEALTHY, _S.UNHEALTHY, "checks fail in a row"),
    (_S.UNHEALTHY, _S.BACKOFF, "ended by us"),
    (_S.STARTING, _S.BACKOFF, "ended, or could not start"),
    (_S.HEALTHY, _S.BACKOFF, "ended"),
    (_S.BACKOFF, _S.STARTING, "after a pause"),
    (_S.BACKOFF, _S.CRASH_LOOP, "again and again"),
    (_S.CRASH_LOOP, _S.STARTING, "after the longest pause"),
    (_S.HEALTHY, _S.STOPPING, ""),
    (_S.STOPPING, _S.STOPPED, ""),
)


def _usual_course() -> str:
    for now, then, _ in _USUAL:
        if not instances.may_move(now, then):
            raise SystemExit(f"scripts/reference_pages.py draws a move that isn't allowed: {now} to {then}")
    arrows = [f"    {now.value} --> {then.value}" + (f": {why}" if why else "") for now, then, why in _USUAL]
    return "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> pending", *arrows, "    stopped --> [*]", "```"])


def states_page() -> str:
    return f"""# States

{WRITTEN} The arrows are the tables of allowed moves in `core/`, which tests walk.

## Deployment

One deployment of an app is under way at most; a newer one supersedes it.

{_diagram(deployments.ALLOWED, start=deployments.DeploymentState.QUEUED)}

{_words(deployments.DeploymentState)}

## Instance

The control plane writes what an instance should do (its goal: {_listed(instances.InstanceGoal)}, only ever in this
direction); the agent of its node writes what it does. A report may come after several moves, so the table of moves
says what may follow what at all:

{_reachable(instances.ALLOWED)}

The usual course:

{_usual_course()}

{_words(instances.InstanceState)}

Why an instance ended, in `exit_reason`:

{_words(instances.ExitReason)}

## App

Derived from its instances and its newest deployment each time it is asked for; never stored.

{_words(apps.AppStatus)}
"""


def _diagram(allowed: Mapping[Any, frozenset[Any]], *, start: Any) -> str:
    lines = [f"    [*] --> {start.value}"]
    for now, then in allowed.items():
        lines += [f"    {now.value} --> {each.value}" for each in sorted(then, key=list(allowed).index)]
        if not then:
            lines.append(f"    {now.value} --> [*]")
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```"


def _reachable(allowed: Mapping[Any, frozenset[Any]]) -> str:
    order = list(type(next(iter(allowed))))
    rows = []
    for now, then in allowed.items():
        missing = [each for each in order if each not in then and each is not now]
        named = ", ".join(f"`{each.value}`" for each in order if each in then) or "nothing: it is the end"
        if then and len(missing) < len(then):
            named = "any other" + (f" but {', '.join(f'`{each.value}`' for each in missing)}" if missing else "")
        rows.append(f"| `{now.value}` | {named} |")
    return "| now | then |\n| --- | --- |\n" + "\n".join(rows)


def _listed(enum: type[StrEnum]) -> str:
    return ", ".join(f"`{each.value}`" for each in enum)


def _words(enum: type[StrEnum]) -> str:
    """The members with the comment beside each, or its own name where that says it all."""
    source = inspect.getsource(enum)
    rows = []
    for each in enum:
        said = re.search(rf'^    {each.name} = "[^"]*"(?:  # (.*))?$', source, re.MULTILINE)
        rows.append(f"| `{each.value}` | {(said[1] if said and said[1] else each.value.replace('_', ' '))} |")
    return "| state | meaning |\n| --- | --- |\n" + "\n".join(rows)
