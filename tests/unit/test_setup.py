"""What `init` makes: usable as it is, safe to run again, and the same as conf/proxyd.toml."""

from __future__ import annotations

import os
import re
import socket
import ssl
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import asyncssh
import msgspec
import pyrage
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from proxyd import config, setup
from proxyd.access import Access
from proxyd.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "proxyd.toml"
PRIVATE = {
    "proxyd.toml",
    "targets.known_hosts",
    "ssh_host_ed25519_key",
    "host_ca",
    "signing.pem",
    "vault.identity",
    "search.key",
    "tls.key",
}


@pytest.fixture
def made(tmp_path: Path) -> setup.Made:
    return setup.initialise(tmp_path / "p")


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def uncommented(text: str) -> str:
    """The example with every "#key = ..." and "#[table]" switched on."""
    return re.sub(r"^#(?=[a-z_0-9]+ = |\[)", "", text, flags=re.MULTILINE)


def test_the_configuration_loads_as_it_is(made: setup.Made) -> None:
    loaded = config.load(made.config)
    directory = made.config.parent
    assert (loaded.users, loaded.targets, loaded.grants) == ({}, {}, [])
    assert loaded.listen.ssh is not None
    assert loaded.listen.metrics is not None
    assert (loaded.listen.ssh.address, loaded.listen.metrics.address) == ("127.0.0.1:2222", "127.0.0.1:9322")
    assert loaded.listen.ssh.host_ca == directory / "keys/host_ca"
    assert loaded.recording.recipients == [made.recipient]
    assert loaded.recording.identity == directory / "keys/vault.identity"
    assert loaded.control.operators[0].uid == os.geteuid()
    assert "System Administrator" in loaded.control.operators[0].roles


def test_what_is_written_are_the_defaults(made: setup.Made) -> None:
    loaded = config.load(made.config)
    assert loaded.admission == config.Admission()
    assert loaded.log == config.Log()
    assert (loaded.node, loaded.drain_seconds) == ("node1", 30)
    assert loaded.listen.ssh == config.SshListen(
        host_keys=loaded.listen.ssh.host_keys, host_ca=loaded.listen.ssh.host_ca
    )
    assert loaded.listen.metrics == config.MetricsListen()
    required = {
        name: getattr(loaded.recording, name)
        for name in ("directory", "recipients", "signing_key", "identity", "catalog", "ledger")
    }
    assert loaded.recording == config.Recording(**required)


def test_the_examples_work_when_uncommented(made: setup.Made) -> None:
    before = config.load(made.config)
    made.config.write_text(uncommented(made.config.read_text()))
    loaded = config.load(made.config)
    assert set(loaded.users) == {"alice"}
    assert set(loaded.targets["web1"].accounts) == {"root", "deploy"}
    assert loaded.control.operators[0].user == "alice"
    assert loaded.recording.catalog == before.recording.catalog
    assert loaded.recording.ledger == before.recording.ledger
    monday_noon = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()
    permit = Access(loaded, lambda: monday_noon).authorize("alice", "root", "web1", "10.1.2.3")
    assert "local-forward" in permit.channels
    web1 = msgspec.structs.replace(
        loaded.targets["web1"], name="", host_keys=[], known_hosts=None, tls_ca=None, tls_pins=[], accounts={}
    )
    assert web1 == config.Target(address="web1.example:22", description="the shop")


