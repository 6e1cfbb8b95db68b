"""Logs stay bounded, and what is read from them is what was said."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.factories import ins

from shellwego.agent import log_reader
from shellwego.agent.log_entries import LINE_BYTES, offset_of_tail, parse_entry
from shellwego.agent.log_reader import Cursor, last_lines, read_logs
from shellwego.agent.logs import CURRENT, LogFile, LogLimits, LogStore, plan_prune, rotated_files
from shellwego.core.errors import NotFound
from shellwego.core.ids import InstanceId
from shellwego.core.redaction import Redaction
from shellwego.protocol.messages import LogLine, LogsRequest

APP = "app_" + "a" * 20
B, C = ins("b"), ins("c")


def cri(second: float, text: str | bytes, *, stream: str = "stdout", tag: str = "F") -> bytes:
    at = dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000+00:00")
    return f"{at} {stream} {tag} ".encode() + (text.encode() if isinstance(text, str) else text) + b"\n"


@pytest.fixture
def store(tmp_path: Path) -> LogStore:
    return LogStore(tmp_path, LogLimits(file_bytes=100, files_per_instance=3))


async def everything(store: LogStore, request: LogsRequest) -> list[LogLine]:
    return [line async for batch in read_logs(store, request) for line in batch]


def texts(lines: Sequence[LogLine]) -> list[str]:
    return [line.text for line in lines]


def joined(lines: Sequence[LogLine]) -> list[str]:
    return "".join(line.text + ("" if line.partial else "\n") for line in lines).splitlines()


def test_a_line_has_its_time_stream_and_text() -> None:
    entry = parse_entry(b"2026-01-02T03:04:05.250000000Z stderr F a b  c")
    assert entry.at == dt.datetime(2026, 1, 2, 3, 4, 5, 250000, dt.UTC).timestamp()
    assert (entry.stream, entry.partial, entry.text) == ("stderr", False, b"a b  c")
    with_zone = parse_entry(b"2026-01-02T04:04:05.25+01:00 stdout P x")
    assert (with_zone.at, with_zone.partial) == (entry.at, True)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(line: bytes) -> None:
    """What a tenant or a full disk leaves in a file must never end the stream of an operator."""
    parse_entry(line, fallback_at=1.0)


async def test_what_comes_before_and_after_a_rotation_is_one_log(store: LogStore) -> None:
    current = store.path_for(APP, B)
    current.with_name("0000000001.log").write_bytes(cri(1, "one") + cri(2, "two"))
    current.write_bytes(cri(3, "three"))
    assert texts(await everything(store, LogsRequest(instances=[B]))) == ["one", "two", "three"]
    assert texts(await everything(store, LogsRequest(instances=[B], tail=2))) == ["two", "three"]
    assert texts(await everything(store, LogsRequest(instances=[B], tail=99))) == ["one", "two", "three"]
    assert texts(await everything(store, LogsRequest(instances=[B], tail=0))) == []
    assert texts(await everything(store, LogsRequest(instances=[B], since=2))) == ["two", "three"]


@pytest.mark.parametrize("old_files", [0, 2])
def test_the_tail_of_a_flood_ends(store: LogStore, old_files: int) -> None:
    """An app that writes faster than we read must not keep whoever asks for its last lines waiting for their end."""
    current = store.path_for(APP, B)
    for number in range(old_files):
        current.with_name(f"{number + 1:010d}.log").write_bytes(cri(number, "old") * 1000)
    current.write_bytes(cri(10, "before") * 1000)
    with contextlib.closing(Cursor(store, B)) as cursor:
        cursor.seek_tail(3)
        cursor.stop_at_present()
        with current.open("ab") as file:
            file.write(cri(20, "meanwhile") * 1000)
        assert texts(cursor.read()) == ["before"] * 3
        assert cursor.read() == []
        cursor.go_on()
        assert texts(cursor.read()) == ["meanwhile"] * 1000


def test_a_tail_begins_in_the_file_in_which_it_was_found(store: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when that is rotated in the same moment."""
    current = store.path_for(APP, B)
    current.write_bytes(b"".join(cri(second, f"line {second}") for second in range(10)))

    def rotated_meanwhile(file: BinaryIO, lines: int) -> tuple[int, int]:
        found = offset_of_tail(file, lines)
        current.rename(current.with_name("0000000001.log"))
        current.write_bytes(cri(10, "line 10"))
        return found

    monkeypatch.setattr(log_reader, "offset_of_tail", rotated_meanwhile)
    with contextlib.closing(Cursor(store, B)) as cursor:
        cursor.seek_tail(2)
        cursor.stop_at_present()
        assert texts([*cursor.read(), *cursor.read()]) == ["line 8", "line 9", "line 10"]


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3), max_size=40), st.integers(0, 45), st.booleans())
async def test_the_tail_is_the_end_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], count: int, is_writing: bool
) -> None:
    """Counted in lines, however many pieces each was written in; half of a write is none."""
    store = LogStore(tmp_path_factory.mktemp("logs"))
    current = store.path_for(APP, B)
    lines = [
        b"".join(cri(number, f"{number}:" + "x" * size, tag="P") for size in pieces[1:]) + cri(number, "." * pieces[0])
        for number, pieces in enumerate(sizes)
    ]
    half = len(lines) // 2
    current.with_name("0000000001.log").write_bytes(b"".join(lines[:half]))
    current.write_bytes(b"".join(lines[half:]) + (cri(50, "half of a write")[:-3] if is_writing else b""))
    whole = joined(await everything(store, LogsRequest(instances=[B])))
    assert len(whole) == len(lines)
    assert (
        joined(await everything(store, LogsRequest(instances=[B], tail=count)))
        == whole[len(whole) - min(count, len(whole)) :]
    )


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
async def test_who_comes_back_goes_on_behind_the_last_line(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[int], data: st.DataObject
) -> None:
    """However many lines have one time, wherever the clock was set back, and whatever file they are in by now."""
    store = LogStore(tmp_path_factory.mktemp("logs"))
    current = store.path_for(APP, B)
    current.write_bytes(b"".join(cri(second, f"line {n}") for n, second in enumerate(seconds)))
    whole = await everything(store, LogsRequest(instances=[B]))
    last = data.draw(st.integers(0, len(whole) - 1))
    current.rename(current.with_name("0000000001.log"))
    current.write_bytes(cri(4, "in the next file") + cri(2, "and one more"))
    after = {B: whole[last].place}
    rest = texts(await everything(store, LogsRequest(instances=[B], since=9, after=after)))
    assert rest == [*texts(whole[last + 1 :]), "in the next file", "and one more"]
    current.with_name("0000000001.log").unlink()
    rest = await everything(store, LogsRequest(instances=[B], after=after))
    assert texts(rest) == ["in the next file", "and one more"], "what made room is gone, and nothing else"
    assert await everything(store, LogsRequest(instances=[B], after={B: rest[-1].place})) == []


