"""The commands people copy: quoted for every reader on their way, and trusting what the front really shows."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
import pytest

from proxyd.access import Wanted, parse_username
from proxyd.config import load
from proxyd.connecting import Wish, known_hosts, trust, username, ways
from proxyd.fronts import Front, public_address, read_fronts
from proxyd.setup import initialise
from tests.peers.daemon import toml

ALL = frozenset({"shell", "exec", "sftp"})
SSH = Front("ssh", "proxy", 2222, keys=("ssh-ed25519 AAAA",), authority="ssh-ed25519 BBBB")
TLS = {"certificate": "PEM", "sha256": "aa:bb", "self_signed": True}
EVIL = 'o\'hara $(id); "x" \\ & <b>'


def commands(front: Front, wish: Wish) -> dict[str, list[str]]:
    return {way.name: shlex.split(way.command) for way in ways(front, wish)}


def test_ssh_by_a_name_that_says_it_all_and_through_the_jump() -> None:
    found = commands(SSH, Wish("alice", "root", "web1", ALL))
    assert found["Shell"] == ["ssh", "-p2222", "alice+root+web1@proxy"]
    assert found["Through the proxy, the target by its name"] == [
        "ssh",
        "-J",
        "alice@proxy:2222",
        "root@web1",
    ]
    assert found["Copy a file there"] == ["scp", "-P2222", "report.pdf", "alice+root+web1@proxy:"]
    plain = Front("ssh", "2001:db8::1", 22, keys=SSH.keys)
    found = commands(plain, Wish("alice", "root", "web1", ALL))
    assert found["Shell"] == ["ssh", "alice+root+web1@2001:db8::1"]
    assert found["Files, interactively"] == ["sftp", "alice+root+web1@[2001:db8::1]"]
    assert not any("jump" in name or "-J" in words for name, words in found.items())


def test_only_what_the_permit_allows() -> None:
    assert list(commands(SSH, Wish("alice", "root", "web1", {"sftp"}))) == [
        "Files, interactively", "Copy a file there", "Copy a file from there"]  # fmt: skip
    assert not ways(SSH, Wish("alice", "root", "web1", {"local-forward"}))


@pytest.mark.parametrize("protocol", ["ssh", "postgres", "mysql", "rdp"])
def test_no_name_gets_out_of_its_word(protocol: str) -> None:
    front = Front(protocol, "proxy", 9999, **({} if protocol == "ssh" else TLS))
    wish = Wish(EVIL, "ro ot", "we'b", ALL)
    for name, words in commands(front, wish).items():
        assert words[0] in {"ssh", "scp", "sftp", "psql", "mariadb", "mysql", "xfreerdp"} or "URI" in name
        said = unquote(" ".join(words)).replace("\\'", "'").replace("\\\\", "\\")
        assert username(front, wish) in said
    assert parse_username(username(front, wish), {EVIL}) == Wanted(EVIL, "ro ot", "we'b")


def test_a_connection_string_is_what_libpq_reads() -> None:
    front = Front("postgres", "proxy", 5432, **TLS)
    said, uri = (words[-1] for words in commands(front, Wish(EVIL, "app", "shop")).values())
    for text in (said, uri):
        read = psycopg.conninfo.conninfo_to_dict(text)
        assert read == {"host": "proxy", "port": "5432", "user": f"{EVIL}+app+shop", "dbname": "postgres",
                        "sslmode": "verify-full", "sslrootcert": "proxyd-postgres.pem"}  # fmt: skip
    assert parse_qs(urlsplit(uri).query)["sslmode"] == ["verify-full"]
    known = Front("postgres", "proxy", 5432, certificate="PEM", sha256="aa")
    assert "sslrootcert=system" in ways(known, Wish("a", "b", "c"))[0].command


def test_a_listener_that_leads_to_one_target_needs_no_name_of_it() -> None:
    front = Front("mysql", "localhost", 3306, bound="shop", **TLS)
    words = commands(front, Wish("alice", "app", "shop"))["MariaDB's client"]
    assert words[:8] == ["mariadb", "--protocol=tcp", "-h", "localhost", "-P", "3306", "-u", "alice+app"]
    assert words[-2:] == ["--ssl-ca=proxyd-mysql.pem", "--ssl-verify-server-cert"]


def test_desktops_know_the_certificate_by_its_fingerprint() -> None:
    wish, to, trusted = Wish("alice", "svc", "desk"), "/v:proxy:3389", "/cert:fingerprint:sha256:aa:bb"
    found = commands(Front("rdp", "proxy", 3389, **TLS, login_screen=True), wish)
    assert found["FreeRDP"] == ["xfreerdp", to, "/u:alice%svc%desk", "/sec:tls", trusted]
    found = commands(Front("rdp", "proxy", 3389, **TLS), wish)
    assert found["FreeRDP"] == ["xfreerdp", to, "/u:alice%svc%desk", trusted]


def test_known_hosts_names_the_port_and_the_authority() -> None:
    assert known_hosts(SSH) == ["[proxy]:2222 ssh-ed25519 AAAA", "@cert-authority * ssh-ed25519 BBBB"]
    assert trust(SSH).startswith("printf '%s\\n' '[proxy]:2222 ssh-ed25519 AAAA' ")
    assert trust(Front("ssh", "proxy", 22)) == ""


def test_fronts_say_what_listeners_show_and_where(tmp_path: Path) -> None:
    made = initialise(tmp_path / "p", ssh_port=0, metrics_port=0)
    tls = {"certificate": "keys/tls.crt", "key": "keys/tls.key"}
    listen = {"postgres": {**tls, "public": "db.example:5432"}, "rdp": {**tls, "target": ""}}
    with made.config.open("a") as file:
        file.write(toml({"listen": listen}))
    config = load(made.config)
    found = read_fronts(
        config.listen, {"ssh": "127.0.0.1:4242", "postgres": "127.0.0.1:1", "rdp": "[::]:3389"}
    )
    keys = tmp_path / "p" / "keys"
    assert (found["ssh"].host, found["ssh"].port) == ("127.0.0.1", 4242)
    assert list(found["ssh"].keys) == [" ".join((keys / "ssh_host_ed25519_key.pub").read_text().split()[:2])]
    assert found["ssh"].authority == " ".join((keys / "host_ca.pub").read_text().split()[:2])
    assert (found["postgres"].host, found["postgres"].port) == ("db.example", 5432)
    assert found["postgres"].self_signed
    assert found["postgres"].certificate == (keys / "tls.crt").read_text()
    assert found["rdp"].host not in {"::", "0.0.0.0", ""}
    assert "mysql" not in found
    assert public_address(config.listen.postgres) == "db.example:5432"
    (keys / "host_ca").write_text("broken")
    assert read_fronts(config.listen, {"ssh": "127.0.0.1:1"})["ssh"].authority == ""
