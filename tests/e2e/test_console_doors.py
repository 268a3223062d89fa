"""The console killed, flooded, fuzzed and held up while a session lives: the session and the daemon never notice (issue 6, 4).

How late the session's echo is meanwhile, `python -m bench console` measures. Slow and silent clients, each kind by itself and on
a clock that jumps, are in tests/contract/test_console_door.py; malformed upgrades in test_console_asvs.py.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import random
import resource
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.e2e.console_lab import ADMIN
from tests.e2e.lab import RUNNING, Lab, furnish, held, make_lab
from tests.e2e.test_console_asvs import raw, upgrade
from tests.fuzz.seeds_console import DICTIONARY, seeds
from tests.fuzz.seeds_console import HOST as SEEDED
from tests.peers import eventually
from tests.peers.console import Client, Console
from tests.peers.daemon import METRIC
from tests.peers.endpoint import HOST
from tests.peers.process import free_port
from tests.peers.sslyze import NotInstalled, python, scan

pytestmark = pytest.mark.timeout(300)

RSS_MB = 512
RATE, BURST = 50, 300
CROWD = 10_000
FUZZED = 60


@pytest.fixture(scope="module")
def lab(shared: Path) -> Iterator[Lab]:
    made = make_lab(shared / "doors-lab")
    with made.sshd:
        furnish(made)
        # As an installation has it, but for the numbers; the tests' own address is exempt, those of floods are not.
        made.proxyd.settings["admission"] = {
            "per_source_rate": RATE,
            "per_source_burst": BURST,
            "max_startups": "1000:30:2000",
            "exempt": [f"{HOST}/32"],
        }
        with made.proxyd:
            yield made
    RUNNING.remove(made)


@pytest.fixture(scope="module")
def console(lab: Lab, shared: Path) -> Iterator[Console]:
    console = Console(lab.proxyd, shared / "doors", metrics=f"{HOST}:{free_port()}")
    console.person(ADMIN, "PAM Administrator")
    lab.proxyd.write()
    lab.proxyd.hup()
    eventually("the daemon knows the console", lambda: '"reloaded"' in lab.proxyd.log())
    with console:
        yield console


@pytest.fixture(scope="module")
def client(console: Console) -> Client:
    return console.signed_in(ADMIN)


def counted(console: Console) -> dict[str, float]:
    """Every sample of the console's own metrics."""
    with urllib.request.urlopen(
        f"http://{console.proxyd.settings['console']['metrics']}/metrics", timeout=10
    ) as answer:
        return {name + labels: float(value) for name, labels, value in METRIC.findall(answer.read().decode())}


class Typist:
    """Somebody at work in a session of `cat`: what they type comes back, or the test fails."""

    def __init__(self, client: subprocess.Popen[bytes]) -> None:
        self._client, self._lines = client, 0

    def types(self, lines: int = 20) -> None:
        for _ in range(lines):
            self._lines += 1
            self._client.stdin.write(b"line %d\n" % self._lines)
            self._client.stdin.flush()
            assert self._client.stdout.readline() == b"line %d\n" % self._lines


@contextlib.contextmanager
def at_work(lab: Lab, directory: Path) -> Iterator[tuple[Typist, str]]:
    with held(lab, directory, "exec cat") as (client, session):
        typist = Typist(client)
        typist.types(3)
        yield typist, session
        typist.types(3)


def unhurt(console: Console, client: Client, pid: int) -> None:
    """The same process answers, and nothing in its log is a fault."""
    assert console.process.running
    assert console.process.pid == pid
    eventually("it answers", lambda: client.get("/").status == 200, within_s=60)
    assert "Traceback" not in console.log(), console.log()[-3000:]
    assert counted(console).get("proxyd_console_faults_total") == 0


FLOOD = """
import socket, ssl, sys, time
port, first, until = int(sys.argv[1]), sys.argv[2], time.monotonic() + float(sys.argv[3])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
counts = [0, 0]
while time.monotonic() < until:
    try:
        with socket.create_connection(("127.0.0.1", port), 5, (first, 0)) as plain:
            with context.wrap_socket(plain) as secure:
                secure.sendall(b"GET /sign-in HTTP/1.1\\r\\nHost: 127.0.0.1:%d\\r\\nConnection: close\\r\\n\\r\\n" % port)
                while secure.recv(65536):
                    pass
        counts[0] += 1
    except OSError:
        counts[1] += 1
print(*counts)
"""


