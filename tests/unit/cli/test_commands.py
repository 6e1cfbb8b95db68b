"""Every other command: what it prints for people and for programs, and with which status it ends."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import yaml
from tests.unit.cli.command_line import CommandLine
from tests.unit.client.fake_cloud import NOW, an_id

from shellwego.cli.elsewhere import HERE
from shellwego.core.apps import AppStatus
from shellwego.core.instances import InstanceState
from shellwego.protocol.public import LogEntry, ProcessStatus


class TestApps:
    def test_list(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop", release="v3")
        ran = shellwego("apps", "list")
        header, row = ran.out.splitlines()
        assert header.split() == ["NAME", "STATUS", "INSTANCES", "RELEASE", "URL", "AGE"]
        assert row.split()[:6] == ["shop", "running", "web", "1/1", "v3", "http://shop.cloud.test"]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("tokens", "create", ""), "NAME: String should have at least 1 character."),
            (("deploy", "--image", "x", "-n", "shop", "--note", "x" * 5000), "note: String should have at most"),
            (("organisations", "create", ""), "NAME: String should have at least"),
        ],
    )
    def test_what_no_cloud_would_take_is_told_as_a_slip(
        self, shellwego: CommandLine, words: tuple[str, ...], says: str
    ) -> None:
        """Not as an error of the program, with forty lines of where."""
        ran = shellwego(*words)
        assert ran.code == 2
        assert says in ran.err

    def test_json_by_the_name_it_has_elsewhere(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop")
        assert shellwego("apps", "list", "--json").out == shellwego("apps", "list", "-o", "json").out

    def test_a_release_command_is_no_process_that_could_run(self, shellwego: CommandLine) -> None:
        none = ProcessStatus(desired=0, healthy=0, total=0)
        web = ProcessStatus(desired=1, healthy=1, total=1)
        shellwego.cloud.add_app("shop", processes={"release": none, "web": web, "worker": none})
        assert "web 1/1, worker 0/0  " in shellwego("apps", "list").out
        assert "release" not in shellwego("apps", "list").out

    def test_a_pipe_gets_every_character_and_no_colour(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop", url="http://" + "x" * 300)
        ran = shellwego("apps", "list")
        assert "x" * 300 in ran.out
        assert "\x1b" not in ran.out + ran.err
        assert len(ran.out.splitlines()) == 2

    def test_no_app_yet_says_what_to_type(self, shellwego: CommandLine) -> None:
        ran = shellwego("apps", "list")
        assert (ran.code, ran.out) == (0, "")
        assert "shellwego deploy" in ran.err
        assert shellwego("apps", "list", "-o", "json").out == "[]\n"

    @pytest.mark.parametrize("where", ["before", "after"])
    def test_json_and_yaml_anywhere(self, shellwego: CommandLine, where: str) -> None:
        shellwego.cloud.add_app("shop")
        words = ["-o", "json", "apps", "list"] if where == "before" else ["apps", "list", "-o", "json"]
        [found] = json.loads(shellwego(*words).out)
        assert found["name"] == "shop"
        [same] = yaml.safe_load(shellwego("apps", "list", "-o", "yaml").out)
        assert same == found

    def test_output_by_environment(self, shellwego: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHELLWEGO_OUTPUT", "json")
        assert shellwego("apps", "list").out == "[]\n"
        ran = shellwego("apps", "list", "-o", "xml")
        assert ran.code == 2
        assert "not one of table, json, yaml" in ran.err

    def test_get_by_name_and_by_id(self, shellwego: CommandLine) -> None:
        app = shellwego.cloud.add_app("shop")
        assert shellwego("apps", "get", "shop").out == shellwego("apps", "get", app.id).out
        assert "http://shop.cloud.test" in shellwego("apps", "get", "shop").out

    def test_an_app_that_is_not_there(self, shellwego: CommandLine) -> None:
        ran = shellwego("apps", "get", "shop")
        assert (ran.code, ran.out) == (3, "")
        assert ran.err == "Error: There is no app 'shop' here.\n  → shellwego apps list\n"

    def test_create_start_stop_restart(self, shellwego: CommandLine) -> None:
        assert shellwego("apps", "create", "shop").code == 0
        assert shellwego("apps", "create", "shop").code == 1
        assert shellwego("apps", "start", "shop", "--wait").code == 0
        assert "shop is stopped." in shellwego("apps", "stop", "shop", "--wait").err
        assert "shop was restarted." in shellwego("apps", "restart", "shop", "--wait").err
        assert json.loads(shellwego("apps", "stop", "shop", "-o", "json").out)["status"] == "stopped"

    def test_delete_needs_a_yes_where_nobody_can_be_asked(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop")
        ran = shellwego("apps", "delete", "shop", stdin="shop\n")
        assert ran.code == 2
        assert "--yes" in ran.err
        assert "shop" in shellwego.cloud.apps
        assert shellwego("apps", "delete", "shop", "--yes").code == 0
        assert shellwego.cloud.apps == {}


class TestScale:
    def test_counts(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop")
        assert shellwego("scale", "shop", "3", "worker=2", "--wait").code == 0
        assert {n: p.desired for n, p in shellwego.cloud.apps["shop"].processes.items()} == {"web": 3, "worker": 2}

    def test_without_counts_it_prints_the_line_to_paste_back(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop", desired=2)
        assert shellwego("scale", "shop").out == "shellwego scale shop web=2\n"
        assert json.loads(shellwego("scale", "shop", "-o", "json").out) == {"web": 2}

    def test_waiting_for_what_crashes_fails_with_the_reason(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app(
            "shop",
            status=AppStatus.CRASHED,
            status_reason="every instance crashes",
            processes={"web": ProcessStatus(desired=1, healthy=0, total=1)},
        )
        shellwego.cloud.add_instance("shop", 1, InstanceState.CRASH_LOOP, reason="exited with status 3")
        ran = shellwego("scale", "shop", "worker=1", "--wait")
        assert ran.code == 1
        assert "shop is crashed: every instance crashes" in ran.err
        assert "web ins_" in ran.err
        assert "crash_loop exited with status 3" in ran.err

    @pytest.mark.parametrize("count", ["-1", "101", "x=1=2", "1.5", "web="])
    def test_a_wrong_count(self, shellwego: CommandLine, count: str) -> None:
        shellwego.cloud.add_app("shop")
        assert shellwego("scale", "shop", "--", count).code == 2
        assert shellwego.cloud.requests == []


class TestReleases:
    def test_list_and_rollback(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop", release="v3", image="sha256:" + "a" * 64)
        row = shellwego("releases", "list", "shop").out.splitlines()[1]
        assert row.split()[:3] == ["v3", "live", "(rollback)"]
        assert "a" * 64 in row  # A pipe gets the whole digest.
        assert shellwego("rollback", "shop", "--wait").code == 0
        assert shellwego("rollback", "shop", "2").code == 0
        assert [body.release for body in shellwego.cloud.bodies] == ["previous", "v2"]

    def test_deployments(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop", release="v3")
        assert "never deployed" in shellwego("deployments", "get", "shop").err
        shellwego("rollback", "shop")
        assert "rollback" in shellwego("deployments", "list", "shop").out
        assert "dep_" in shellwego("deployments", "get", "shop").out
        assert shellwego("deployments", "follow", "shop").code == 0
        assert "cancelled" in shellwego("deployments", "cancel", "shop").out


class TestConfig:
    def test_set_list_get_unset(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop", release="v3")
        ran = shellwego("config", "set", "shop", "A=1", "B=x=y", "C=", "--wait")
        assert ran.code == 0
        assert "is live" in ran.err
        assert json.loads(shellwego("config", "list", "shop", "-o", "json").out) == {"A": "1", "B": "x=y", "C": ""}
        assert shellwego("config", "get", "shop", "B").out == "x=y\n"
        assert shellwego("config", "get", "shop", "Z").code == 3
        shellwego("config", "unset", "shop", "A", "C")
        assert shellwego.cloud.configs["shop"] == {"B": "x=y"}

    def test_to_unset_what_was_never_set_is_most_likely_a_slip(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop", release="v3")
        shellwego("config", "set", "shop", "KEY=1", "--wait")
        ran = shellwego("config", "unset", "shop", "KEY", "KEI")
        assert ran.code == 3
        assert "There is no variable 'KEI' here" in ran.err
        assert shellwego.cloud.configs["shop"] == {"KEY": "1"}

    def test_what_is_set_before_the_first_release_says_when_it_holds(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop", healthy=0)
        assert (
            "next deployment on.\n  → shellwego deploy . --name shop" in shellwego("config", "set", "shop", "A=1").err
        )

    def test_what_is_exported_can_be_imported_again(self, shellwego: CommandLine) -> None:
        values = {"A": 'q"u\\o\nte', "B": "plain", "C": " spaced # not a comment ", "D": "", "E": "$HOME `x`"}
        shellwego.cloud.add_app("shop", release="v1")
        shellwego.cloud.configs["shop"] = dict(values)
        exported = shellwego("config", "list", "shop", "--env").out
        shellwego.cloud.configs["shop"] = {}
        assert shellwego("config", "import", "shop", stdin=exported).code == 0
        assert shellwego.cloud.configs["shop"] == values

    def test_a_reserved_or_impossible_name_is_refused_here(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop")
        for word in ("PORT=1", "A-B=1", "=1", "A"):
            assert shellwego("config", "set", "shop", word).code == 2
        assert shellwego.cloud.requests == []


class TestLook:
    def test_instances_say_why(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop")
        shellwego.cloud.add_instance("shop", 1, InstanceState.HEALTHY)
        shellwego.cloud.add_instance("shop", 2, InstanceState.BACKOFF, reason="out of memory", restarts=4, stale=True)
        ran = shellwego("instances", "list", "shop")
        assert ran.out.splitlines()[0].split() == [
            "ID", "TYPE", "REL", "STATE", "WHY", "NODE", "ADDRESS", "RESTARTS", "AGE",
        ]  # fmt: skip
        assert "out of memory, its node is silent" in ran.out
        assert "10.1.0.2:8080" in ran.out
        assert "APP" in shellwego("instances", "list").out.splitlines()[0]
        assert "healthy" in shellwego("instances", "get", an_id("ins", 1)).out

    def test_logs_for_people_for_pipes_and_for_programs(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop")
        words = ["hello", "\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2J", '{"fake": "json"}\u2028']
        shellwego.cloud.logs = [
            LogEntry(at=NOW + timedelta(seconds=n), instance=an_id("ins"), process="web", release="v1",
                     stream="stdout", text=text)
            for n, text in enumerate(words)
        ]  # fmt: skip
        lines = shellwego("logs", "shop").out.split("\n")
        assert lines[0] == "2026-01-31T12:00:00.000+00:00 web.aaaaa hello"
        assert lines[1].endswith(" red ")
        raw = shellwego("logs", "shop", "--raw").out
        assert raw.split("\n")[:2] == ["hello", "red "]
        found = [json.loads(line) for line in shellwego("logs", "shop", "-o", "json").out.strip("\n").split("\n")]
        assert [entry["text"] for entry in found] == words

    def test_what_logs_are_asked_for(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop")
        assert "has said nothing yet" in shellwego("logs", "shop").err
        assert shellwego.cloud.requests[-1].url.params["tail"] == "100"
        shellwego("logs", "shop", "--since", "10m", "-p", "web", "-i", "ins_x")
        asked = shellwego.cloud.requests[-1].url.params
        assert set(asked) == {"since", "process", "instance"}
        assert shellwego("logs", "shop", "--since", "soon").code == 2

    def test_status_and_nodes(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop")
        ran = shellwego("status")
        assert "1 (1 running)" in ran.out
        assert "node-1" in ran.out
        assert "nearly full" in ran.err
        assert json.loads(shellwego("status", "-o", "json").out)["problems"]
        assert "0.5/2" in shellwego("nodes", "list").out

    def test_open_prints_the_url(self, shellwego: CommandLine) -> None:
        shellwego.cloud.add_app("shop")
        assert shellwego("open", "shop").out == "http://shop.cloud.test\n"


class TestTokensAndImages:
    def test_a_secret_is_all_that_stdout_gets(self, shellwego: CommandLine) -> None:
        ran = shellwego("tokens", "create", "ci", "--days", "90")
        assert ran.out == "swg_secret\n"
        assert "ci" in shellwego("tokens", "list").out
        assert shellwego("tokens", "revoke", "ci").code == 0
        assert shellwego("tokens", "revoke", "ci").code == 3

    def test_mappings(self, shellwego: CommandLine) -> None:
        assert shellwego("images", "map", "python:3*", "base/python").code == 0
        assert "base/python" in shellwego("images", "mappings").out
        assert shellwego("images", "unmap", "python:3*").code == 0
        assert shellwego.cloud.mappings == {}


class TestErrors:
    def test_no_cloud_at_all_says_what_to_type(self, shellwego: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SHELLWEGO_URL")
        ran = shellwego("apps", "list")
        assert ran.code == 2
        assert "shellwego auth login --url URL" in ran.err
        assert "SHELLWEGO_TOKEN" in ran.err

    def test_not_signed_in(self, shellwego: CommandLine) -> None:
        ran = shellwego("apps", "list", "--token", "bad")
        assert ran.code == 4
        assert "auth login" in ran.err

    def test_a_typo_gets_a_suggestion(self, shellwego: CommandLine) -> None:
        ran = shellwego("apps", "lst")
        assert ran.code == 2
        assert "Did you mean 'list'?" in ran.err
        assert "Did you mean 'deploy'" in shellwego("depoly").err

    @pytest.mark.parametrize(
        ("word", "here"),
        [
            ("ps", "instances list [NAME]"),
            ("ps:scale", "scale NAME web=2"),
            ("config:set", "config set NAME KEY=VALUE"),
            ("config:import", "config import"),
            ("apps:destroy", "apps delete NAME"),
        ],
    )
    def test_what_other_platforms_call_it_gets_our_word(self, shellwego: CommandLine, word: str, here: str) -> None:
        ran = shellwego(word, "shop")
        assert ran.code == 2
        assert f"No such command '{word}'. Here it is: shellwego {here}\n" in ran.err

    @pytest.mark.parametrize("here", sorted(set(HERE.values())))
    def test_each_of_our_words_is_one(self, shellwego: CommandLine, here: str) -> None:
        words = [word for word in here.split() if word.islower() and "=" not in word and not word.startswith("-")]
        assert shellwego(*words, "--help").out.startswith(f"Usage: shellwego {' '.join(words)} ")

    @pytest.mark.parametrize("noun", ["up:", ":", "x:y", "config:"])
    def test_what_nobody_calls_anything_gets_no_guess(self, shellwego: CommandLine, noun: str) -> None:
        assert "Here it is" not in shellwego(noun).err