def keys_of(kind: Any, table: str = "") -> Iterator[str]:
    """Yield every key the structs know, as "table.key"; * stands for a name someone gives."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is Annotated and config.DERIVED in get_args(hint):
            continue
        inner = [
            part
            for part in (hint, *get_args(hint))
            if isinstance(part, type) and issubclass(part, msgspec.Struct)
        ]
        if not inner:
            yield f"{table}{name}"
        for part in inner:
            yield from keys_of(part, f"{table}{name}." + "*." * (get_origin(hint) is dict))


@pytest.mark.parametrize("written", [CONF.read_text(), setup.example({})], ids=["conf", "init"])
def test_every_key_appears_once(written: str) -> None:
    found, table = [], ""
    for line in uncommented(written).splitlines():
        if match := re.match(r"\[+([^]]+)\]", line):
            table = re.sub(r"(users|targets|accounts)\.\w+", r"\1.*", match[1]) + "."
        elif match := re.match(r"([a-z_0-9]+) = ", line):
            found.append(table + match[1])
    assert sorted(found) == sorted(keys_of(config.Config))


def test_conf_is_the_same_file() -> None:
    assert CONF.read_text() == setup.example({})
    tomllib.loads(CONF.read_text())


def test_conf_is_refused_until_a_recipient_is_put_in(made: setup.Made) -> None:
    made.config.write_text(CONF.read_text())
    line = CONF.read_text()[: CONF.read_text().index("\nrecipients")].count("\n") + 2
    with pytest.raises(
        ConfigError, match=rf":{line}: recording\.recipients\[0\]: expected an age public key"
    ):
        config.load(made.config)
    made.config.write_text(CONF.read_text().replace(setup.PLACEHOLDERS["@RECIPIENT@"], made.recipient))
    assert config.load(made.config).node == "node1"


def test_modes(made: setup.Made) -> None:
    directory = made.config.parent
    for path in [directory, *directory.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        expected = 0o700 if path.is_dir() else 0o600 if path.name in PRIVATE else 0o644
        assert (path.name, oct(mode)) == (path.name, oct(expected))


def test_modes_under_a_careless_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        test_modes(setup.initialise(tmp_path / "a" / "b"))
    finally:
        os.umask(before)


def test_running_again_changes_nothing(made: setup.Made) -> None:
    directory = made.config.parent
    before = files(directory)
    assert not made.kept
    again = setup.initialise(directory, ssh_port=1, metrics_port=2)
    assert files(directory) == before
    assert again.created == []
    assert set(again.kept) == set(made.created)
    assert again.recipient == made.recipient


def test_what_is_missing_is_made_to_fit_what_is_there(made: setup.Made) -> None:
    directory = made.config.parent
    before = files(directory)
    for name in ("keys/host_ca.pub", "known_hosts", "proxyd.toml", "keys/tls.crt"):
        (directory / name).unlink()
    again = setup.initialise(directory)
    assert {path.name for path in again.created} == {"host_ca.pub", "known_hosts", "proxyd.toml", "tls.crt"}
    after = files(directory)
    assert {path for path in after if after[path] != before[path]} == {directory / "keys/tls.crt"}


def test_ports(tmp_path: Path) -> None:
    loaded = config.load(setup.initialise(tmp_path, ssh_port=0, metrics_port=19322).config)
    assert loaded.listen.ssh.address == "127.0.0.1:0"
    assert loaded.listen.metrics.address == "127.0.0.1:19322"


def test_ssh_keys_are_what_openssh_takes(made: setup.Made) -> None:
    keys = made.config.parent / "keys"
    for name in ("ssh_host_ed25519_key", "host_ca"):
        derived = subprocess.run(
            ["ssh-keygen", "-y", "-P", "", "-f", str(keys / name)], check=True, capture_output=True, text=True
        ).stdout
        public = (keys / f"{name}.pub").read_text()
        assert derived.split()[:2] == public.split()[:2]
        assert asyncssh.read_private_key(keys / name).public_data == config.key_data(public)
    marker, names, *line = (keys.parent / "known_hosts").read_text().split()
    assert (marker, names) == ("@cert-authority", "*")
    assert " ".join(line) == (keys / "host_ca.pub").read_text().strip()


def test_signing_key_and_identity(made: setup.Made) -> None:
    keys = made.config.parent / "keys"
    assert isinstance(load_pem_private_key((keys / "signing.pem").read_bytes(), None), Ed25519PrivateKey)
    text = (keys / "vault.identity").read_text()
    assert f"# public key: {made.recipient}\n" in text
    identity = pyrage.x25519.Identity.from_str(text.splitlines()[-1])
    sealed = pyrage.encrypt(b"a data key", [pyrage.x25519.Recipient.from_str(made.recipient)])
    assert pyrage.decrypt(sealed, [identity]) == b"a data key"


def test_tls_certificate_serves_localhost(made: setup.Made) -> None:
    keys = made.config.parent / "keys"
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(keys / "tls.crt", keys / "tls.key")
    found = x509.load_pem_x509_certificate((keys / "tls.crt").read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", socket.gethostname()} <= set(names.get_values_for_type(x509.DNSName))
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_disks_that_say_no(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"file: can't be made: File exists|file/p: can't be made: Not a directory"
    ):
        setup.initialise(tmp_path / "file" / "p")
    made = setup.initialise(tmp_path / "p")
    (tmp_path / "p/keys/vault.identity").write_text("# empty\n")
    with pytest.raises(ConfigError, match=r"vault\.identity: is not an age identity"):
        setup.initialise(tmp_path / "p")
    (made.config.parent / "keys/vault.identity").write_text("AGE-SECRET-KEY-1CANARY\n")
    with pytest.raises(ConfigError, match="is not an age identity") as caught:
        setup.initialise(tmp_path / "p")
    assert "CANARY" not in str(caught.value)


def test_a_certificate_without_its_key_is_not_paired_with_another(made: setup.Made) -> None:
    (made.config.parent / "keys/tls.key").unlink()
    with pytest.raises(ConfigError, match=r"tls\.crt: its key tls\.key is missing"):
        setup.initialise(made.config.parent)


def test_an_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="can't be made: No space left on device"):
        setup.initialise(tmp_path / "p")
    assert files(tmp_path) == {}
