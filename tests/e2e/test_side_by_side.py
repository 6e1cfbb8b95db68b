"""Two clouds on one machine don't know of each other, and each leaves without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.cloud import RunningCloud, eventually
from tests.e2e.conftest import EXAMPLES
from tests.leaks import inventory

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


def test_two_clouds(cloud: RunningCloud, app: str, tmp_path: Path) -> None:
    second = RunningCloud(tmp_path / "second")
    second.start()
    short = second.short
    try:
        cloud.do("deploy", str(EXAMPLES / "static"), "--name", app, "--wait")
        assert second.get(app).status == 404
        assert second.json("apps", "list") == []
        second.do("deploy", str(EXAMPLES / "node"), "--name", app, "--wait")
        assert cloud.get(app).body != second.get(app).body
        assert cloud.run("apps", "list", token=(second.data / "admin-token").read_text().strip()).code != 0
    finally:
        second.stop()
        assert second.run("uninstall", "--data-dir", str(second.data), "--yes", token="none").code == 0
    assert inventory(short, second.data) == []
    assert not second.data.exists()
    eventually("the first cloud never noticed", lambda: cloud.get(app).status == 200)


def test_a_second_up_on_the_same_data_is_refused(cloud: RunningCloud) -> None:
    twin = RunningCloud(cloud.data)
    with pytest.raises(RuntimeError, match="runs already"):
        twin.start()
    assert cloud.is_up()
