"""How are `K=V`, `@file`, `.env` files, `TYPE=N` and times read from a command line? Pure, refusing with the reason."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from pathlib import Path

from shellwego.core.apps import WEB, check_process_type, check_replicas
from shellwego.core.errors import InvalidField

_SPAN = re.compile(r"([0-9]+)(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_ENV_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*)", re.DOTALL)


def parse_pairs(words: Iterable[str], *, field: str, files: bool = True) -> dict[str, str]:
    """`K=V`; with `files`, `K=@path` takes the file's text (and `K=@@x` is the text `@x`)."""
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidField(field, f"{word[:60]!r} is not KEY=VALUE.")
        if files and value.startswith("@@"):
            value = value[1:]
        elif files and value.startswith("@"):
            value = _text_of(Path(value[1:]), f"{field}.{key}")
        pairs[key] = value
    return pairs


def parse_counts(words: Iterable[str]) -> dict[str, int]:
    """`3` (of `web`) or `worker=2`."""
    counts = {}
    for word in words:
        name, equals, number = word.rpartition("=")
        name = name if equals else WEB
        if not number.isascii() or not number.isdigit():
            raise InvalidField("scale", f"{word!r} is not a number of instances. Write 3, or worker=2.")
        counts[check_process_type(name, field="scale")] = check_replicas(int(number), field=f"scale.{name}")
    return counts


def parse_env_file(text: str) -> dict[str, str]:
    """
    The variables of a `.env` file, as docker compose and dotenv write them: `K=V`, `export K=V`, single quotes (as it
    is), double quotes (\\n, \\" and so on; may span lines), comments. Nothing is substituted.
    """
    values: dict[str, str] = {}
    lines = iter(enumerate(text.removeprefix("\ufeff").splitlines(), 1))
    for number, line in lines:
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _ENV_LINE.fullmatch(stripped)
        if match is None:
            raise InvalidField("config", f"{stripped[:40]!r} is not KEY=VALUE.", line=number)
        key, value = match[1], match[2]
        if value[:1] in {'"', "'"}:
            quote = value[0]
            while (end := _closing(value, quote)) is None:
                following = next(lines, None)
                if following is None:
                    raise InvalidField(f"config.{key}", f"its quote {quote} is never closed.", line=number)
                value += "\n" + following[1]
            after = value[end + 1 :].strip()
            if after and not after.startswith("#"):
                raise InvalidField(f"config.{key}", "has text after its closing quote.", line=number)
            value = value[1:end]
            value = _unescaped(value) if quote == '"' else value
        else:
            value = re.split(r"\s#", value, maxsplit=1)[0].strip()
        values[key] = value
    return values


def parse_since(text: str, now: dt.datetime) -> str:
    """An RFC 3339 time of `10m`, `2h`, `3d`, or of a time that is one already."""
    if match := _SPAN.fullmatch(text.strip()):
        try:
            return (now - dt.timedelta(seconds=int(match[1]) * _SECONDS[match[2]])).isoformat()
        except OverflowError:
            raise InvalidField("since", f"{text!r} is before all time.") from None
    try:
        time = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidField("since", f"{text!r} is no time. Write 10m, 2h, or 2026-01-31T12:00:00Z.") from None
    return (time if time.tzinfo else time.astimezone()).isoformat()


def _text_of(path: Path, field: str) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InvalidField(
            field, f"{path} can't be read: {error.strerror}. A value that begins with @: @@..."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidField(field, f"{path} is not UTF-8 text, which a variable must be.") from error


def _closing(value: str, quote: str) -> int | None:
    at = 1
    while at < len(value):
        if value[at] == "\\" and quote == '"':
            at += 2
            continue
        if value[at] == quote:
            return at
        at += 1
    return None


def _unescaped(value: str) -> str:
    meanings = {"n": "\n", "r": "\r", "t": "\t"}
    return re.sub(r"\\(.)", lambda m: meanings.get(m[1], m[1]), value, flags=re.DOTALL)
