"""What users set up themselves: on disk before it counts, bounded, and never lost unnoticed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from proxyd import enrolled
from proxyd.config import User, key_data
from proxyd.enrolled import BadKey, Enrolled, Enrolment, Key, checked_line, fingerprint, recovery_digest
from proxyd.errors import ConfigError

LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDnc7DzHVBLN+NySiIAdcHYtO5V5IrfN5sx4MLi6YJP anna@laptop"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / enrolled.NAME


def line_of(key: object) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def with_key(own: Enrolment) -> Enrolment:
    return msgspec.structs.replace(own, keys=(*own.keys, Key(LINE, 1.0)))


def test_a_change_is_in_the_file_for_our_eyes_only_and_is_read_again(path: Path) -> None:
    before = os.umask(0)
    try:
        store = Enrolled(path)
        store.change("anna", with_key)
        store.change("bob", lambda own: msgspec.structs.replace(own, totp="ABC", totp_at=2.0))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(one.name for one in path.parent.iterdir()) == [path.name]
    again = Enrolled(path)
    assert again.of("anna").keys == (Key(LINE, 1.0),)
    assert again.of("bob") == Enrolment(totp="ABC", totp_at=2.0)
    assert again.of("eve") == Enrolment()


def test_a_disk_that_says_no_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Enrolled(path)
    store.change("anna", with_key)
    kept = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device; nothing was changed"):
        store.change("anna", lambda _: Enrolment())
    assert path.read_bytes() == kept
    assert len(store.of("anna").keys) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version":2,"users":{},"used":{}}',
        '{"version":1,"users":{"a":{"totp":5}},"used":{}}',
        '{"version":1,"users":{"a":{"unknown":5}},"used":{}}',
        '{"version":1,"users":{"a":{"keys":[{"line":"ssh-ed25519 AAAA","added_at":1}]}},"used":{}}',
        '{"version":1,"users":{},"used":{},"x":' + "[" * 10_000 + "]" * 10_000 + "}",
    ],
)
def test_what_is_not_ours_ends_the_start_without_a_word_of_it(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is not what proxyd wrote"):
        Enrolled(path)


def test_a_file_that_others_may_read_ends_the_start(path: Path) -> None:
    Enrolled(path).change("anna", with_key)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="open to others"):
        Enrolled(path)


def test_it_counts_beside_the_configuration_and_keys_only_where_they_may(path: Path) -> None:
    store = Enrolled(path)
    store.change("anna", lambda own: msgspec.structs.replace(with_key(own), totp="ABC"))
    users = {"anna": User(name="anna", keys=["ssh-ed25519 X"]), "bob": User(name="bob", totp="file:/t")}
    both = store.applied(users, keys=True)
    assert both["anna"].keys == ["ssh-ed25519 X", LINE]
    assert both["anna"].chains == (frozenset({"publickey", "totp"}), frozenset({"password", "totp"}))
    assert both["bob"] == users["bob"]
    less = store.applied(users, keys=False)
    assert less["anna"].keys == ["ssh-ed25519 X"]
    assert less["anna"].totp == enrolled.OWN_DEVICE


def test_a_recovery_code_is_good_once_also_after_a_restart(path: Path) -> None:
    codes = enrolled.recovery_codes()
    assert len({recovery_digest(code) for code in codes}) == enrolled.RECOVERY_CODES
    store = Enrolled(path)
    digests = tuple(map(recovery_digest, codes))
    store.change("anna", lambda own: msgspec.structs.replace(own, recovery=digests))
    assert not any(code.replace("-", "") in path.read_text() or code in path.read_text() for code in codes)
    assert not store.spend("bob", codes[0])
    assert store.spend("anna", codes[0].upper().replace("-", " "))
    assert not store.spend("anna", codes[0])
    assert not Enrolled(path).spend("anna", codes[0])
    assert Enrolled(path).spend("anna", codes[1])


def test_who_is_no_user_any_more_has_nothing_left(path: Path) -> None:
    store = Enrolled(path)
    store.change("anna", with_key)
    store.change("bob", with_key)
    assert store.keep(["bob", "carol"]) == ["anna"]
    assert store.keep(["bob"]) == []
    assert "anna" not in json.loads(path.read_text())["users"]
    assert Enrolled(path).of("bob").keys


def test_when_a_key_was_used_is_kept(path: Path) -> None:
    store = Enrolled(path)
    store.change("anna", with_key)
    store.note_used("anna", key_data(LINE), 5.0)
    assert store.used("anna") == {fingerprint(key_data(LINE)): 5.0}
    assert Enrolled(path).used("anna") == {}
    store.save()
    assert Enrolled(path).used("anna") == {fingerprint(key_data(LINE)): 5.0}


def test_there_are_never_more_than_there_may_be(path: Path) -> None:
    store = Enrolled(path)
    many = tuple(Key(LINE, float(number)) for number in range(enrolled.MAX_KEYS + 1))
    with pytest.raises(msgspec.ValidationError):
        store.change("anna", lambda own: msgspec.structs.replace(own, keys=many))
    assert store.of("anna") == Enrolment()
    assert not path.exists()


def test_no_repr_shows_a_secret() -> None:
    assert (
        repr(Enrolment(totp="SECRET", recovery=("hash",)))
        == "Enrolment(keys=0, passkeys=0, recovery=1, totp=True)"
    )


def test_keys_that_are_taken_keep_their_comment_in_one_line() -> None:
    assert checked_line(f"  {LINE}\n") == LINE
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)):
        assert checked_line(line_of(key) + " me\x1b[31m") == line_of(key) + " me[31m"
    assert len(checked_line(LINE + "x" * 3000)) < 200


def test_keys_that_are_not_taken_are_refused_with_what_to_do() -> None:
    secret = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    weak = line_of(rsa.generate_private_key(65537, 1024))
    certificate = "ssh-ed25519-cert-v01@openssh.com " + "AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAA"
    for text, why in (
        (secret.decode(), "this is a private key"),
        (f"{LINE}\n{LINE}", "paste one public key"),
        (LINE + "x" * 5000, "paste one public key"),
        (weak, "at least 2048 bits, this one 1024"),
        ("hello", "no public key"),
        ("ssh-ed25519 !!!", "no public key"),
        (LINE.replace("IPDnc7", "IPDn"), "no public key"),
        (certificate, "no public key"),
        ('command="ls" ' + LINE, "no public key"),
        ("", "no public key"),
    ):
        with pytest.raises(BadKey, match=why):
            checked_line(text)
