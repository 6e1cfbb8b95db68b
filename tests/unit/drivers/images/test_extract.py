"""Unpacking a stranger's archive as root must touch one directory and nothing else, whatever the archive says."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shellwego.drivers.images.archive import Archive
from shellwego.drivers.images.extract import Extractor
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.manifest import Compression
from shellwego.drivers.images.streams import LayerStream, Refused

FILE, HARD, SYM, DIR, CHAR, BLOCK, FIFO = "file", "hard", "sym", "dir", "char", "block", "fifo"
_TYPES = {
    FILE: tarfile.REGTYPE,
    HARD: tarfile.LNKTYPE,
    SYM: tarfile.SYMTYPE,
    DIR: tarfile.DIRTYPE,
    CHAR: tarfile.CHRTYPE,
    BLOCK: tarfile.BLKTYPE,
    FIFO: tarfile.FIFOTYPE,
}

E = tuple[str, str, str]
"""Type, name, and content of a file or target of a link."""


def tar(entries: Sequence[E], **attributes: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for kind, name, content in entries:
            member = tarfile.TarInfo(name)
            member.type, member.mode = _TYPES[kind], 0o755
            for key, value in attributes.items():
                setattr(member, key, value)
            data = content.encode() if kind == FILE else b""
            member.size = len(data)
            member.linkname = content if kind in (HARD, SYM) else ""
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def unpack(root: Path, *layers: bytes, limits: ImageLimits | None = None, base: Path | None = None) -> Extractor:
    limits = limits or ImageLimits()
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        extractor = Extractor(descriptor, limits, keep_owners=os.geteuid() == 0)
        if base is not None:
            lower = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
            try:
                extractor.link_tree(lower)
            finally:
                os.close(lower)
        for layer in layers:
            stream = LayerStream(io.BytesIO(layer), Compression.NONE, limits, room=limits.unpacked_bytes)
            extractor.apply(Archive(stream, limits))
        return extractor
    finally:
        os.close(descriptor)


def tree(root: Path) -> dict[str, str]:
    """What is there: paths with the content of files and the targets of links."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the root that must not change, and the root in it."""
    (tmp_path / "root").mkdir()
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "victims").mkdir()
    (tmp_path / "victims/inside").write_text("untouched")
    yield tmp_path
    assert (tmp_path / "victim").read_text() == "untouched"
    assert (tmp_path / "victim").stat().st_nlink == 1
    assert tree(tmp_path / "victims") == {"inside": "untouched"}
    assert {path.name for path in tmp_path.iterdir()} == {"root", "victim", "victims"}


