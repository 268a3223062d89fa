"""`proxyctl search`: what is found is shown out of its recording, to who may see it, and the ledger says who asked for what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from unit.control.test_recordings import SESSION_ID, recorded  # noqa: F401 - a fixture

from proxyd import cli
from proxyd.config import User, load
from proxyd.control.client import ControlError
from proxyd.recorder.sidecar import path_of
from proxyd.search.feed import Feed
from proxyd.search.opening import remove_index
from proxyd.search.texts import Text
from proxyd.search.words import About, SearchIndex

pytestmark = pytest.mark.mission("M5")


@pytest.fixture
def search(played: Any, recorded: Path) -> Iterator[SearchIndex]:  # noqa: F811
    settings = load(recorded / "proxyd.toml").search
    with SearchIndex(settings.index, (recorded / "keys" / "search.key").read_bytes()) as index:
        played.search = Feed(index)
        yield index


@pytest.fixture
def run(background: Any, recorded: Path, search: SearchIndex) -> Any:  # noqa: F811
    config = ["--config", str(recorded / "proxyd.toml")]

    def run(*words: str, status: int = 0) -> Result:
        name, *rest = words
        program = cli.proxyd if name == "proxyd" else cli.proxyctl
        named = (
            [rest[0], *config]
            if name == "proxyd"
            else [*config, "--socket", str(background.path), "--utc", name]
        )
        done = CliRunner().invoke(
            program, [*named, *(rest[1:] if name == "proxyd" else rest)], prog_name="proxyctl"
        )
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == status, done.output
        return done

    return run


def ledger(played: Any, kind: str) -> list[dict[str, Any]]:
    return [dict(entry.fields) for entry in played.ledger.entries((kind,))]


def test_what_is_found_is_shown_out_of_its_recording(run: Any, played: Any) -> None:
    assert "Nothing found." in run("search", "uname").stdout
    made = json.loads(run("proxyd", "index", "--all", "--json").stdout)["indexes"]
    assert [one["result"] for one in made] == ["made"]
    assert made[0]["texts"] >= 3
    shown = run("search", "host", "key").stdout
    assert shown.startswith("alice on root@db1 (1a2b3c4d), ssh, ")
    assert "findings   host key changed \N{REPLACEMENT CHARACTER}[2J\n" in shown
    assert "proxyctl replay 1a2b3c4d --from 0" in shown
    found = json.loads(run("search", "--json", "--in", "transfers", "a.txt").stdout)
    (hit,) = found["hits"]
    assert (hit["session"], hit["source"], hit["snippet"]) == (SESSION_ID, "transfers", "put /tmp/a.txt")
    assert [hit["snippet"][begin:end] for begin, end in hit["spans"]] == ["a.txt"]
    assert "Nothing found." in run("search", "--in", "sql,commands", "a.txt").stdout
    assert "Nothing found." in run("search", "--user", "bob", "host key").stdout
    assert "canary" not in json.dumps(json.loads(run("search", "--json", "canary*").stdout))
    asked = ledger(played, "search")
    assert (asked[1]["who"], asked[1]["text"], asked[1]["sessions"]) == ("root", "host key", [SESSION_ID])
    assert [(one["session"], one["kind"]) for one in ledger(played, "view")] == [(SESSION_ID, "search")] * 2


def test_a_hit_without_its_text_stays_a_hit(run: Any, recorded: Path, tmp_path: Path, played: Any) -> None:  # noqa: F811
    run("proxyd", "index", "--all")
    shown = run("search", "--no-text", "host key")
    assert shown.stdout.splitlines()[1].endswith("findings")
    assert not ledger(played, "view")
    folder = next(recorded.rglob("manifest.json")).parent
    path_of(folder).unlink()
    done = run("search", "host key")
    assert done.stdout.splitlines()[1].endswith("findings")
    assert "proxyd index 1a2b3c4d makes it anew" in done.stderr
    (recorded / "keys" / "vault.identity").unlink()
    done = run("search", "host key")
    assert "--identity FILE names what opens them" in done.stderr
    assert (
        "can't be read by you"
        in run("search", "host key", "--identity", str(tmp_path / "none"), status=1).stderr
    )


def test_texts_can_be_put_in_anew(run: Any, search: SearchIndex) -> None:
    run("proxyd", "index", "--all")
    assert json.loads(run("proxyd", "index", "--all", "--json").stdout)["indexes"][0]["texts"] is None
    count = json.loads(run("proxyd", "index", "--all", "--search", "--json").stdout)["indexes"][0]["texts"]
    assert len(json.loads(run("search", "--json", "a.txt").stdout)["hits"]) == 1
    search.forget(SESSION_ID)
    assert "Nothing found." in run("search", "a.txt").stdout
    assert count >= 3
    assert (
        json.loads(run("proxyd", "index", "--all", "--search", "--json").stdout)["indexes"][0]["texts"] == 0
    )
    assert "Nothing found." in run("search", "a.txt").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (['"drop table'], "a quote is not closed"),
        (["***"], "nothing to search for"),
        (["x\0y"], "control character"),
        (["--in", "pictures", "x"], "'pictures' is none of commands, screen"),
        (["--limit", "0", "x"], "0 is not in the range"),
        ([], "missing argument"),
    ],
)
def test_what_cant_be_searched_for_is_told(run: Any, words: list[str], told: str) -> None:
    assert told in run("search", *words, status=2).stderr


@pytest.mark.parametrize("role", ["PAM Operator", "Console"])
def test_who_may_not_search_gets_nothing(run: Any, played: Any, search: SearchIndex, role: str) -> None:
    search.begin(About("s1", "ssh", "alice", "db1", "root", 1_795_000_000.0))
    search.write({"s1": [Text(0, 0, "screen", "secret")]})
    played.operate_as(role)
    done = run("search", "secret", status=1)
    assert "sessions.search" in done.stderr
    assert done.stdout == ""
    assert not ledger(played, "search")


def test_a_session_that_has_auditors_is_found_by_those_alone(
    background: Any, played: Any, search: SearchIndex
) -> None:
    for number in range(3):
        session = played.begin(id=f"{number}" * 32, user="bob")
        search.begin(About(session.id, "ssh", "bob", "db1", "root", 1_795_000_000.0 + number))
        search.write({session.id: [Text(0, 0, "screen", "secret")]})
    found = background.client.call("search", text="secret")["hits"]
    assert [hit["session"][0] for hit in found] == ["2", "1", "0"]
    played.config.users = {"alice": User()}
    background.client.call("set-auditors", session="1" * 32, people=["alice"])
    answer = background.client.call("search", text="secret", limit=2)
    assert [hit["session"][0] for hit in answer["hits"]] == ["2", "0"]
    assert not answer["more"]
    played.operate_as("PAM Auditor", user="alice")
    assert len(background.client.call("search", text="secret")["hits"]) == 3


def test_the_daemon_refuses_what_its_client_would_not_send(
    background: Any, search: SearchIndex, played: Any
) -> None:
    for arguments, told in (
        ({"text": 'a "'}, "not closed"),
        ({"text": "a", "sources": ["x"]}, "no source x"),
        ({"text": "a", "limit": 0}, "limit"),
        ({"text": "a" * 600}, "text"),
        ({"text": 5}, "text"),
    ):
        with pytest.raises(ControlError, match=told):
            background.client.call("search", **arguments)
    played.search = None
    with pytest.raises(ControlError, match=r"set search\.enabled and search\.key"):
        background.client.call("search", text="a")


def test_an_index_that_is_unwanted_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    assert not remove_index(path)
    with SearchIndex(path, b"0123456789abcdef"):
        pass
    assert remove_index(path)
    assert list(tmp_path.iterdir()) == []
