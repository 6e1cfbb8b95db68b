"""The wire between client and cloud: what is repeated, what is not, and what a person is told."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.unit.client.fake_cloud import URL, Cut, FakeCloud, problem

from shellwego.client import Cloud, NotACloud, Refused, TokenCredential
from shellwego.client.errors import CannotReach
from shellwego.client.transport import Transport, address_of, checked_url
from shellwego.core.errors import InvalidField
from shellwego.protocol.public import DeploymentCreate, TokenCreate


def cloud_of(fake: FakeCloud, token: str | None = "good", **more: Any) -> Cloud:
    return Cloud(Transport(URL, TokenCredential(token), http=fake.transport(), **{"patience_seconds": 5.0, **more}))


def broken(error: type[httpx.TransportError]) -> Any:
    def fault(request: httpx.Request) -> httpx.Response | None:
        raise error("Connection reset by peer")

    return fault


async def test_all_pages_of_a_list_are_read() -> None:
    fake = FakeCloud()
    for number in range(5):
        fake.add_app(f"app-{number}")
    assert [app.name async for app in cloud_of(fake).apps.list()] == [f"app-{number}" for number in range(5)]


async def test_a_lost_answer_to_a_keyed_write_is_asked_again_and_done_once() -> None:
    """Otherwise a flaky line deploys twice, or not at all."""
    fake = FakeCloud(lost_answers=1)
    fake.add_app("shop")
    made = await cloud_of(fake).deployments.create("shop", DeploymentCreate(image="a"), idempotency_key="k")
    assert list(fake.deployments) == [made.id]
    assert len(fake.requests) == 2


async def test_a_write_without_a_key_is_never_repeated() -> None:
    fake = FakeCloud(lost_answers=1)
    with pytest.raises(CannotReach) as caught:
        await cloud_of(fake).tokens.create(TokenCreate(name="ci"))
    assert caught.value.sent
    assert len(fake.requests) == 1


async def test_a_refused_first_connection_fails_at_once_with_its_url() -> None:
    """Waiting half a minute for a mistyped address helps nobody."""
    fake = FakeCloud(faults=[broken(httpx.ConnectError)])
    with pytest.raises(CannotReach, match=r"http://cloud\.test can't be reached"):
        await cloud_of(fake).apps.get("shop")
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ECONNREFUSED, "connection refused"),
        (errno.EADDRNOTAVAIL, "cannot assign requested address"),
        (errno.EHOSTUNREACH, "no route to host"),
    ],
)
async def test_the_kernel_is_quoted_on_why_nothing_can_be_reached(number: int, words: str) -> None:
    """The libraries between say "All connection attempts failed" of everything."""

    def fault(request: httpx.Request) -> httpx.Response | None:
        several = ExceptionGroup("multiple connection attempts failed", [OSError(number, "Connect call failed")])
        try:
            raise OSError("All connection attempts failed") from several
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error

    with pytest.raises(CannotReach, match=f"can't be reached: {words}"):
        await cloud_of(FakeCloud(faults=[fault])).apps.get("shop")


async def test_a_cloud_that_answered_before_is_given_time_to_restart() -> None:
    told: list[str] = []
    fake = FakeCloud()
    fake.add_app("shop")
    cloud = cloud_of(fake, on_wait=told.append)
    await cloud.apps.get("shop")
    fake.faults = [broken(httpx.ConnectError), broken(httpx.ConnectError)]
    assert (await cloud.apps.get("shop")).name == "shop"
    assert len(told) == 1  # A person is told once, and not for a single hiccup.


async def test_patience_ends() -> None:
    fake = FakeCloud(faults=[lambda request: problem(503, "unavailable", "starting", retryable=True)] * 50)
    with pytest.raises(Refused, match="starting"):
        await cloud_of(fake, patience_seconds=0.3).apps.get("shop")
    assert len(fake.requests) > 1


async def test_a_refusal_that_repeating_cannot_mend_is_not_repeated() -> None:
    fake = FakeCloud()
    with pytest.raises(Refused, match="There is no app 'shop' here") as caught:
        await cloud_of(fake).apps.get("shop")
    assert (caught.value.code, caught.value.status, len(fake.requests)) == ("not_found", 404, 1)


async def test_what_a_person_typed_cannot_reach_another_path() -> None:
    fake = FakeCloud()
    with pytest.raises(Refused, match="no app"):
        await cloud_of(fake).apps.delete("../tokens/x?y#z")
    assert fake.requests[0].url.raw_path == b"/v1/apps/..%2Ftokens%2Fx%3Fy%23z"


@pytest.mark.parametrize(
    ("status", "text"), [(404, "<html>nothing here</html>"), (200, "<html>log in to the hotel</html>"), (200, "{}")]
)
async def test_another_server_is_told_from_a_cloud(status: int, text: str) -> None:
    fake = FakeCloud(faults=[lambda request: httpx.Response(status, text=text)])
    with pytest.raises(NotACloud, match="not as a ShellWeGo cloud"):
        await cloud_of(fake).apps.get("shop")


async def test_a_proxy_that_finds_no_api_behind_it_is_waited_for() -> None:
    fake = FakeCloud(faults=[lambda request: httpx.Response(502, text="<html>Bad Gateway</html>")])
    fake.add_app("shop")
    assert (await cloud_of(fake).apps.get("shop")).name == "shop"


async def test_fields_that_nobody_spoke_of_are_not_sent() -> None:
    """A default sent as a value would overwrite what the app's release has."""
    fake = FakeCloud()
    fake.add_app("shop")
    await cloud_of(fake).deployments.create("shop", DeploymentCreate(image="a"), idempotency_key="k")
    assert fake.requests[0].content == b'{"image":"a"}'