def test_flooded_from_one_address_others_and_sessions_go_on(lab, console, client, short):
    pid = console.process.pid
    with at_work(lab, short) as (typist, _):
        argv = [sys.executable, "-c", FLOOD, str(console.port), "127.0.0.7", "6"]
        floods = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        while any(flood.poll() is None for flood in floods):
            typist.types(5)
            assert client.get("/").status == 200
        answered, refused = map(
            sum, zip(*(map(int, flood.communicate()[0].split()) for flood in floods), strict=True)
        )
        assert answered > 0
        if (
            answered + refused > BURST + RATE * 10
        ):  # a machine too slow for more has shown nothing of the limit
            assert counted(console)['proxyd_console_refused_total{reason="rate"}'] > 0
            assert refused > 0
    unhurt(console, client, pid)


def crowd(console: Console, count: int) -> tuple[list[socket.socket], int]:
    """Open so many connections from a hundred addresses that say nothing; give those that stand, and how many did not."""
    held_open, refused = [], 0
    for number in range(count):
        place = (f"127.0.3.{number % 100 + 1}", 0)
        try:
            sock = socket.create_connection((HOST, console.port), 20, place)
        except OSError:
            refused += 1
            continue
        held_open.append(sock)
    return held_open, refused


def memory_mb(pid: int) -> float:
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) / 1024


@pytest.mark.slow
def test_ten_thousand_connections_that_say_nothing(lab, console, client, short):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, CROWD + 500), hard))
    pid = console.process.pid
    before = counted(console)
    try:
        with at_work(lab, short) as (typist, _):
            standing, _ = crowd(console, CROWD)
            typist.types()
            now = eventually(
                "they are refused",
                lambda: (
                    (found := counted(console)).get('proxyd_console_refused_total{reason="full"}', 0)
                    > before.get('proxyd_console_refused_total{reason="full"}', 0)
                    and found
                ),
                within_s=60,
            )
            assert now["proxyd_console_connections"] <= 1000
            assert memory_mb(pid) < RSS_MB
            for sock in standing:
                sock.close()
            eventually(
                "they are gone", lambda: counted(console)["proxyd_console_connections"] < 50, within_s=60
            )
            typist.types()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    unhurt(console, client, pid)


def test_fuzzed_over_tls(lab, console, client, short):
    pid, draw, kept = console.process.pid, random.Random(6), list(seeds())
    own = f"{HOST}:{console.port}".encode()
    with at_work(lab, short) as (typist, _):
        for number in range(FUZZED):
            data = bytearray(draw.choice(kept).replace(SEEDED.encode(), own))
            for _ in range(draw.randint(0, 4)):
                at = draw.randrange(len(data))
                data[at : at + draw.randint(0, 9)] = draw.choice(DICTIONARY)
            raw(console, bytes(data[1:]), seconds=0.3)
            if number % 20 == 0:
                typist.types(5)
    unhurt(console, client, pid)


def test_killed_while_it_shows_a_session(lab, console, client, short):
    """Last but for what starts it anew: nobody is signed in afterwards."""
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    with at_work(lab, short) as (typist, session):
        context = ssl.create_default_context(cafile=str(console.proxyd.home / "keys" / "tls.crt"))
        with (
            socket.create_connection((HOST, console.port), 20) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as viewer,
        ):
            viewer.sendall(upgrade(f"/sessions/{session}/live/stream", cookie, console.origin, console.port))
            assert b" 101 " in viewer.recv(65536)
            eventually("somebody watches", lambda: lab.proxyd.live()[0]["viewers"] == 1)
            console.process.kill()
            typist.types()
        eventually("nobody watches", lambda: lab.proxyd.live()[0]["viewers"] == 0)
        typist.types()
        console.start()
        assert client.get("/").status == 303
        assert console.signed_in(ADMIN).get(f"/sessions/{session}").status == 200
        typist.types()


