"""`proxyd check` on what databases and RDP need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxyd import cli, cli_check, setup

DATABASES = """
[listen.postgres]
certificate = "{base}/keys/tls.crt"
key = "{base}/keys/tls.key"
tls = "prefer"
[users.ann]
scram = "SCRAM-SHA-256$4096:AAAA$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
[targets.near]
protocol = "postgres"
address = "127.0.0.1:5432"
tls = "off"
accounts.app.password = "env:PATH"
[targets.far]
protocol = "postgres"
address = "db.example:5432"
tls = "off"
accounts.app.password = "env:PATH"
[targets.guess]
protocol = "mysql"
address = "db.example:3306"
tls = "require"
accounts.app.password = "env:PATH"
[targets.sure]
protocol = "postgres"
address = "db.example:5433"
tls_ca = "{base}/proxyd.toml"
accounts.app.password = "env:PATH"
[[grants]]
users = ["ann"]
targets = ["*"]
accounts = ["app"]
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    made = setup.initialise(tmp_path / "made", ssh_port=0, metrics_port=0)
    config = made.config
    config.write_text(config.read_text() + DATABASES.format(base=tmp_path / "made"))
    return tmp_path / "made"


def found(base: Path) -> dict[str, str]:
    words = ["check", "--json", "--config", str(base / "proxyd.toml")]
    done = CliRunner().invoke(cli.proxyd, words, prog_name="proxyd")
    return {one["where"]: f"{one['severity']}: {one['text']}" for one in json.loads(done.stdout)["findings"]}


def test_databases_are_checked_as_databases(base: Path) -> None:
    says = found(base)
    assert says.pop("targets.sure.tls_ca").startswith("error: ")
    assert says == {
        "listen.postgres.tls": "warning: is prefer: a client that asks for no TLS sends its statements in the clear",
        "targets.far.tls": "warning: is off: passwords and statements cross the network as anyone there can read them",
        "targets.guess": "warning: there is no listen.mysql: nobody reaches it",
        "targets.guess.tls": "warning: is require: whoever answers at its address is believed",
    }


def test_a_front_that_can_not_speak_tls_is_an_error(base: Path) -> None:
    (base / "keys" / "tls.key").chmod(0o644)
    assert "can be read by others" in found(base)["listen.postgres.key"]
    (base / "keys" / "tls.crt").write_text("garbage")
    assert found(base)["listen.postgres"].startswith("error: ")


RDP = """
[listen.rdp]
certificate = "{base}/keys/tls.crt"
key = "{base}/keys/tls.key"
[users.bob]
nt_hash = "$NT$8846f7eaee8fb117ad06bdd830b7586c"
[targets.desk]
protocol = "rdp"
address = "desk.example:3389"
tls = "require"
accounts.svc.password = "env:PATH"
[[grants]]
users = ["bob"]
targets = ["desk"]
accounts = ["svc"]
"""


def test_graphics_that_nothing_decodes_here_are_said(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = base / "proxyd.toml"
    wanted = RDP.format(base=base).replace("[targets.desk]", '[targets.desk]\ngraphics = "gfx"')
    config.write_text(config.read_text() + wanted)
    monkeypatch.setattr(cli_check, "freerdp", lambda: None)
    said = found(base)["targets.desk.graphics"]
    assert said.startswith("warning: is gfx, which needs libfreerdp")
    monkeypatch.setattr(cli_check, "freerdp", lambda: base)
    assert "targets.desk.graphics" not in found(base)


def test_rdp_is_checked(base: Path) -> None:
    config = base / "proxyd.toml"
    config.write_text(config.read_text() + RDP.format(base=base))
    here = {
        where: text
        for where, text in found(base).items()
        if where.startswith(("listen.rdp", "users.bob", "targets.desk"))
    }
    assert here == {"targets.desk.tls": "warning: is require: whoever answers at its address is believed"}
    (base / "keys" / "tls.key").chmod(0o644)
    assert "can be read by others" in found(base)["listen.rdp.key"]
    (base / "keys" / "tls.crt").write_text("nothing")
    assert found(base)["listen.rdp"].startswith("error: ")
