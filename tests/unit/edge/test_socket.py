"""Do we read what HAProxy 2.6 really says, and ask one question per line?"""

from __future__ import annotations

from pathlib import Path

import pytest

from shellwego.edge.access_log import AccessLog, LogLine, parse_line
from shellwego.edge.config import LOG_FEW_OF, LOG_ONE_OF
from shellwego.edge.routes import Mode, SeenServer
from shellwego.edge.socket import ProxyUnavailable, RuntimeSocket, observed_from, parse_info, parse_map, parse_servers

STATE = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change
4 slot2 1 ins_b:10.0.0.1:80 127.0.0.1 2 0 1 1 3 1 0 0 0 0 0 0 - 19001 - 0 0 - - 0
4 slot2 2 ins_c:10.0.0.2:80 127.0.0.1 2 8 1 1 7 1 0 0 0 0 0 0 - 19001 - 0 0 - - 0
4 slot2 3 ins_d:10.0.0.3:80 127.0.0.1 0 1 1 1 9 1 0 0 0 0 0 0 - 19001 - 0 0 - - 0
5 api 1 api unix 2 0 1 1 3 1 0 0 0 0 0 0 - 0 - 0 0 - - 0"""
STAT = """# pxname,svname,qcur,qmax,scur,smax,slim,stot
slot2,ins_b:10.0.0.1:80,0,0,3,0,,0
slot2,ins_c:10.0.0.2:80,1,0,1,0,,0
api,api,0,0,9,0,,0"""


def test_servers_with_their_mode_and_sessions() -> None:
    assert parse_servers(STATE, STAT, prefix="slot") == {
        "slot2": (
            SeenServer("ins_b:10.0.0.1:80", Mode.READY, 3, 3),
            SeenServer("ins_c:10.0.0.2:80", Mode.DRAIN, 2, 7),
            SeenServer("ins_d:10.0.0.3:80", Mode.MAINT, 0, 9),
        )
    }


def test_a_host_that_is_twice_in_the_map_counts_as_wrong() -> None:
    """Otherwise the second value might be the one that answers."""
    hosts = parse_map("0x1 a.test slot1\n0x2 a.test slot2\n0x3 b.test slot1\n0x4 b.test slot1")
    assert observed_from(hosts, {}, {}, 4).hosts == {"a.test": "", "b.test": "slot1"}


def test_info() -> None:
    info = parse_info("Name: HAProxy\nPid: 12\nStopping: 1\ndescription: shape=abc slots=64\nnode: x")
    assert (info.pid, info.stopping, info.shape, info.slots) == (12, True, "abc", 64)


async def test_a_line_break_is_never_sent(tmp_path: Path) -> None:
    """It would be a second command."""
    with pytest.raises(ValueError, match="one line"):
        await RuntimeSocket(tmp_path / "x").ask(["show info\nshutdown frontend edge"])


async def test_nobody_there(tmp_path: Path) -> None:
    runtime = RuntimeSocket(tmp_path / "x")
    assert await runtime.find_info() is None
    with pytest.raises(ProxyUnavailable):
        await runtime.ask(["show info"])


def test_log_lines() -> None:
    assert parse_line(b"app_x slot1 200 512 34 -- 7") == LogLine("app_x", "slot1", 200, 512, 0.034, 1)
    assert parse_line(b"- page-unknown 404 10 -1 -- 5000\n") == LogLine("", "page-unknown", 404, 10, 0.0, LOG_ONE_OF)
    assert parse_line(b"app_x slot1 200 512 34 -- 9000") == LogLine("app_x", "slot1", 200, 512, 0.034, LOG_FEW_OF)
    assert parse_line(b"Proxy edge started.") is None
    assert parse_line(b"\xff\x00 a b c d e f") is None


def test_a_line_that_stands_for_many_counts_as_many(tmp_path: Path) -> None:
    """A busy app's numbers would otherwise be a thirtieth of the truth."""
    log = AccessLog(tmp_path / "log.sock")
    log.count(LogLine("app_x", "slot1", 200, 100, 0.02, 32))
    log.count(LogLine("app_x", "slot1", 503, 10, 0.3, 1))
    text = log.metrics().decode()
    for line in (
        'shellwego_edge_requests_total{app="app_x",backend="app",status="2xx"} 32.0',
        'shellwego_edge_sent_bytes_total{app="app_x",backend="app"} 3210.0',
        'shellwego_edge_request_seconds_bucket{app="app_x",backend="app",le="0.025"} 32.0',
        'shellwego_edge_request_seconds_count{app="app_x",backend="app"} 33.0',
    ):
        assert line in text
