"""A proxy that can't be brought to what it should serve is told of, not only logged."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from shellwego.edge import state
from shellwego.edge.config import ProxyPaths
from shellwego.edge.haproxy import ConfigRefused, HAProxy
from shellwego.edge.reconciler import EdgeReconciler, EdgeSettings, _Picture
from shellwego.edge.routes import Observed, RoutePlan
from shellwego.edge.state import load_routes
from shellwego.protocol.messages import EdgeReport, Routes


@pytest.fixture
def reports() -> list[EdgeReport]:
    return []


@pytest.fixture
def reconciler(tmp_path: Path, reports: list[EdgeReport]) -> EdgeReconciler:
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
    proxy = HAProxy(Path("haproxy"), paths, namespace=None, on_death=lambda: None)
    return EdgeReconciler(settings, proxy, wake=asyncio.Event(), on_report=reports.append)


async def refuse(*_: object) -> None:
    raise ConfigRefused("line 50: unbalanced")


async def test_a_refused_configuration_reaches_the_operator(
    reconciler: EdgeReconciler, reports: list[EdgeReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or `/health` would call a cloud well that answers nobody."""
    monkeypatch.setattr(reconciler, "_bring_about", refuse)
    with pytest.raises(ConfigRefused):
        await reconciler.round()
    [report] = reports
    assert not report.serving
    assert "line 50" in report.problems[0]


async def test_what_was_in_force_before_a_failure_is_not_told_after_it(
    reconciler: EdgeReconciler, reports: list[EdgeReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was still on its way to the disk, and would call a proxy well that is broken by now."""

    async def bring_about(*_: object) -> tuple[RoutePlan, tuple[str, ...], bool]:
        reconciler._picture = _Picture(Observed(slots=1), 0.0, frozenset())
        return RoutePlan(), (), False

    monkeypatch.setattr(reconciler, "_bring_about", bring_about)
    reconciler.want(Routes(generation=1, domain="x.test", routes=[]), cloud="c")
    await reconciler.round()
    assert reports == [], "it is told once it is on disk"
    await reconciler.settle()
    assert [(report.generation, report.serving) for report in reports] == [(1, True)]
    await reconciler.round()
    monkeypatch.setattr(reconciler, "_bring_about", refuse)
    with pytest.raises(ConfigRefused):
        await reconciler.round()
    await reconciler.settle()
    assert not reports[-1].serving


async def test_routes_are_reported_although_the_disk_is_full(
    reconciler: EdgeReconciler, reports: list[EdgeReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bring_about(*_: object) -> tuple[RoutePlan, tuple[str, ...], bool]:
        reconciler._picture = _Picture(Observed(slots=1), 0.0, frozenset())
        return RoutePlan(), (), False

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reconciler, "_bring_about", bring_about)
    reconciler.want(Routes(generation=1, domain="x.test", routes=[]), cloud="c")
    with monkeypatch.context() as disk:
        disk.setattr(state, "replace_file", full)
        await reconciler.round()
        await reconciler.settle()
        assert (reports[-1].generation, reports[-1].serving) == (1, True)
        assert "No space left" in reports[-1].problems[0]
    await reconciler.round()
    await reconciler.settle()
    assert reports[-1].problems == []
    assert load_routes(reconciler._settings.routes_file).generation == 1
