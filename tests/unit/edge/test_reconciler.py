"""A proxy that can't be brought to what it should serve is told of, not only logged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shellwego.edge.config import ProxyPaths
from shellwego.edge.haproxy import ConfigRefused, HAProxy
from shellwego.edge.reconciler import EdgeReconciler, EdgeSettings
from shellwego.protocol.messages import EdgeReport


async def test_a_refused_configuration_reaches_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or `/health` would call a cloud well that answers nobody."""
    paths = ProxyPaths(tmp_path / "edge")
    settings = EdgeSettings(
        paths=paths,
        address="127.0.0.1",
        http_port=0,
        https_port=0,
        domain="localhost",
        api_socket=tmp_path / "api.sock",
        routes_file=tmp_path / "routes.json",
    )
    reports: list[EdgeReport] = []
    proxy = HAProxy(Path("haproxy"), paths, namespace=None, on_death=lambda: None)
    reconciler = EdgeReconciler(settings, proxy, wake=asyncio.Event(), on_report=reports.append)

    async def refuse(*_: object) -> None:
        raise ConfigRefused("line 50: unbalanced")

    monkeypatch.setattr(reconciler, "_bring_about", refuse)
    with pytest.raises(ConfigRefused):
        await reconciler.round()
    [report] = reports
    assert not report.serving
    assert "line 50" in report.problems[0]