HOSTILE: dict[str, tuple[list[list[E]], str]] = {
    "dot dot": ([[(FILE, "../victim", "x")]], r"'\.\.'"),
    "dot dot inside": ([[(DIR, "a", ""), (FILE, "a/../../victim", "x")]], r"'\.\.'"),
    "dot dot that stays inside": ([[(FILE, "a/../b", "x")]], r"'\.\.'"),
    "absolute dot dot": ([[(FILE, "/../victim", "x")]], r"'\.\.'"),
    "write through a symlink": ([[(SYM, "a", ".."), (FILE, "a/victim", "x")]], "symbolic link"),
    "write through an absolute symlink": ([[(SYM, "a", "/etc"), (FILE, "a/victim", "x")]], "symbolic link"),
    "write through a symlink of a lower layer": ([[(SYM, "a", "..")], [(FILE, "a/victim", "x")]], "symbolic link"),
    "write through two symlinks": (
        [[(DIR, "d", ""), (SYM, "d/up", ".."), (SYM, "a", "d/up/.."), (FILE, "a/victim", "x")]],
        "symbolic link",
    ),
    "write through a symlink to a directory of the image": (
        [[(DIR, "d", ""), (SYM, "a", "d"), (FILE, "a/f", "x")]],
        "symbolic link",
    ),
    "make a directory through a symlink": ([[(SYM, "a", "../victims"), (DIR, "a/b", "")]], "symbolic link"),
    "link through a symlink": ([[(SYM, "a", ".."), (HARD, "b", "a/victim")]], "symbolic link"),
    "hard link out": ([[(HARD, "b", "../victim")]], r"'\.\."),
    "hard link to an absolute path": ([[(HARD, "b", "/etc/passwd")]], "not in the image"),
    "hard link to a directory": ([[(DIR, "a", ""), (HARD, "b", "a")]], "is a directory"),
    "hard link to the root": ([[(HARD, "b", "/")]], "is a directory"),
    "hard link to nothing": ([[(HARD, "b", "a")]], "not in the image"),
    "hard link in place of its target's directory": (
        [[(DIR, "a", ""), (FILE, "a/f", "x"), (HARD, "a", "a/f")]],
        "not in the image",
    ),
    "whiteout through a symlink": ([[(SYM, "a", "..")], [(FILE, "a/.wh.victim", "")]], "symbolic link"),
    "opaque whiteout through a symlink": (
        [[(SYM, "a", "../victims")], [(FILE, "a/.wh..wh..opq", "")]],
        "symbolic link",
    ),
    "whiteout of dot dot": ([[], [(FILE, ".wh...", "")]], "hides nothing"),
    "whiteout of dot": ([[], [(FILE, ".wh..", "")]], "hides nothing"),
    "whiteout of nothing": ([[], [(FILE, ".wh.", "")]], "hides nothing"),
    "directory that is a whiteout": ([[(DIR, ".wh.a", "")]], "whiteout"),
    "file below a whiteout": ([[(FILE, ".wh.a/b", "")]], "whiteout"),
    "character device": ([[(CHAR, "dev/mem", "")]], "character device"),
    "overlayfs whiteout": ([[(CHAR, "gone", "")]], "character device"),
    "block device": ([[(BLOCK, "dev/sda", "")]], "block device"),
    "fifo": ([[(FIFO, "pipe", "")]], "fifo"),
    "file below a file": ([[(FILE, "a", "x"), (FILE, "a/b", "x")]], "which is a file"),
    "root as a file": ([[(FILE, "./", "x")]], "root directory"),
    "root as a symlink": ([[(SYM, ".", "..")]], "root directory"),
    "long name": ([[(FILE, "n" * 256, "x")]], "no name"),
    "deep path": ([[(FILE, "d/" * 200 + "f", "x")]], "too long a path"),
    "long path": ([[(FILE, ("n" * 200 + "/") * 25 + "f", "x")]], "too long a path"),
    "symlink to nothing": ([[(SYM, "a", "")]], "impossible target"),
    "symlink with a long target": ([[(SYM, "a", "x" * 5000)]], "impossible target"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(case: str, outside: Path) -> None:
    layers, why = HOSTILE[case]
    with pytest.raises(Refused, match=why):
        unpack(outside / "root", *map(tar, layers))


def test_an_absolute_path_stays_inside(outside: Path) -> None:
    """`ko` builds such images; every runtime drops the slash."""
    unpack(outside / "root", tar([(FILE, "/ko-app/run", "x"), (HARD, "/also", "/ko-app/run")]))
    assert tree(outside / "root") == {"also": "x", "ko-app": "/", "ko-app/run": "x"}


def test_a_symlink_is_kept_as_it_is_and_never_followed(outside: Path) -> None:
    """Also where it ends a path: a file replaces it, and what it pointed at stays."""
    entries = [(SYM, "a", "../victim"), (SYM, "d", "../victims"), (SYM, "kept", "/etc/passwd")]
    unpack(outside / "root", tar([*entries, (FILE, "a", "new"), (DIR, "d", ""), (FILE, "d/x", "new")]))
    assert tree(outside / "root") == {"a": "new", "d": "/", "d/x": "new", "kept": "-> /etc/passwd"}


def test_a_hard_link_to_a_symlink_links_the_symlink(outside: Path) -> None:
    unpack(outside / "root", tar([(SYM, "a", "../victim"), (HARD, "b", "a"), (FILE, "b", "new")]))
    assert tree(outside / "root") == {"a": "-> ../victim", "b": "new"}


def test_a_file_replaced_above_leaves_its_hard_links_alone(outside: Path) -> None:
    """Opening what exists for writing would change the other name, too."""
    lower = tar([(FILE, "a", "old"), (HARD, "b", "a")])
    unpack(outside / "root", lower, tar([(FILE, "b", "new")]))
    assert tree(outside / "root") == {"a": "old", "b": "new"}


@pytest.mark.parametrize(
    ("layers", "result"),
    [
        ([[(FILE, "a", "1"), (FILE, "a", "2")]], {"a": "2"}),
        ([[(DIR, "a", ""), (FILE, "a/b", "1"), (FILE, "a", "2")]], {"a": "2"}),
        ([[(FILE, "a", "1"), (DIR, "a", ""), (FILE, "a/b", "2")]], {"a": "/", "a/b": "2"}),
        ([[(DIR, "a", ""), (FILE, "a/b", "1"), (SYM, "a", "x"), (DIR, "a", "")]], {"a": "/"}),
        ([[(FILE, "a", "1"), (HARD, "b", "a"), (HARD, "b", "a"), (HARD, "a", "a")]], {"a": "1", "b": "1"}),
        ([[(FILE, "a/b", "1")], [(FILE, ".wh.a", "")]], {}),
        ([[(FILE, "a/b", "1")], [(FILE, "a/.wh.b", "")]], {"a": "/"}),
        ([[(FILE, "a/b", "1")], [(FILE, "a/.wh.c", "")]], {"a": "/", "a/b": "1"}),
        (
            [[(FILE, "a/b", "1"), (FILE, "a/c", "1")], [(FILE, "a/.wh..wh..opq", ""), (FILE, "a/c", "2")]],
            {"a": "/", "a/c": "2"},
        ),
        # The order of a whiteout and of what its own layer brings says nothing.
        (
            [[(FILE, "a/b", "1"), (FILE, "a/c", "1")], [(FILE, "a/c", "2"), (FILE, "a/.wh..wh..opq", "")]],
            {"a": "/", "a/c": "2"},
        ),
        ([[(FILE, "a", "1")], [(FILE, "a", "2"), (FILE, ".wh.a", "")]], {"a": "2"}),
        ([[(FILE, "a", "1")], [(FILE, ".wh.a", ""), (FILE, "a", "2")]], {"a": "2"}),
        (
            [[(FILE, "a/b/c", "1"), (FILE, "a/b/d", "1")], [(FILE, "a/b/d", "2"), (FILE, "a/.wh..wh..opq", "")]],
            {"a": "/", "a/b": "/", "a/b/d": "2"},
        ),
        ([[(FILE, "a/b", "1")], [(DIR, "a", ""), (FILE, "a/c", "2"), (FILE, ".wh.a", "")]], {"a": "/", "a/c": "2"}),
        ([[(FILE, "a", "1"), (FILE, "b", "1")], [(FILE, ".wh..wh..opq", "")]], {}),
        ([[(FILE, "a", "1")], [(FILE, ".wh.a", "")], [(FILE, "a", "3")]], {"a": "3"}),
        ([[(FILE, "a/b", "1")], [(FILE, "a", "2")]], {"a": "2"}),
        ([[(SYM, "a", "b")], [(DIR, "a", ""), (FILE, "a/c", "1")]], {"a": "/", "a/c": "1"}),
        # The lowest layer has nothing below that could be hidden, and aufs's own files are no part of an image.
        (
            [[(FILE, "a", "1"), (FILE, ".wh.a", ""), (FILE, ".wh..wh.aufs", ""), (FILE, ".wh..wh.plnk/9", "")]],
            {"a": "1"},
        ),
        ([[], [(FILE, "no/such/.wh.a", ""), (FILE, "no/.wh..wh..opq", "")]], {}),
    ],
)
def test_layers_merge_as_the_specification_says(layers: list[list[E]], result: dict[str, str], outside: Path) -> None:
    """Otherwise files that a Dockerfile removed are back, or those it made are gone."""
    unpack(outside / "root", *map(tar, layers))
    assert tree(outside / "root") == result


def test_modes_owners_and_times_are_kept(tmp_path: Path) -> None:
    """Programs that refuse to read a world-writable key, or that drop to their own user, depend on them."""
    owner = {"uid": 1234, "gid": 4321} if os.geteuid() == 0 else {}
    layer = tar([(DIR, "d", ""), (FILE, "d/f", "x"), (SYM, "d/s", "f")], mode=0o4750, mtime=12345, **owner)
    unpack(tmp_path, layer)
    for name in ("d", "d/f"):
        found = (tmp_path / name).lstat()
        assert stat.S_IMODE(found.st_mode) == 0o4750
        assert found.st_mtime == 12345
        assert not owner or (found.st_uid, found.st_gid) == (1234, 4321)


def test_a_missing_parent_is_made_for_everybody_to_enter(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        unpack(tmp_path, tar([(FILE, "a/b/c", "x")]))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o755


def test_extended_attributes_are_dropped(tmp_path: Path) -> None:
    """`security.capability` is setuid by another name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("ping")
        member.pax_headers = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02", "SCHILY.xattr.user.x": "y"}
        archive.addfile(member)
    unpack(tmp_path, out.getvalue())
    assert os.listxattr(tmp_path / "ping") == []


@pytest.mark.parametrize(
    ("layer", "limits", "why"),
    [
        (tar([(FILE, f"f{n}", "") for n in range(11)]), ImageLimits(entries=10), "10 entries"),
        (tar([(FILE, f"{n}/a/b/c/d/e", "") for n in range(3)]), ImageLimits(entries=10), "10 entries"),
        (tar([(FILE, "f", "x" * 600)] * 2), ImageLimits(unpacked_bytes=1000), "1000 bytes"),
    ],
)
def test_too_much_is_refused(layer: bytes, limits: ImageLimits, why: str, tmp_path: Path) -> None:
    """Inodes and bytes belong to all tenants of the node."""
    with pytest.raises(Refused, match=why):
        unpack(tmp_path, layer, limits=limits)


def test_a_sparse_file_counts_as_if_it_were_full(tmp_path: Path) -> None:
    """It costs nothing here, but everything once somebody copies it."""
    member = tarfile.TarInfo("huge")
    member.pax_headers = {"GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,0", "GNU.sparse.numblocks": "1"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
    with pytest.raises(Refused, match="bytes"):
        unpack(tmp_path, out.getvalue())


parts = st.sampled_from(["a", "b", "c", "..", ".", "", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh...", "victim", "victims"])
hostile_paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
targets = hostile_paths | st.sampled_from(["/", "..", "../victim", "../victims", "/etc/passwd", "a", "b/c"])
entries = st.tuples(st.sampled_from([FILE, HARD, SYM, SYM, DIR]), hostile_paths, targets)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None)
@given(layers=st.lists(st.lists(entries, max_size=8), min_size=1, max_size=3))
def test_no_archive_touches_anything_outside(layers: list[list[E]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The property that everything else here serves."""
    place = tmp_path_factory.mktemp("any")
    (place / "root").mkdir()
    (place / "victim").write_text("untouched")
    (place / "victims").mkdir()
    (place / "victims/inside").write_text("untouched")
    descriptors = {path.name for path in Path("/proc/self/fd").iterdir()}
    with contextlib.suppress(Refused):
        unpack(place / "root", *map(tar, layers))
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == descriptors
    assert (place / "victim").read_text() == "untouched"
    assert (place / "victim").stat().st_nlink == 1
    assert tree(place / "victims") == {"inside": "untouched"}
    assert {path.name for path in place.iterdir()} == {"root", "victim", "victims"}
    assert not list((place / "root").rglob(".wh.*"))


def looks(root: Path) -> dict[str, tuple[object, ...]]:
    """All that an app could see of a tree but the times of directories that its upper layers made."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted([root, *root.rglob("*")]):
        seen = path.lstat()
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        owner = (seen.st_mode, seen.st_uid, seen.st_gid)
        found[str(path.relative_to(root))] = (*owner, None if path.is_dir() else seen.st_mtime_ns, content)
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    lower=st.lists(st.lists(entries, max_size=8), min_size=1, max_size=2),
    upper=st.lists(st.lists(entries, max_size=8), min_size=1, max_size=2),
)
def test_a_tree_of_links_is_as_good_as_one_unpacked(
    lower: list[list[E]], upper: list[list[E]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Releases share their files: none may show, or change, what another one holds."""
    place = tmp_path_factory.mktemp("any")
    for name in ("base", "linked", "whole"):
        (place / name).mkdir()
    below = [tar(layer, mtime=1, mode=0o640) for layer in lower]
    above = [tar(layer, mtime=2, mode=0o4755) for layer in upper]
    try:
        unpack(place / "base", *below)
    except Refused:
        return
    before, times = looks(place / "base"), [path.lstat().st_mtime_ns for path in sorted(place.glob("base/**/*"))]
    outcomes = []
    for name, layers, base in (("linked", above, place / "base"), ("whole", (*below, *above), None)):
        try:
            unpack(place / name, *layers, base=base)
            outcomes.append(None)
        except Refused as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    if outcomes[0] is None:
        assert looks(place / "linked") == looks(place / "whole")
    assert looks(place / "base") == before
    assert [path.lstat().st_mtime_ns for path in sorted(place.glob("base/**/*"))] == times


def test_links_count_as_much_as_what_they_stand_for(tmp_path: Path) -> None:
    """Else ten images of one layer each would come past the limit that one image of ten layers meets."""
    for name in ("base", "one", "two"):
        (tmp_path / name).mkdir()
    unpack(tmp_path / "base", tar([(FILE, "a", "12345"), (HARD, "b", "a"), (DIR, "c", "")]))
    with pytest.raises(Refused, match="entries"):
        unpack(tmp_path / "one", tar([(FILE, "d", "")]), limits=ImageLimits(entries=3), base=tmp_path / "base")
    with pytest.raises(Refused, match="bytes"):
        unpack(tmp_path / "two", tar([(FILE, "d", "6")]), limits=ImageLimits(unpacked_bytes=5), base=tmp_path / "base")


plain_parts = st.sampled_from(["a", "b", "c"])
plain_paths = st.lists(plain_parts, min_size=1, max_size=3).map("/".join)
changes = st.lists(st.tuples(st.sampled_from(["put", "delete", "clear"]), plain_paths), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(layers=st.lists(changes, min_size=1, max_size=4))
def test_layers_give_what_a_model_says(
    layers: list[list[tuple[str, str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The model is a set of paths; each layer removes from the layers below, then adds its own."""
    model: dict[str, str] = {}
    archives = []
    for number, layer in enumerate(layers):
        own = {path for action, path in layer if action == "put"}
        # Files below files are refused, which is tested elsewhere.
        own = {path for path in own if not any(path.startswith(f"{other}/") for other in own)}
        # And from a lower layer's file to a directory takes an entry for the directory, wherever the file is deleted.
        own = {path for path in own if not any(path.startswith(f"{file}/") for file in model)}
        found: list[E] = [(FILE, path, str(number)) for path in sorted(own)]
        for action, path in layer:
            parent, _, base = path.rpartition("/")
            above = [path[:at] for at in range(len(path)) if path[at] == "/"]
            if action == "put" or any(file in own or file in model for file in (*above, path) if action == "clear"):
                continue
            if any(file in own or file in model for file in above):
                continue
            if action == "delete" and path in model and any(file.startswith(f"{path}/") for file in own):
                continue  # From file to directory, which takes an entry for the directory.
            if action == "delete":
                found.append((FILE, f"{parent}/.wh.{base}".lstrip("/"), ""))
                model = {file: text for file, text in model.items() if file != path and not file.startswith(f"{path}/")}
            else:
                found.append((FILE, f"{path}/.wh..wh..opq", ""))
                model = {file: text for file, text in model.items() if not file.startswith(f"{path}/")}
        for path in own:
            # A file in place of a directory, and the other way round, needs an entry for the directory: skip those.
            if any(file.startswith(f"{path}/") or path.startswith(f"{file}/") for file in model):
                found = [entry for entry in found if entry[1] != path]
            else:
                model[path] = str(number)
        archives.append(tar(found))
    place = tmp_path_factory.mktemp("model")
    unpack(place, *archives)
    assert {name: text for name, text in tree(place).items() if text != "/"} == model