async def test_instances_are_merged_by_time(store: LogStore) -> None:
    store.path_for(APP, B).write_bytes(cri(1, "b1") + cri(4, "b4") + cri(3, "b3, its clock went back"))
    store.path_for(APP, C).write_bytes(cri(2, "c2") + cri(5, "c5"))
    merged = texts(await everything(store, LogsRequest(instances=[B, C])))
    assert merged == ["b1", "c2", "b4", "b3, its clock went back", "c5"]


async def test_a_huge_line_comes_in_parts_and_is_cut(store: LogStore) -> None:
    """Fault matrix, row 42: 10 MB without a line end."""
    part = b"y" * 8192
    content = b"".join(cri(1, part, tag="P") for _ in range(10 * 128)) + cri(1, "end") + cri(2, "next")
    store.path_for(APP, B).write_bytes(content)
    lines = await everything(store, LogsRequest(instances=[B]))
    assert sum(len(line.text) for line in lines) < LINE_BYTES + 200
    assert [line.partial for line in lines[-3:]] == [True, False, False]
    assert "bytes of this line were cut" in lines[-2].text
    assert lines[-1].text == "next"


async def test_a_character_that_the_writer_cut_is_whole_again(store: LogStore) -> None:
    euro = "€".encode()
    store.path_for(APP, B).write_bytes(cri(1, euro[:2], tag="P") + cri(1, euro[2:] + b" \xff ok"))
    assert "".join(texts(await everything(store, LogsRequest(instances=[B])))) == "€ \ufffd ok"


async def test_a_file_of_no_lines_at_all_is_read_within_bounds(store: LogStore) -> None:
    store.path_for(APP, B).write_bytes(b"\0" * (1 << 20))
    lines = await everything(store, LogsRequest(instances=[B], tail=5))
    assert sum(len(line.text) for line in lines) <= 2 * LINE_BYTES


async def test_ids_are_never_paths(store: LogStore) -> None:
    assert store.find_directory("../../etc") is None
    assert store.find_directory("*") is None
    assert await everything(store, LogsRequest(instances=["../x", "ins_*"])) == []