class TestFollow:
    async def test_a_cut_stream_is_taken_up_after_the_last_event(self) -> None:
        """A server killed in the middle of a deploy must not cost the watcher a line, nor show one twice."""
        fake = FakeCloud()
        fake.add_app("shop")
        cloud = cloud_of(fake)
        made = await cloud.deployments.create("shop", DeploymentCreate(image="a"), idempotency_key="k")
        whole = await cloud_events(cloud, made.id)

        first = (
            b'id: 1\nevent: state\ndata: {"kind":"state","at":"2026-01-31T12:00:00Z","text":"building"}\n\nid: 2\nda'
        )
        fake.faults = [
            lambda request: httpx.Response(200, stream=Cut(first)),
            broken(httpx.ConnectError),
            lambda request: httpx.Response(200, text=""),
        ]
        again = await cloud_events(cloud, made.id)
        assert [event.text for event in again] == [event.text for event in whole]
        assert [r.headers.get("Last-Event-ID") for r in fake.requests[-3:]] == ["1", "1", "1"]

    async def test_a_line_separator_inside_json_does_not_break_an_event(self) -> None:
        fake = FakeCloud()
        fake.add_app("shop")
        cloud = cloud_of(fake)
        made = await cloud.deployments.create("shop", DeploymentCreate(image="a"), idempotency_key="k")
        assert "step 1\u2028of 1" in [event.text for event in await cloud_events(cloud, made.id)]

    async def test_a_deployment_that_is_not_there_is_said_at_once(self) -> None:
        fake = FakeCloud()
        fake.add_app("shop")
        with pytest.raises(Refused, match="no deployment"):
            await cloud_events(cloud_of(fake), "dep_x")

    async def test_a_cloud_that_never_comes_back_ends_the_following(self) -> None:
        fake = FakeCloud(faults=[broken(httpx.ConnectError)] * 50)
        with pytest.raises(CannotReach):
            await cloud_events(cloud_of(fake, patience_seconds=0.3), "dep_x")


async def cloud_events(cloud: Cloud, deployment: str) -> list[Any]:
    return [event async for event in cloud.deployments.follow("shop", deployment)]


class TestUrls:
    @pytest.mark.parametrize(
        "text", ["cloud.test", "ftp://cloud.test", "http://", "http://u:p@cloud.test", "http://cloud:port"]
    )
    def test_a_wrong_url_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidField):
            checked_url(text)

    def test_a_slash_at_the_end_does_not_matter(self) -> None:
        assert checked_url(" https://api.cloud.test/ ") == "https://api.cloud.test"

    def test_a_name_below_localhost_is_this_machine(self) -> None:
        """glibc asks DNS for it, which knows nothing, so `api.localhost` would be unreachable."""
        assert address_of("http://api.localhost:8080") == ("http://127.0.0.1:8080", "api.localhost:8080")
        assert address_of("http://cloud.test") == ("http://cloud.test", None)

    def test_a_missing_authority_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidField, match="missing"):
            Transport("https://cloud.test", ca=tmp_path / "missing")
