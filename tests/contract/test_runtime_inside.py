"""What is inside a sandbox of gVisor or runc: for its app, for a person at a terminal, for a stranger who wants out."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.sandboxes import World, output, said, until

from shellwego.core.errors import StartFailed
from shellwego.core.ids import InstanceId
from shellwego.drivers.runtime.port import ExecSession


class TestInside:
    async def test_names_are_those_of_the_image(self, real: World) -> None:
        _, text = await real.run(
            "id -u; id -g; id -G; echo $HOME; hostname; pwd", user="app", cwd="/data", hostname="web-1"
        )
        assert text.split() == ["1000", "1001", "1001", "63", "/home/app", "web-1", "/data"]

    async def test_a_number_and_a_group_need_no_entry(self, real: World) -> None:
        _, text = await real.run("id -u; id -g; id -G", user="4242:staff")
        assert text.split() == ["4242", "1001", "1001"]

    async def test_our_files_lie_over_the_image_and_are_read_only(self, real: World) -> None:
        files = {
            "/etc/resolv.conf": b"nameserver 10.0.0.1\n",
            "/etc/passwd": b"root:x:0:0::/:/bin/sh\n",
            "/opt/new/deep/file": b"new\n",
        }
        _, text = await real.run(
            "cat /etc/resolv.conf /etc/passwd /opt/new/deep/file; echo x > /etc/passwd || echo refused; ls -ld /etc",
            files=files,
            user="0:0",
        )
        assert text.startswith("nameserver 10.0.0.1\nroot:x:0:0::/:/bin/sh\nnew\nrefused\n")

    async def test_secrets_are_on_no_disk(self, real: World) -> None:
        workload = real.workload(
            env={"PATH": "/bin", "TOKEN": "a-secret-of-mine"}, files={"/etc/key": b"another-secret"}
        )
        await real.driver.ensure_running(workload)
        for path in [*real.scratch.rglob("*"), *Path("/run/shellwego").glob(f"{real.cloud}/*")]:
            if path.is_file():
                assert b"secret" not in path.read_bytes()
        mount = f"/run/shellwego/{real.cloud}/{real.kind} "
        assert any(
            mount in line and " tmpfs " in line for line in Path("/proc/self/mountinfo").read_text().splitlines()
        )
        assert Path(mount.strip()).stat().st_mode & 0o777 == 0o700

    async def test_a_write_is_private_and_gone_with_the_sandbox(self, real: World) -> None:
        workload = real.script("echo mine > /data/x; rm -r /home; echo > /bin/sh; sleep 1000")
        await real.driver.ensure_running(workload)
        other = real.script("cat /data/x; ls -d /home; sleep 1000")
        await real.driver.ensure_running(other)
        await until(lambda: "/home" in said(other))
        assert "mine" not in said(other)


class Person:
    """Who sits at the terminal of a command."""

    def __init__(self, session: ExecSession) -> None:
        self._session = session
        self._unread = b""

    async def reads(self, *texts: bytes) -> None:
        """Read on until these have come, in this order."""
        for text in texts:
            async with asyncio.timeout(20):
                while text not in self._unread:
                    chunk = await self._session.read_stdout()
                    assert chunk, self._unread
                    self._unread += chunk
            self._unread = self._unread.partition(text)[2]


class TestExec:
    async def test_closing_ends_the_command_and_its_children(self, real: World) -> None:
        """A person who closes the laptop must not leave processes behind in the app."""
        workload = real.workload()
        await real.driver.ensure_running(workload)
        session = await real.driver.exec(workload.id, ("sh", "-c", "sleep 501 & sleep 502; echo"), tty=False, env={})
        await asyncio.wait_for(self.processes(real, workload.id, "sleep 50", 2), 20)
        await session.close()
        await asyncio.wait_for(self.processes(real, workload.id, "sleep 50", 0), 20)

    async def processes(self, world: World, id: InstanceId, text: str, count: int) -> None:
        while True:
            args = ("sh", "-c", 'for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline; echo; done')
            out, _, _ = await output(await world.driver.exec(id, args, tty=False, env={}))
            if sum(line.startswith(text) for line in out.decode().splitlines()) == count:
                return

    async def test_a_terminal_follows_its_window_and_its_keys(self, real: World) -> None:
        workload = real.workload()
        await real.driver.ensure_running(workload)
        script = (
            'trap "stty size" WINCH; trap "echo interrupted; exit 4" INT; echo ready; while true; do sleep 0.1; done'
        )
        session = await real.driver.exec(workload.id, ("sh", "-c", script), tty=True, env={})
        person = Person(session)
        await person.reads(b"ready")
        await session.resize(columns=101, rows=33)
        await person.reads(b"33 101")
        await session.write_stdin(b"\x03")
        await person.reads(b"interrupted")
        async with asyncio.timeout(20):
            assert await session.wait() == 4
        await session.close()

    async def test_a_shell_in_a_terminal_is_a_shell_as_anywhere(self, real: World) -> None:
        """A program is put aside and taken up again, interrupted, and its input ended; /dev/tty is this terminal."""
        workload = real.workload()
        await real.driver.ensure_running(workload)
        session = await real.driver.exec(workload.id, ("sh", "-i"), tty=True, env={"PS1": "next> "})
        person = Person(session)
        await person.reads(b"next> ")
        # The quotes tell what a command says from the echo of what was typed.
        await session.write_stdin(b"sh -c 'echo be\"\"gun; exec cat'\r")
        await person.reads(b"begun")
        await session.write_stdin(b"\x1a")
        await person.reads(b"Stopped", b"next> ")
        await session.write_stdin(b"fg\r")
        await person.reads(b"fg", b"sh -c")
        # Its second time is the program's: it has the terminal again, and not the shell any more.
        await session.write_stdin(b"here\r")
        await person.reads(b"here", b"here")
        await session.write_stdin(b"\x03")
        await person.reads(b"next> ")
        await session.write_stdin(b'echo ended with $?; echo in be""tween > /dev/tty; cat\r')
        await person.reads(b"ended with 130", b"in between")
        await session.write_stdin(b"typed\r")
        await person.reads(b"typed", b"typed")
        await session.write_stdin(b"\x04")
        await person.reads(b"next> ")
        await session.write_stdin(b"exit 7\r")
        async with asyncio.timeout(20):
            assert await session.wait() == 7
        await session.close()

    async def test_a_flood_waits_for_its_reader(self, real: World) -> None:
        """All of it arrives, and none of it is kept in our memory meanwhile."""
        workload = real.workload()
        await real.driver.ensure_running(workload)
        args = ("dd", "if=/dev/zero", "bs=1M", "count=30")
        session = await real.driver.exec(workload.id, args, tty=False, env={})
        first = await session.read_stdout()
        assert len(first) <= 1 << 16
        out, _, status = await output(session)
        assert (len(first) + len(out), status) == (30 << 20, 0)

    async def test_a_command_that_is_not_there(self, real: World) -> None:
        workload = real.workload()
        await real.driver.ensure_running(workload)
        for tty in (False, True):
            with pytest.raises(StartFailed, match="not found"):
                await real.driver.exec(workload.id, ("no-such-command",), tty=tty, env={})


PROBE = """
grep -E 'Cap(Eff|Bnd|Amb|Inh)|NoNewPrivs' /proc/self/status
ls /dev | tr '\\n' ' '; echo
for f in /proc/kcore /proc/sysrq-trigger /dev/mem /dev/kmem /dev/sda /dev/vda /dev/kvm /dev/fuse /dev/loop0; do
  head -c 1 $f 2>/dev/null | grep -q . && echo "READABLE $f"