def test_a_reader_goes_on_in_the_next_file_only_when_its_writer_does(store: LogStore) -> None:
    """Between the rename and the writer's reopening, lines still go to the old file: none may be missed."""
    current = store.path_for(APP, B)
    current.write_bytes(cri(1, "one"))
    cursor = Cursor(store, B)
    assert texts(cursor.read()) == ["one"]
    old = current.rename(current.with_name("0000000001.log"))
    assert cursor.read() == []
    with old.open("ab") as file:
        file.write(cri(2, "still here"))
    assert texts(cursor.read()) == ["still here"]
    with old.open("ab") as file:
        file.write(cri(3, "the last of it"))
    current.write_bytes(cri(4, "new file"))
    assert texts(cursor.read()) == ["the last of it"]
    assert texts(cursor.read()) == ["new file"]
    cursor.close()


def test_a_reader_whose_file_was_deleted_goes_on_with_the_oldest_left(store: LogStore) -> None:
    current = store.path_for(APP, B)
    current.write_bytes(cri(1, "one"))
    cursor = Cursor(store, B)
    assert texts(cursor.read()) == ["one"]
    current.unlink()
    current.with_name("0000000002.log").write_bytes(cri(5, "five"))
    current.write_bytes(cri(6, "six"))
    assert texts(cursor.read()) + texts(cursor.read()) == ["five", "six"]
    cursor.close()


def test_the_last_lines(store: LogStore) -> None:
    store.path_for(APP, B).write_bytes(b"".join(cri(n, str(n)) for n in range(100)))
    assert texts(last_lines(store, B, 3, Redaction())) == ["97", "98", "99"]
    assert last_lines(store, C, 3, Redaction()) == []


def test_the_last_lines_are_whole_although_they_were_written_in_pieces(store: LogStore) -> None:
    """Or a traceback, which Python writes word by word, would be a heap of words in the failed deployment."""
    pieces = (
        cri(1, "Traceback:", stream="stderr"),
        cri(2, "RuntimeError", stream="stderr", tag="P"),
        cri(3, "of the other stream"),
        cri(4, ": ", stream="stderr", tag="P"),
        cri(5, "no database", stream="stderr"),
        cri(6, "cut off by the end", stream="stderr", tag="P"),
    )
    store.path_for(APP, B).write_bytes(b"".join(pieces))
    assert texts(last_lines(store, B, 9, Redaction())) == [
        "Traceback:",
        "RuntimeError: no database",
        "of the other stream",
        "cut off by the end",
    ]


SECRET = "correct-horse-battery"
SECRETS = {B: {"API_KEY": SECRET}}


async def test_a_secret_is_hidden_from_whoever_reads_the_log_of_its_instance(store: LogStore) -> None:
    store.path_for(APP, B).write_bytes(cri(1, f"key={SECRET}!"))
    store.path_for(APP, C).write_bytes(cri(2, f"key={SECRET}!"))
    lines = await everything(store, LogsRequest(instances=[B, C], secrets=SECRETS))
    assert texts(lines) == ["key=[secret API_KEY]!", f"key={SECRET}!"]
    assert texts(last_lines(store, B, 1, Redaction([("API_KEY", SECRET)]))) == ["key=[secret API_KEY]!"]


@given(
    st.lists(st.text("-correcthosbaty \n", max_size=12) | st.just(SECRET), max_size=10),
    st.lists(st.integers(1, 30), max_size=20),
)
async def test_a_secret_that_was_written_in_pieces_is_one(
    tmp_path_factory: pytest.TempPathFactory, said: list[str], cuts: list[int]
) -> None:
    """The monitor's buffer ends where it likes, and a line of the other stream may come between."""
    store, rest, pieces = LogStore(tmp_path_factory.mktemp("logs")), "".join(said), []
    for cut in [*cuts, len(rest) + 1]:
        piece, rest = rest[:cut], rest[cut:]
        *whole, begun = piece.split("\n")
        pieces += [cri(1, line) for line in whole]
        pieces += [cri(1, begun, tag="P"), cri(1, "other", stream="stderr")]
    pieces.append(cri(1, ""))
    store.path_for(APP, B).write_bytes(b"".join(pieces))
    request = LogsRequest(instances=[B], secrets=SECRETS)
    shown = "".join(
        line.text + "\n" * (not line.partial) for line in await everything(store, request) if line.stream == "stdout"
    )
    assert shown == "".join(said).replace(SECRET, "[secret API_KEY]") + "\n"