@pytest.mark.slow
def test_a_viewer_who_takes_nothing_is_let_go(lab, console, short):
    """After a minute without progress, and the session's output never waits for them."""
    client = console.signed_in(ADMIN)
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    with held(
        lab,
        short,
        "exec sh -c 'while read line; do head -c 8000000 /dev/urandom | base64; echo done $line; done'",
    ) as (typist, session):
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect((HOST, console.port))
        context = ssl.create_default_context(cafile=str(console.proxyd.home / "keys" / "tls.crt"))
        with context.wrap_socket(plain, server_hostname=HOST) as viewer:
            viewer.sendall(upgrade(f"/sessions/{session}/live/stream", cookie, console.origin, console.port))
            assert b" 101 " in viewer.recv(4096)
            eventually("somebody watches", lambda: lab.proxyd.live()[0]["viewers"] == 1)
            for number in range(3):
                typist.stdin.write(b"%d\n" % number)
                typist.stdin.flush()
                while typist.stdout.readline() != b"done %d\n" % number:
                    pass
            eventually("they are let go", lambda: lab.proxyd.live()[0]["viewers"] == 0, within_s=150)
        assert memory_mb(console.process.pid) < RSS_MB


def certificates(directory: Path) -> tuple[Path, Path]:
    """A certificate with its key for this host, as a CA of today makes them, and the CA's own; that of `init` lives for years."""
    now, usages = dt.datetime.now(dt.UTC), dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False
    )  # fmt: skip

    def made(name: str, key: Any, of: str, by: Any, *more: tuple[Any, bool]) -> x509.Certificate:
        subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, of))
        begun = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        begun = begun.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(
            now + dt.timedelta(days=89)
        )
        begun = begun.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        begun = begun.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), False
        )
        for extension, critical in more:
            begun = begun.add_extension(extension, critical)
        return begun.sign(by, hashes.SHA256())

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    signs, proves = (
        x509.KeyUsage(**usages | {"key_cert_sign": True}),
        x509.KeyUsage(**usages | {"digital_signature": True}),
    )
    ca = made(
        "a CA", root, "a CA", root, (x509.BasicConstraints(ca=True, path_length=None), True), (signs, True)
    )
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
    )
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    leaf = made(
        "localhost",
        own,
        "a CA",
        root,
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (proves, True),
        (names, False),
        (purpose, False),
    )
    pem, clear = serialization.Encoding.PEM, serialization.NoEncryption()
    file, anchor = directory / "certified.pem", directory / "ca.pem"
    file.touch(0o600)
    file.write_bytes(
        leaf.public_bytes(pem) + own.private_bytes(pem, serialization.PrivateFormat.PKCS8, clear)
    )
    anchor.write_bytes(ca.public_bytes(pem))
    return file, anchor


def test_12_1_2_sslyze_finds_mozillas_intermediate(console, short):
    """ASVS 5.0, 12.1.1 and 12.1.2, by an independent scanner: versions, ciphers, curves, certificate, known faults of TLS."""
    try:
        python()
    except NotInstalled as why:
        pytest.skip(f"NO SCANNER OF TLS: {why}")
    file, anchor = certificates(console.directory)
    console.proxyd.settings["console"] |= {"certificate": str(file), "key": str(file)}
    console.proxyd.write()
    console.process.stop()
    console.start()
    status, said, found = scan(console.port, short / "scan.json", anchor)
    assert status == 0, said
    assert "COMPLIANT" in said.upper()
    for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert not found[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"], version
    for version in ("tls_1_2", "tls_1_3"):
        names = [
            one["cipher_suite"]["name"]
            for one in found[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"]
        ]
        assert names, version
        assert not [
            name for name in names if "CBC" in name or ("_RSA_WITH_" in name and "ECDHE" not in name)
        ], names
    assert not found["heartbleed"]["result"]["is_vulnerable_to_heartbleed"]
    assert not found["tls_compression"]["result"]["supports_compression"]
    assert not found["session_renegotiation"]["result"]["is_vulnerable_to_client_renegotiation_dos"]
