"""What is kept of a password for database clients is what their own servers keep."""

from __future__ import annotations

import base64
import json

import argon2
import pytest
from click.testing import CliRunner

from proxyd import cli, setup, verifiers
from proxyd.config import load


def test_scram_is_that_of_rfc_7677() -> None:
    made = verifiers.scram("pencil", salt=base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    assert made == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert verifiers.scram("pencil") != verifiers.scram("pencil")  # a salt of its own each time


@pytest.mark.parametrize(
    ("typed", "same"),
    [("I\u00adX", "IX"), ("\u2168", "IX"), ("\u00aa", "a")],  # the examples of RFC 4013 3
)
def test_scram_prepares_passwords(typed: str, same: str) -> None:
    salt = bytes(16)
    assert verifiers.scram(typed, salt=salt) == verifiers.scram(same, salt=salt)


def test_what_saslprep_forbids_is_taken_as_it_is() -> None:
    assert verifiers.scram("a\x07b", salt=bytes(16)) != verifiers.scram("ab", salt=bytes(16))


def test_mysql_native_is_what_the_manual_shows() -> None:
    assert verifiers.mysql_native("mypass") == "*6C8989366EAF75BB670AD8EA7A7FC1176A95CEF4"


def test_mariadb_ed25519_is_what_its_manual_shows() -> None:
    assert verifiers.mariadb_ed25519("secret") == "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY"


def test_nt_hash_is_that_of_the_specification() -> None:
    assert verifiers.nt_hash("Password") == "$NT$a4f49c406510bdcab6824ee7c30fd852"  # MS-NLMP 4.2.2.1.2
    assert verifiers.nt_key_of("$NT$a4f49c406510bdcab6824ee7c30fd852") == verifiers.nt_key("Password")


def test_nt_hash_takes_what_any_terminal_gives() -> None:
    assert verifiers.nt_hash("\udcff") != verifiers.nt_hash("\udcfe") != verifiers.nt_hash("密码")


def test_the_printed_lines_are_a_users_configuration(tmp_path) -> None:
    words = ["users", "hash-password", "--databases", "--stdin"]
    done = CliRunner().invoke(cli.proxyctl, words, input="s3cret\n", prog_name="proxyctl")
    assert done.exit_code == 0
    config = setup.initialise(tmp_path / "made").config
    config.write_text(f"{config.read_text()}\n[users.ann]\n{done.stdout}")
    user = load(config).users["ann"]
    assert user.password and argon2.PasswordHasher().verify(user.password, "s3cret")
    assert (user.mysql_native, user.mariadb_ed25519) == (
        verifiers.mysql_native("s3cret"),
        verifiers.mariadb_ed25519("s3cret"),
    )
    assert user.nt_hash == verifiers.nt_hash("s3cret")
    salt = base64.b64decode((user.scram or "").split(":")[1].split("$")[0])
    assert user.scram == verifiers.scram("s3cret", salt=salt)


def test_json_names_them_as_the_configuration_does() -> None:
    words = ["users", "hash-password", "--databases", "--stdin", "--json"]
    done = CliRunner().invoke(cli.proxyctl, words, input="s3cret\n", prog_name="proxyctl")
    made = json.loads(done.stdout)
    assert sorted(made) == ["mariadb_ed25519", "mysql_native", "nt_hash", "password", "scram"]
    assert made["mysql_native"] == verifiers.mysql_native("s3cret")
