"""The documentation says what is so: its links lead somewhere, its commands exist, and each promise has its test."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer import BadParameter, Exit
from typer.main import get_command

from shellwego.cli.app import build
from shellwego.processes.commands import HOST_COMMANDS, IMAGE_COMMANDS

UsageError = BadParameter.__mro__[1]
"""Typer's, wherever it keeps it: it brings its own click."""

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")
_TEST = re.compile(r"`((?:tests|benches)/[\w/]+\.py)(?:::(\w+))?`")
_ENDS = frozenset({"|", ">", ">>", "<", "&&", "||", ";", "&", "2>"})


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        led = (page.parent / path).resolve() if path else page
        assert led.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(led), f"{target}: no such heading"


def commands(page: Path) -> Iterator[tuple[str, ...]]:
    """Each `shellwego ...` of its code, as the shell would hand it over; in a transcript, what follows the prompt."""
    for kind, body in _FENCE.findall(page.read_text("utf-8")):
        for line in body.replace("\\\n", " ").splitlines():
            if kind == "sh":
                yield from words_of(line)
            elif line.startswith("$ "):
                yield from words_of(line[2:])


def words_of(line: str) -> Iterator[tuple[str, ...]]:
    inner = re.findall(r"\$\((shellwego [^)]*)\)", line)
    for command in inner:
        yield from words_of(command)
    try:
        lexer = shlex.shlex(re.sub(r"\$\([^)]*\)", "VALUE", line), posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words = list(lexer)
    except ValueError:  # A line in the middle of a here-document.
        return
    while words and re.fullmatch(r"(?:\w+=.*|sudo|exec)", words[0]):
        words.pop(0)
    if not words or words[0].rpartition("/")[2] != "shellwego":
        return
    end = next((at for at, word in enumerate(words) if word in _ENDS), len(words))
    yield tuple(words[1:end])


@pytest.fixture(scope="module")
def root() -> Any:
    return get_command(build(HOST_COMMANDS, images=IMAGE_COMMANDS))


def parse(root: Any, words: tuple[str, ...]) -> None:
    """Read a command line as the real one would, without running it. Raises UsageError."""
    command, name, rest, parent = root, "shellwego", list(words), None
    while True:
        try:
            context = command.make_context(name, list(rest), parent=parent)
        except Exit:  # --help
            return
        except BadParameter as error:
            if "does not exist" in str(error):  # A file of the reader's.
                return
            raise
        if not hasattr(command, "commands"):
            return
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        name, command, rest = command.resolve_command(context, rest)
        parent = context


WITH_COMMANDS = [page for page in PAGES if any(commands(page))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path, root: Any) -> None:
    """A reader who copies a line must not be told that there is no such option."""
    for words in commands(page):
        try:
            parse(root, words)
        except UsageError as error:
            pytest.fail(f"shellwego {shlex.join(words)}: {error}")


def spoken() -> Iterator[tuple[str, str]]:
    """Each command between backquotes, in the prose of a page or in a string of the code: where, and the command."""
    pages = [(page, prose(page)) for page in PAGES]
    for path, text in [*pages, *((code, code.read_text("utf-8")) for code in ROOT.glob("src/**/*.py"))]:
        for line in re.findall(r"`(shellwego [^`\n]+)`", text) + re.findall(
            r'(?:→ |")(shellwego [a-z]+ [^"\\\n]+)', text
        ):
            yield str(path.relative_to(ROOT)), re.sub(r"\{[^}]*\}", "x", line.partition("  (")[0].partition(": ")[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_commands_that_are_spoken_of_exist(root: Any) -> None:
    """An error that tells people to type what isn't there is worse than one that tells nothing."""
    wrong = []
    for where, line in spoken():
        for words in words_of(line):
            try:
                parse(root, words)
            except UsageError as error:
                # What is spoken of may leave out its arguments, or its verb.
                if not str(error).startswith(("Missing", "Usage:", "No such command 'x'")):
                    wrong.append(f"{where}: {line}: {error}")
    assert not wrong, "\n".join(wrong)


def test_a_wrong_command_would_be_noticed(root: Any) -> None:
    for line in ("shellwego deploy . --nmae x", "shellwego aps list", "sudo .venv/bin/shellwego scale"):
        [words] = words_of(line)
        with pytest.raises(UsageError):
            parse(root, words)


def test_every_promise_has_its_test() -> None:
    """A promise whose test is gone is a promise no more."""
    rows = [line for line in (ROOT / "SPECIFICATION.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    for row in rows:
        if row.startswith(("| ---", "| promise", "| figure")):
            continue
        named = _TEST.findall(row)
        assert named, f"nothing keeps this promise: {row}"
        for path, test in named:
            assert (ROOT / path).is_file(), path
            if test:
                text = (ROOT / path).read_text("utf-8")
                assert re.search(rf"^ *(?:async )?def {test}\(", text, re.MULTILINE), f"{path} has no {test}"


def test_every_page_can_be_found() -> None:
    """From the index, without knowing its name."""
    index = (ROOT / "docs/README.md").read_text("utf-8")
    for page in ROOT.glob("docs/*/*.md"):
        if page.parent.name != "decisions":
            assert str(page.relative_to(ROOT / "docs")) in index, page