done
for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_helper \
         /sys/fs/cgroup/release_agent /sys/fs/cgroup/x /proc/sys/vm/panic_on_oom; do
  (echo x > $f) 2>/dev/null && echo "WRITABLE $f"
done
mknod /data/disk b 254 0 2>/dev/null && head -c 1 /data/disk 2>/dev/null && echo "MKNOD"
mount -t tmpfs none /data 2>/dev/null && echo "MOUNTED"
mount -t cgroup none /data 2>/dev/null && echo "MOUNTED cgroup"
chroot / true 2>/dev/null && echo "CHROOT"
unshare -U true 2>/dev/null && [ "$(uname -v | grep -c gVisor)" = 9 ] && echo "USERNS"
hostname evil 2>/dev/null && echo "HOSTNAME"
ls /proc | grep -E '^[0-9]+$' | wc -l | sed 's/^/PROCESSES /'
echo done
"""


class TestEscape:
    """What a stranger tries first."""

    async def test_root_inside_can_do_nothing_to_the_host(self, real: World) -> None:
        _, text = await real.run(PROBE)
        assert text.endswith("done\n")
        for word in ("READABLE", "WRITABLE", "MKNOD", "MOUNTED", "CHROOT", "HOSTNAME"):
            assert word not in text, text
        assert "CapEff:\t00000000000004eb" in text
        assert "CapBnd:\t00000000000004eb" in text
        assert "NoNewPrivs:\t1" in text
        processes = int(text.split("PROCESSES ")[1].split()[0])
        assert processes < 10, "other processes are visible"

    async def test_only_the_standard_devices(self, real: World) -> None:
        _, text = await real.run("ls /dev")
        assert set(text.split()) <= {
            "char",
            "console",
            "core",
            "fd",
            "full",
            "mqueue",
            "null",
            "ptmx",
            "pts",
            "random",
            "shm",
            "stderr",
            "stdin",
            "stdout",
            "tty",
            "urandom",
            "zero",
            "net",
            "fuse",
        }

    async def test_who_is_not_root_has_no_capability_and_gains_none(self, real: World, tmp_path: Path) -> None:
        image = tmp_path / "setuid"
        shutil.copytree(real.rootfs, image, symlinks=True)
        shutil.copy(image / "bin/busybox", image / "bin/root-id")
        (image / "bin/id").unlink()
        shutil.copy(image / "bin/busybox", image / "bin/id")
        (image / "bin/id").chmod(0o6755)
        _, text = await real.run("id -u; grep CapEff /proc/self/status", user="app", rootfs=image)
        assert text == "1000\nCapEff:\t0000000000000000\n"

    async def test_a_link_in_the_image_leads_nowhere_outside(self, real: World, tmp_path: Path) -> None:
        """The image's own links decide where our files go, and they are a stranger's."""
        image, victim = tmp_path / "links", tmp_path / "victim"
        victim.mkdir()
        shutil.copytree(real.rootfs, image, symlinks=True)
        (image / "etc/passwd").unlink()
        (image / "etc/passwd").symlink_to("/proc/1/environ")
        (image / "opt").symlink_to(victim)
        (image / "srv").symlink_to("../../../../../.." + str(victim))
        _, text = await real.run(
            "cat /opt/key; cat /srv/key", rootfs=image, files={"/opt/key": b"1", "/srv/key": b"2"}, user="0"
        )
        assert list(victim.iterdir()) == []
        assert text.strip() in ("12", "22")

    async def test_a_neighbour_is_out_of_sight(self, real: World) -> None:
        neighbour = real.workload("sleep", "98765")
        await real.driver.ensure_running(neighbour)
        _, text = await real.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ps")
        assert "98765" not in text
