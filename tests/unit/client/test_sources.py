"""A folder on its way to the cloud: all that is meant, nothing that isn't, the same bytes each time."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.fake_cloud import URL, FakeCloud

from shellwego.client import Cloud, TokenCredential
from shellwego.client.ignores import DockerIgnore
from shellwego.client.sources import list_source, pack
from shellwego.client.transport import Transport
from shellwego.core.errors import InvalidField


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {path}")
    return root


def sent(root: Path, **more: str) -> set[str]:
    """The files (no folders) that would be sent."""
    return {entry.path for entry in list_source(root, **more).entries if entry.kind != tarfile.DIRTYPE}


def unpacked(root: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(pack(list_source(root)))), mode="r:gz") as archive:
        return {member.name: member for member in archive}


class TestPacking:
    def test_what_arrives_is_what_was_there(self, tmp_path: Path) -> None:
        make(tmp_path, "a.txt", "dir/b.txt", "ünï/" + "x" * 150)
        (tmp_path / "run.sh").write_text("#!/bin/sh")
        (tmp_path / "run.sh").chmod(0o4750)
        (tmp_path / "empty").mkdir()
        (tmp_path / "link").symlink_to("dir/b.txt")
        (tmp_path / "out").symlink_to("/etc")
        with tarfile.open(fileobj=io.BytesIO(b"".join(pack(list_source(tmp_path)))), mode="r:gz") as archive:
            members = {member.name: member for member in archive}
            content = archive.extractfile("dir/b.txt")
            assert content is not None
            assert content.read() == b"content of dir/b.txt"
        assert set(members) == {
            "a.txt",
            "dir",
            "dir/b.txt",
            "empty",
            "link",
            "out",
            "run.sh",
            "ünï",
            "ünï/" + "x" * 150,
        }
        assert (members["link"].issym(), members["link"].linkname) == (True, "dir/b.txt")
        # Kept as a link and not followed: what is in /etc stays at home.
        assert (members["out"].issym(), members["out"].linkname) == (True, "/etc")
        assert members["run.sh"].mode == 0o755
        assert members["a.txt"].mode == 0o644
        assert {(m.uid, m.gid, m.uname) for m in members.values()} == {(0, 0, "")}

    def test_gnu_tar_reads_it_too(self, tmp_path: Path) -> None:
        root = make(tmp_path / "src", "a", "b/" + "c" * 120, "ünï")
        done = subprocess.run(["tar", "-tz"], input=b"".join(pack(list_source(root))), capture_output=True, check=True)
        assert len(done.stdout.splitlines()) == 4

    def test_the_same_folder_gives_the_same_bytes(self, tmp_path: Path) -> None:
        """Or a deploy without a change would build again."""
        make(tmp_path, "b", "a", "c/d")
        first = b"".join(pack(list_source(tmp_path)))
        assert b"".join(pack(list_source(tmp_path))) == first

    def test_times_survive(self, tmp_path: Path) -> None:
        """Static servers make ETags of them: with one time for all, browsers would keep the old page."""
        make(tmp_path, "index.html")
        os.utime(tmp_path / "index.html", (1_700_000_000.5, 1_700_000_000.5))
        assert unpacked(tmp_path)["index.html"].mtime == 1_700_000_000

    def test_a_file_name_that_is_not_utf_8_arrives(self, tmp_path: Path) -> None:
        (tmp_path / os.fsdecode(b"caf\xe9")).write_text("x")
        assert os.fsencode(next(iter(unpacked(tmp_path)))) == b"caf\xe9"

    def test_a_file_that_shrinks_meanwhile_is_told(self, tmp_path: Path) -> None:
        make(tmp_path, "log")
        listing = list_source(tmp_path)
        (tmp_path / "log").write_text("")
        with pytest.raises(InvalidField, match="became shorter"):
            b"".join(pack(listing))

    def test_a_file_that_grows_meanwhile_is_cut_where_it_was_listed(self, tmp_path: Path) -> None:
        make(tmp_path, "log")
        listing = list_source(tmp_path)
        with (tmp_path / "log").open("a") as file:
            file.write("more" * 1000)
        with tarfile.open(fileobj=io.BytesIO(b"".join(pack(listing))), mode="r:gz") as archive:
            assert archive.getmember("log").size == len("content of log")

    def test_a_file_swapped_for_a_symlink_is_not_followed(self, tmp_path: Path) -> None:
        make(tmp_path, "a")
        listing = list_source(tmp_path)
        (tmp_path / "a").unlink()
        (tmp_path / "a").symlink_to("/etc/hostname")
        with pytest.raises(InvalidField, match="can't be read"):
            b"".join(pack(listing))

    def test_sockets_and_pipes_are_refused_by_name(self, tmp_path: Path) -> None:
        make(tmp_path, "a")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "s.sock"))
            with pytest.raises(InvalidField, match="socket") as caught:
                list_source(tmp_path)
        assert caught.value.field == "s.sock"
        (tmp_path / "s.sock").unlink()
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InvalidField, match="pipe"):
            list_source(tmp_path)
        make(tmp_path, ".dockerignore").joinpath(".dockerignore").write_text("pipe")
        assert sent(tmp_path) == {"a", ".dockerignore"}

    def test_nothing_to_send_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidField, match="holds no file"):
            list_source(tmp_path)
        with pytest.raises(InvalidField, match="doesn't exist"):
            list_source(tmp_path / "no")
        with pytest.raises(InvalidField, match="is a file"):
            list_source(make(tmp_path, "f") / "f")

    def test_big_files_and_env_files_are_pointed_at(self, tmp_path: Path) -> None:
        make(tmp_path, ".env")
        with (tmp_path / "movie").open("wb") as file:
            file.truncate(60 << 20)
        hints = " ".join(list_source(tmp_path).hints)
        assert "movie is 60 MiB" in hints
        assert ".env is sent" in hints

    async def test_it_is_uploaded_piece_by_piece_with_progress(self, tmp_path: Path) -> None:
        (tmp_path / "noise").write_bytes(os.urandom(3 << 20))
        fake = FakeCloud(lost_answers=1)
        fake.add_app("shop")
        cloud = Cloud(Transport(URL, TokenCredential("good"), http=fake.transport()))
        seen: list[int] = []
        source = await cloud.sources.upload("shop", list_source(tmp_path), idempotency_key="k", on_progress=seen.append)
        assert max(seen) == 3 << 20
        assert len(fake.sources) == 1  # Sent twice after the lost answer, kept once.
        assert fake.sources[source.id] == b"".join(pack(list_source(tmp_path)))


class TestGitIgnore:
    def test_without_any_file_the_usual_clutter_stays_at_home(self, tmp_path: Path) -> None:
        make(tmp_path, "app.py", ".git/config", "sub/.git", "node_modules/x/y.js", "a/__pycache__/a.pyc", ".venv/bin/p")
        assert sent(tmp_path) == {"app.py"}

    def test_gitignore_files_of_every_folder_count(self, tmp_path: Path) -> None:
        make(tmp_path, "a.log", "keep.log", "d/b.log", "d/c.tmp", "e/c.tmp", "build/x", "d/build/x")
        (tmp_path / ".gitignore").write_text("*.log\n!keep.log\n/build/\n")
        (tmp_path / "d/.gitignore").write_text("*.tmp\n!b.log\n")
        assert sent(tmp_path) == {".gitignore", "d/.gitignore", "keep.log", "d/b.log", "e/c.tmp", "d/build/x"}

    def test_git_itself_agrees(self, tmp_path: Path) -> None:
        make(tmp_path, "a.log", "keep.log", "x/y/a.log", "x/keep.log", "x/z/b", "x/z/c", "q/w", "q/e/w", "s p.txt")
        (tmp_path / ".gitignore").write_text("*.log\n!keep.log\nx/z/*\n!x/z/b\nq/**/w\ns\\ p.txt\n")
        subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert sent(tmp_path) == set(listed.stdout.split("\n")) - {""}

    def test_a_folder_of_a_repository_obeys_the_repository(self, tmp_path: Path) -> None:
        make(tmp_path, "site/a.js", "site/dist/b.js", "site/c.log", ".git/HEAD")
        (tmp_path / ".gitignore").write_text("/site/dist/\n*.log\n")
        assert sent(tmp_path / "site") == {"a.js"}

    def test_what_is_brought_back_by_name_is_sent(self, tmp_path: Path) -> None:
        make(tmp_path, "node_modules/mine/a.js")
        (tmp_path / ".gitignore").write_text("!node_modules/\n")
        assert "node_modules/mine/a.js" in sent(tmp_path)


class TestDockerIgnore:
    @pytest.mark.parametrize(
        ("patterns", "path", "excluded"),
        [
            # From Docker's documentation of .dockerignore.
            (["*/temp*"], "somedir/temporary.txt", True),
            (["*/temp*"], "somedir/temp/x", True),
            (["*/temp*"], "temporary.txt", False),
            (["*/*/temp*"], "somedir/subdir/temporary.txt", True),
            (["temp?"], "tempa", True),
            (["temp?"], "temp", False),
            (["**/*.go"], "a.go", True),
            (["**/*.go"], "a/b/c.go", True),
            (["*.md", "!README.md"], "README.md", False),
            (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
            (["*.md", "README-secret.md", "!README*.md"], "README-secret.md", False),
            (["# no", "", "  a  "], "a", True),
            (["/a/b"], "a/b", True),
            (["a/"], "a/b/c", True),
            (["./a"], "a", True),
            (["a"], "b/a", False),  # unlike git, patterns count from the root
            (["**"], "a/b", True),
            (["**/node_modules"], "a/node_modules/b", True),
            (["a/**/b"], "a/b", True),
            (["a/**/b"], "a/x/y/b", True),
            (["[a-c].txt"], "b.txt", True),
            (["[^a-c].txt"], "d.txt", True),
            (["a\\*b"], "a*b", True),
            (["a\\*b"], "axb", False),
            (["a.b"], "axb", False),
            (["*", "!src"], "src/a", False),
            (["*", "!src"], "other", True),
            (["*", "!src", "src/secret"], "src/secret", True),
            (["."], "a", False),
            (["[z-a]"], "x", False),
            (["(a+"], "(a+", True),
        ],
    )
    def test_patterns_mean_what_docker_says(self, patterns: list[str], path: str, excluded: bool) -> None:
        assert DockerIgnore(patterns).excludes(path, is_folder=False) is excluded

    def test_what_is_brought_back_inside_an_excluded_folder_is_found(self, tmp_path: Path) -> None:
        make(tmp_path, "a/b/keep", "a/b/drop", "c/d", "e/x.keep", "e/x")
        (tmp_path / ".dockerignore").write_text("*\n!a/b/keep\n!**/*.keep\n")
        assert sent(tmp_path) == {"a/b/keep", "e/x.keep", ".dockerignore"}

    def test_what_steers_the_build_is_always_sent(self, tmp_path: Path) -> None:
        make(tmp_path, "Dockerfile", "shellwego.toml", "Procfile", "ops/Dockerfile.prod", "ops/x", "y")
        (tmp_path / ".dockerignore").write_text("*\n")
        assert sent(tmp_path) == {"Dockerfile", "shellwego.toml", "Procfile", ".dockerignore"}
        assert sent(tmp_path, dockerfile="ops/Dockerfile.prod") == {
            "ops/Dockerfile.prod", "shellwego.toml", "Procfile", ".dockerignore",
        }  # fmt: skip

    def test_gitignore_does_not_count_beside_it_but_git_itself_stays_at_home(self, tmp_path: Path) -> None:
        make(tmp_path, "a", "b", ".git/HEAD")
        (tmp_path / ".gitignore").write_text("a\n")
        (tmp_path / ".dockerignore").write_text("b\n")
        assert sent(tmp_path) == {"a", ".gitignore", ".dockerignore"}

    @given(st.lists(st.text(alphabet="ab*?[]!\\/.-", max_size=8), max_size=5), st.text(alphabet="ab/", min_size=1))
    def test_no_pattern_crashes(self, patterns: list[str], path: str) -> None:
        ignore = DockerIgnore(patterns)
        ignore.excludes(path, is_folder=False)
        ignore.may_hold_kept(path)