async def test_the_last_words_of_a_process_that_ended_no_line_are_told(store: LogStore) -> None:
    store.path_for(APP, B).write_bytes(cri(1, "panic: ", tag="P") + cri(1, f"{SECRET} refused", tag="P"))
    assert texts(last_lines(store, B, 9, Redaction([("API_KEY", SECRET)]))) == ["panic: [secret API_KEY] refused"]


async def test_half_a_secret_at_the_end_of_a_line_that_was_cut_goes_too(store: LogStore) -> None:
    store.path_for(APP, B).write_bytes(cri(1, "x" * (LINE_BYTES - 10) + SECRET))
    (line,) = await everything(store, LogsRequest(instances=[B], secrets=SECRETS))
    assert SECRET[:4] not in line.text
    cut = LINE_BYTES - 10 + len(SECRET) - line.text.count("x")
    assert line.text.endswith(f" [{cut} bytes of this line were cut]")


class Writer:
    """Stands for the sandbox's monitor."""

    def __init__(self, store: LogStore) -> None:
        self._store, self.told = store, 0

    async def reopen(self, id: InstanceId) -> None:
        self.told += 1
        self._store.path_for(APP, id).touch()


async def test_a_file_that_grew_too_large_is_turned_over(store: LogStore) -> None:
    writer = Writer(store)
    current = store.path_for(APP, B)
    current.write_bytes(b"x" * 99)
    assert await store.rotate([(APP, B)], writer.reopen) == 0
    current.write_bytes(b"x" * 100)
    assert await store.rotate([(APP, B)], writer.reopen) == 1
    assert writer.told == 1
    assert current.stat().st_size == 0
    assert [number for number, _ in rotated_files(current.parent)] == [1]


async def test_a_writer_that_was_never_told_is_told_later(store: LogStore) -> None:
    """Killed between rename and reopen: without this the old file would grow for ever."""
    writer = Writer(store)
    current = store.path_for(APP, B)
    current.write_bytes(b"x")
    current.rename(current.with_name("0000000001.log"))
    await store.rotate([(APP, B)], writer.reopen)
    assert writer.told == 1


async def test_a_writer_that_ended_meanwhile_is_no_failure(store: LogStore) -> None:
    async def gone(id: InstanceId) -> None:
        raise NotFound("running instance", id)

    store.path_for(APP, B).write_bytes(b"x" * 200)
    assert await store.rotate([(APP, B)], gone) == 1


async def test_limits_are_kept_and_what_is_being_written_is_too(store: LogStore) -> None:
    current = store.path_for(APP, B)
    for number in range(5):
        current.with_name(f"{number + 1:010d}.log").write_bytes(b"x")
    current.write_bytes(b"x")
    assert await store.prune({B}) == 3
    assert sorted(path.name for path in current.parent.iterdir()) == ["0000000004.log", "0000000005.log", CURRENT]
    empty = store.path_for(APP, C).parent
    await store.prune({B})
    assert not empty.exists()


def test_two_hundred_deploys_leave_a_bounded_number_of_logs() -> None:
    gone = [LogFile(Path(f"/l/{APP}/{n}/{CURRENT}"), APP, f"i{n:03d}", None, 10, float(n)) for n in range(200)]
    live = LogFile(Path("/l/live"), APP, "live", None, 10, 0.0)
    doomed = plan_prune([*gone, live], {"live"}, LogLimits(gone_per_app=20))
    assert len(doomed) == 180
    assert live.path not in doomed
    assert gone[-1].path not in doomed


@given(
    st.lists(
        st.tuples(
            st.sampled_from("pq"),
            st.sampled_from("abc"),
            st.none() | st.integers(1, 9),
            st.integers(0, 90),
            st.integers(0, 50),
        ),
        unique_by=lambda file: file[:3],
    ),
    st.sets(st.sampled_from("abc")),
)
def test_pruning_keeps_its_limits(found: list[tuple[str, str, int | None, int, int]], live: set[str]) -> None:
    files = [LogFile(Path(f"/{a}/{i}/{n}"), a, a + i, n, size, float(at)) for a, i, n, size, at in found]
    alive = {file.instance for file in files if file.instance[1] in live}
    limits = LogLimits(files_per_instance=3, app_bytes=200, node_bytes=300, gone_per_app=2)
    doomed = set(plan_prune(files, alive, limits))
    kept = [file for file in files if file.path not in doomed]
    assert not any(file.number is None and file.instance in alive for file in files if file.path in doomed)
    spared = sum(file.size_bytes for file in kept if file.number is None and file.instance in alive)
    assert sum(file.size_bytes for file in kept) <= max(300, spared)
    for instance in {file.instance for file in kept}:
        assert sum(file.instance == instance and file.number is not None for file in kept) <= 2
