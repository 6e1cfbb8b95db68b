"""Images from a real registry, and applications that nobody here wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.cloud import RunningCloud
from tests.images import busybox_layout
from tests.registry import running_registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


def test_an_image_from_a_registry(cloud: RunningCloud, app: str, tmp_path: Path) -> None:
    """Name an image, get a URL; and what runs is named by its digest."""
    serve = "mkdir -p /tmp/www; echo from the registry > /tmp/www/index.html; exec httpd -f -p $PORT -h /tmp/www"
    layout = busybox_layout(tmp_path / "layout", cmd=("sh", "-c", serve))
    (tmp_path / "registry").mkdir()
    with running_registry(tmp_path / "registry") as registry:
        reference = registry.push(layout, "www:1")
        cloud.do("deploy", "--image", reference, "--name", app, "--wait")
    assert cloud.get(app).body == "from the registry\n"
    assert "@sha256:" in cloud.json("apps", "get", app)["image"]
    # The registry is gone; the image is here.
    cloud.do("scale", app, "web=2", "--wait")


def test_httpbin_from_pypi(cloud: RunningCloud, app: str, tmp_path: Path) -> None:
    """A stranger's Python application, from its package index, unchanged."""
    (tmp_path / "requirements.txt").write_text("httpbin==0.10.2\ngunicorn==23.0.0\n")
    (tmp_path / "Procfile").write_text("web: gunicorn --bind 0.0.0.0:$PORT httpbin:app\n")
    cloud.do("deploy", str(tmp_path), "--name", app, "--wait", timeout=600)
    assert '"X-Forwarded-For"' not in cloud.get(app, "/nothing").body
    answer = cloud.get(app, "/headers")
    assert answer.status == 200
    assert f"{app}.localhost" in answer.body
    assert cloud.get(app, "/status/418").status == 418


@pytest.mark.long
def test_node_red_from_npm(cloud: RunningCloud, app: str, tmp_path: Path) -> None:
    """A stranger's Node application with its three hundred packages."""
    (tmp_path / "package.json").write_text(
        '{"name": "flows", "private": true, "dependencies": {"node-red": "4.1.0"},'
        ' "scripts": {"start": "node-red --port $PORT --userDir /tmp/flows"}}'
    )
    cloud.do("deploy", str(tmp_path), "--name", app, "--memory", "512m", "--wait", timeout=800)
    assert "Node-RED" in cloud.get(app).body
